"""Settings of a training run: frozen, parsed strictly from YAML by `mimicmotion.config.parse`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from mimicmotion.config import STRICT, load_yaml, parse
from mimicmotion.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolConfig:
    """Clips of synthetic people, rendered once and kept on disk."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    path: str = "runs/pool"
    """Folder of the pool; it is rendered when it is missing, and continued when it is incomplete."""
    clips: int = 2000
    """Number of clips, each of another person."""
    frames: int = 16
    """Frames per clip, without the reference frame."""
    height: int = 224
    """Height of a frame in pixels."""
    width: int = 128
    """Width of a frame in pixels."""
    first_seed: int = 0
    """Clip i is rendered from seed first_seed + i; held-out clips must come from seeds outside of this range."""

    def __post_init__(self) -> None:
        if self.clips < 1 or self.frames < 1:
            raise ConfigError(f"clips={self.clips}, frames={self.frames}", "at least 1 of each", "raise them")
        if self.height % 16 or self.width % 16 or min(self.height, self.width) < 16:
            raise ConfigError(f"frames of {self.height}x{self.width}", "multiples of 16", "use 224x128")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW with warm-up, constant rate and linear decay, exponential average of the weights."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    steps: int = 10_000
    """Optimiser steps of the whole run."""
    lr: float = 7e-4
    """Learning rate after the warm-up."""
    warmup: int = 200
    """Steps of linear warm-up."""
    decay: int = 3000
    """The last so many steps fall linearly to 0. To end a running training early, lower `steps` and resume."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's betas."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.999
    """Decay of the exponential average (less in the first steps)."""
    bf16: bool = True
    """bfloat16 autocast; weights stay float32."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.lr <= 0:
            raise ConfigError(f"steps={self.steps}, lr={self.lr}", "both above 0", "raise them")
        if self.warmup < 0 or not 0 <= self.decay <= self.steps:
            raise ConfigError(
                f"warmup={self.warmup}, decay={self.decay} of {self.steps} steps",
                "warmup >= 0 and 0 <= decay <= steps",
                "correct optim.warmup or optim.decay",
            )
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema={self.ema}", "0 <= ema < 1", "use 0.999, or 0 to switch it off")


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoencoderConfig:
    """The autoencoder and its loss: L1 + `mse` x L2 + `edges` x L1 of the gradients + `kl` x KL."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    latent_channels: int = 16
    """Channels of the latents, at most 16."""
    patch_size: int = 8
    """Side of the square of pixels that becomes one latent."""
    mse: float = 2.0
    """Weight of the squared error."""
    edges: float = 0.5
    """Weight of the L1 error of horizontal and vertical differences."""
    kl: float = 1e-5
    """Weight of the KL term (sum over a frame's latents, mean over frames, per pixel)."""
    batch: int = 2
    """Clips per step."""
    clip_frames: int = 4
    """Neighbouring frames per clip (the decoder has temporal layers)."""
    freeze_encoder_at: int = 0
    """From this step on only the decoder learns, so that latents may be cached; 0 keeps the PCA."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseConfig:
    """One stretch of the U-Net training, until step `until` (the last phase goes on to the end)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    until: int
    """First step that no longer belongs to this phase."""
    frames: int
    """Slots of a clip: 1 reference + `frames` - 1 driving frames."""
    batch: int
    """Clips per step."""
    spacing: Literal["far", "near"] = "far"
    """far: frames anywhere in the clip, in order; near: neighbouring frames."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiserConfig:
    """U-Net, PoseNet and picture encoder, and the sample they learn from."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    widths: tuple[int, ...] = (64, 96, 96)
    """Channels of the U-Net's levels, multiples of 32."""
    attention: tuple[bool, ...] = (False, True, True)
    """Which levels have transformer blocks."""
    layers: int = 1
    """Residual blocks per level."""
    norm_groups: int = 8
    """Groups of each GroupNorm of the U-Net."""
    token_dim: int = 64
    """Size of the picture embedding."""
    reference_pose: bool = True
    """PoseNet sees [driving pose | reference pose]."""
    sigma_mean: float = 1.0
    """Mean of ln(sigma)."""
    sigma_std: float = 1.4
    """Standard deviation of ln(sigma)."""
    condition_dropout: float = 0.1
    """Share of samples without picture and pose, for guidance."""
    change_weight: float = 3.0
    """Loss weight of latents that differ much from the reference's at the same place; 1 switches it off."""
    channel_weights: tuple[float, ...] = ()
    """Loss weight of each latent channel, brought to mean 1; empty weighs all alike. The best prediction of a channel
    stays the same, but the network's capacity goes where it is seen: a PCA's first channels carry most of a picture."""
    any_reference: float = 0.5
    """Share of samples whose reference is another frame of the clip instead of its reference frame."""
    pose_noise: bool = True
    """Imitate a detector's errors on the driving pose."""
    fps: float = 7.0
    """Told to the U-Net as fps - 1."""
    motion_bucket: float = 127.0
    """Told to the U-Net."""
    phases: tuple[PhaseConfig, ...] = (PhaseConfig(until=1_000_000, frames=4, batch=4),)
    """Clip length and batch over time."""

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.attention):
            raise ConfigError(
                f"{len(self.widths)} widths, {len(self.attention)} attention switches", "one per level", "match them"
            )
        if not self.phases:
            raise ConfigError("no phases", "at least one", "add one under denoiser.phases")
        if any(p.frames < 2 or p.batch < 1 for p in self.phases):
            raise ConfigError("a phase with frames < 2 or batch < 1", "a reference and a frame", "raise them")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    stage: Literal["autoencoder", "denoiser"]
    """What is trained."""
    run: str
    """Folder of checkpoints and logs."""
    seed: int = 0
    """Seed of weights, data order and noise."""
    threads: int = 1
    """CPU threads."""
    pool: PoolConfig = field(default_factory=PoolConfig)
    """The data."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimiser."""
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """Used by stage autoencoder."""
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    """Used by stage denoiser."""
    autoencoder_checkpoint: str = ""
    """Stage denoiser: a checkpoint of stage autoencoder whose encoder is frozen."""
    log_every: int = 20
    """Steps between lines of log.jsonl."""
    save_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints to keep, the newest first."""
    compile: bool = False
    """torch.compile: twice as fast on a CPU with a C++ compiler, after minutes of compiling."""

    def __post_init__(self) -> None:
        if min(self.threads, self.log_every, self.save_every, self.keep) < 1:
            raise ConfigError("threads, log_every, save_every or keep below 1", "at least 1", "raise it")
        lengths = [self.autoencoder.clip_frames, *(p.frames for p in self.denoiser.phases)]
        if self.optim.bf16 and 2 in lengths:
            # oneDNN 3.x: the bfloat16 weight gradient of a (3, 1, 1) convolution over two frames is garbage
            raise ConfigError("clips of 2 frames with bf16", "1, or 3 and more", "use 3 frames, or optim.bf16: false")


def load_config(path: str | Path) -> TrainConfig:
    """Read a recipe.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown or out of range.
    """
    return parse(TrainConfig, load_yaml(Path(path)))


def as_dict(config: TrainConfig) -> dict[str, Any]:
    """Plain data that `parse` turns back into the same settings."""
    return dataclasses.asdict(config)
