"""DWPose: a YOLOX person detector and a whole-body RTMPose network (DWPose, RTMPose, RTMW) from the user's ONNX files.

The computation follows the released MimicMotion code, so the poses match those that its weights were trained on. Two
bugs are fixed: a frame without a person is not treated as one large person, and if there are several people, one of
them is followed. We do not use rtmlib because it requires the desktop builds of OpenCV, which overwrite the headless
build that this package installs.

Both networks get RGB, as in the released code, although YOLOX was trained on BGR.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8
from numpy import ndarray

from mimicmotion.arrays import Frame
from mimicmotion.errors import WeightsError
from mimicmotion.pose.estimators.base import Person, PoseEstimator, PosePoints, no_person
from mimicmotion.pose.estimators.session import open_session
from mimicmotion.pose.estimators.track import PersonTracker
from mimicmotion.pose.keypoints import NUM_POINTS, VISIBLE

logger = logging.getLogger(__name__)

NUM_WHOLE_BODY = 133
SHOULDERS = [5, 6]  # left and right in COCO order
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])  # ImageNet, RGB, 0..255
BOX_PADDING = 1.25
MAX_PEOPLE = 8

# COCO-WholeBody index of each of our points except the neck, which COCO lacks; the order is the same from the feet on.
COCO_BODY = [0, *[6, 8, 10], *[5, 7, 9], *[12, 14, 16], *[11, 13, 15], 2, 1, 4, 3]
COCO_ORDER = np.array([*COCO_BODY, *range(17, NUM_WHOLE_BODY)])


class DWPoseEstimator(PoseEstimator):
    """Whole-body poses with a confidence for each point.

    Args:
        detector_path: YOLOX network with raw output (1, anchors, 85), e.g. yolox_l.onnx, or with boxes and labels, as
            exported by mmdeploy.
        pose_path: SimCC network with 133 points, e.g. dw-ll_ucoco_384.onnx. Input sizes are read from the files.
        person: person to follow; see `mimicmotion.pose.estimators.base.Person`.
        threads: CPU threads; None lets onnxruntime decide.
        device: "auto" (CUDA if available), "cpu" or "cuda".

    Raises:
        WeightsError: a file is missing, damaged or not a suitable network.
        ConfigError: `device` is "cuda" but onnxruntime lacks it, or `person` is invalid.
    """

    def __init__(
        self,
        detector_path: Path | str,
        pose_path: Path | str,
        *,
        person: Person = "largest",
        threads: int | None = None,
        device: str = "auto",
    ) -> None:
        PersonTracker(person)
        self.person = person
        self._detector = open_session(Path(detector_path), threads=threads, device=device)
        self._network = open_session(Path(pose_path), threads=threads, device=device)
        self._detector_size = _input_size(self._detector, (640, 640))
        self._pose_size = _input_size(self._network, (384, 288))
        points = self._network.get_outputs()[0].shape[1]
        if len(self._network.get_outputs()) != 2 or (isinstance(points, int) and points != NUM_WHOLE_BODY):
            shapes = [o.shape for o in self._network.get_outputs()]
            raise WeightsError(
                f"{pose_path} has outputs {shapes}",
                f"simcc_x and simcc_y of {NUM_WHOLE_BODY} points",
                "use a whole-body network such as dw-ll_ucoco_384.onnx",
            )
        self.source = f"dwpose {Path(pose_path).name}"
        self.provider = self._network.get_providers()[0]
        logger.info("DWPose runs on %s", self.provider)

    def estimate_stream(self, frames: Iterable[Frame]) -> Iterator[PosePoints]:
        """Yield (xy in pixels, confidence) for each RGB frame.

        Raises:
            PoseError: people were seen, but never the chosen one (raised after the last frame).
        """
        tracker = PersonTracker(self.person)
        for frame in frames:
            xy, confidence = self.find_people(frame)
            self.people, chosen = len(xy), tracker.choose(xy, confidence)
            yield no_person() if chosen is None else (xy[chosen], confidence[chosen])
        tracker.check_found()

    def find_people(self, frame: Frame) -> tuple[Float[ndarray, "people 134 2"], Float32[ndarray, "people 134"]]:
        """Find the keypoints, with confidence, of the 8 largest people in a frame, the largest first."""
        boxes = self.detect(frame)
        area = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1)
        boxes = boxes[np.argsort(-area, kind="stable")[:MAX_PEOPLE]]
        if not len(boxes):
            return np.zeros((0, NUM_POINTS, 2), np.float32), np.zeros((0, NUM_POINTS), np.float32)
        xy, scores = order_points(*self.locate(frame, boxes))
        # SimCC scores are peak heights and can slightly exceed 0..1.
        return xy, scores.clip(0, 1).astype(np.float32)

    def count_people(self, frame: Frame) -> int:
        """Count the people in a frame."""
        return len(self.detect(frame))

    def detect(self, frame: Frame) -> Float[ndarray, "people 4"]:
        """Detect people with a score above 0.3. Returns boxes (left, top, right, bottom) in pixels."""
        picture, ratio = letterbox(frame, self._detector_size)
        feed = picture.transpose(2, 0, 1)[None]
        outputs = _run(self._detector, feed)
        if outputs[0].shape[-1] == 5:
            boxes, labels = outputs[0][0], outputs[1][0]
            found = np.concatenate([boxes[:, :4] / ratio, boxes[:, 4:], labels[:, None]], 1)
        else:
            decoded = decode_grid(outputs[0], self._detector_size)[0]
            half = decoded[:, 2:4] / 2
            boxes = np.concatenate([decoded[:, :2] - half, decoded[:, :2] + half], 1) / ratio
            found = multiclass_nms(boxes, decoded[:, 4:5] * decoded[:, 5:], 0.45, 0.1)
        return found[(found[:, 4] > 0.3) & (found[:, 5] == 0), :4].astype(np.float64)

    def locate(
        self, frame: Frame, boxes: Float[ndarray, "people 4"]
    ) -> tuple[Float[ndarray, "people 133 2"], Float32[ndarray, "people 133"]]:
        """Locate each person's keypoints in COCO-WholeBody order. Returns pixels of the frame, and scores."""
        keypoints, scores = [], []
        height, width = self._pose_size
        for box in boxes:
            picture, centre, scale = crop_person(frame, box, self._pose_size)
            feed = ((picture - MEAN) / STD).transpose(2, 0, 1)[None]
            x, y = _run(self._network, feed)
            points, score = decode_simcc(x, y, (x.shape[-1] / width, y.shape[-1] / height))
            keypoints.append(points[0] / (width, height) * scale + centre - scale / 2)
            scores.append(score[0])
        return np.stack(keypoints), np.stack(scores)


def _input_size(session: Any, default: tuple[int, int]) -> tuple[int, int]:
    shape = session.get_inputs()[0].shape
    height, width = (v if isinstance(v, int) else d for v, d in zip(shape[-2:], default, strict=True))
    return height, width


def _run(session: Any, feed: ndarray) -> list[Float32[ndarray, ...]]:
    entry = session.get_inputs()[0]
    dtype = np.float16 if entry.type == "tensor(float16)" else np.float32
    return [np.asarray(out, np.float32) for out in session.run(None, {entry.name: feed.astype(dtype)})]


def letterbox(frame: Frame, size: tuple[int, int]) -> tuple[UInt8[ndarray, "rows columns 3"], float]:
    """Resize a frame to fit into `size`, and pad it with grey (114) at the right and bottom. Also returns the scale."""
    import cv2

    ratio = min(size[0] / frame.shape[0], size[1] / frame.shape[1])
    height, width = (max(1, int(n * ratio)) for n in frame.shape[:2])
    out = np.full((*size, 3), 114, np.uint8)
    out[:height, :width] = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
    return out, ratio


def decode_grid(
    raw: Float32[ndarray, "batch anchors values"], size: tuple[int, int]
) -> Float32[ndarray, "batch anchors values"]:
    """Convert the centres and sizes of boxes in YOLOX's raw output to pixels of the network's input."""
    cells, strides = [], []
    for stride in (8, 16, 32):
        y, x = np.mgrid[: size[0] // stride, : size[1] // stride]
        cells.append(np.stack([x, y], -1).reshape(-1, 2))
        strides.append(np.full((len(cells[-1]), 1), stride))
    cell, step = np.concatenate(cells), np.concatenate(strides)
    if len(cell) != raw.shape[1]:
        raise WeightsError(
            f"a detector with {raw.shape[1]} anchors", f"{len(cell)} for an input of {size}", "use yolox_l.onnx"
        )
    out = raw.copy()
    out[..., :2] = (raw[..., :2] + cell) * step
    out[..., 2:4] = np.exp(raw[..., 2:4]) * step
    return out


def nms(boxes: Float[ndarray, "n 4"], scores: Float[ndarray, " n"], overlap: float) -> Int[ndarray, " kept"]:
    """Return the indices of the boxes to keep, best first; a box is dropped if its IoU with a better one is too high.

    Edges are inclusive: a box from 2 to 4 is 3 pixels wide. `overlap` is the maximum IoU.
    """
    left, top, right, bottom = boxes.T
    areas = (right - left + 1) * (bottom - top + 1)
    order = scores.argsort()[::-1]
    kept = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(best)
        width = np.minimum(right[best], right[rest]) - np.maximum(left[best], left[rest]) + 1
        height = np.minimum(bottom[best], bottom[rest]) - np.maximum(top[best], top[rest]) + 1
        common = np.maximum(width, 0) * np.maximum(height, 0)
        order = rest[common / (areas[best] + areas[rest] - common) <= overlap]
    return np.array(kept, dtype=np.int64)


def multiclass_nms(
    boxes: Float[ndarray, "n 4"], scores: Float[ndarray, "n classes"], overlap: float, threshold: float
) -> Float[ndarray, "kept 6"]:
    """Apply `nms` per class to boxes with scores above `threshold`. Returns an array of (box, score, class)."""
    parts = [np.zeros((0, 6))]
    for label in np.flatnonzero((scores > threshold).any(0)):
        good = scores[:, label] > threshold
        kept = nms(boxes[good], scores[good, label], overlap)
        score = scores[good, label][kept, None]
        parts.append(np.concatenate([boxes[good][kept], score, np.full_like(score, label)], 1))
    return np.concatenate(parts)


def crop_person(
    frame: Frame, box: Float[ndarray, " 4"], size: tuple[int, int]
) -> tuple[UInt8[ndarray, "rows columns 3"], Float[ndarray, " 2"], Float[ndarray, " 2"]]:
    """Crop the padded box at the aspect ratio of `size`, resized to `size`. Also returns its centre and extent."""
    import cv2

    centre, scale = box_centre_scale(box)
    scale = fit_aspect(scale, size)
    matrix = crop_matrix(centre, scale, size)
    return cv2.warpAffine(frame, matrix, size[::-1], flags=cv2.INTER_LINEAR), centre, scale


def box_centre_scale(
    box: Float[ndarray, "*n 4"], padding: float = BOX_PADDING
) -> tuple[Float[ndarray, "*n 2"], Float[ndarray, "*n 2"]]:
    """Return the centre and padded extent (x, y) of a (left, top, right, bottom) box."""
    return (box[..., :2] + box[..., 2:]) / 2, (box[..., 2:] - box[..., :2]) * padding


def fit_aspect(scale: Float[ndarray, " 2"], size: tuple[int, int]) -> Float[ndarray, " 2"]:
    """Enlarge an extent (x, y) in one direction to match the aspect ratio of `size` (height, width)."""
    aspect = size[1] / size[0]
    width, height = scale
    return np.array([width, width / aspect] if width > height * aspect else [height * aspect, height])


def crop_matrix(
    centre: Float[ndarray, " 2"], scale: Float[ndarray, " 2"], size: tuple[int, int]
) -> Float[ndarray, "2 3"]:
    """Return the affine map from pixels of the frame to pixels of the crop."""
    zoom = size[1] / scale[0]
    return np.array([[zoom, 0, size[1] / 2 - zoom * centre[0]], [0, zoom, size[0] / 2 - zoom * centre[1]]])


def decode_simcc(
    x: Float32[ndarray, "batch points bins_x"], y: Float32[ndarray, "batch points bins_y"], bins: tuple[float, float]
) -> tuple[Float32[ndarray, "batch points 2"], Float32[ndarray, "batch points"]]:
    """Decode SimCC outputs to points in pixels of the network's input, with scores (the lower of the two peaks).

    Points with a score of 0 or less are placed at bin -1.

    Args:
        x: likelihood of each column bin.
        y: likelihood of each row bin.
        bins: bins per pixel (x, y).
    """
    points = np.stack([x.argmax(-1), y.argmax(-1)], -1).astype(np.float32)
    score = np.minimum(x.max(-1), y.max(-1))
    points[score <= 0] = -1
    return points / np.array(bins, np.float32), score


def order_points(
    keypoints: Float[ndarray, "people 133 2"], scores: Float[ndarray, "people 133"]
) -> tuple[Float[ndarray, "people 134 2"], Float[ndarray, "people 134"]]:
    """Reorder from COCO-WholeBody to `mimicmotion.pose.keypoints`, adding a neck halfway between the shoulders.

    The neck's score is 1 if both shoulders are above 0.3, else 0, as in the released code.
    """
    neck = keypoints[:, SHOULDERS].mean(1, keepdims=True)
    sure = (scores[:, SHOULDERS] > VISIBLE).all(1, keepdims=True).astype(scores.dtype)
    ordered, score = keypoints[:, COCO_ORDER], scores[:, COCO_ORDER]
    return (
        np.concatenate([ordered[:, :1], neck, ordered[:, 1:]], 1),
        np.concatenate([score[:, :1], sure, score[:, 1:]], 1),
    )
