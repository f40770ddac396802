"""Frame selection by time or by the published code's stride, as pure functions over timed items."""

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
    """An item shown from `time` for `duration`, in seconds; `time` counts from the start of the video."""

    time: Fraction
    duration: Fraction
    item: T


def exact_rate(fps: float | Fraction) -> Fraction:
    """`fps` as the fraction it stands for: 29.97 -> 30000/1001, 15.0 -> 15. A fraction is returned unchanged.

    Raises:
        ConfigError: `fps` is a float outside of 0.001 to 1000.
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
    """1.1 as 11/10, not as the nearest binary number, which may be on the other side of a frame's time."""
    return Fraction(seconds).limit_denominator(1_000_000) if math.isfinite(seconds) else seconds


def resample(items: Iterable[Timed[T]], fps: float | Fraction, start: float = 0, end: float = math.inf) -> Iterator[T]:
    """Yield the item nearest to each time t = start + k / fps, until the end of the last item.

    The duration is kept (to half an output frame) at any frame rates, by repeating or dropping items. The lookahead is
    one item.

    Args:
        items: items in the order of their times; non-increasing times are nudged.
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
    # half an output frame (or one source frame) of tolerance, as rounded time stamps may add up to a little more
    grace = min(Fraction(1, 2) / rate, previous.duration)
    stop = min(previous.time + previous.duration - grace, end)
    while (t := first + k / rate) < stop or (k == 0 and t <= previous.time + previous.duration):
        yield previous.item
        k += 1


def every(items: Iterable[Timed[T]], stride: int, start: float = 0, end: float = math.inf) -> Iterator[T]:
    """Yield items 0, stride, 2 stride, ... of those shown between `start` and `end` (seconds)."""
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
    """The published code's rule: `stride` x max(1, int(fps / 24)).

    Its result is always shown at 15 fps, so that a source of 24 fps runs 1.25 times too fast.
    """
    return stride * max(1, int(fps / 24))
