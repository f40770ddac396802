"""MediaPipe Holistic's networks on onnxruntime: the estimator that works offline."""

from mimicmotion.pose.estimators.holistic.estimator import HolisticEstimator, HolisticPoints

__all__ = ["HolisticEstimator", "HolisticPoints"]
