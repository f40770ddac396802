"""Settings of `generate`, `batch`, `poses` and `mask`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings.parsing import Help, Range, Settings, refuse_unused
from mimicmotion.settings.poses import DrivingOptions, PoseOptions, person_choice
from mimicmotion.settings.sampling import FusionMode, SamplingOptions, check_overlap


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions(Settings):
    """How the networks run. These options change the result by rounding only."""

    memory: Annotated[float | None, Range(0.01, 10_000), Help("Memory", first=True)] = None
    """Memory that the networks may use, in GiB: GPU memory, or RAM without a GPU; default: all that is free."""
    compile: Annotated[bool, Help("Speed")] = False
    """Compile the U-Net's blocks. The first run takes minutes longer; later runs reuse the compiled blocks."""
    offload: Annotated[Literal["auto", "none", "modules", "blocks"], Help("Memory")] = "auto"
    """Weights to keep in host memory until needed: none, modules (whole networks), blocks (also the U-Net's blocks) or
    auto (as `memory` requires)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compile and self.offload == "blocks":
            expected = "only one of the two: compiled blocks cannot be offloaded"
            raise ConfigError("compile together with offload=blocks", expected, "leave one of them out")


@dataclass(frozen=True, kw_only=True)
class PosesConfig(DrivingOptions, PoseOptions):
    """Settings of `mimicmotion poses` and its YAML file."""

    video: Path
    """The video to estimate poses in."""
    output: Annotated[Path, Help("Output")]
    """Pose file to write (.npz), or a folder name ending in / for OpenPose JSON files."""
    draw: Annotated[Path | None, Help("Output")] = None
    """Also write a video of the drawn poses to this path."""
    confidence_aware: Annotated[bool, Help("Output")] = True
    """Let the estimator's confidence set the brightness of points (paper); if off, all above 0.3 are fully bright."""
    fps: float | None = None  # type: ignore[assignment]
    """Frames per second of the poses; default: that of the video."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draw is None:
            refuse_unused(self, ["confidence_aware"], "without draw")


@dataclass(frozen=True, kw_only=True)
class MaskConfig(DrivingOptions, PoseOptions):
    """Settings of `mimicmotion mask` and its YAML file."""

    video: Path
    """The video that shows the person."""
    output: Annotated[Path, Help("Output")]
    """The mask, white on black: .mp4, or a folder name ending in / for PNG frames, which are lossless."""
    fps: float | None = None  # type: ignore[assignment]
    """Frames per second of the masks; default: that of the video."""


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(DrivingOptions, PoseOptions, SamplingOptions, ExecutionOptions):
    """Settings of `mimicmotion generate` and its YAML file."""

    picture: Path
    """The picture of the person."""
    video: Path
    """The driving video, or a pose file written by `mimicmotion poses`."""
    output: Annotated[Path, Help("Output", first=True)]
    """The result: .mp4, .gif, .webp, or a folder name ending in / for PNG frames."""
    picture_person: Annotated[str, Help("Input")] = "largest"
    """Which person in the picture to animate, if there are several; takes the same values as `person`."""
    model: Annotated[str | None, Help("Input", first=True)] = None
    """Base model, Stable Video Diffusion or a saved one: a folder, a hub id, or a name from `mimicmotion weights list`;
    default: the bundled tiny model."""
    checkpoint: Annotated[str | None, Help("Input", first=True)] = None
    """MimicMotion checkpoint to load on top of the base model: a .pth or .safetensors file, a hub id, or a name from
    `mimicmotion weights list`."""
    edition: Annotated[Literal["1.0", "1.1"] | None, Help("Input")] = None
    """Edition of the published weights: 1.0 (16-frame segments) or 1.1 (72); default: detected by checksum or name."""
    estimator: Annotated[Literal["holistic", "dwpose"] | None, Help("Input")] = None  # type: ignore[assignment]
    """Pose estimator: holistic (bundled) or dwpose (downloaded); default: the model's (published weights: dwpose)."""
    device: Annotated[str, Help("Speed")] = "auto"
    """Device to run the networks on: auto, cpu, cuda, cuda:1 or mps."""
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], Help("Speed")] = "auto"
    """Data type of the networks; auto is float32 on a CPU and float16 on a GPU."""
    height: Annotated[int | None, Range(16, 8192), Help("Output", first=True)] = None
    """Height of the result in pixels (set `width` too); default: the model's area, at the picture's aspect ratio."""
    width: Annotated[int | None, Range(16, 8192), Help("Output", first=True)] = None
    """Width of the result in pixels (set `height` too)."""
    fit: Annotated[Literal["auto", "crop", "letterbox", "released"], Help("Input")] = "auto"
    """How the picture is fitted to the result's size: crop (around the person), letterbox, auto (crop if the whole
    person fits) or released (as in the published code)."""
    align: Annotated[Literal["limbs", "weighted", "released", "none"], Help("Motion")] = "limbs"
    """How driving poses are fitted to the person in the picture: limbs (size and proportions), weighted (one scale for
    the whole body), released (as in the published code) or none."""
    smooth: Annotated[bool, Help("Motion")] = True
    """Remove jitter, outliers and left-right swaps from the driving poses; always off with align=released."""
    confidence_aware: Annotated[bool, Help("Motion")] = True
    """Let the estimator's confidence set the brightness of points (paper); if off, all above 0.3 are fully bright."""
    face: Annotated[Literal["all", "eyes-mouth", "none"], Help("Motion")] = "all"
    """Face points to draw. With fewer, the face follows the picture more, which helps with drawings and cartoons."""
    background: Annotated[Literal["model", "keep"], Help("Output")] = "model"
    """model: let the model generate it; keep: use the picture's, inpainted behind the person."""
    fusion: Annotated[FusionMode | None, Help("Quality")] = None
    """How segments are joined: progressive (paper), released (published code), average, none; default: the model's."""
    segment_frames: Annotated[int | None, Range(1, 100_000), Help("Quality")] = None
    """Frames per segment (paper: N); default: the model's."""
    overlap_frames: Annotated[int | None, Range(0, 100_000), Help("Quality")] = None
    """Frames shared by neighbouring segments (paper: C); default: the model's."""
    reference_slot: Annotated[bool | None, Help("Advanced")] = None
    """Start each segment with the picture and its pose, as the published weights require; default: the model's."""
    quantize: Annotated[Literal["none", "int8", "fp8"], Help("Memory")] = "none"
    """Quantise the U-Net's weights to int8 or fp8, to save memory (needs torchao)."""
    output_fps: Annotated[float | None, Range(0.1, 1000), Help("Output")] = None
    """Frame rate of the output file, reached by repeating generated frames; default: `fps`."""
    side_by_side: Annotated[bool, Help("Output", first=True)] = False
    """Also write OUTPUT-side-by-side, which shows the picture, driving frame, pose and result next to each other."""
    preview: Annotated[bool, Help("Output")] = False
    """Update OUTPUT.preview.png with the current state while sampling."""
    resume: Annotated[bool, Help("Output", first=True)] = False
    """Resume an interrupted run with the same inputs and settings."""
    save_every: Annotated[int, Range(0, 1000), Help("Output")] = 5
    """Steps between saves of the state that `resume` needs; 0 never saves, so an interrupted run starts over."""
    audio: Annotated[bool, Help("Output")] = False
    """Copy the sound of the driving video; it must play at its original speed."""
    label: Annotated[Literal["metadata", "visible", "signed"], Help("Output", first=True)] = "metadata"
    """Mark the result as AI-generated: metadata (in the file), visible (also on screen for 2 s), signed (also C2PA)."""
    producer: Annotated[str, Help("Output")] = "mimicmotion"
    """Creator named in the label; service providers should give their registered name or code."""
    signer: Annotated[Path | None, Help("Output")] = None
    """PEM file with the private key and certificates for label=signed; default: a self-signed certificate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        person_choice(self.picture_person)
        if not self.output.name:
            raise ConfigError(f"output={str(self.output)!r}", "the name of a file or folder", "for example -o out.mp4")
        if self.segment_frames is not None:
            check_overlap(self.segment_frames, self.overlap_frames or 0)
        if self.fusion == "none":
            refuse_unused(self, ["overlap_frames"], "with fusion=none")
        if self.output.suffix.lower() in ("", ".gif", ".webp"):
            refuse_unused(self, ["audio"], "with an output that has no sound")
        if self.label != "signed":
            refuse_unused(self, ["signer"], f"with label={self.label}")
        if self.output_fps is not None and self.output_fps < self.fps:
            got = f"output_fps={self.output_fps:g} below fps={self.fps:g}"
            raise ConfigError(got, "at least 'fps': frames are repeated, never dropped", "raise it, or lower 'fps'")
        if (self.height is None) != (self.width is None):
            raise ConfigError(f"height={self.height}, width={self.width}", "both or neither", "set the other one too")
        if self.audio:
            self.require_video_timing("audio")


@dataclass(frozen=True, kw_only=True)
class PlanConfig(GenerateConfig):
    """Settings of `mimicmotion plan`: those of `generate`, and an option to compare alignments."""

    compare_alignments: Annotated[bool, Help("Motion")] = False
    """Draw the overlay three times, once per alignment method: limbs, weighted and released."""


@dataclass(frozen=True, kw_only=True)
class BatchConfig(Settings):
    """Settings of `mimicmotion batch` and its YAML file."""

    jobs: Path
    """YAML file with a list of jobs (settings of `generate`) or with `defaults` and `jobs`; or CSV, one job per row."""
    engine: Literal["local", "ray", "server"] = "local"
    """Where jobs run: local (this machine), ray (a Ray cluster; needs extra `ray`) or server (`mimicmotion serve`)."""
    devices: list[str] = field(default_factory=list)
    """local: devices such as cuda:0 cuda:1, each of which runs one job at a time; default: all GPUs, or the CPU."""
    address: str | None = None
    """server: its URL. ray: address of the cluster, such as auto or ray://host:10001; default: a new local one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unused = {"address": self.address} if self.engine == "local" else {"devices": self.devices}
        if name := next((name for name, given in unused.items() if given), None):
            got = f"{name} with engine={self.engine}"
            raise ConfigError(got, "an option that this engine uses", f"leave out {name!r}")
