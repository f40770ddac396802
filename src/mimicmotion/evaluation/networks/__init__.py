"""Networks that measures look through: I3D, LPIPS, and others given by path. torch is loaded with a network only."""
