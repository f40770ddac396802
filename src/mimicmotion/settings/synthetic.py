"""Settings of `mimicmotion prepare synthetic`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings import STRICT, check_range

HELD_OUT_SEED = 10_000_000
"""Clips of the split val have the seeds from this number on; those of train stay below it."""

_LIMITS: dict[str, tuple[float, float]] = {
    "count": (0, 10_000_000),
    "frames": (1, 10_000),
    "height": (16, 4096),
    "width": (16, 4096),
    "first_seed": (0, HELD_OUT_SEED - 1),
    "held_out": (0, 10_000_000),
    "camera_motion": (0, 1),
    "records_per_shard": (1, 1_000_000),
    "processes": (1, 4096),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticConfig:
    """Everything that a set of synthetic people depends on."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    count: int
    """Number of clips to train on."""
    output: Path
    """The folder of the shards; run again to go on where it was stopped, or with a larger count to add clips."""
    frames: int = 16
    """Frames of a clip; a still of the person in another pose, to serve as reference, comes on top."""
    height: int = 224
    """Height of the frames in pixels."""
    width: int = 128
    """Width of the frames in pixels."""
    first_seed: int = 0
    """Seed of the first clip; clip after clip it grows by one."""
    held_out: int = 0
    """Number of further clips for validation; their seeds begin at 10 million, so they never meet those trained on."""
    store: Literal["png", "jpeg", "video"] = "png"
    """How frames are stored: png (lossless), jpeg or video (H.264, smallest)."""
    camera_motion: float = 0.0
    """Share of the clips in which the camera drifts and shakes, 0 to 1."""
    mocap: Path | None = None
    """A folder of recorded motions, which a third of the clips follow: BVH files, or pose files of videos."""
    truth: bool = False
    """Also keep each frame's mask of the person and its flow to the still, both exact."""
    records_per_shard: int = 100
    """Clips in one file."""
    processes: int = 1
    """How many processes render at once; the files do not depend on it."""

    def __post_init__(self) -> None:
        check_range(self, _LIMITS)
        if (after := self.first_seed + self.count) > HELD_OUT_SEED:
            got = f"seeds {self.first_seed} to {after - 1}"
            raise ConfigError(got, f"0 to {HELD_OUT_SEED - 1}: the others are held out", "choose other seeds")
