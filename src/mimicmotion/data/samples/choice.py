"""Choosing the frames of a sample: a pure function of the random generator and the lengths of the scenes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mimicmotion.settings.samples import SampleConfig


@dataclass(frozen=True, slots=True)
class Timeline:
    """The lengths of a record, for choosing frames from it.

    Attributes:
        frames: number of all stored frames.
        stills: number of leading frames outside the timeline, which can only be references.
        fps: frames per second of the timeline.
    """

    frames: int
    stills: int
    fps: float

    @property
    def length(self) -> int:
        """Number of frames of the timeline."""
        return self.frames - self.stills

    def needed(self, count: int, config: SampleConfig) -> int:
        """Shortest timeline from which `count` driving frames can be taken."""
        if config.spacing == "spread":
            return count
        return (count - 1) * self._shortest(config) + 1

    def draw_step(self, count: int, config: SampleConfig, rng: np.random.Generator) -> int:
        """Draw the step between driving frames, in stored frames: log-uniform in time, limited by the scene."""
        low, high = (math.log(t) for t in config.interval)
        wanted = round(math.exp(rng.uniform(low, high)) * self.fps)
        longest = (self.length - 1) // (count - 1) if count > 1 else wanted
        return max(self._shortest(config), min(wanted, longest))

    def _shortest(self, config: SampleConfig) -> int:
        return max(1, round(config.interval[0] * self.fps))


@dataclass(frozen=True, slots=True)
class FrameChoice:
    """The random choices behind one sample.

    Attributes:
        record: index of the record with the driving frames.
        frames: indices of its stored frames, in playing order.
        fps: frames per second of these frames.
        reference: (record, stored frame) of the reference picture.
        noise_seeds: seeds of the simulated detector, for driving poses and reference pose.
    """

    record: int
    frames: list[int]
    fps: float
    reference: tuple[int, int]
    noise_seeds: tuple[int, int]


def choose(
    rng: np.random.Generator,
    config: SampleConfig,
    timelines: Sequence[Timeline],
    usable: Sequence[int],
    siblings: Sequence[Sequence[int]],
) -> FrameChoice:
    """Choose the frames of a sample. All random numbers are always drawn, so that options do not affect each other.

    Args:
        rng: random generator of this sample alone.
        config: settings of the sample.
        timelines: timelines of all records.
        usable: indices of the records that are long enough.
        siblings: indices of all records of the same video, for each record.
    """
    count = config.num_frames - config.reference_slot
    record = usable[int(rng.integers(len(usable)))]
    line = timelines[record]
    if config.spacing == "spread":
        times = np.sort(rng.choice(line.length, count, replace=False))
        span = int(times[-1] - times[0])
        fps = line.fps * (count - 1) / span if span else line.fps
    else:
        step = line.draw_step(count, config, rng)
        times = rng.integers(line.length - (count - 1) * step) + step * np.arange(count)
        fps = line.fps / step
    frames = [line.stills + int(t) for t in times]
    if rng.random() < config.reverse:
        frames.reverse()
    records = siblings[record] if config.reference == "video" else [record]
    ends = np.cumsum([timelines[r].frames for r in records])
    position = int(rng.integers(ends[-1])) * (config.reference != "first")
    which = int(np.searchsorted(ends, position, side="right"))
    reference = (records[which], position - (int(ends[which - 1]) if which else 0))
    rng.random()  # unused; keeps samples as in earlier versions
    seeds = rng.integers(2**31, size=2)
    return FrameChoice(record, frames, fps, reference, (int(seeds[0]), int(seeds[1])))
