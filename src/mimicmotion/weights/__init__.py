"""Weights: the known files, and locating, downloading, verifying and reading them."""
