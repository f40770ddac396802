"""MimicMotion: generate human motion videos of any length from one picture and a driving video."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Public names, imported on first use: `import mimicmotion` loads neither torch nor OpenCV.
_LAZY = {
    "Client": "mimicmotion.client",
    "FusionConfig": "mimicmotion.settings",
    "MimicMotionPipeline": "mimicmotion.pipeline",
    "PoseSequence": "mimicmotion.pose.keypoints",
    "Stopped": "mimicmotion.runtime.interrupt",
    "animate": "mimicmotion.generate.job",
    "open_estimator": "mimicmotion.pose.estimators.open",
}
__all__ = [
    "Client",
    "FusionConfig",
    "MimicMotionPipeline",
    "PoseSequence",
    "Stopped",
    "__version__",
    "animate",
    "open_estimator",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'mimicmotion' has no attribute {name!r}")
