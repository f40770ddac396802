"""Settings of the driving video and its poses."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings.parsing import Help, Range, Settings, refuse_unused


@dataclass(frozen=True, kw_only=True)
class PoseOptions(Settings):
    """Options of pose estimation in a video or picture."""

    estimator: Annotated[Literal["holistic", "dwpose"], Help("Input")] = "holistic"
    """Pose estimator: holistic (bundled, works offline) or dwpose (ONNX files, downloaded or your own)."""
    person: Annotated[str, Help("Input")] = "largest"
    """Person to follow: largest, an index from the left (from 0), a point "x,y", or a box "left,top,right,bottom"."""
    detector: Annotated[Path | None, Help("Input")] = None
    """dwpose only: ONNX file of the person detector (yolox_l.onnx); default: downloaded from the hub."""
    pose_model: Annotated[Path | None, Help("Input")] = None
    """dwpose only: ONNX file of the pose network (dw-ll_ucoco_384.onnx or RTMW); default: downloaded from the hub."""
    pose_device: Annotated[Literal["auto", "cpu", "cuda"], Help("Speed")] = "auto"
    """Device to run the pose estimator on."""
    pose_cache: Annotated[bool, Help("Speed")] = True
    """Cache estimated poses and reuse them for the same video and settings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        person_choice(self.person)
        if self.estimator == "holistic":
            refuse_unused(self, ("detector", "pose_model"), "with estimator=holistic")


def person_choice(text: str) -> Literal["largest"] | int | tuple[float, ...]:
    """Parse "largest", an index, "x,y" or "left,top,right,bottom".

    Raises:
        ConfigError: `text` is none of these.
    """
    if text == "largest":
        return "largest"
    try:
        numbers = tuple(float(part) for part in text.split(","))
        if all(map(math.isfinite, numbers)) and (
            len(numbers) == 2 or (len(numbers) == 4 and numbers[0] < numbers[2] and numbers[1] < numbers[3])
        ):
            return numbers
        if int(text) >= 0:
            return int(text)
    except ValueError:
        pass
    expected = "largest, an index such as 0, a point such as 320,200 or a box such as 300,100,420,460"
    raise ConfigError(f"person={text!r}", expected, "correct 'person'")


@dataclass(frozen=True, kw_only=True)
class DrivingOptions(Settings):
    """Selection and timing of the driving frames."""

    fps: Annotated[float, Range(0.1, 1000), Help("Motion", first=True)] = 15.0
    """Frames per second of the result. The driving video is resampled, so the movement keeps its speed."""
    sampling: Annotated[Literal["time", "released"], Help("Motion")] = "time"
    """time: keep the speed of the movement; released: take every stride-th frame, as the published code does."""
    stride: Annotated[int, Range(1), Help("Motion")] = 2
    """sampling=released only: take every stride-th frame; above 24 fps, it is multiplied by fps/24, rounded down."""
    start: Annotated[float, Range(0), Help("Motion", first=True)] = 0.0
    """Start at this second of the driving video."""
    duration: Annotated[float | None, Range(0.001, 1000), Help("Motion", first=True)] = None
    """Use this many seconds of the driving video; default: all of it."""
    tempo: Annotated[float, Range(0.01, 100), Help("Motion")] = 1.0
    """Speed of the movement: 0.5 is half as fast (slow motion), 2 is twice as fast."""
    video_fps: Annotated[float | None, Range(0.1, 1000), Help("Input")] = None
    """Frame rate of a driving source that does not store one: OpenPose JSON or a folder of pictures."""
    video_size: Annotated[str | None, Help("Input")] = None
    """WIDTHxHEIGHT, such as 1280x720, of the video that OpenPose JSON files come from, if they do not store it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.frame_size
        refuse_unused(self, ["tempo" if self.sampling == "released" else "stride"], f"with sampling={self.sampling}")

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """`video_size` as (height, width); None if it is not set."""
        if self.video_size is None:
            return None
        match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", self.video_size)
        if match is None:
            raise ConfigError(
                f"video_size={self.video_size!r}", "WIDTHxHEIGHT such as 1280x720", "correct 'video_size'"
            )
        return int(match[2]), int(match[1])

    def require_video_timing(self, setting: str) -> None:
        """Raise ConfigError if the result does not keep the driving video's timing, which `setting` requires."""
        if self.tempo != 1.0 or self.sampling != "time":
            got = f"{setting} with tempo={self.tempo:g} and sampling={self.sampling}"
            raise ConfigError(got, "tempo=1 and sampling=time", f"leave out '{setting}'")

    def source_seconds(self, seconds: float) -> float:
        """Convert seconds of the result to seconds of the driving video."""
        return seconds * self.tempo
