"""Measurements of a scene's frames, as input to the filters."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Float32, Int, UInt8
from numpy import ndarray

from mimicmotion.arrays import Frame
from mimicmotion.data.prepare.crop import person_boxes
from mimicmotion.data.prepare.scenes import shrink
from mimicmotion.data.shards.frames import encode_picture
from mimicmotion.pose.estimators.base import PoseEstimator, PosePoints
from mimicmotion.pose.keypoints import PoseSequence

COUNT_EVERY = 0.5
"""Seconds between two frames in which people are counted."""
CHANGE_OVER = 0.2
"""Seconds between a frame and the earlier one it is compared with."""
TICK_EVERY = 10  # frames between two reports
THUMB_SIDE = 256
_CHANGE_SIDE = 96
_MARGIN = 0.1


@dataclass(frozen=True, eq=False)
class SceneMeasures:
    """Measurements of one scene; positions in pixels of the video.

    Attributes:
        poses: poses of the tracked person, one per frame.
        people: number of people in frames `COUNT_EVERY` seconds apart.
        sharpness: variance of the Laplacian of the person's brightness (0..255) at the stored size; NaN: no person.
        change: mean difference (0..255) of the person's box from `CHANGE_OVER` seconds earlier; NaN at the start.
        thumbs: small JPEG pictures of the frames `thumb_frames`.
        thumb_frames: indices of these frames within the scene.
        problem: why there are no measurements; "" if there are.
    """

    poses: PoseSequence
    people: Int[ndarray, " looks"]
    sharpness: Float32[ndarray, " frames"]
    change: Float32[ndarray, " frames"]
    thumbs: list[bytes] = field(repr=False, default_factory=list)
    thumb_frames: list[int] = field(default_factory=list)
    problem: str = ""


def measure_scene(
    frames: Iterable[Frame],
    num_frames: int,
    size: tuple[int, int],
    fps: float,
    scale: float,
    estimator: PoseEstimator,
    known: PoseSequence | None,
) -> Generator[int, None, SceneMeasures]:
    """Estimate the poses in the frames of a scene (or use known ones), and measure each frame with its pose.

    Args:
        frames: RGB frames of the scene.
        num_frames: number of frames.
        size: (height, width) of the frames.
        fps: frame rate.
        scale: stored pixels per pixel of the frame, for the sharpness.
        estimator: estimates poses and counts people.
        known: poses, if they are known.

    Yields:
        Numbers of further frames done.

    Raises:
        PoseError: the chosen person is not in this scene.
    """
    current: deque[Frame] = deque(maxlen=1)

    def passing() -> Iterator[Frame]:
        for frame in frames:
            current.append(frame)
            yield frame

    count_every = max(1, round(COUNT_EVERY * fps))
    before: deque[ndarray] = deque(maxlen=max(1, round(CHANGE_OVER * fps)))
    thumb_frames = sorted({int(num_frames * part) for part in (1 / 6, 1 / 2, 5 / 6)})
    people, sharp, change, thumbs = [], [], [], []
    points: list[PosePoints] = []
    if known:
        poses: Iterator[PosePoints] = ((known.xy[i], known.confidence[i]) for i, _ in enumerate(passing()))
    else:
        poses = estimator.estimate_stream(passing())
    for number, found in enumerate(poses):
        frame = current[0]
        points.append(found)
        if number % count_every == 0:
            people.append(estimator.count_people(frame))
        box = person_boxes(PoseSequence(found[0][None], found[1][None], size))[0]
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        person = _cut(grey, box)
        sharp.append(float("nan") if person is None else sharpness(person, scale))
        small = shrink(grey, _CHANGE_SIDE)
        change.append(_change(small, before, box * min(small.shape) / min(grey.shape)))
        before.append(small)
        if number in thumb_frames:
            thumbs.append(encode_picture(shrink(frame, THUMB_SIDE), "jpeg", quality=85))
        if number % TICK_EVERY == 0:
            yield TICK_EVERY
    xy, confidence = map(np.stack, zip(*points, strict=True))
    source = known.source if known else getattr(estimator, "source", type(estimator).__name__)
    return SceneMeasures(
        PoseSequence(xy, confidence, size, fps, source),
        np.array(people, np.int64),
        np.array(sharp, np.float32),
        np.array(change, np.float32),
        thumbs,
        thumb_frames[: len(thumbs)],
    )


def sharpness(grey: UInt8[ndarray, "height width"], scale: float) -> float:
    """Variance of the Laplacian of a scaled picture, which is low if edges are soft.

    At the stored size, enlarged and out-of-focus pictures score low, and sharp ones about the same whatever their
    original size.

    Args:
        grey: brightness, 0..255.
        scale: stored pixels per pixel.
    """
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
    """The part of a picture in a box with a margin; None without a box, or if it is outside the picture."""
    if np.isnan(box).any():
        return None
    margin = _MARGIN * max(box[2] - box[0], box[3] - box[1])
    left, top = np.floor(box[:2] - margin).clip(0).astype(int)
    right, bottom = np.ceil(box[2:] + margin).astype(int)
    part = grey[top : max(bottom, 0), left : max(right, 0)]
    return part if min(part.shape) >= 4 else None
