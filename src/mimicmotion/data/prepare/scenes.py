"""Find cuts, and split a video into scenes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

import cv2
from jaxtyping import UInt8
from numpy import ndarray

_WINDOW = 3  # neighbours on each side that a change is compared with
_SHORT_SIDE = 144  # small frames show cuts just as well and are much faster


class CutFinder:
    """Finds hard cuts in a stream of frames, using the content score of PySceneDetect.

    A cut changes much more than the neighbouring frames do, while fast movement and a moving camera change many frames
    in a row. PySceneDetect's adaptive detector is similar but ignores the first and last frames, where edits often
    leave frames of another scene. Slow fades are not found.

    Args:
        ratio: minimum ratio of a cut's change to the median of its (up to six) neighbours.
        change: minimum change of a cut (mean over hue, saturation and brightness, 0..255).
    """

    def __init__(self, ratio: float = 3.0, change: float = 15.0) -> None:
        self._ratio, self._change = ratio, change
        self._count = 0
        self._numbers: list[int] = []
        self._changes: list[float] = []
        self._last: ndarray | None = None

    def push(self, frame: UInt8[ndarray, "height width 3"]) -> None:
        """Process the next frame (RGB)."""
        hsv = cv2.cvtColor(shrink(frame, _SHORT_SIDE), cv2.COLOR_RGB2HSV)
        # skip repeated frames (of resampled videos), whose zero change would make any neighbour look large
        if self._last is not None and (change := float(cv2.absdiff(hsv, self._last).mean())):
            self._numbers.append(self._count)
            self._changes.append(change)
        self._last = hsv
        self._count += 1

    def finish(self) -> list[int]:
        """Return the indices of the frames that begin a new scene, without frame 0."""
        return [self._numbers[k] for k in find_peaks(self._changes, self._ratio, self._change)]


def find_peaks(changes: Sequence[float], ratio: float, least: float) -> list[int]:
    """Find changes that are at least `least`, and at least `ratio` times the median of three neighbours on each side.

    The median tolerates another cut nearby (a flash, or a frame left over from an edit).
    """
    found = []
    for k, change in enumerate(changes):
        around = [*changes[max(0, k - _WINDOW) : k], *changes[k + 1 : k + 1 + _WINDOW]]
        if change >= least and change >= ratio * (statistics.median(around) if around else 0.0):
            found.append(k)
    return found


def shrink(frame: UInt8[ndarray, "height width *channels"], short_side: int) -> UInt8[ndarray, "h w *channels"]:
    """Scale a frame down (area average) to the given short side; smaller frames are returned unchanged."""
    scale = short_side / min(frame.shape[:2])
    if scale >= 1:
        return frame
    size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def plan_scenes(num_frames: int, cuts: list[int], max_frames: int) -> list[range]:
    """Split a video into scenes at its cuts, and scenes longer than `max_frames` into parts of equal length.

    Args:
        num_frames: number of frames of the video.
        cuts: sorted indices of the frames that begin a scene, without 0.
        max_frames: maximum number of frames of a scene, at least 1.
    """
    edges = [0, *cuts, num_frames]
    scenes: list[range] = []
    for start, stop in pairwise(edges):
        parts = max(1, math.ceil((stop - start) / max_frames))
        inner = [start + round(k * (stop - start) / parts) for k in range(parts + 1)]
        scenes += [range(a, b) for a, b in pairwise(inner) if b > a]
    return scenes
