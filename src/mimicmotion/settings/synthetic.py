"""Settings of `mimicmotion prepare synthetic`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings.parsing import Range, Settings

HELD_OUT_SEED = 10_000_000
"""First seed of the val split; seeds of the train split are below it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticConfig(Settings):
    """Settings of `mimicmotion prepare synthetic` and its YAML file."""

    count: Annotated[int, Range(0, 10_000_000)]
    """Number of training clips."""
    output: Path
    """Folder for the shards. Run again to resume after an interruption, or with a larger count to add clips."""
    frames: Annotated[int, Range(1, 10_000)] = 16
    """Frames per clip, not counting the extra still of the person in another pose that serves as reference."""
    height: Annotated[int, Range(16, 4096)] = 224
    """Height of the frames in pixels."""
    width: Annotated[int, Range(16, 4096)] = 128
    """Width of the frames in pixels."""
    first_seed: Annotated[int, Range(0, HELD_OUT_SEED - 1)] = 0
    """Seed of the first clip; each further clip uses the next seed."""
    held_out: Annotated[int, Range(0, 10_000_000)] = 0
    """Number of validation clips. Their seeds start at 10 million, so they never overlap with training seeds."""
    store: Literal["png", "jpeg", "video"] = "png"
    """Storage format of frames: png (lossless), jpeg or video (H.264, smallest)."""
    camera_motion: Annotated[float, Range(0, 1)] = 0.0
    """Fraction of clips with a drifting and shaking camera, 0 to 1."""
    mocap: Path | None = None
    """Folder of recorded motions (BVH files, or pose files of videos) to use for a third of the clips."""
    truth: bool = False
    """Also store each frame's exact person mask and its exact optical flow to the still (to train a warp network)."""
    records_per_shard: Annotated[int, Range(1, 1_000_000)] = 100
    """Clips per shard file."""
    processes: Annotated[int, Range(1, 4096)] = 1
    """Number of processes that render in parallel; it does not change the files."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if (after := self.first_seed + self.count) > HELD_OUT_SEED:
            got = f"seeds {self.first_seed} to {after - 1}"
            raise ConfigError(got, f"0 to {HELD_OUT_SEED - 1}: the others are held out", "choose other seeds")
