"""Settings of `mimicmotion prepare synthetic`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings.parsing import Range, Settings

HELD_OUT_SEED = 10_000_000
"""Clips of the split val have the seeds from this number on; those of train stay below it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticConfig(Settings):
    """Everything that a set of synthetic people depends on."""

    count: Annotated[int, Range(0, 10_000_000)]
    """Number of clips to train on."""
    output: Path
    """The folder of the shards; run again to go on where it was stopped, or with a larger count to add clips."""
    frames: Annotated[int, Range(1, 10_000)] = 16
    """Frames of a clip; a still of the person in another pose, to serve as reference, comes on top."""
    height: Annotated[int, Range(16, 4096)] = 224
    """Height of the frames in pixels."""
    width: Annotated[int, Range(16, 4096)] = 128
    """Width of the frames in pixels."""
    first_seed: Annotated[int, Range(0, HELD_OUT_SEED - 1)] = 0
    """Seed of the first clip; clip after clip it grows by one."""
    held_out: Annotated[int, Range(0, 10_000_000)] = 0
    """Number of further clips for validation; their seeds begin at 10 million, so they never meet those trained on."""
    store: Literal["png", "jpeg", "video"] = "png"
    """How frames are stored: png (lossless), jpeg or video (H.264, smallest)."""
    camera_motion: Annotated[float, Range(0, 1)] = 0.0
    """Share of the clips in which the camera drifts and shakes, 0 to 1."""
    mocap: Path | None = None
    """A folder of recorded motions, which a third of the clips follow: BVH files, or pose files of videos."""
    truth: bool = False
    """Also keep each frame's mask of the person and its flow to the still, both exact."""
    records_per_shard: Annotated[int, Range(1, 1_000_000)] = 100
    """Clips in one file."""
    processes: Annotated[int, Range(1, 4096)] = 1
    """How many processes render at once; the files do not depend on it."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if (after := self.first_seed + self.count) > HELD_OUT_SEED:
            got = f"seeds {self.first_seed} to {after - 1}"
            raise ConfigError(got, f"0 to {HELD_OUT_SEED - 1}: the others are held out", "choose other seeds")
