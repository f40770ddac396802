"""Optional smoothing over time that trusts each point by its confidence."""

from __future__ import annotations

import dataclasses

import numpy as np

from mimicmotion.errors import ConfigError
from mimicmotion.pose.keypoints import PoseSequence


def smooth_poses(poses: PoseSequence, window: int = 7) -> PoseSequence:
    """Fit a parabola to each coordinate within a window around each frame, and take its middle.

    A Savitzky-Golay filter in which each frame weighs as much as the confidence of the point there (times a bell over
    the window), so a doubtful position is pulled to its sure neighbours and not the other way round. It looks both ways
    in time, so it does not lag. Confidences stay as they are, and so do points that are not seen.

    Args:
        poses: any number of frames.
        window: odd number of frames; 1 changes nothing. Uniformly accelerated motion passes unchanged.

    Raises:
        ConfigError: the window is even or below 1.
    """
    if window < 1 or window % 2 == 0:
        raise ConfigError(f"smoothing window {window}", "an odd number of frames", f"use {max(1, window + 1)}")
    reach = window // 2
    if reach == 0 or len(poses) < 3:
        return poses
    weights = _windows(poses.confidence.astype(np.float64), reach)  # frames points window
    offset = np.arange(-reach, reach + 1) / (reach + 1)
    weights = weights * (1 - np.abs(offset) ** 3) ** 3
    xy = _windows(poses.xy.astype(np.float64), reach)  # frames points 2 window
    basis = np.stack([np.ones_like(offset), offset, offset**2])
    # Relative to the point's own position, so that the ridge below pulls to it where frames are too few for a parabola
    rise = xy - poses.xy[..., None]
    normal = np.einsum("fpw,iw,jw->fpij", weights, basis, basis)
    ridge = 1e-9 * np.maximum(weights.sum(-1), 1e-9)[..., None, None] * np.eye(3)
    moment = np.einsum("fpw,iw,fpcw->fpic", weights, basis, rise)
    middle = np.linalg.solve(normal + ridge, moment)[..., 0, :]
    xy_smooth = np.where(poses.confidence[..., None] > 0, poses.xy + middle, poses.xy)
    return dataclasses.replace(poses, xy=xy_smooth.astype(np.float32))


def _windows(values: np.ndarray, reach: int) -> np.ndarray:
    """Windows over time on a new last axis; before the first and after the last frame there are zeros."""
    padded = np.pad(values, [(reach, reach), *[(0, 0)] * (values.ndim - 1)])
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=0)
