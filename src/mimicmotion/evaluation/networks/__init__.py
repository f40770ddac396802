"""Networks behind metrics: I3D, LPIPS, and others given by path. torch is only imported when one is loaded."""
