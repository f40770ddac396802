"""Settings of `mimicmotion prepare`: which scenes of which videos become training data, and how they are stored."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings import PoseOptions
from mimicmotion.settings.parsing import Range

SIZE_MULTIPLE = 8
"""Height and width must be multiples of this, because the autoencoder downsamples by this factor."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(PoseOptions):
    """Settings of `mimicmotion prepare` and its YAML file."""

    videos: Path
    """Folder of videos, searched recursively."""
    output: Path
    """Folder for the shards. Run again to resume after an interruption or to add new videos."""
    height: Annotated[int, Range(64, 8192)] = 1024
    """Height of the stored frames in pixels."""
    width: Annotated[int, Range(64, 8192)] = 576
    """Width of the stored frames in pixels."""
    fit: Literal["crop", "letterbox"] = "crop"
    """How frames are fitted to height x width: crop (around the person's path through the scene) or letterbox."""
    fps: Annotated[float, Range(1, 240)] = 30.0
    """Maximum frame rate to store; slower videos keep their own."""
    store: Literal["video", "jpeg", "png"] = "video"
    """Storage format of frames: video (H.264, smallest), jpeg (faster random access), png (lossless)."""
    min_seconds: Annotated[float, Range(0, 3600)] = 2.0
    """Drop scenes shorter than this, in seconds. A sample of 16 frames needs 1.1 to 2.7 seconds by default."""
    max_seconds: Annotated[float, Range(0.1, 400)] = 20.0
    """Split scenes longer than this, in seconds, into several of equal length."""
    cut_ratio: Annotated[float, Range(1, 1000)] = 3.0
    """A scene cut is a frame that changes at least this many times as much as its neighbours, and by at least
    `cut_change`."""
    cut_change: Annotated[float, Range(0, 255)] = 15.0
    """Minimum change at a scene cut: mean over hue, saturation and brightness, 0 to 255."""
    min_found: Annotated[float, Range(0, 1)] = 0.9
    """Minimum fraction of a scene's frames in which the person is found."""
    max_crowded: Annotated[float, Range(0, 1)] = 0.1
    """Maximum fraction of a scene's frames (checked twice a second) that show more than one person."""
    min_body: Annotated[float, Range(0, 1)] = 0.5
    """Minimum fraction of the 18 body points in view, averaged over frames; head, shoulders and arms make up 12."""
    min_confidence: Annotated[float, Range(0, 1)] = 0.6
    """Minimum mean confidence of the body points in view."""
    min_sharpness: Annotated[float, Range(0, 1e6)] = 15.0
    """Minimum sharpness of the person: variance of the brightness Laplacian (0 to 255) at the stored size."""
    max_static: Annotated[float, Range(0, 1)] = 0.5
    """Maximum fraction of a scene's frames that hardly differ from the frame a fifth of a second earlier."""
    max_enlargement: Annotated[float, Range(0.01, 1000)] = 2.0
    """Drop videos that would need more upscaling than this to fill height x width."""
    near_duplicates: Annotated[float, Range(0, 0.5)] = 0.04
    """Drop a video if its image hashes differ from an earlier one's in less than this fraction of bits; 0 keeps all."""
    validation: Annotated[float, Range(0, 1)] = 0.05
    """Fraction of the videos (not scenes) in the validation split."""
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    """Seed of the validation split. A video stays in its split when others are added."""
    shard_frames: Annotated[int, Range(1, 10_000_000)] = 4000
    """Frames per shard; 4000 are about 120 MB of video at 576 x 1024."""
    processes: Annotated[int, Range(0, 4096)] = 0
    """Number of videos to process in parallel; 0: one per CPU core. It does not change the result."""
    overwrite: bool = False
    """Replace shards that were written with other settings."""

    def __post_init__(self) -> None:
        PoseOptions.__post_init__(self)
        for name in ("height", "width"):
            value = getattr(self, name)
            if value % SIZE_MULTIPLE:
                near = max(64, round(value / SIZE_MULTIPLE) * SIZE_MULTIPLE)
                raise ConfigError(f"{name}={value}", f"a multiple of {SIZE_MULTIPLE}", f"use {near}")
        if self.max_seconds < 2 * self.min_seconds:
            raise ConfigError(
                f"max_seconds={self.max_seconds} with min_seconds={self.min_seconds}",
                "max_seconds at least twice min_seconds, so that a long scene can be divided",
                "raise max_seconds or lower min_seconds",
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the stored frames."""
        return self.height, self.width


# Settings that only control where and how fast the work is done; they do not change the result.
_EXECUTION = frozenset({"videos", "output", "processes", "overwrite", "pose_cache", "pose_device"})
# Settings of scene detection and pose estimation; all others only filter what was measured.
_ANALYSIS = ("fps", "cut_ratio", "cut_change", "min_seconds", "max_seconds", "max_enlargement", "height", "width")


def result_settings(config: PrepareConfig) -> dict[str, Any]:
    """Return all settings that change the shards, as plain data, with checksums in place of model files."""
    facts = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in _EXECUTION}
    return facts | _model_files(config)


def analysis_settings(config: PrepareConfig) -> dict[str, Any]:
    """Return all settings that change what is measured in a video, and the version of this package, as plain data."""
    from mimicmotion import __version__

    facts = {name: getattr(config, name) for name in (*_ANALYSIS, "estimator", "person", "fit")}
    return facts | _model_files(config) | {"version": __version__}


def _model_files(config: PrepareConfig) -> dict[str, str | None]:
    from mimicmotion.runtime.files import sha256_file

    paths = {"detector": config.detector, "pose_model": config.pose_model}
    return {name: sha256_file(path) if path else None for name, path in paths.items()}
