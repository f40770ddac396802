"""Poses as pictures for the network: drawn skeletons, and the picture's limbs warped to a pose."""
