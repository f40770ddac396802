"""Settings of what is read: the driving video and its poses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings.parsing import STRICT


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
