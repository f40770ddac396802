"""Settings of the fusion of overlapping segments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings.parsing import STRICT

FusionMode = Literal["progressive", "released", "average", "none"]


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
