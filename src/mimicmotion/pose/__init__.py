"""Pose estimation, alignment and drawing, with keypoint confidences. Does not import torch."""
