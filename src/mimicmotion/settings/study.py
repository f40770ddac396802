"""Settings of a user study and its analysis."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from mimicmotion.errors import ConfigError
from mimicmotion.settings.parsing import Range, Settings


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Settings):
    """Inputs and options of a study."""

    ours: tuple[str, Path]
    """NAME=DIR of your own method: its name, and its folder of results."""
    baselines: list[tuple[str, Path]]
    """NAME=DIR of a method to compare with; may be given several times."""
    output: Path
    """Folder to create."""
    reference: Path | None = None
    """Folder of reference pictures, shown next to each pair."""
    driving: Path | None = None
    """Folder of driving videos, shown next to each pair."""
    title: str = "Which video is better?"
    """Heading of the page."""
    questions: list[str] = field(default_factory=lambda: ["Which video do you prefer?"])
    """Question asked about each pair; may be given several times."""
    ties: bool = False
    """Also offer the answer "no difference"."""
    consent: Path | None = None
    """Text file that raters must agree to before they start."""
    instructions: Path | None = None
    """Text file shown before the first pair."""
    practice: Annotated[int, Range(0, 20)] = 0
    """Number of practice pairs at the start (a result and a pixelated copy of it), which are not counted."""
    catch: Annotated[int, Range(0, 50)] = 0
    """Number of catch pairs (a result and a pixelated copy of it), mixed in to detect careless raters."""
    open: bool = False
    """Let anyone who knows the address vote, under a random id; by default, only those with a `study invite` link."""
    repeat_share: Annotated[float, Range(0, 0.5)] = 0.15
    """Fraction of pairs that each rater sees twice, to check consistency; 0.15 repeats every seventh pair."""
    min_seconds: Annotated[float, Range(0, 60)] = 1.0
    """Seconds that a pair must play before raters can vote on it, to prevent hasty votes."""
    skip_missing: bool = False
    """Skip sequences that are missing from a folder."""
    folder_fps: Annotated[float, Range(0, 1000, above=True)] = 15.0
    """Frames per second of folders of frames."""
    seed: int | None = None
    """Seed for reproducible blind ids; by default they are drawn at random, which is safer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [name for name, _ in self.methods]
        if len(names) < 2:
            raise ConfigError(f"one method ({names[0]})", "at least one baseline", "add --baseline NAME=DIR")
        if len(set(names)) < len(names) or not all(names):
            raise ConfigError(f"the names {', '.join(names)}", "a different name for each method", "rename one")
        if not self.questions or not all(self.questions):
            raise ConfigError("no question", "at least one", "pass --question TEXT")

    @property
    def methods(self) -> list[tuple[str, Path]]:
        """All methods, ours first."""
        return [self.ours, *self.baselines]


@dataclass(frozen=True, kw_only=True)
class Exclusion(Settings):
    """Rules for excluding raters; none by default. Set them before looking at the preferences."""

    min_consistency: Annotated[float, Range(0, 1)] = 0.0
    """Minimum fraction of repeated pairs with the same answer both times, for raters who saw any."""
    min_caught: Annotated[float, Range(0, 1)] = 0.0
    """Minimum fraction of catch pairs answered correctly."""

    def rule(self) -> str:
        """Describe the exclusion rule in words, for the report."""
        parts = [
            (self.min_consistency > 0, f"less than {self.min_consistency:.0%} of repeated pairs answered consistently"),
            (self.min_caught > 0, f"less than {self.min_caught:.0%} of catch pairs answered correctly"),
        ]
        return "; ".join(text for used, text in parts if used) or "none excluded"


@dataclass(frozen=True, kw_only=True)
class AnalyseConfig(Exclusion):
    """Settings of `mimicmotion study analyse`."""

    folder: Path
    """Folder created by `study build`."""
    votes: list[Path] = field(default_factory=list)
    """Databases of votes; default: FOLDER/votes.sqlite. If a rater is in several, the last database counts."""
    output: Path | None = None
    """Folder for the report; default: FOLDER/analysis."""


def parse_method(text: str) -> tuple[str, Path]:
    """Parse NAME=DIR.

    Raises:
        ConfigError: the text does not have this form.
    """
    name, _, folder = text.partition("=")
    if not name.strip() or not folder:
        raise ConfigError(f"{text!r}", "NAME=DIR", "for example ours=results/ours")
    return name.strip(), Path(folder)
