"""Pose estimators: a picture in, 134 keypoints with confidence out."""
