"""Settings of a training run: frozen, parsed strictly from YAML by `mimicmotion.settings.parse`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings.parsing import Range, Settings, find_recipe, load_yaml, parse
from mimicmotion.settings.samples import SampleConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig(Settings):
    """The shards, and how samples are made of them."""

    shards: str = ""
    """Folder of shards written by `mimicmotion prepare`, or a URL of them (http, https, s3, gs, hf)."""
    split: str = "train"
    """The split that is trained on."""
    cache: str = ""
    """Folder for copies of remote shards and for latents; empty uses RUN/cache."""
    workers: Annotated[int, Range(0)] = 2
    """Processes that make samples, per training process; 0 makes them in the training process."""
    cache_latents: bool | None = None
    """Encode each record once and keep its latents on disk, instead of encoding in every step; on a GPU that is done
    before the first step. Empty does so where they take at most 20 GB."""
    sample: SampleConfig = field(default_factory=SampleConfig)
    """What a sample is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyConfig(Settings):
    """New small networks with random weights; the autoencoder is one that was trained before."""

    autoencoder: str = ""
    """Checkpoint of a run of stage autoencoder (.../checkpoints/step-N), its run folder, or a model folder."""
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

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if len(self.widths) != len(self.attention) or not self.widths:
            raise ConfigError(
                f"{len(self.widths)} widths, {len(self.attention)} attention switches", "one per level", "match them"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(Settings):
    """The weights that training starts from."""

    base: str = ""
    """Stable Video Diffusion folder or known name, as `MimicMotionPipeline.from_pretrained` takes it."""
    checkpoint: str = ""
    """Weights to go on from: a model folder, or a released checkpoint (.pth) over `base`; empty with `base` starts
    PoseNet from nothing."""
    new: TinyConfig | None = None
    """Small networks from nothing instead."""
    reference_warp: Literal["none", "limbs", "residual"] | None = None
    """limbs: give the U-Net the picture's latents warped limb by limb to each pose, in place of copies of one latent;
    residual: and let it denoise the difference to them. Not in the paper; a small model learns much faster with it.
    Empty keeps what the start was trained with."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the trained model will be used with by default, where that differs from its start: sigmas, fusion, ..."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.new is not None and (self.base or self.checkpoint):
            raise ConfigError("new together with base or checkpoint", "one of them", "leave out the other")


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveConfig(Settings):
    """The loss: noise levels, conditions that are dropped, weights of places and channels."""

    sigma_preset: Literal["mimicmotion", "svd-320x576", "svd-576x1024"] = "mimicmotion"
    """Distribution of noise levels: ln(sigma) normal with (0.5, 1.4), (0.7, 1.6) or (1.0, 1.6)."""
    sigma_mean: float | None = None
    """Mean of ln(sigma) instead of the preset's."""
    sigma_std: Annotated[float | None, Range(0, 1000, above=True)] = None
    """Standard deviation of ln(sigma) instead of the preset's."""
    condition_dropout: Annotated[float, Range(0, 1)] = 0.1
    """Share of samples without embedding, reference latent and pose together, for guidance."""
    drop_image: Annotated[float, Range(0, 1)] = 0.0
    """Share of samples without the picture embedding, besides."""
    drop_latent: Annotated[float, Range(0, 1)] = 0.0
    """Share of samples without the reference latent, besides."""
    drop_pose: Annotated[float, Range(0, 1)] = 0.0
    """Share of samples without pose, besides."""
    noise_aug: Annotated[float, Range(0, 1)] = 0.0
    """Share of samples whose reference picture gets noise before it is encoded; the U-Net is told its strength."""
    noise_aug_mean: float = -3.0
    """Mean of the logarithm of that noise's strength (pixels are -1..1)."""
    noise_aug_std: float = 0.5
    """Standard deviation of that logarithm."""
    hand_scale: Annotated[float, Range(0, 1e6)] = 10.0
    """Loss weight inside boxes of reliable hands (hand region enhancement); 1 switches it off."""
    change_weight: Annotated[float, Range(0, 1e6)] = 1.0
    """Loss weight of latents that differ much from the reference's at the same place; 1 switches it off."""
    channel_weights: tuple[float, ...] = ()
    """Loss weight of each latent channel, brought to mean 1; empty weighs all alike. The best prediction of a channel
    stays the same, but the network's capacity goes where it is seen: a PCA's first channels carry most of a picture."""
    fps: float | None = 7.0
    """Told to the U-Net as fps - 1; empty tells each sample's own."""
    motion_bucket: float = 127.0
    """Told to the U-Net."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig(Settings):
    """AdamW with warm-up, constant rate and linear decay, exponential average of the weights."""

    optimizer: Literal["adamw", "adamw-fused", "adamw-8bit"] = "adamw"
    """adamw, adamw-fused (faster) or adamw-8bit (a quarter of the memory for its state; needs bitsandbytes)."""
    steps: Annotated[int, Range(1)] = 10_000
    """Optimiser steps of the whole run."""
    batch: Annotated[int, Range(1)] = 1
    """Clips per process and forward pass."""
    accumulation: Annotated[int, Range(1)] = 1
    """Forward passes per step: the batch of a step is processes x batch x accumulation."""
    lr: Annotated[float, Range(0, 1e3, above=True)] = 1e-5
    """Learning rate after the warm-up."""
    warmup: Annotated[int, Range(0)] = 500
    """Steps of linear warm-up."""
    decay: Annotated[int, Range(0)] = 0
    """The last so many steps fall linearly to 0. To end a running training early, lower `steps` and resume."""
    betas: Annotated[tuple[float, float], Range(0, 1)] = (0.9, 0.999)
    """AdamW's betas."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    clip: Annotated[float, Range(0, 1e9)] = 1.0
    """Largest norm of the gradient; 0 does not clip."""
    ema: Annotated[float, Range(0, 1)] = 0.999
    """Decay of the exponential average that is validated and exported (less in the first steps); 0 switches it off."""
    ema_on_cpu: bool = False
    """Keep the average in main memory: saves 4 bytes of GPU memory per trained parameter, costs a copy per step."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.decay > self.steps:
            raise ConfigError(f"decay={self.decay} of {self.steps} steps", "at most all of them", "lower decay")
        if self.ema == 1:
            raise ConfigError("ema=1.0", "below 1", "use 0.999, or 0 to switch it off")


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseConfig(Settings):
    """One stretch of a training, until step `until` (the last phase goes on to the end)."""

    until: Annotated[int, Range(1)]
    """First step that no longer belongs to this phase."""
    frames: Annotated[int, Range(1)]
    """Slots of a clip, the reference's counted."""
    batch: Annotated[int, Range(1)]
    """Clips per process and forward pass."""
    spacing: Literal["interval", "spread"] = "interval"
    """interval: equal intervals; spread: frames anywhere in the record, in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedConfig(Settings):
    """Which weights learn. Those that have no influence (cross attention to a single token) never do."""

    what: Literal["all", "pose_net", "temporal", "lora"] = "all"
    """all: U-Net and PoseNet (paper); pose_net: PoseNet alone; temporal: PoseNet and the U-Net's temporal layers;
    lora: PoseNet and low-rank additions to the U-Net."""
    rank: Annotated[int, Range(1)] = 32
    """lora: rank of the additions."""
    alpha: Annotated[float, Range(0, 1e6, above=True)] = 32.0
    """lora: the additions are scaled by alpha / rank."""
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """lora: ends of the names of the layers that get additions."""
    image_encoder: bool = False
    """Train the picture encoder too (CLIP stays as it is); that of new small networks always is."""
    frozen: Literal["float32", "half"] = "float32"
    """Number format of weights that do not learn; half (needs precision bf16 or fp16) saves memory and nothing is lost
    in the U-Net, which computes in half precision anyway."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.what == "lora" and not self.targets:
            raise ConfigError("targets is empty", "ends of names of layers", "leave it out for the projections")


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationConfig(Settings):
    """What is measured during training, on clips that are not trained on."""

    every: Annotated[int, Range(0)] = 500
    """Steps between validations, the last step included; 0 never validates."""
    split: str = "val"
    """The split that is measured; without one in the shards, fixed samples of the training split."""
    clips: Annotated[int, Range(1)] = 4
    """Fixed clips that are measured."""
    bands: tuple[float, ...] = (0.5, 2.0, 8.0)
    """Noise levels between the bands whose loss is told apart."""
    draws: Annotated[int, Range(1)] = 2
    """Noise draws per clip and band."""
    generate: bool = True
    """Also generate the clips: a picture grid, PSNR and SSIM."""
    poses: bool = True
    """generate: also look for the poses in the generated clips, by the bundled estimator, and compare them with those
    that it finds in the true ones (about 0.1 s a frame on one CPU core)."""
    best: str = "loss"
    """The score by which RUN/best is chosen."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if any(b <= 0 for b in self.bands) or list(self.bands) != sorted(set(self.bands)):
            raise ConfigError(f"bands={self.bands}", "rising levels above 0", "use [0.5, 2, 8]")


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoencoderConfig(Settings):
    """The small autoencoder, its encoder a fixed PCA, and its loss: L1 + `mse` x L2 + `edges` x L1 of the gradients."""

    latent_channels: Annotated[int, Range(1, 16)] = 16
    """Channels of the latents, at most 16."""
    patch_size: Annotated[int, Range(1)] = 8
    """Side of the square of pixels that becomes one latent."""
    mse: float = 2.0
    """Weight of the squared error."""
    edges: float = 0.5
    """Weight of the L1 error of horizontal and vertical differences."""
    clip_frames: Annotated[int, Range(1)] = 4
    """Neighbouring frames per clip (the decoder has temporal layers)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetailConfig(Settings):
    """The small model's detail network: what it learns from, its size, its loss."""

    clips: Annotated[int, Range(1)] = 600
    """Clips of data.sample.num_frames slots that the model generates before the first step, to be learned from."""
    new: bool = False
    """Begin with random weights even where the model has a detail network already."""
    start: str = ""
    """Model folder whose detail network is gone on from instead of the model's own."""
    exact_poses: Annotated[float, Range(0, 1)] = 0.5
    """Share of these clips whose poses are exact; the others' have data.sample.detector_noise."""
    widths: tuple[int, ...] = (32, 48, 96, 128)
    """Channels of the four levels, cells of 2x2 to 16x16 pixels, in multiples of 8 (of a new network, as below)."""
    blocks: tuple[int, ...] = (1, 1, 2, 2)
    """Residual blocks of each level."""
    dropout: float = 0.1
    """Share of the coarsest level's channels that are dropped in training."""
    fine: int = 16
    """Channels of the last convolutions, at whole pixels; a network that has none gets them (0: it doesn't)."""
    sharp_lean: float = 0.7
    """Added to the logarithm of the warped picture's weights when the network is used (not while it learns)."""
    blurred_lean: float = -1.0
    """The same of the blurred candidates' weights."""
    moving_weight: Annotated[float, Range(0, 1e6)] = 5.0
    """Loss weight of pixels where the true frame differs from the reference picture."""
    perceptual: Annotated[float, Range(0, 1e6)] = 0.0
    """Loss weight of LPIPS (AlexNet; `mimicmotion weights fetch lpips-alex`) beside the logarithm of the squared error:
    sharper frames, further from the true ones in decibels."""
    recolour: Annotated[float, Range(0, 1)] = 0.8
    """Share of samples whose three colours change places, contrast and brightness."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WarpConfig(Settings):
    """The small model's warp network, which learns from rendered people with their truth."""

    clips: Annotated[int, Range(1)] = 600
    """So many clips, each with the poses of one imitated detector, are learned from: about 10 MB of memory each."""
    new: bool = False
    """Begin with random weights even where the model has a warp network already."""
    widths: tuple[int, ...] = (48, 64, 88, 104)
    """Channels of the four levels, cells of 4x4 to 32x32 pixels, in multiples of 8 (of a new network)."""
    decided: Annotated[float, Range(0.01, 100)] = 1.0
    """How much harder than learned the outline is when the network is used."""
    exact_poses: Annotated[float, Range(0, 1)] = 0.4
    """Share of the clips whose poses are exact; the others' have data.sample.detector_noise."""
    perceptual: Annotated[float, Range(0, 1e6)] = 0.0
    """Loss weight of LPIPS (AlexNet; `mimicmotion weights fetch lpips-alex`)."""
    recolour: Annotated[float, Range(0, 1)] = 0.7
    """Share of samples whose three colours change places, contrast and brightness."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(Settings):
    """One training run."""

    run: str
    """Folder of checkpoints and logs."""
    stage: Literal["denoiser", "autoencoder", "detail", "warp"] = "denoiser"
    """What is trained: the video model, or the small model's autoencoder, detail network or warp network."""
    seed: int = 0
    """Seed of weights, data order and noise."""
    threads: Annotated[int, Range(0)] = 0
    """CPU threads; 0 leaves PyTorch's choice."""
    cpu: bool = False
    """Use the CPU even where there is a GPU."""
    data: DataConfig = field(default_factory=DataConfig)
    """The data."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Where the weights come from (stages denoiser, detail and warp)."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """The loss (stage denoiser)."""
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """Network and loss (stage autoencoder)."""
    detail: DetailConfig = field(default_factory=DetailConfig)
    """Network and loss (stage detail)."""
    warp: WarpConfig = field(default_factory=WarpConfig)
    """Network and loss (stage warp)."""
    trained: TrainedConfig = field(default_factory=TrainedConfig)
    """Which weights learn (stage denoiser)."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimiser."""
    phases: tuple[PhaseConfig, ...] = ()
    """Clip length and batch over time; empty keeps data.sample and optim.batch for the whole run."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """What is measured on the way."""
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    """Type of the computation (autocast); the weights stay float32."""
    gradient_checkpointing: Literal[False, True, "nested"] = False
    """Compute activations twice instead of keeping them: much less memory, about a third more time. nested computes
    some three times and keeps about half of what is left."""
    compile: bool = False
    """torch.compile: faster after minutes of compiling."""
    overfit_one_clip: bool = False
    """Every sample is the same clip (with its own noise): a model that cannot learn it by heart has a fault."""
    log_every: Annotated[int, Range(1)] = 10
    """Steps between lines of log.jsonl."""
    save_every: Annotated[int, Range(1)] = 500
    """Steps between checkpoints."""
    keep: Annotated[int, Range(1)] = 3
    """Checkpoints to keep, the newest first; the best one stays besides."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Accelerate's trackers that get the log, besides log.jsonl: tensorboard, wandb, mlflow, ..."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if [p.until for p in self.phases] != sorted({p.until for p in self.phases}):
            raise ConfigError("phases out of order", "each with a higher 'until' than the one before", "sort them")

    def phase(self, step: int) -> PhaseConfig | None:
        """The phase of step `step`; None where the run has no phases."""
        return next((p for p in self.phases if step < p.until), self.phases[-1] if self.phases else None)

    def batch(self, step: int) -> int:
        """Clips per process and forward pass of step `step`."""
        phase = self.phase(step)
        return phase.batch if phase else self.optim.batch


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a recipe.

    Args:
        path: YAML file, or the name of a recipe of this package (`mimicmotion.settings.recipes`).
        overrides: settings that win over the file's, such as "optim.lr=1e-4".

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown or out of range.
    """
    import yaml

    data = load_yaml(find_recipe(path))
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {item}", "KEY=VALUE, such as optim.lr=1e-4", "write it so")
        *parents, last = key.strip().split(".")
        inner = data
        for name in parents:
            if inner.get(name) is None:
                inner[name] = {}
            inner = inner[name]
            if not isinstance(inner, dict):
                raise ConfigError(f"--set {item}", f"a group of settings at {name!r}", "correct the name")
        try:
            inner[last] = yaml.safe_load(text)
        except yaml.YAMLError as e:
            raise ConfigError(f"--set {item}", "a YAML value", "quote it") from e
    return parse(TrainConfig, data)


def as_dict(config: TrainConfig) -> dict[str, Any]:
    """Plain data that `parse` turns back into the same settings."""
    return dataclasses.asdict(config)
