"""Settings of the figures, which are also the options of `mimicmotion figures ...`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mimicmotion.settings.parsing import Range, Settings


@dataclass(frozen=True, slots=True)
class FigureResult:
    """The files of a figure, and notes on it.

    Attributes:
        files: the figure first, then its tables.
        notes: what the figure shows, one line each.
    """

    files: list[Path]
    notes: list[str]

    def summary(self) -> str:
        """The notes, and the paths of the files, one per line."""
        return "\n".join([*self.notes, f"figure: {self.files[0]}", *(f"numbers: {p}" for p in self.files[1:])])


@dataclass(frozen=True, kw_only=True)
class FigureSpec(Settings):
    """Settings that all figures have in common."""

    output: Path
    """The PNG file; the numbers are written beside it as CSV."""


@dataclass(frozen=True, kw_only=True)
class _ResultsSpec(FigureSpec):
    results: list[str]
    """Videos or folders of frames, all of the same length and aspect ratio, each as NAME=PATH or PATH."""
    max_frames: Annotated[int | None, Range(1)] = None
    """Maximum number of frames of each result."""


@dataclass(frozen=True, kw_only=True)
class SegmentsSpec(_ResultsSpec):
    """Settings of figures that mark segment borders."""

    borders: list[int] | None = None
    """Segment borders to mark, each given as the first frame of the new segment."""


@dataclass(frozen=True, kw_only=True)
class YtSpec(SegmentsSpec):
    """Show one column of pixels over time (a y-t slice), in which flicker and seams are visible."""

    output: Path = Path("yt.png")
    column: int | None = None
    """Column to show, counted from 0 at the left; default: the one that changes most."""


@dataclass(frozen=True, kw_only=True)
class DiffSpec(SegmentsSpec):
    """Show the differences between consecutive frames, |frame t - frame t-1|."""

    output: Path = Path("diff.png")
    frames: list[int] | None = None
    """Frames t to show, counted from 0 (so at least 1); default: six, evenly spaced."""


@dataclass(frozen=True, kw_only=True)
class PosesSpec(FigureSpec):
    """Show pose maps with and without confidence."""

    video: Path
    """The driving video."""
    output: Path = Path("poses.png")
    poses: Path | None = None
    """The video's pose file; by default, the bundled estimator runs on the frames shown."""
    frames: list[int] | None = None
    """Frames to show, counted from 0; default: four, evenly spaced."""


@dataclass(frozen=True, kw_only=True)
class HandsSpec(_ResultsSpec):
    """Show hand crops of all results, at the same frames and positions."""

    output: Path = Path("hands.png")
    poses: Path | None = None
    """Pose file in the pixel coordinates of the results, or the RESULT.json that `generate` wrote (for the driving
    poses as fitted to the picture). By default, hands are detected in the first result, which should be the real
    video."""
    frames: list[int] | None = None
    """Frames to show, counted from 0; default: four in which a hand is visible (all 21 points above 0.3 confidence)."""


@dataclass(frozen=True, kw_only=True)
class FusionSpec(FigureSpec):
    """Show how segments overlap and how they are weighted; the defaults are those of the paper's figure 4."""

    output: Path = Path("fusion.png")
    segment_frames: int = 8
    """Frames per segment (N)."""
    overlap_frames: int = 3
    """Frames shared by neighbouring segments (C)."""
    frames: int = 18
    """Number of frames of the video."""
    mode: list[str] | None = None
    """Fusion mode to show: progressive (default), released, average or none; may be given several times."""


@dataclass(frozen=True, kw_only=True)
class BarsSpec(FigureSpec):
    """Show the metrics of a report as bars with confidence intervals."""

    report: Path
    """A report's folder, its summary.json or its metrics.csv."""
    output: Path = Path("bars.png")
    metric: list[str] | None = None
    """Metric to show; may be given several times; default: all."""
