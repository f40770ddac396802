"""Where a video is cut into scenes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
from jaxtyping import UInt8
from numpy import ndarray

_WINDOW = 3  # neighbours on each side that a change is compared with
_SHORT_SIDE = 144  # cuts are seen as well in small pictures, many times faster


class CutFinder:
    """Finds hard cuts in a stream of frames, by the content score of PySceneDetect.

    A cut is a frame that changes much more than its neighbours: fast movement and a moving camera change many frames
    in a row and are no cut. PySceneDetect's adaptive detector does about the same, but not in the first and last
    frames, where an edit often left some of another scene. Slow fades are not found.

    Args:
        ratio: a cut changes at least this many times as much as the median of its (up to six) neighbours.
        change: and at least so much (mean over hue, saturation and brightness, 0..255).
    """

    def __init__(self, ratio: float = 3.0, change: float = 15.0) -> None:
        self._ratio, self._change = ratio, change
        self._count = 0
        self._numbers: list[int] = []
        self._changes: list[float] = []
        self._last: ndarray | None = None

    def push(self, frame: UInt8[ndarray, "height width 3"]) -> None:
        """Look at the next frame (RGB)."""
        hsv = cv2.cvtColor(shrink(frame, _SHORT_SIDE), cv2.COLOR_RGB2HSV)
        # a repeated frame (of a video that was resampled) changes nothing, and makes any change beside it look large
        if self._last is not None and (change := float(cv2.absdiff(hsv, self._last).mean())):
            self._numbers.append(self._count)
            self._changes.append(change)
        self._last = hsv
        self._count += 1

    def finish(self) -> list[int]:
        """Numbers of the frames that begin a new scene, without frame 0."""
        return [self._numbers[k] for k in find_peaks(self._changes, self._ratio, self._change)]


def find_peaks(changes: Sequence[float], ratio: float, least: float) -> list[int]:
    """Numbers of the changes of at least `least` that are `ratio` times the median of three neighbours on each side.

    The median, because a cut may stand beside another one (a flash, a frame left over from an edit).
    """
    found = []
    for k, change in enumerate(changes):
        around = [*changes[max(0, k - _WINDOW) : k], *changes[k + 1 : k + 1 + _WINDOW]]
        if change >= least and change >= ratio * (statistics.median(around) if around else 0.0):
            found.append(k)
    return found


def shrink(frame: UInt8[ndarray, "height width *channels"], short_side: int) -> UInt8[ndarray, "h w *channels"]:
    """The frame made smaller (area average) to the given short side; never larger."""
    scale = short_side / min(frame.shape[:2])
    if scale >= 1:
        return frame
    size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


@dataclass(frozen=True, slots=True)
class SceneRange:
    """Frames `start` to `stop` - 1 of a video at the stored rate, without a cut inside."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def plan_scenes(num_frames: int, cuts: list[int], max_frames: int) -> list[SceneRange]:
    """The scenes between cuts; one longer than `max_frames` becomes several of equal length (to one frame).

    Args:
        num_frames: of the whole video.
        cuts: sorted numbers of the frames that begin a scene, 0 not among them.
        max_frames: at least 1.
    """
    edges = [0, *cuts, num_frames]
    scenes: list[SceneRange] = []
    for start, stop in pairwise(edges):
        parts = max(1, math.ceil((stop - start) / max_frames))
        inner = [start + round(k * (stop - start) / parts) for k in range(parts + 1)]
        scenes += [SceneRange(a, b) for a, b in pairwise(inner) if b > a]
    return scenes
