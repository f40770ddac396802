"""Pose guidance as pictures: drawn skeletons, and the picture warped limb by limb to a pose."""
