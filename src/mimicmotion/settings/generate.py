"""Settings of the jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings.execution import ExecutionOptions
from mimicmotion.settings.fusion import FusionMode
from mimicmotion.settings.parsing import STRICT, check_range
from mimicmotion.settings.poses import PoseOptions, SamplingOptions
from mimicmotion.settings.speed import SpeedOptions


@dataclass(frozen=True, kw_only=True)
class PosesConfig(SamplingOptions, PoseOptions):
    """Everything that a pose file depends on: `mimicmotion poses` and its YAML file have these fields."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    video: Path
    """The video."""
    output: Path
    """The pose file (.npz), or a folder name ending in / for OpenPose JSON files."""
    draw: Path | None = None
    """Also write a video of the drawn poses here."""
    confidence_aware: bool = True
    """Draw poses with the estimator's confidence (paper); off draws everything above 0.3 at full brightness."""
    fps: float | None = None  # type: ignore[assignment]
    """Frames per second of the poses; empty keeps the video's own."""

    def __post_init__(self) -> None:
        SamplingOptions.__post_init__(self)
        PoseOptions.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class MaskConfig(SamplingOptions, PoseOptions):
    """Everything that the masks of a video depend on: `mimicmotion mask` and its YAML file have these fields."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    video: Path
    """The video."""
    output: Path
    """White person on black: .mp4, a folder name ending in / for PNG frames, or .npz for the exact masks."""
    fps: float | None = None  # type: ignore[assignment]
    """Frames per second of the masks; empty keeps the video's own."""

    def __post_init__(self) -> None:
        SamplingOptions.__post_init__(self)
        PoseOptions.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(SamplingOptions, PoseOptions, SpeedOptions, ExecutionOptions):
    """Everything that one result depends on: `mimicmotion generate` and its YAML file have these fields."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    picture: Path
    """The picture of the person."""
    video: Path
    """The driving video, or a pose file made by `mimicmotion poses`."""
    output: Path
    """The result: .mp4, .gif, .webp, or a folder name ending in / for PNG frames."""
    model: str | None = None
    """Folder or hub id of Stable Video Diffusion or of a saved model; empty uses the bundled tiny model."""
    checkpoint: str | None = None
    """MimicMotion checkpoint (.pth, .safetensors or hub id) to put on the base model."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the networks; auto is float32 on a CPU and float16 on a GPU."""
    height: int | None = None
    """Height of the result in pixels; empty uses the model's own size."""
    width: int | None = None
    """Width of the result in pixels; empty uses the model's own size."""
    fit: Literal["crop", "letterbox", "released"] = "crop"
    """How the picture is brought to height x width: crop around the person, letterbox, or the published code's crop."""
    align: Literal["weighted", "released", "none"] = "weighted"
    """How the driver's body is fitted to the body in the picture."""
    confidence_aware: bool = True
    """Draw poses with the estimator's confidence (paper); off draws everything above 0.3 at full brightness."""
    num_inference_steps: int | None = None
    """Denoising steps; empty uses the model's default."""
    guidance_scale: float | None = None
    """Classifier-free guidance; 1 is none; empty uses the model's default."""
    guidance_scale_end: float | None = None
    """Ramp the guidance from guidance_scale at the first frame to this at the last; empty keeps it constant."""
    noise_aug_strength: float = 0.0
    """Noise added to the picture before it is encoded."""
    motion_bucket_id: int = 127
    """Stable Video Diffusion's motion condition."""
    background: Literal["model", "keep"] = "model"
    """model: as the model makes it; keep: the picture's own, filled in once where its person stood."""
    seed: int = 42
    """Seed of the noise: same input and seed, same result."""
    fusion: FusionMode | None = None
    """progressive (paper), released, average or none; empty uses the model's default."""
    segment_frames: int | None = None
    """Frames per segment (paper: N); empty uses the model's default."""
    overlap_frames: int | None = None
    """Frames shared by neighbouring segments (paper: C); empty uses the model's default."""
    reference_slot: bool | None = None
    """Begin each segment with the picture and its pose, as published weights need; empty uses the model's default."""
    decode_chunk_size: int = 8
    """Frames decoded at once."""
    side_by_side: bool = False
    """Also write OUTPUT-side-by-side: picture | pose | result."""
    preview: bool = False
    """Keep OUTPUT.preview.png up to date with the current state while sampling."""
    resume: bool = False
    """Go on with an interrupted run of the same inputs and settings."""
    save_every: int = 5
    """Steps between saved states of the run; 0 saves none, so an interrupted run begins anew."""
    audio: bool = False
    """Take the sound of the driving video along (only at its own speed)."""

    def __post_init__(self) -> None:
        SamplingOptions.__post_init__(self)
        PoseOptions.__post_init__(self)
        SpeedOptions.__post_init__(self)
        ExecutionOptions.__post_init__(self)
        limits = {
            "num_inference_steps": (1, 1000),
            "decode_chunk_size": (1, 10000),
            "height": (16, 8192),
            "width": (16, 8192),
            "guidance_scale": (0, 100),
            "guidance_scale_end": (0, 100),
            "noise_aug_strength": (0, 10),
            "motion_bucket_id": (0, 1023),
            "seed": (0, 2**63 - 1),
            "segment_frames": (1, 100_000),
            "overlap_frames": (0, 100_000),
            "save_every": (0, 1000),
        }
        check_range(self, limits)
        if self.segment_frames is not None and (self.overlap_frames or 0) >= self.segment_frames:
            raise ConfigError(
                f"overlap_frames={self.overlap_frames} with segment_frames={self.segment_frames}",
                "overlap_frames < segment_frames",
                f"set overlap_frames to at most {self.segment_frames - 1}",
            )
        if (self.height is None) != (self.width is None):
            raise ConfigError(f"height={self.height}, width={self.width}", "both or neither", "give the other one too")
        if self.audio and (self.tempo != 1.0 or self.sampling != "time"):
            raise ConfigError("audio with a changed speed", "tempo 1 and sampling time", "leave out 'audio'")
