"""Settings of the fusion of overlapping segments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings.parsing import Range, Settings

FusionMode = Literal["progressive", "released", "average", "none"]


@dataclass(frozen=True, kw_only=True)
class FusionConfig(Settings):
    """How a long video is cut into segments and how their predictions are joined (paper section 3.5)."""

    mode: FusionMode = "progressive"
    """progressive (paper), released (as the published code), average (MultiDiffusion) or none (hard cuts)."""
    segment_frames: Annotated[int, Range(1)] = 16
    """Frames per segment (paper: N)."""
    overlap_frames: Annotated[int, Range(0)] = 6
    """Frames shared by neighbouring segments (paper: C). The reference slot counts in both numbers."""
    reference_slot: bool = True
    """Put the reference picture with its own pose into slot 0 of every segment, as the published weights expect."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_overlap(self.segment_frames, self.overlap_frames)


def check_overlap(segment_frames: int, overlap_frames: int) -> None:
    """Raise ConfigError where segments would share all their frames."""
    if overlap_frames >= segment_frames:
        raise ConfigError(
            f"overlap_frames={overlap_frames} with segment_frames={segment_frames}",
            "overlap_frames < segment_frames",
            f"set overlap_frames to at most {segment_frames - 1}",
        )
