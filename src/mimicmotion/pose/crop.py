"""Fit the picture of a person to the size of the result."""

from __future__ import annotations

import numpy as np

from mimicmotion.arrays import Frame
from mimicmotion.pose.keypoints import BODY, VISIBLE, PoseSequence
from mimicmotion.video.geometry import Fit, FitMode, plan_fit, released_round_trip


def fit_picture(picture: Frame, pose: PoseSequence, size: tuple[int, int], mode: FitMode) -> tuple[Frame, Fit]:
    """Fit a picture of a person to `size` = (height, width). Returns the transform too, which also maps the pose.

    Args:
        picture: the original picture.
        pose: pose of the person, one frame, in pixels of the picture; crops are centred on it.
        size: target (height, width).
        mode: see `plan_fit`.
    """
    fit = plan_fit(pose.size, size, mode, anchor=crop_anchor(pose, size) if mode == "crop" else (0.5, 0.5))
    fitted = fit.apply(picture)
    return (released_round_trip(fitted) if mode == "released" else fitted), fit


def crop_anchor(pose: PoseSequence, target: tuple[int, int]) -> tuple[float, float]:
    """Anchor (y, x; 0 = top left, 1 = bottom right) that centres the person in a crop to `target`."""
    seen = pose.xy[0, BODY][pose.confidence[0, BODY] > VISIBLE]
    centre = (seen.min(0) + seen.max(0))[::-1] / 2
    scale = max(t / s for t, s in zip(target, pose.size, strict=True))
    anchor = []
    for middle, source, wanted in zip(centre, pose.size, target, strict=True):
        spare = scale * source - wanted
        anchor.append(float(np.clip((middle * scale - wanted / 2) / spare, 0, 1)) if spare > 1e-6 else 0.5)
    return anchor[0], anchor[1]
