"""Settings of the training samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings.parsing import Range, Settings

Spacing = Literal["interval", "spread"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig(Settings):
    """How a training sample is composed (paper sections 3.3 and 3.4)."""

    num_frames: int = 16
    """Frames (slots) of a sample, including the reference slot."""
    interval: tuple[float, float] = (1 / 15, 1 / 6)
    """Shortest and longest time between two frames in seconds, drawn log-uniformly per sample and rounded to whole
    frames of the video. The paper gives no number; a range covers the speeds that inference may use."""
    spacing: Spacing = "interval"
    """interval: equal intervals; spread: frames anywhere in the scene, in order (for a first phase of few frames)."""
    short_records: Literal["error", "skip"] = "error"
    """What to do with scenes too short for one sample: error (raise an error that counts them) or skip."""
    reference: Literal["video", "clip", "first"] = "video"
    """Source of the reference picture: video is any frame or still of the same source video; clip is any frame of
    the same scene; first is its first frame, or the still before it."""
    reference_slot: bool = True
    """Put the reference picture and its own pose into slot 0, as in inference; if off, all slots are driving frames."""
    guidance: Literal["confidence", "threshold"] = "confidence"
    """confidence: draw with the estimator's confidence as brightness (paper). threshold (for ablations): draw only
    points above 0.3, at full brightness."""
    detector_noise: Annotated[float, Range(0, 10)] = 0.0
    """Strength of simulated detector errors on all poses: 0 for poses from a detector, 1 (a typical detector) for
    exact synthetic poses."""
    hand_threshold: Annotated[float, Range(0, 1)] = 0.8
    """A hand is reliable if the confidence of all its 21 points is above this. The paper gives no number."""
    hand_padding: Annotated[float, Range(0, 10)] = 0.1
    """Margin around a hand's points, on each side, as a fraction of the box's width and height."""
    reverse: Annotated[float, Range(0, 1)] = 0.0
    """Fraction of samples whose driving frames run backwards."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.num_frames < 1 + self.reference_slot:
            raise ConfigError(
                f"num_frames={self.num_frames} with reference_slot={self.reference_slot}",
                "at least one driving frame",
                f"set num_frames to at least {1 + self.reference_slot}",
            )
        low, high = self.interval
        if not (0 < low <= high and math.isfinite(high)):
            raise ConfigError(f"interval={self.interval}", "0 < shortest <= longest, in seconds", "correct 'interval'")
