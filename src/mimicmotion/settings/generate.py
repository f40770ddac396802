"""Settings of the jobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings.parsing import Help, Range, Settings, refuse_unused
from mimicmotion.settings.poses import DrivingOptions, PoseOptions
from mimicmotion.settings.sampling import FusionMode, SamplingOptions, check_overlap


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions(Settings):
    """How the networks run; the result stays the same (but for rounding)."""

    memory: Annotated[float | None, Range(0.01, 10_000), Help("Memory", first=True)] = None
    """GiB that the networks may use (of the GPU, or of the host without one); default: all free memory."""
    compile: Annotated[bool, Help("Speed")] = False
    """Compile the U-Net's blocks: the first run takes minutes more, later ones find them compiled."""
    offload: Annotated[Literal["auto", "none", "modules", "blocks"], Help("Memory")] = "auto"
    """Weights that wait on the host: none, modules (networks that are not in use) or blocks (of the U-Net too)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compile and self.offload == "blocks":
            raise ConfigError(
                "compile with offload blocks", "one of the two: compiled blocks hold their weights", "drop one of them"
            )


@dataclass(frozen=True, kw_only=True)
class PosesConfig(DrivingOptions, PoseOptions):
    """Everything that a pose file depends on: `mimicmotion poses` and its YAML file have these fields."""

    video: Path
    """The video."""
    output: Annotated[Path, Help("Output")]
    """The pose file (.npz), or a folder name ending in / for OpenPose JSON files."""
    draw: Annotated[Path | None, Help("Output")] = None
    """Also write a video of the drawn poses here."""
    confidence_aware: Annotated[bool, Help("Output")] = True
    """Draw poses with the estimator's confidence (paper); off draws everything above 0.3 at full brightness."""
    fps: float | None = None  # type: ignore[assignment]
    """Frames per second of the poses; empty keeps the video's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draw is None:
            refuse_unused(self, ["confidence_aware"], "without draw")


@dataclass(frozen=True, kw_only=True)
class MaskConfig(DrivingOptions, PoseOptions):
    """Everything that the masks of a video depend on: `mimicmotion mask` and its YAML file have these fields."""

    video: Path
    """The video."""
    output: Annotated[Path, Help("Output")]
    """White person on black: .mp4, a folder name ending in / for PNG frames, or .npz for the exact masks."""
    fps: float | None = None  # type: ignore[assignment]
    """Frames per second of the masks; empty keeps the video's own."""


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(DrivingOptions, PoseOptions, SamplingOptions, ExecutionOptions):
    """Everything that one result depends on: `mimicmotion generate` and its YAML file have these fields."""

    picture: Path
    """The picture of the person."""
    video: Path
    """The driving video, or a pose file made by `mimicmotion poses`."""
    output: Annotated[Path, Help("Output", first=True)]
    """The result: .mp4, .gif, .webp, or a folder name ending in / for PNG frames."""
    model: Annotated[str | None, Help("Input", first=True)] = None
    """Folder or hub id of Stable Video Diffusion or of a saved model; empty uses the bundled tiny model."""
    checkpoint: Annotated[str | None, Help("Input", first=True)] = None
    """MimicMotion checkpoint (.pth, .safetensors or hub id) to put on the base model."""
    edition: Annotated[Literal["1.0", "1.1"] | None, Help("Input")] = None
    """Edition of published weights: 1.0 (segments of 16 frames) or 1.1 (72); empty finds it, and says if it guesses."""
    estimator: Annotated[Literal["holistic", "dwpose"] | None, Help("Input")] = None  # type: ignore[assignment]
    """holistic (shipped, works offline) or dwpose; empty is the model's: dwpose with published weights."""
    device: Annotated[str, Help("Speed")] = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], Help("Speed")] = "auto"
    """Number format of the networks; auto is float32 on a CPU and float16 on a GPU."""
    height: Annotated[int | None, Range(16, 8192), Help("Output", first=True)] = None
    """Height of the result in pixels; empty uses the model's own size."""
    width: Annotated[int | None, Range(16, 8192), Help("Output", first=True)] = None
    """Width of the result in pixels; empty uses the model's own size."""
    fit: Annotated[Literal["crop", "letterbox", "released"], Help("Input")] = "crop"
    """How the picture is brought to height x width: crop around the person, letterbox, or the published code's crop."""
    align: Annotated[Literal["weighted", "released", "none"], Help("Motion")] = "weighted"
    """How the driver's body is fitted to the body in the picture."""
    confidence_aware: Annotated[bool, Help("Motion")] = True
    """Draw poses with the estimator's confidence (paper); off draws everything above 0.3 at full brightness."""
    background: Annotated[Literal["model", "keep"], Help("Output")] = "model"
    """model: as the model makes it; keep: the picture's own, filled in once where its person stood."""
    fusion: Annotated[FusionMode | None, Help("Quality")] = None
    """progressive (paper), released, average or none; empty uses the model's default."""
    segment_frames: Annotated[int | None, Range(1, 100_000), Help("Quality")] = None
    """Frames per segment (paper: N); empty uses the model's default."""
    overlap_frames: Annotated[int | None, Range(0, 100_000), Help("Quality")] = None
    """Frames shared by neighbouring segments (paper: C); empty uses the model's default."""
    reference_slot: Annotated[bool | None, Help("Advanced")] = None
    """Begin each segment with the picture and its pose, as published weights need; empty uses the model's default."""
    quantize: Annotated[Literal["none", "int8", "fp8"], Help("Memory")] = "none"
    """Weights of the U-Net as none (as they are), int8 or fp8 (torchao)."""
    side_by_side: Annotated[bool, Help("Output", first=True)] = False
    """Also write OUTPUT-side-by-side: picture | driving frame (of a video) | pose | result."""
    preview: Annotated[bool, Help("Output")] = False
    """Keep OUTPUT.preview.png up to date with the current state while sampling."""
    resume: Annotated[bool, Help("Output", first=True)] = False
    """Go on with an interrupted run of the same inputs and settings."""
    save_every: Annotated[int, Range(0, 1000), Help("Output")] = 5
    """Steps between saved states of the run; 0 saves none, so an interrupted run begins anew."""
    audio: Annotated[bool, Help("Output")] = False
    """Take the sound of the driving video along (only at its own speed)."""
    label: Annotated[Literal["metadata", "visible", "signed"], Help("Output", first=True)] = "metadata"
    """metadata: the file says that a model made it; visible: its first 2 s show it, too; signed: C2PA as well."""
    producer: Annotated[str, Help("Output")] = "mimicmotion"
    """Who makes the video, as its label says; a service gives its registered name or code."""
    signer: Annotated[Path | None, Help("Output")] = None
    """PEM file with the private key and the certificates of label=signed; empty uses self-made ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.segment_frames is not None:
            check_overlap(self.segment_frames, self.overlap_frames or 0)
        if self.fusion == "none":
            refuse_unused(self, ["overlap_frames"], "with fusion=none")
        if self.output.suffix.lower() in ("", ".gif", ".webp"):
            refuse_unused(self, ["audio"], "with an output that holds no sound")
        if (self.height is None) != (self.width is None):
            raise ConfigError(f"height={self.height}, width={self.width}", "both or neither", "give the other one too")
        if self.audio and not self.keeps_speed:
            raise ConfigError("audio with a changed speed", "movement at its own speed", "leave out 'audio'")


@dataclass(frozen=True, kw_only=True)
class BatchConfig(Settings):
    """Everything that a batch depends on: `mimicmotion batch` and its YAML file have these fields."""

    jobs: Path
    """YAML list (or `defaults` and `jobs`) of settings of `generate`, or a CSV file with a column for each setting."""
    engine: Literal["local", "ray", "server"] = "local"
    """local: processes of this machine; ray: tasks of a Ray cluster (extra ray); server: `mimicmotion serve`."""
    devices: list[str] = field(default_factory=list)
    """local: where jobs run, one at a time on each, such as cuda:0 cuda:1; empty takes all GPUs, or else the CPU."""
    address: str | None = None
    """ray: of the cluster, such as auto or ray://host:10001; empty starts one here. server: its URL."""
    report: Path | None = None
    """Also write how each job ended to this JSON file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unused = {"address": self.address} if self.engine == "local" else {"devices": self.devices}
        if name := next((name for name, given in unused.items() if given), None):
            got = f"{name} with engine={self.engine}"
            raise ConfigError(got, "an option that this engine uses", f"leave out {name!r}")
