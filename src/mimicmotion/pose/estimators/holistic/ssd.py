"""Single-shot detectors with fixed-size anchors: anchor centres, decoding, weighted non-maximum suppression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray

SUPPRESS_IOU = 0.3


@dataclass(frozen=True, slots=True)
class Detection:
    """One found object.

    Attributes:
        points: its keypoints (x, y), pixels of the frame (fractions of the input until they are projected).
        score: 0..1.
    """

    points: Float[ndarray, "points 2"]
    score: float


def anchor_centers(pixels: int, strides: Sequence[int]) -> Float32[ndarray, "anchors 2"]:
    """Centres of the anchors in fractions of the input: two a layer at each cell, layers of one stride together."""
    parts = []
    for stride, layers in groupby(strides):
        cells = -(-pixels // stride)
        y, x = np.divmod(np.arange(cells * cells), cells)
        centers = (np.stack([x, y], 1) + 0.5) / cells
        parts.append(centers.repeat(2 * len(list(layers)), 0))
    return np.concatenate(parts).astype(np.float32)


def sigmoid(x: ndarray | np.floating) -> ndarray:
    """The logistic function, free of overflow; of a number an array without axes."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -80.0, 80.0))))


def decode(
    raw: Float32[ndarray, "anchors values"],
    logits: Float32[ndarray, " anchors"],
    anchors: Float32[ndarray, "anchors 2"],
    pixels: int,
    threshold: float,
) -> list[Detection]:
    """Network output -> detections after weighted non-maximum suppression, the best first.

    `raw` holds centre x, y, width, height, then the keypoints' x, y, all in input pixels from the anchor's centre.
    """
    scores = sigmoid(logits)
    keep = np.flatnonzero(scores >= threshold)
    keep = keep[np.argsort(-scores[keep], kind="stable")]
    values, scores, centers = raw[keep] / pixels, scores[keep], anchors[keep]
    center, half = values[:, :2] + centers, values[:, 2:4] / 2
    boxes = np.concatenate([center - half, center + half], 1)
    points = values[:, 4:].reshape(len(keep), (raw.shape[1] - 4) // 2, 2) + centers[:, None]
    return suppress(boxes, points, scores)


def suppress(
    boxes: Float[ndarray, "n 4"], points: Float[ndarray, "n points 2"], scores: Float[ndarray, " n"]
) -> list[Detection]:
    """Weighted suppression (as BlazeFace): overlapping detections are averaged by score. Input: the best first."""
    found = []
    left = np.arange(len(scores))
    while len(left):
        best = left[0]
        low = np.maximum(boxes[left, :2], boxes[best, :2])
        high = np.minimum(boxes[left, 2:], boxes[best, 2:])
        common = np.clip(high - low, 0, None).prod(1)
        area = (boxes[left, 2:] - boxes[left, :2]).prod(1)
        same = common > SUPPRESS_IOU * np.maximum(area + area[0] - common, 1e-12)
        same[0] = True
        group = left[same]
        mean = np.average(points[group], axis=0, weights=scores[group])
        found.append(Detection(mean, float(scores[best])))
        left = left[~same]
    return found
