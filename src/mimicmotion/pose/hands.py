"""Bounding boxes of reliably detected hands, and their masks in the latent grid (paper section 3.4)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray

from mimicmotion.errors import ConfigError
from mimicmotion.pose.keypoints import LEFT_HAND, RIGHT_HAND, PoseSequence

HAND_THRESHOLD = 0.8  # our choice; the paper gives no value
HAND_PADDING = 0.1  # our choice as well


def hand_boxes(
    xy: Float[ndarray, "*frames 134 2"],
    confidence: Float[ndarray, "*frames 134"],
    *,
    threshold: float = HAND_THRESHOLD,
    padding: float = HAND_PADDING,
) -> tuple[Float[ndarray, "*frames 2 4"], ndarray]:
    """Compute bounding boxes of the left and right hand, and whether each hand was reliably detected.

    A hand is reliable if the confidence of all its 21 points exceeds `threshold`: with a single uncertain finger, the
    higher loss weight would teach a wrong hand shape.

    Args:
        xy: keypoints in pixels.
        confidence: confidence of the keypoints, 0..1.
        threshold: confidence that all points must exceed, 0..1.
        padding: margin on each side, as a fraction of the box's own width and height.

    Returns:
        Boxes (left, top, right, bottom) in pixels, not clipped to the frame, and a bool array (*frames, 2) that is True
        for reliable hands. Ignore the boxes of other hands.
    """
    if not 0 <= threshold <= 1 or padding < 0:
        got, expected = f"threshold={threshold}, padding={padding}", "a threshold in 0..1 and a padding of at least 0"
        raise ConfigError(got, expected, "correct the settings")
    boxes, reliable = [], []
    for hand in (LEFT_HAND, RIGHT_HAND):
        points = np.asarray(xy[..., hand, :], np.float64)
        low, high = points.min(-2), points.max(-2)
        margin = padding * (high - low)
        boxes.append(np.concatenate([low - margin, high + margin], -1))
        reliable.append((confidence[..., hand] > threshold).all(-1))
    return np.stack(boxes, -2), np.stack(reliable, -1)


def hand_masks(
    poses: PoseSequence, grid: tuple[int, int], *, threshold: float = HAND_THRESHOLD, padding: float = HAND_PADDING
) -> Float32[ndarray, "frames rows columns"]:
    """Compute the fraction of each latent cell that is covered by the box of a reliable hand.

    This is the area average of a mask that is 1 inside the union of the boxes, without rounding the boxes to pixels.
    The loss weight of a cell is 1 + (scale - 1) * mask.

    Args:
        poses: poses in pixels of the frame that the grid covers.
        grid: (rows, columns) of the latents, height / 8 and width / 8.
        threshold: see `hand_boxes`.
        padding: see `hand_boxes`.

    Returns:
        Masks with values in 0..1; all 0 in frames without a reliable hand.
    """
    boxes, reliable = hand_boxes(poses.xy, poses.confidence, threshold=threshold, padding=padding)
    boxes = boxes * np.tile([grid[1] / poses.size[1], grid[0] / poses.size[0]], 2)  # in cells
    left, right = (_coverage(boxes[:, k], grid) * reliable[:, k, None, None] for k in (0, 1))
    common = np.concatenate(
        [np.maximum(boxes[:, 0, :2], boxes[:, 1, :2]), np.minimum(boxes[:, 0, 2:], boxes[:, 1, 2:])], -1
    )
    union = left + right - _coverage(common, grid) * (reliable[:, 0] & reliable[:, 1])[:, None, None]
    return union.astype(np.float32)


def _coverage(boxes: Float[ndarray, "frames 4"], grid: tuple[int, int]) -> Float[ndarray, "frames rows columns"]:
    def along(low: ndarray, high: ndarray, cells: int) -> ndarray:
        edges = np.arange(cells)
        return np.clip(np.minimum(high[:, None], edges + 1) - np.maximum(low[:, None], edges), 0, 1)

    rows, columns = along(boxes[:, 1], boxes[:, 3], grid[0]), along(boxes[:, 0], boxes[:, 2], grid[1])
    return rows[:, :, None] * columns[:, None, :]
