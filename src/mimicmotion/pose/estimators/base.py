"""The base class of pose estimators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray

from mimicmotion.arrays import Frame
from mimicmotion.errors import PoseError
from mimicmotion.pose.keypoints import NUM_POINTS, PoseSequence

PosePoints: TypeAlias = tuple[Float[ndarray, "134 2"], Float32[ndarray, "134"]]
Person: TypeAlias = Literal["largest"] | int | tuple[float, ...]
"""Person to follow, chosen in the first frame with a match: the largest, the n-th from the left (from 0), the one at a
point (x, y), or the one in a box (left, top, right, bottom), in pixels; see `track.choose_person`."""


class PoseEstimator(ABC):
    """Finds one person's keypoints in each frame of a video.

    Frames (RGB) are read once, in order, and only the current one is kept in memory. If the person is not found in a
    frame, all its points have confidence 0.

    Attributes:
        source: name of the estimator, for `PoseSequence.source`.
        people: number of people seen in the most recently yielded frame; 0 if they were not counted.
    """

    source: str
    people: int = 0

    @abstractmethod
    def estimate_stream(self, frames: Iterable[Frame]) -> Iterator[PosePoints]:
        """Yield (xy in pixels, confidence 0..1) for each frame as soon as it is ready."""

    @abstractmethod
    def count_people(self, frame: Frame) -> int:
        """Count the people in a frame."""

    def estimate(self, frames: Iterable[Frame], fps: float = 0.0) -> PoseSequence:
        """Estimate the poses of all frames.

        Raises:
            PoseError: there are no frames, or they differ in size.
        """
        size: tuple[int, int] | None = None

        def checked() -> Iterator[Frame]:
            nonlocal size
            for i, frame in enumerate(frames):
                size = size or (frame.shape[0], frame.shape[1])
                if frame.shape[:2] != size:
                    got = f"frame {i} of size {frame.shape[:2]}"
                    raise PoseError(got, f"{size}, like the first", "resize the frames first")
                yield frame

        found = [(*points, self.people) for points in self.estimate_stream(checked())]
        if size is None or not found:
            raise PoseError("a video without frames", "at least one frame", "check the video file")
        xy, confidence, people = map(np.array, zip(*found, strict=True))
        return PoseSequence(xy, confidence, size, fps, self.source, people)


def no_person() -> PosePoints:
    """Return the keypoints of a frame without a person: all at (0, 0) with confidence 0."""
    return np.zeros((NUM_POINTS, 2), np.float32), np.zeros(NUM_POINTS, np.float32)
