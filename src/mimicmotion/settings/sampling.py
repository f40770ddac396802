"""Settings of sampling: steps, noise levels, guidance, and tiers that trade exactness for speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings.parsing import Help, Range, Settings, refuse_unused

Speed = Literal["exact", "balanced", "fast"]
Sampler = Literal["euler", "dpmpp-2m"]
Schedule = Literal["karras", "ays"]


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(Settings):
    """Sampling settings shared by the pipeline and all jobs."""

    speed: Annotated[Speed, Help("Speed", first=True)] = "exact"
    """exact, or faster with slightly different results: balanced or fast."""
    num_inference_steps: Annotated[int | None, Range(1, 1000), Help("Quality")] = None
    """Number of denoising steps; default: set by `speed`, else the model's (25 for the published weights)."""
    sampler: Annotated[Sampler | None, Help("Quality")] = None
    """Sampler: euler (as published) or dpmpp-2m (second order, needs fewer steps); default: euler."""
    schedule: Annotated[Schedule | None, Help("Quality")] = None
    """Noise schedule: karras (as published) or ays (Align Your Steps, 10 steps); default: set by `speed`."""
    guidance_scale: Annotated[float | None, Range(0, 100), Help("Quality")] = None
    """Classifier-free guidance scale; 1 disables guidance and halves the time; default: the model's."""
    min_guidance_scale: Annotated[float | None, Range(0, 100), Help("Quality")] = None
    """Guidance scale of the first frame, to let it rise or fall over the video; default: `guidance_scale`."""
    max_guidance_scale: Annotated[float | None, Range(0, 100), Help("Quality")] = None
    """Guidance scale of the last frame; default: `guidance_scale`."""
    guidance_interval: Annotated[tuple[float, float] | None, Help("Speed")] = None
    """Apply guidance only at noise levels (sigma) between these two; other steps skip the unconditional pass."""
    guidance_every: Annotated[int | None, Range(1, 1000), Help("Speed")] = None
    """Run the unconditional pass only in every n-th guided step and reuse its guidance in between."""
    block_cache: Annotated[float | None, Range(0, 10), Help("Speed")] = None
    """Reuse the U-Net's deep features in later steps up to this error, such as 0.1; 0: off; default: set by `speed`."""
    noise_aug_strength: Annotated[float, Range(0, 10), Help("Advanced")] = 0.0
    """Strength of the noise added to the picture (pixels in -1 to 1) before encoding."""
    motion_bucket_id: Annotated[float, Range(0, 1023), Help("Advanced")] = 127
    """Motion bucket id, Stable Video Diffusion's condition for the amount of motion."""
    seed: Annotated[int, Range(0, 2**63 - 1), Help("Quality", first=True)] = 42
    """Seed of the noise. The same inputs and seed give the same result."""
    decode_chunk_size: Annotated[int, Range(1, 10_000), Help("Memory")] = 8
    """Number of frames to decode at once; fewer need less memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_guidance_scale is not None and self.max_guidance_scale is not None:
            refuse_unused(self, ["guidance_scale"], "with min_guidance_scale and max_guidance_scale")
        if self.guidance_interval is not None:
            low, high = self.guidance_interval
            if not 0 <= low < high:
                raise ConfigError(
                    f"guidance_interval={low}, {high}",
                    "0 <= lowest < highest noise level",
                    "swap or correct the levels",
                )


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(SamplingOptions):
    """Settings of a pipeline call. Each field is also a keyword argument of `pipe(...)`."""

    seed: int | Sequence[int] = 42  # type: ignore[assignment]
    """Seed of the noise, used without a generator; a list gives one per video."""
    sigmas: Sequence[float] | None = None
    """Noise levels to use instead of a schedule; n levels make n - 1 steps."""
    fps: Annotated[float | None, Range(1, 1000)] = None
    """Frames per second passed to the network as a condition; default: the model's (7)."""
    num_frames: int | None = None
    """Number of poses to use, from the start; default: all."""
    height: int | None = None
    """Expected height of the picture in pixels, checked if given."""
    width: int | None = None
    """Expected width of the picture in pixels, checked if given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = {"schedule": self.schedule, "num_inference_steps": self.num_inference_steps}
        for name, value in given.items():
            if self.sigmas is not None and value not in (None, len(self.sigmas) - 1):
                got = f"{name}={value!r} with {len(self.sigmas)} sigmas"
                raise ConfigError(got, "only one of the two", "remove one of them")


_BALANCED = {"schedule": "ays", "num_inference_steps": 10, "guidance_interval": (0.4, 60.0), "block_cache": 0.6}
TIERS: dict[Speed, dict[str, Any]] = {
    "exact": {},
    "balanced": _BALANCED,
    "fast": _BALANCED | {"num_inference_steps": 6, "guidance_every": 2},
}
"""Settings of each tier, measured by benchmarks/tiers.py."""
PLAIN: dict[str, Any] = {"sampler": "euler", "guidance_every": 1, "block_cache": 0.0}


def resolve_tier(options: SamplingOptions, model_steps: int | None = None) -> SamplingSettings:
    """Fill in the tier's values for options that are not set.

    A tier never takes more steps than the model's default: a model that already needs as few steps as the tier
    (distilled models, the bundled one) keeps its own noise levels and sampler. Options that the user sets always win.

    Args:
        options: the user's options.
        model_steps: default number of steps of the model; None if unknown.
    """
    tier = dict(TIERS[options.speed])
    if isinstance(options, SamplingSettings):
        settings = options
    else:  # other settings of a job, such as fps, may have another meaning
        settings = SamplingSettings(**{f.name: getattr(options, f.name) for f in fields(SamplingOptions)})
    steps = tier.get("num_inference_steps")
    if settings.sigmas is not None or (model_steps is not None and steps is not None and model_steps <= steps):
        tier = {name: value for name, value in tier.items() if name not in ("schedule", "num_inference_steps")}
    elif settings.schedule not in (None, tier.get("schedule")):
        tier.pop("num_inference_steps", None)  # the tier's number of steps is for its own schedule
    filled = {name: value for name, value in (PLAIN | tier).items() if getattr(settings, name) is None}
    return replace(settings, **filled)


FusionMode = Literal["progressive", "released", "average", "none"]


@dataclass(frozen=True, kw_only=True)
class FusionConfig(Settings):
    """How a long video is split into segments and how their predictions are joined (paper section 3.5)."""

    mode: FusionMode = "progressive"
    """progressive (paper), released (as in the published code), average (MultiDiffusion) or none (hard cuts)."""
    segment_frames: Annotated[int, Range(1)] = 16
    """Frames per segment (paper: N)."""
    overlap_frames: Annotated[int, Range(0)] = 6
    """Frames shared by neighbouring segments (paper: C). Both numbers include the reference slot."""
    reference_slot: bool = True
    """Put the reference picture with its own pose into slot 0 of each segment, as the published weights expect."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_overlap(self.segment_frames, self.overlap_frames)


def check_overlap(segment_frames: int, overlap_frames: int) -> None:
    """Raise ConfigError if segments would share all their frames."""
    if overlap_frames >= segment_frames:
        raise ConfigError(
            f"overlap_frames={overlap_frames} with segment_frames={segment_frames}",
            "overlap_frames < segment_frames",
            f"set overlap_frames to at most {segment_frames - 1}",
        )
