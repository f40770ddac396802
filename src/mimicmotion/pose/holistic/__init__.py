"""MediaPipe Holistic's networks on onnxruntime: the estimator that works offline."""

from mimicmotion.pose.holistic.estimator import HolisticEstimator, HolisticPoints

__all__ = ["HolisticEstimator", "HolisticPoints"]
