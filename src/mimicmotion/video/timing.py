"""Select frames by time or with a stride, as pure functions of items with timestamps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Generic, TypeVar

from mimicmotion.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """An item shown from `time` for `duration`, both in seconds; `time` is relative to the start of the video."""

    time: Fraction
    duration: Fraction
    item: T


def exact_rate(fps: float | Fraction) -> Fraction:
    """Convert a frame rate to the fraction that it stands for: 29.97 -> 30000/1001, 15.0 -> 15.

    Raises:
        ConfigError: `fps` is a float outside 0.001..1000.
    """
    if isinstance(fps, Fraction):
        return fps
    if not 0.001 <= fps <= 1000:
        raise ConfigError(f"fps={fps}", "frames per second, 0.001 to 1000", "for example --fps 15")
    for nominal in (24, 30, 48, 60, 120):
        if abs(fps - nominal * 1000 / 1001) < 0.006:
            return Fraction(nominal * 1000, 1001)
    return Fraction(fps).limit_denominator(1001)


def _exact_seconds(seconds: float) -> Any:
    """Convert 1.1 to exactly 11/10, since the nearest binary float may select a neighbouring frame; keep infinity."""
    return Fraction(seconds).limit_denominator(1_000_000) if math.isfinite(seconds) else seconds


def resample(items: Iterable[Timed[T]], fps: float | Fraction, start: float = 0, end: float = math.inf) -> Iterator[T]:
    """Yield the item nearest to each time t = start + k / fps, until the end of the last item.

    Items are repeated or dropped, so the duration is preserved (to within half an output frame) for any frame rate. The
    lookahead is one item.

    Args:
        items: items in order of time.
        fps: frame rate of the result.
        start: seconds to skip.
        end: seconds at which to stop.
    """
    rate, first, end = exact_rate(fps), _exact_seconds(start), _exact_seconds(end)
    k = 0
    previous: Timed[T] | None = None
    for current in items:
        if previous is not None:
            middle = (previous.time + current.time) / 2
            while (t := first + k / rate) < min(middle, end):
                yield previous.item
                k += 1
            if t >= end:
                return
        previous = current
    if previous is None:
        return
    # round to the nearest output frame: the last one is shown for at least half its duration
    stop = min(previous.time + previous.duration - Fraction(1, 2) / rate, end)
    while (t := first + k / rate) < stop or (k == 0 and t <= previous.time + previous.duration):
        yield previous.item
        k += 1


def every(items: Iterable[Timed[T]], stride: int, start: float = 0, end: float = math.inf) -> Iterator[T]:
    """Yield every `stride`-th item of those shown between `start` and `end` (seconds), beginning with the first."""
    start, end = _exact_seconds(start), _exact_seconds(end)
    n = 0
    for timed in items:
        if timed.time >= end:
            return
        if timed.time + timed.duration <= start:
            continue
        if n % stride == 0:
            yield timed.item
        n += 1


def released_stride(fps: float, stride: int = 2) -> int:
    """Return the stride at which the published code samples a video: stride * max(1, int(fps / 24)).

    The result is always played at 15 fps, so a 24 fps video plays 1.25 times as fast.
    """
    return stride * max(1, int(fps / 24))
