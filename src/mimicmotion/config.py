"""Frozen settings and their one parser. Only the standard library is imported at module level."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from mimicmotion.errors import ConfigError

T = TypeVar("T")

FusionMode = Literal["progressive", "released", "average", "none"]
STRICT: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}


@dataclass(frozen=True, kw_only=True, slots=True)
class FusionConfig:
    """How a long video is cut into segments and how their predictions are joined (paper section 3.5)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    mode: FusionMode = "progressive"
    """progressive (paper), released (as the published code), average (MultiDiffusion) or none (hard cuts)."""
    segment_frames: int = 16
    """Frames per segment (paper: N)."""
    overlap_frames: int = 6
    """Frames shared by neighbouring segments (paper: C). The reference slot counts in both numbers."""
    reference_slot: bool = True
    """Put the reference picture with its own pose into slot 0 of every segment, as the published weights expect."""

    def __post_init__(self) -> None:
        if self.segment_frames < 1:
            raise ConfigError(f"segment_frames={self.segment_frames}", "at least 1", "raise segment_frames")
        if not 0 <= self.overlap_frames < self.segment_frames:
            raise ConfigError(
                f"overlap_frames={self.overlap_frames} with segment_frames={self.segment_frames}",
                "0 <= overlap_frames < segment_frames",
                f"set overlap_frames to at most {self.segment_frames - 1}",
            )


def parse(cls: type[T], data: Mapping[str, Any]) -> T:
    """Build the frozen settings `cls` from plain data (YAML, JSON, command line).

    Raises:
        ConfigError: a key is unknown, a value has the wrong type, or a check of the class fails.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(cls).validate_python(dict(data))
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"])) or cls.__name__
        names = ", ".join(f.name for f in dataclasses.fields(cls))  # type: ignore[arg-type]
        unknown = first["type"] in ("extra_forbidden", "unexpected_keyword_argument")
        fix = f"the fields are: {names}" if unknown else f"correct {where!r}"
        error = first.get("ctx", {}).get("error")
        if isinstance(error, ConfigError):
            raise error from e
        if first["type"].startswith("missing"):
            raise ConfigError(
                f"no {where!r}", f"a value for {where!r}", "give it on the command line or in the file"
            ) from e
        raise ConfigError(f"{where} = {first['input']!r}", first["msg"], fix) from e


def load_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        ConfigError: the file is missing, is not YAML, or is not a mapping.
    """
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise ConfigError(f"{path}: {e}", "a readable YAML file", "check the path and the syntax") from e
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds {type(data).__name__}", "a mapping of settings", "write 'name: value' lines")
    return data


@dataclass(frozen=True, kw_only=True)
class PoseOptions:
    """How poses are found in a video or picture."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    estimator: Literal["holistic", "dwpose"] = "holistic"
    """holistic (shipped, works offline) or dwpose (ONNX files of your own or from the hub)."""
    person: str = "largest"
    """Whom to follow: largest, an index (the n-th from the left, from 0), or a point "x,y" in pixels."""
    detector: Path | None = None
    """dwpose only: the person detector (yolox_l.onnx); empty fetches it from the hub."""
    pose_model: Path | None = None
    """dwpose only: the whole-body network (dw-ll_ucoco_384.onnx, RTMW); empty fetches it from the hub."""
    pose_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where pose estimation runs."""
    pose_threads: int = 0
    """Threads of the pose estimator; 0 lets onnxruntime choose."""
    pose_cache: bool = True
    """Keep found poses by content of the video and settings, and use them again."""

    def __post_init__(self) -> None:
        person_choice(self.person)
        if self.pose_threads < 0:
            raise ConfigError(f"pose_threads={self.pose_threads}", "0 or more", "use 0 for the default")


def person_choice(text: str) -> Literal["largest"] | int | tuple[float, float]:
    """Parse "largest", an index or "x,y".

    Raises:
        ConfigError: it is none of the three.
    """
    if text == "largest":
        return "largest"
    try:
        if "," in text:
            x, y = text.split(",")
            return float(x), float(y)
        if int(text) >= 0:
            return int(text)
    except ValueError:
        pass
    raise ConfigError(f"person={text!r}", "largest, an index such as 0, or a point such as 320,200", "correct 'person'")


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Which frames of the driving video are used, and when they are shown."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    fps: float = 15.0
    """Frames per second of the result; the driving video is resampled by time."""
    sampling: Literal["time", "released"] = "time"
    """time keeps the speed of the movement; released takes every stride-th frame, as the published code does."""
    stride: int = 2
    """released sampling only: take every stride-th frame (times fps/24 for faster videos)."""
    start: float = 0.0
    """Begin at this second of the driving video."""
    duration: float | None = None
    """Use this many seconds of the driving video; empty uses all of it."""
    tempo: float = 1.0
    """Speed of the movement: 0.5 is half as fast (slow motion), 2 twice as fast."""

    def __post_init__(self) -> None:
        for name in ("fps", "tempo", "duration"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1000:
                raise ConfigError(f"{name}={value}", "a number above 0, at most 1000", f"correct {name!r}")
        if self.start < 0:
            raise ConfigError(f"start={self.start}", "0 or more seconds", "correct 'start'")
        if self.stride < 1:
            raise ConfigError(f"stride={self.stride}", "at least 1", "correct 'stride'")


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
class GenerateConfig(SamplingOptions, PoseOptions):
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
    audio: bool = False
    """Take the sound of the driving video along (only at its own speed)."""

    def __post_init__(self) -> None:
        SamplingOptions.__post_init__(self)
        PoseOptions.__post_init__(self)
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
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"{name}={value}", f"{low} to {high}", f"correct {name!r}")
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


def field_help(cls: type) -> dict[str, str]:
    """The docstring under each field of a settings class, base classes included: help texts and labels."""
    import ast
    import inspect
    import textwrap

    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        if not isinstance(body, ast.ClassDef):
            continue
        for field, doc in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(doc, ast.Expr)
                and isinstance(doc.value, ast.Constant)
            ):
                found[field.target.id] = inspect.cleandoc(str(doc.value.value))
    return found
