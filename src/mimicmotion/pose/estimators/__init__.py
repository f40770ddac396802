"""Pose estimators: from a picture to 134 keypoints with confidence."""
