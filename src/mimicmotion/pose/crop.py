"""A picture of a person at the size of the result, with the person in view."""

from __future__ import annotations

import numpy as np

from mimicmotion.arrays import Frame
from mimicmotion.pose.keypoints import BODY, VISIBLE, PoseSequence
from mimicmotion.video.geometry import Fit, FitMode, plan_fit, released_round_trip


def fit_picture(picture: Frame, pose: PoseSequence, size: tuple[int, int], mode: FitMode) -> tuple[Frame, Fit]:
    """A picture of a person at `size` = (height, width), and the transform, which holds for the pose, too.

    Args:
        picture: as it is.
        pose: of the person, in pixels of the picture, one frame; a crop keeps it in the middle.
        size: (height, width) wanted.
        mode: see `plan_fit`.
    """
    fit = plan_fit(pose.size, size, mode, anchor=crop_anchor(pose, size) if mode == "crop" else (0.5, 0.5))
    fitted = fit.apply(picture)
    return (released_round_trip(fitted) if mode == "released" else fitted), fit


def crop_anchor(pose: PoseSequence, target: tuple[int, int]) -> tuple[float, float]:
    """Which part a crop to `target` should keep (y, x; 0 = top left, 1 = bottom right): the person in the middle."""
    seen = pose.xy[0, BODY][pose.confidence[0, BODY] > VISIBLE]
    centre = (seen.min(0) + seen.max(0))[::-1] / 2
    scale = max(t / s for t, s in zip(target, pose.size, strict=True))
    anchor = []
    for middle, source, wanted in zip(centre, pose.size, target, strict=True):
        spare = scale * source - wanted
        anchor.append(float(np.clip((middle * scale - wanted / 2) / spare, 0, 1)) if spare > 1e-6 else 0.5)
    return anchor[0], anchor[1]
