"""Training of MimicMotion models."""
