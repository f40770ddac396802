"""Pose estimators, which find a person's 134 keypoints, with confidence, in pictures."""
