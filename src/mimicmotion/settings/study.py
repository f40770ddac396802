"""Settings of a user study: what to build, and which raters count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mimicmotion.errors import ConfigError
from mimicmotion.settings.parsing import check_range

SIDE_VOTES = 10
"""Fewer votes than this say nothing about a preferred side."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What `study build` builds."""

    ours: tuple[str, Path]
    """Name of our method and its folder of results."""
    baselines: Sequence[tuple[str, Path]]
    """The same for each method to compare with."""
    output: Path
    """The folder to make."""
    reference: Path | None = None
    """Folder of reference pictures, shown beside each pair."""
    driving: Path | None = None
    """Folder of driving videos, shown beside each pair."""
    title: str = "Which video is better?"
    """Heading of the page."""
    question: str = "Which video do you prefer?"
    """What is asked about each pair."""
    repeat_share: float = 0.15
    """Share of the pairs that each rater sees twice, 0 to 0.5."""
    min_seconds: float = 1.0
    """How long a pair must run before a vote is taken."""
    skip_missing: bool = False
    """Leave out sequences that a folder lacks."""
    folder_fps: float = 15.0
    """Frames per second of folders of frames."""
    seed: int | None = None
    """For blind ids that can be repeated; None (safer) draws them afresh."""

    def __post_init__(self) -> None:
        check_range(self, {"repeat_share": (0, 0.5), "min_seconds": (0, 60)})
        names = [name for name, _ in self.methods]
        if len(names) < 2:
            raise ConfigError(f"one method ({names[0]})", "at least one baseline", "add --baseline NAME=DIR")
        if len(set(names)) < len(names):
            raise ConfigError(f"the names {', '.join(names)}", "a name of its own for each method", "rename one")

    @property
    def methods(self) -> list[tuple[str, Path]]:
        """All methods, ours first."""
        return [self.ours, *self.baselines]


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """Which raters are left out; by default none. Decide before looking at the preferences."""

    min_votes: int = 0
    """Pairs that a rater must have answered."""
    min_consistency: float = 0.0
    """Share of repeated pairs answered alike, for raters who saw repetitions."""
    max_side: float = 1.0
    """Largest share of answers for one side, for raters with at least 10."""
    min_seconds: float = 0.0
    """Least median time to a vote."""

    def __post_init__(self) -> None:
        least = {"min_votes": (0, float("inf")), "min_seconds": (0, float("inf"))}
        check_range(self, {"min_consistency": (0, 1), "max_side": (0.5, 1)} | least)

    def rule(self) -> str:
        """The rule in words."""
        parts = [
            (self.min_votes > 0, f"fewer than {self.min_votes} pairs answered"),
            (self.min_consistency > 0, f"fewer than {self.min_consistency:.0%} of repeated pairs answered alike"),
            (self.max_side < 1, f"more than {self.max_side:.0%} of at least {SIDE_VOTES} answers for one side"),
            (self.min_seconds > 0, f"a median of less than {self.min_seconds:g} s to a vote"),
        ]
        return "; ".join(text for used, text in parts if used) or "none left out"
