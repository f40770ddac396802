"""What is measured in the frames of a scene, before anybody decides what is good enough."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Int, UInt8
from numpy import ndarray

from mimicmotion.arrays import Frame
from mimicmotion.data.prepare.scenes import shrink
from mimicmotion.pose.crop import person_boxes
from mimicmotion.pose.estimators.base import PoseEstimator, PosePoints
from mimicmotion.pose.keypoints import PoseSequence

COUNT_EVERY = 0.5
"""Seconds between two frames in which all persons are counted."""
CHANGE_OVER = 0.2
"""Seconds over which a frame is compared with an earlier one."""
THUMB_SIDE = 256
_CHANGE_SIDE = 96
_MARGIN = 0.1


@dataclass(frozen=True, eq=False)
class SceneMeasures:
    """What was found in one scene; positions in pixels of the video.

    Attributes:
        poses: of the person that is followed, one pose a frame.
        people: persons seen in frames `COUNT_EVERY` seconds apart.
        sharpness: variance of the Laplacian of the person's brightness (0..255) at the stored size; NaN: no person.
        change: mean difference (0..255) of the person's surroundings to `CHANGE_OVER` seconds before; NaN at first.
        thumbs: small JPEG pictures of the frames `thumb_frames`.
        thumb_frames: their numbers within the scene.
        problem: why there are no measures, where there are none.
    """

    poses: PoseSequence
    people: Int[ndarray, " looks"]
    sharpness: Float32[ndarray, " frames"]
    change: Float32[ndarray, " frames"]
    thumbs: list[bytes] = field(repr=False, default_factory=list)
    thumb_frames: list[int] = field(default_factory=list)
    problem: str = ""


class SceneMeter:
    """Watches the frames of one scene pass by on their way to the pose estimator, and measures each with its pose.

    Args:
        num_frames: that will come.
        fps: of the frames.
        scale: stored pixels per pixel of the frame, for the sharpness.
    """

    def __init__(self, num_frames: int, fps: float, scale: float) -> None:
        self._scale = scale
        self._count_every = max(1, round(COUNT_EVERY * fps))
        self._before: deque[ndarray] = deque(maxlen=max(1, round(CHANGE_OVER * fps)))
        self._thumb_frames = sorted({int(num_frames * part) for part in (1 / 6, 1 / 2, 5 / 6)})
        self._number = 0
        self._points: list[PosePoints] = []
        self._people: list[int] = []
        self._sharpness: list[float] = []
        self._change: list[float] = []
        self._thumbs: list[bytes] = []

    def measure(self, frames: Iterable[Frame], estimator: PoseEstimator, known: PoseSequence | None) -> Iterator[int]:
        """Find the poses of all frames (or take those known) and measure; yields the number of frames done."""
        current: Frame | None = None

        def passing() -> Iterator[Frame]:
            nonlocal current
            for frame in frames:
                current = frame
                yield frame

        for points in estimator.estimate_stream(passing()) if known is None else _repeat(known, passing()):
            if current is None:  # an estimator that answers before it has seen a frame
                raise RuntimeError("the estimator gave a pose without a frame")
            if self._number % self._count_every == 0:
                self._people.append(estimator.count_people(current))
            self._look(current, points)
            yield self._number

    def result(self, size: tuple[int, int], fps: float, source: str) -> SceneMeasures:
        """All measures, after the last frame."""
        xy, confidence = (np.stack(part).astype(np.float32) for part in zip(*self._points, strict=True))
        return SceneMeasures(
            PoseSequence(xy, confidence, size, fps, source),
            np.array(self._people, np.int64),
            np.array(self._sharpness, np.float32),
            np.array(self._change, np.float32),
            self._thumbs,
            self._thumb_frames[: len(self._thumbs)],
        )

    def _look(self, frame: Frame, points: PosePoints) -> None:
        import cv2

        size: tuple[int, int] = (frame.shape[0], frame.shape[1])
        box = person_boxes(PoseSequence(points[0][None], points[1][None], size))[0]
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        part = _cut(grey, box)
        self._sharpness.append(float("nan") if part is None else sharpness(part, self._scale))
        small = shrink(grey, _CHANGE_SIDE)
        self._change.append(_change(small, self._before, box * min(small.shape) / min(grey.shape)))
        self._before.append(small)
        self._points.append(points)
        if self._number in self._thumb_frames:
            self._thumbs.append(_jpeg(shrink(frame, THUMB_SIDE)))
        self._number += 1


def sharpness(grey: UInt8[ndarray, "height width"], scale: float) -> float:
    """Variance of the Laplacian of a picture after scaling it: low where edges are soft.

    At the size at which it will be stored, a picture that was enlarged or is out of focus measures low, and one that is
    sharp measures about the same whatever its first size was.

    Args:
        grey: brightness, 0..255.
        scale: stored pixels per pixel.
    """
    import cv2

    size = tuple(max(1, round(n * scale)) for n in grey.shape[::-1])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(grey, size, interpolation=method)
    return float(cv2.Laplacian(scaled, cv2.CV_32F).var())


def _change(small: ndarray, before: deque[ndarray], box: ndarray) -> float:
    if len(before) < (before.maxlen or 1):
        return float("nan")
    now, then = _cut(small, box), _cut(before[0], box)
    if now is None or then is None:
        now, then = small, before[0]
    return float(np.abs(now.astype(np.float32) - then).mean())


def _cut(grey: ndarray, box: ndarray) -> ndarray | None:
    """The part of a picture in a box and a margin around it; None if there is no box, or nothing of it in sight."""
    if np.isnan(box).any():
        return None
    margin = _MARGIN * max(box[2] - box[0], box[3] - box[1])
    left, top = np.floor(box[:2] - margin).clip(0).astype(int)
    right, bottom = np.ceil(box[2:] + margin).astype(int)
    part = grey[top : max(bottom, 0), left : max(right, 0)]
    return part if min(part.shape) >= 4 else None


def _repeat(known: PoseSequence, frames: Iterable[Frame]) -> Iterator[PosePoints]:
    for i, _ in enumerate(frames):
        yield known.xy[i], known.confidence[i]


def _jpeg(frame: Frame) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame).save(file, "jpeg", quality=85)
    return file.getvalue()
