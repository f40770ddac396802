"""A fixed crop of a scene, which applies to both its frames and its keypoints."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.pose.keypoints import BODY, VISIBLE, PoseSequence
from mimicmotion.video.geometry import Fit, plan_fit

_OUTLIERS = 0.02


def plan_crop(poses: PoseSequence, size: tuple[int, int], mode: Literal["crop", "letterbox"] = "crop") -> Fit:
    """Plan a fixed transform of a scene's frames to `size` that keeps the person in view.

    It does not follow the person, which would look like camera motion. If the person's path is wider than the crop, the
    crop is centred on the person's median position.

    Args:
        poses: poses of the scene, in pixels of the video.
        size: (height, width) of the stored frames.
        mode: crop, or letterbox, which pads instead of cropping.
    """
    if mode == "letterbox":
        return plan_fit(poses.size, size, mode)
    anchor = [_anchor(poses, size, axis) for axis in (0, 1)]
    fit = plan_fit(poses.size, size, mode, anchor=(anchor[0], anchor[1]))
    # whole pixels, so that a crop without scaling is a copy
    limits = [t - fit.scale[0] * s for t, s in zip(size, poses.size, strict=True)]
    offset = [max(float(round(o)), low) for o, low in zip(fit.offset, limits, strict=True)]
    return dataclasses.replace(fit, offset=(offset[0], offset[1]))


def person_boxes(poses: PoseSequence) -> Float64[ndarray, "frames 4"]:
    """Return the box (left, top, right, bottom) of each frame's visible body points in pixels; NaN without any."""
    seen = poses.confidence[:, BODY] > VISIBLE
    xy = poses.xy[:, BODY].astype(np.float64)
    low = np.where(seen[..., None], xy, np.inf).min(1)
    high = np.where(seen[..., None], xy, -np.inf).max(1)
    boxes = np.concatenate([low, high], -1)
    boxes[~seen.any(1)] = np.nan
    return boxes


def _anchor(poses: PoseSequence, size: tuple[int, int], axis: int) -> float:
    """Return which part of the picture to keep along an axis (0 = y), from 0 (the first pixels) to 1 (the last)."""
    scale = max(t / s for t, s in zip(size, poses.size, strict=True))
    spare = scale * poses.size[axis] - size[axis]
    boxes = person_boxes(poses)
    low, high = boxes[:, 1 - axis], boxes[:, 3 - axis]
    if spare < 1e-6 or np.isnan(low).all():
        return 0.5
    low, high = low[~np.isnan(low)], high[~np.isnan(high)]
    first, last = np.quantile(low, _OUTLIERS), np.quantile(high, 1 - _OUTLIERS)
    middle = (first + last) / 2 if (last - first) * scale <= size[axis] else np.median((low + high) / 2)
    return float(np.clip((middle * scale - size[axis] / 2) / spare, 0, 1))
