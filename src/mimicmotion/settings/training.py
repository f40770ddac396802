"""Settings of a training run, read from a YAML recipe."""

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
    """The training data: its shards, caches and samples."""

    shards: str = ""
    """Folder of shards written by `mimicmotion prepare`, or its URL (http, https, s3, gs, hf)."""
    cache: str = ""
    """Folder to cache remote shards and latents in; default: RUN/cache."""
    workers: Annotated[int, Range(0)] = 2
    """Data loading processes per training process; 0 loads in the training process."""
    cache_latents: bool | None = None
    """Encode each record once and cache its latents on disk instead of encoding in every step; on a GPU, all are
    encoded before the first step. Default: if the latents take at most 20 GB."""
    sample: SampleConfig = field(default_factory=SampleConfig)
    """How samples are composed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyConfig(Settings):
    """New small networks with random weights, on top of an already trained autoencoder."""

    autoencoder: str = ""
    """Checkpoint of a run of stage autoencoder (.../checkpoints/step-N), its run folder, or a model folder."""
    widths: tuple[int, ...] = (64, 96, 96)
    """Channels of the U-Net's levels, multiples of 32."""
    attention: tuple[bool, ...] = (False, True, True)
    """Whether each level has transformer blocks."""
    token_dim: int = 64
    """Dimension of the picture embedding."""
    reference_pose: bool = True
    """Feed PoseNet both poses, as [driving pose | reference pose]."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if len(self.widths) != len(self.attention) or not self.widths:
            got = f"{len(self.widths)} widths, {len(self.attention)} attention values"
            raise ConfigError(got, "one of each per level", "give both the same length")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(Settings):
    """The weights that training starts from."""

    base: str = ""
    """Folder or name of Stable Video Diffusion, as in `MimicMotionPipeline.from_pretrained`."""
    checkpoint: str = ""
    """Weights to start from: a model folder, or a released checkpoint (.pth) on top of `base`; empty with `base`
    trains PoseNet from scratch."""
    new: TinyConfig | None = None
    """Train new small networks instead."""
    reference_warp: Literal["none", "limbs", "residual"] | None = None
    """limbs: condition the U-Net on the picture's latents warped limb by limb to each pose, instead of on copies of
    one latent; residual: also denoise the difference from them. Not in the paper; small models learn much faster with
    it. Default: the mode of the starting weights."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Defaults of the trained model for inference, where they differ from its starting weights: sigmas, fusion, ..."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.new is not None and (self.base or self.checkpoint):
            fix = "remove new, or remove base and checkpoint"
            raise ConfigError("new together with base or checkpoint", "only new, or base and checkpoint", fix)


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveConfig(Settings):
    """The loss: noise levels, dropped conditions, and weights of regions and channels."""

    sigma_preset: Literal["mimicmotion", "svd-320x576", "svd-576x1024"] = "mimicmotion"
    """Distribution of noise levels: ln(sigma) is normal with (mean, std) (0.5, 1.4), (0.7, 1.6) or (1.0, 1.6)."""
    sigma_mean: float | None = None
    """Mean of ln(sigma), overriding the preset."""
    sigma_std: Annotated[float | None, Range(0, 1000, above=True)] = None
    """Standard deviation of ln(sigma), overriding the preset."""
    condition_dropout: Annotated[float, Range(0, 1)] = 0.1
    """Fraction of samples that drop embedding, reference latent and pose together, for classifier-free guidance."""
    drop_image: Annotated[float, Range(0, 1)] = 0.0
    """Additional fraction of samples without the picture embedding."""
    drop_latent: Annotated[float, Range(0, 1)] = 0.0
    """Additional fraction of samples without the reference latent."""
    drop_pose: Annotated[float, Range(0, 1)] = 0.0
    """Additional fraction of samples without the pose."""
    noise_aug: Annotated[float, Range(0, 1)] = 0.0
    """Fraction of samples with noise on the reference picture, whose strength is a condition of the U-Net."""
    hand_scale: Annotated[float, Range(0, 1e6)] = 10.0
    """Loss weight inside the boxes of reliable hands (hand region enhancement); 1 turns it off."""
    change_weight: Annotated[float, Range(0, 1e6)] = 1.0
    """Loss weight where the latent differs strongly from the reference latent at the same position; 1 turns it off."""
    channel_weights: tuple[float, ...] = ()
    """Loss weight of each latent channel, normalised to mean 1; default: all equal. The weights do not change
    the optimum, but spend capacity where it is visible: the first channels of a PCA carry most of a picture."""
    fps: float | None = 7.0
    """Frames per second passed to the U-Net (as fps - 1); null passes each sample's own rate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig(Settings):
    """AdamW with warm-up, constant learning rate and linear decay, and an exponential moving average (EMA)."""

    optimizer: Literal["adamw", "adamw-fused", "adamw-8bit"] = "adamw"
    """adamw, adamw-fused (faster) or adamw-8bit (optimiser state in a quarter of the memory; needs bitsandbytes)."""
    steps: Annotated[int, Range(1)] = 10_000
    """Total number of optimiser steps."""
    batch: Annotated[int, Range(1)] = 1
    """Clips per process and forward pass."""
    accumulation: Annotated[int, Range(1)] = 1
    """Gradient accumulation steps. The effective batch size is processes x batch x accumulation."""
    lr: Annotated[float, Range(0, 1e3, above=True)] = 1e-5
    """Learning rate after the warm-up."""
    warmup: Annotated[int, Range(0)] = 500
    """Steps of linear warm-up."""
    decay: Annotated[int, Range(0)] = 0
    """Number of final steps over which the rate falls linearly to 0. To end a run early, lower `steps` and resume."""
    betas: Annotated[tuple[float, float], Range(0, 1)] = (0.9, 0.999)
    """AdamW's betas."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    clip: Annotated[float, Range(0, 1e9)] = 1.0
    """Maximum gradient norm; 0 turns clipping off."""
    ema: Annotated[float, Range(0, 1)] = 0.999
    """Decay of the EMA (lower in the first steps), whose weights are validated and exported; 0 turns the EMA off."""
    ema_on_cpu: bool = False
    """Keep the EMA in host memory: saves 4 bytes of GPU memory per trained parameter, but costs a copy per step."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.decay > self.steps:
            raise ConfigError(f"decay={self.decay} of {self.steps} steps", "at most the number of steps", "lower decay")
        if self.ema == 1:
            raise ConfigError("ema=1.0", "below 1", "use 0.999, or 0 to turn the EMA off")


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseConfig(Settings):
    """One phase of a run, up to step `until` (the last phase runs to the end)."""

    until: Annotated[int, Range(1)]
    """Step at which this phase ends and the next begins."""
    frames: Annotated[int, Range(1)]
    """Slots of a clip, including the reference slot."""
    batch: Annotated[int, Range(1)]
    """Clips per process and forward pass."""
    spacing: Literal["interval", "spread"] = "interval"
    """interval: equal intervals; spread: frames anywhere in the record, in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedConfig(Settings):
    """Weights to train. Queries and keys of attention to a single token have no effect and are never trained."""

    what: Literal["all", "pose_net", "temporal", "lora"] = "all"
    """all: U-Net and PoseNet (paper); pose_net: PoseNet only; temporal: PoseNet and the U-Net's temporal layers;
    lora: PoseNet and LoRA adapters in the U-Net."""
    rank: Annotated[int, Range(1)] = 32
    """lora: rank of the adapters."""
    alpha: Annotated[float, Range(0, 1e6, above=True)] = 32.0
    """lora: the adapters are scaled by alpha / rank."""
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """lora: name suffixes of the layers that get adapters."""
    image_encoder: bool = False
    """Also train the image encoder (but never CLIP's); the one of new small networks is always trained."""
    frozen: Literal["float32", "half"] = "float32"
    """Data type of frozen weights; half saves memory and requires precision bf16 or fp16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationConfig(Settings):
    """Validation during training, on clips from the validation split (or the training split if there is none)."""

    every: Annotated[int, Range(0)] = 500
    """Steps between validations; the last step is always validated. 0 never validates."""
    clips: Annotated[int, Range(1)] = 4
    """Number of fixed clips to measure on."""
    generate: bool = True
    """Also generate the clips, and report PSNR, SSIM and a grid of pictures."""
    poses: bool = True
    """With `generate`: also compare the poses that the bundled estimator finds in the generated and the true clips
    (about 0.1 s per frame on one CPU core)."""
    best: str = "loss"
    """Metric that selects the best checkpoint, RUN/best."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoencoderConfig(Settings):
    """The small autoencoder: its size and training clips. Its encoder is a fixed PCA of patches of 8x8 pixels."""

    latent_channels: Annotated[int, Range(1, 16)] = 16
    """Number of latent channels, at most 16."""
    clip_frames: Annotated[int, Range(1)] = 4
    """Consecutive frames per clip (the decoder has temporal layers)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetailConfig(Settings):
    """The small model's detail network: its training clips, size and loss."""

    clips: Annotated[int, Range(1)] = 600
    """Number of training clips, of data.sample.num_frames slots, that the model generates before the first step."""
    new: bool = False
    """Start from random weights even if the model already has a detail network."""
    start: str = ""
    """Model folder whose detail network to start from instead of the model's own."""
    exact_poses: Annotated[float, Range(0, 1)] = 0.5
    """Fraction of the training clips with exact poses; the others get data.sample.detector_noise."""
    widths: tuple[int, ...] = (32, 48, 96, 128)
    """New network: channels of the four levels, cells of 2x2 to 16x16 pixels, in multiples of 8."""
    blocks: tuple[int, ...] = (1, 1, 2, 2)
    """New network: residual blocks of each level."""
    dropout: float = 0.1
    """Dropout rate of the coarsest level's channels."""
    fine: int = 16
    """Channels of the last, full-resolution convolutions, added to a network that has none; 0 adds none."""
    sharp_lean: float = 0.7
    """Bias on the log weight of the warped picture in inference (not in training)."""
    blurred_lean: float = -1.0
    """Bias on the log weights of the blurred candidates in inference (not in training)."""
    moving_weight: Annotated[float, Range(0, 1e6)] = 5.0
    """Loss weight of pixels where the true frame differs from the reference picture."""
    perceptual: Annotated[float, Range(0, 1e6)] = 0.0
    """Loss weight of LPIPS (AlexNet; `mimicmotion weights fetch lpips-alex`), added to the log of the squared error.
    It gives sharper frames with a lower PSNR."""
    recolour: Annotated[float, Range(0, 1)] = 0.8
    """Fraction of samples with shuffled colour channels and changed contrast and brightness."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WarpConfig(Settings):
    """The small model's warp network, trained on rendered people with ground truth."""

    clips: Annotated[int, Range(1)] = 600
    """Number of training clips, each with the poses of one simulated detector; about 10 MB of memory per clip."""
    new: bool = False
    """Start from random weights even if the model already has a warp network."""
    widths: tuple[int, ...] = (48, 64, 88, 104)
    """New network: channels of the four levels, cells of 4x4 to 32x32 pixels, in multiples of 8."""
    decided: Annotated[float, Range(0.01, 100)] = 1.0
    """Factor by which the person's outline is sharper in inference than in training."""
    exact_poses: Annotated[float, Range(0, 1)] = 0.4
    """Fraction of the training clips with exact poses; the others get data.sample.detector_noise."""
    perceptual: Annotated[float, Range(0, 1e6)] = 0.0
    """Loss weight of LPIPS (AlexNet; `mimicmotion weights fetch lpips-alex`)."""
    recolour: Annotated[float, Range(0, 1)] = 0.7
    """Fraction of samples with shuffled colour channels and changed contrast and brightness."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(Settings):
    """Settings of a training run."""

    run: str
    """Folder for checkpoints and logs."""
    stage: Literal["denoiser", "autoencoder", "detail", "warp"] = "denoiser"
    """Model to train: the video model, or the small model's autoencoder, detail network or warp network."""
    seed: Annotated[int, Range(0)] = 0
    """Seed of weights, data order and noise."""
    threads: Annotated[int, Range(0)] = 0
    """Number of CPU threads; 0 uses PyTorch's default."""
    cpu: bool = False
    """Train on the CPU even if there is a GPU."""
    data: DataConfig = field(default_factory=DataConfig)
    """The data."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Starting weights (stages denoiser, detail and warp)."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """The loss (stage denoiser)."""
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """Size and training clips of the autoencoder (stage autoencoder)."""
    detail: DetailConfig = field(default_factory=DetailConfig)
    """Training clips, size and loss of the detail network (stage detail)."""
    warp: WarpConfig = field(default_factory=WarpConfig)
    """Training clips, size and loss of the warp network (stage warp)."""
    trained: TrainedConfig = field(default_factory=TrainedConfig)
    """Weights to train (stage denoiser)."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimiser."""
    phases: tuple[PhaseConfig, ...] = ()
    """Schedule of clip length and batch size; default: data.sample and optim.batch for the whole run."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Validation during training."""
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    """Data type of the computation (autocast); the weights stay float32."""
    gradient_checkpointing: Literal[False, True, "nested"] = False
    """Gradient checkpointing: recompute activations instead of storing them, for much less memory and about a third
    more time. nested recomputes some of them twice and halves the remaining memory."""
    compile: bool = False
    """Use torch.compile: faster after minutes of compiling."""
    overfit_one_clip: bool = False
    """Train on a single clip, with new noise in each step, as a sanity check: a correct model memorises it."""
    log_every: Annotated[int, Range(1)] = 10
    """Steps between lines of log.jsonl."""
    save_every: Annotated[int, Range(1)] = 500
    """Steps between checkpoints."""
    keep: Annotated[int, Range(1)] = 3
    """Number of latest checkpoints to keep; the best one is always kept."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Accelerate trackers to log to in addition to log.jsonl: tensorboard, wandb, mlflow, ..."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if [p.until for p in self.phases] != sorted({p.until for p in self.phases}):
            raise ConfigError("phases out of order", "each with a higher 'until' than the one before", "sort them")

    def phase(self, step: int) -> PhaseConfig | None:
        """Return the phase that contains `step`; None if the run has no phases."""
        return next((p for p in self.phases if step < p.until), self.phases[-1] if self.phases else None)

    def batch(self, step: int) -> int:
        """Return the number of clips per process and forward pass in `step`."""
        phase = self.phase(step)
        return phase.batch if phase else self.optim.batch


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a recipe.

    Args:
        path: YAML file, or the name of a bundled recipe (`mimicmotion.settings.recipes`).
        overrides: settings that override the file, such as "optim.lr=1e-4".

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown or out of range.
    """
    import yaml

    data = load_yaml(find_recipe(path))
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {item}", "KEY=VALUE, such as optim.lr=1e-4", "write KEY=VALUE")
        *parents, last = key.strip().split(".")
        inner = data
        for name in parents:
            if inner.get(name) is None:
                inner[name] = {}
            inner = inner[name]
            if not isinstance(inner, dict):
                raise ConfigError(f"--set {item}", f"a group of settings named {name!r}", "correct the name")
        try:
            inner[last] = yaml.safe_load(text)
        except yaml.YAMLError as e:
            raise ConfigError(f"--set {item}", "a YAML value", "quote the value") from e
    return parse(TrainConfig, data)


def as_dict(config: TrainConfig) -> dict[str, Any]:
    """Convert to plain data, from which `parse` rebuilds the same settings."""
    return dataclasses.asdict(config)
