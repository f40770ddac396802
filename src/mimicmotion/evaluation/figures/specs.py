"""What each figure shows and how: the commands `mimicmotion figures ...` have these fields."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mimicmotion.errors import ConfigError
from mimicmotion.settings import FusionConfig
from mimicmotion.settings.parsing import Range, Settings


@dataclass(frozen=True, slots=True)
class FigureResult:
    """The files made, and what to know about them.

    Attributes:
        files: the figure first, then its tables.
        notes: a sentence each.
    """

    files: list[Path]
    notes: list[str]

    def summary(self) -> str:
        """A few lines for a person to read."""
        return "\n".join([*self.notes, f"figure: {self.files[0]}", *(f"numbers: {p}" for p in self.files[1:])])


@dataclass(frozen=True, kw_only=True)
class FigureSpec(Settings):
    """What all figures have."""

    output: Path
    """The PNG file; the numbers stand beside it as CSV."""


@dataclass(frozen=True, kw_only=True)
class _ResultsSpec(FigureSpec):
    results: list[str]
    """NAME=PATH or PATH each: videos or folders of frames, of one length and shape."""
    max_frames: Annotated[int | None, Range(1)] = None
    """Maximum number of frames of each result."""


@dataclass(frozen=True, kw_only=True)
class SegmentsSpec(_ResultsSpec):
    """What figures have that mark where segments meet."""

    resize: bool = False
    """Scale results to the size of the first."""
    borders: list[int] | None = None
    """First frames of new segments, to mark."""
    segment_frames: int | None = None
    """Mark the borders of segments of this many frames (N) instead."""
    overlap_frames: int = 6
    """Frames shared by neighbouring segments (C)."""
    reference_slot: bool = True
    """Whether the reference picture takes one frame of each segment, as `generate` has it by default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.borders and self.segment_frames is not None:
            raise ConfigError("both borders and segment_frames", "one of them", "leave one out")
        self.fusion()

    def fusion(self) -> FusionConfig | None:
        """The plan from which the borders follow, if that is asked for."""
        if self.segment_frames is None:
            return None
        plan = {"segment_frames": self.segment_frames, "overlap_frames": self.overlap_frames}
        return FusionConfig(**plan, reference_slot=self.reference_slot)


@dataclass(frozen=True, kw_only=True)
class YtSpec(SegmentsSpec):
    """One column of pixels over time."""

    output: Path = Path("yt.png")
    column: int | None = None
    """Which column, from the left, from 0; by default the one that changes most."""


@dataclass(frozen=True, kw_only=True)
class DiffSpec(SegmentsSpec):
    """Rows of |frame t - frame t-1|."""

    output: Path = Path("diff.png")
    frames: list[int] | None = None
    """Which frames to show, from 1; by default six, evenly spaced."""


@dataclass(frozen=True, kw_only=True)
class PosesSpec(FigureSpec):
    """Pose maps with and without confidence."""

    video: Path
    """The driving video."""
    output: Path = Path("poses.png")
    poses: Path | None = None
    """Its pose file; without one the bundled estimator looks at the frames, each by itself."""
    frames: list[int] | None = None
    """Which frames, from 0; by default four, evenly spaced."""
    whole: bool = False
    """Show whole frames, not only where the person is."""


@dataclass(frozen=True, kw_only=True)
class HandsSpec(_ResultsSpec):
    """Hands cut out at the same frames and places."""

    output: Path = Path("hands.png")
    poses: Path | None = None
    """Where the hands are: a pose file in the frame of the results, or the RESULT.json that `generate` wrote (the
    driving poses as they were fitted to the picture). Without it the hands are looked for in the first result, which
    should be the real video."""
    frames: list[int] | None = None
    """Which frames, from 0; by default four in which a hand is seen."""
    threshold: Annotated[float, Range(0, 1)] = 0.3
    """A hand is shown if all its 21 points exceed this confidence."""


@dataclass(frozen=True, kw_only=True)
class FusionSpec(FigureSpec):
    """How segments overlap and what each weighs; the defaults are the paper's N and C."""

    output: Path = Path("fusion.png")
    segment_frames: int = 8
    """Frames per segment (N)."""
    overlap_frames: int = 3
    """Frames shared by neighbouring segments (C)."""
    frames: int = 18
    """Frames of the video."""
    mode: list[str] | None = None
    """progressive (default), released, average or none. May be given several times."""
    reference_slot: bool = False
    """The reference picture takes one frame of each segment; mode released always has it."""


@dataclass(frozen=True, kw_only=True)
class BarsSpec(FigureSpec):
    """Metrics with their intervals."""

    report: Path
    """A report's folder, its summary.json or its metrics.csv."""
    output: Path = Path("bars.png")
    metric: list[str] | None = None
    """Which metric to show; all by default. May be given several times."""
