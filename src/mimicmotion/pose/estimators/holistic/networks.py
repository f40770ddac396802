"""MediaPipe's networks on onnxruntime, with points in frame pixels.

Constants are those of the graphs in the PyPI package mediapipe 0.10.21.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray

from mimicmotion.pose.estimators.holistic.geometry import Picture, Roi, roi_around, roi_of_points, upright_angle
from mimicmotion.pose.estimators.session import open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

NUM_POSE = 33  # the networks' body points; 33 and 34 of its 39 outputs span the region of the next frame
HEAT_KERNEL = 9  # cells; this reproduces MediaPipe's results, although its graphs say 7
HEAT_MINIMUM = 0.5  # weaker peaks do not move a point


@dataclass(frozen=True, slots=True)
class BodyPoints:
    """One person's 33 body points.

    Attributes:
        xy: positions in pixels of the frame.
        visibility: 0..1, the network's estimate of whether a point is visible.
        peak: 0..1, the highest value of the point's heat map near it.
        score: 0..1, confidence that the region shows a person at all.
        next_roi: the region in which to look for the person in the next frame.
    """

    xy: Float32[ndarray, "33 2"]
    visibility: Float32[ndarray, 33]
    peak: Float32[ndarray, 33]
    score: float
    next_roi: Roi


@dataclass(frozen=True, slots=True)
class PartPoints:
    """The points of a hand (21) or face (468) in pixels of the frame, with one score (0..1) for all of them."""

    xy: Float32[ndarray, "points 2"]
    score: float


def refine_by_heatmap(
    points: Float[ndarray, "points 2"], heat: Float32[ndarray, "rows columns points"]
) -> tuple[Float[ndarray, "points 2"], Float32[ndarray, " points"]]:
    """Move each point (fractions of the input) to the heat map's mean around it. Also returns the peaks' heights.

    A point outside the map is not moved and has peak 0.
    """
    rows, columns, count = heat.shape
    with np.errstate(invalid="ignore"):
        column, row = (points * (columns, rows)).astype(int).T
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    reach = np.arange(HEAT_KERNEL) - HEAT_KERNEL // 2
    x, y = column[:, None, None] + reach[None, None, :], row[:, None, None] + reach[None, :, None]
    valid = (x >= 0) & (x < columns) & (y >= 0) & (y < rows) & inside[:, None, None]
    window = heat[y.clip(0, rows - 1), x.clip(0, columns - 1), np.arange(count)[:, None, None]]
    window = np.where(valid, sigmoid(window), 0.0)
    peak, total = window.max((1, 2)), window.sum((1, 2))
    mean = np.stack([(window * x).sum((1, 2)) / columns, (window * y).sum((1, 2)) / rows], 1)
    mean /= np.maximum(total, 1e-12)[:, None]
    return np.where((peak >= HEAT_MINIMUM)[:, None], mean, points), peak.astype(np.float32)


class Networks:
    """The networks, each with an onnxruntime session opened on first use. Not thread-safe until all are open.

    Args:
        threads: CPU threads per network; None lets onnxruntime decide.
        device: "auto", "cpu" or "cuda".
    """

    def __init__(self, threads: int | None = None, device: str = "cpu") -> None:
        self._threads, self._device = threads, device
        self._sessions: dict[str, InferenceSession] = {}

    def _run(self, name: str, image: ndarray, low: float = 0.0) -> list[ndarray]:
        """Run one network on an RGB crop (uint8), scaled to low..1."""
        if name not in self._sessions:
            path = Path(str(files("mimicmotion"))) / "assets" / "holistic" / f"{name}.onnx"
            self._sessions[name] = open_session(path, threads=self._threads, device=self._device)
        tensor = image.astype(np.float32) * np.float32((1.0 - low) / 255.0) + np.float32(low)
        return [np.asarray(out) for out in self._sessions[name].run(None, {"input": tensor[None]})]

    @cached_property
    def _person_anchors(self) -> Float32[ndarray, "2254 2"]:
        return anchor_centers(224, (8, 16, 32, 32, 32))

    @cached_property
    def _face_anchors(self) -> Float32[ndarray, "896 2"]:
        return anchor_centers(128, (8, 16, 16, 16))

    def detect_people(self, picture: Picture, region: Roi | None = None, threshold: float = 0.5) -> list[Detection]:
        """Detect people in a region (default: the whole frame), the most confident first.

        The points of a detection are the middle of the hips, a point on the circle around the whole body, the middle of
        the shoulders, and a point on the circle around the upper body.
        """
        region = region or picture.whole
        raw, logits = self._run("pose_detection", picture.crop(region, 224, border=cv2.BORDER_CONSTANT), low=-1.0)
        found = decode(raw[0], logits[0, :, 0], self._person_anchors, 224, threshold)
        return [Detection(region.to_frame(d.points), d.score) for d in found]

    def body(self, picture: Picture, roi: Roi) -> BodyPoints:
        """Locate the body points of the person in the region."""
        raw, score, heat = self._run("pose_landmark_full", picture.crop(roi, 256))
        values = raw.reshape(39, 5)
        points, peak = refine_by_heatmap(values[:, :2] / 256.0, heat[0])
        xy = roi.to_frame(points)
        return BodyPoints(
            xy[:NUM_POSE],
            sigmoid(values[:NUM_POSE, 3]).astype(np.float32),
            peak[:NUM_POSE],
            float(score.item()),
            person_roi(xy[NUM_POSE : NUM_POSE + 2]),
        )

    def hand_roi(self, picture: Picture, wrist: ndarray, little: ndarray, index: ndarray) -> Roi:
        """Find the region of a hand, given the body points of its wrist, little and index finger (pixels)."""
        middle = (2 * index + little) / 3
        guess = roi_around(middle, wrist, -90.0).moved(2.7, shift_y=-0.1)
        if not guess.usable:
            return guess
        (points,) = self._run("hand_recrop", picture.crop(guess, 256))
        center, rim = guess.to_frame(points.reshape(2, 2) / 256.0)
        return roi_around(center, rim, -90.0).moved(1.0, shift_y=-0.1)

    def hand(self, picture: Picture, roi: Roi) -> PartPoints:
        """Locate the 21 points of the hand in the region."""
        raw, score = self._run("hand_landmark_full", picture.crop(roi, 224))
        return PartPoints(roi.to_frame(raw.reshape(21, 3)[:, :2] / 224.0), float(score.item()))

    def face_roi(self, picture: Picture, head: Float32[ndarray, "11 2"], threshold: float = 0.5) -> Roi | None:
        """Find the region of the face near the 11 body points of the head; None if no face is detected there."""
        guess = roi_of_points(head, start=5, end=2).moved(3.0)
        if not guess.usable:
            return None
        image = picture.crop(guess, 128, border=cv2.BORDER_CONSTANT)
        raw, logits = self._run("face_detection_short_range", image, low=-1.0)
        found = decode(raw[0], logits[0, :, 0], self._face_anchors, 128, threshold)
        if not found:
            return None
        roi = roi_of_points(guess.to_frame(found[0].points), start=0, end=1, shift_y=-0.1).moved(2.0)
        return roi if roi.usable else None

    def face(self, picture: Picture, roi: Roi) -> PartPoints:
        """Locate the 468 points of the face in the region."""
        raw, logit = self._run("face_landmark", picture.crop(roi, 192))
        return PartPoints(roi.to_frame(raw.reshape(468, 3)[:, :2] / 192.0), float(sigmoid(logit).item()))

    def person(self, image: UInt8[ndarray, "256 256 3"]) -> Float32[ndarray, "256 256"]:
        """Compute the probability (0..1) that each pixel of an RGB picture shows a person."""
        (likely,) = self._run("selfie_segmentation", image)
        return likely[0, ..., 0]


def person_roi(points: Float[ndarray, "points 2"]) -> Roi:
    """Return the region of a person, given the middle of the hips and a point on the circle around the body."""
    return roi_around(points[0], points[1], 90.0).moved(1.25)


# Of the 21 hand points, those that move least when fingers bend.
PALM = np.array([0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18])


def hand_roi_from_points(points: Float[ndarray, "21 2"]) -> Roi:
    """Return the region in which to look for a hand in the next frame, given its points in this one."""
    knuckles = (points[5] + points[13] + 2 * points[9]) / 4
    upright = Roi(0.0, 0.0, 1.0, upright_angle(points[0], knuckles, 90.0))
    palm = upright.from_frame(points[PALM])
    low, high = palm.min(0), palm.max(0)
    x, y = upright.to_frame(((low + high) / 2)[None])[0]
    return Roi(float(x), float(y), float((high - low).max()), upright.angle).moved(2.0, shift_y=-0.1)


SUPPRESS_IOU = 0.3


@dataclass(frozen=True, slots=True)
class Detection:
    """A detected object.

    Attributes:
        points: its keypoints (x, y) in pixels of the frame; in results of `decode`, in fractions of the input.
        score: 0..1.
    """

    points: Float[ndarray, "points 2"]
    score: float


def anchor_centers(pixels: int, strides: Sequence[int]) -> Float32[ndarray, "anchors 2"]:
    """Return the anchors' centres in fractions of the input: two per cell and layer; equal strides share cells."""
    parts = []
    for stride, layers in groupby(strides):
        cells = -(-pixels // stride)
        y, x = np.divmod(np.arange(cells * cells), cells)
        centers = (np.stack([x, y], 1) + 0.5) / cells
        parts.append(centers.repeat(2 * len(list(layers)), 0))
    return np.concatenate(parts).astype(np.float32)


def sigmoid(x: ndarray | np.floating) -> ndarray:
    """Compute the logistic function without overflow. A scalar gives a zero-dimensional array."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -80.0, 80.0))))


def decode(
    raw: Float32[ndarray, "anchors values"],
    logits: Float32[ndarray, " anchors"],
    anchors: Float32[ndarray, "anchors 2"],
    pixels: int,
    threshold: float,
) -> list[Detection]:
    """Decode network output into detections, with weighted non-maximum suppression, the best first.

    `raw` holds centre x, y, width, height and the keypoints' x, y, in input pixels relative to the anchor's centre.
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
    """Merge overlapping detections (sorted, best first) into averages weighted by score, as in BlazeFace."""
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
