"""Settings of an ablation, read from a YAML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings.parsing import Range, Settings

Condition = Literal["clean", "detector", "planted"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TestConfig(Settings):
    """Held-out synthetic clips on which the trained models are tested."""

    __test__: ClassVar[bool] = False  # not a test case

    clips: Annotated[int, Range(2)] = 16
    """Number of held-out clips, each of a different person."""
    frames: Annotated[int, Range(2)] = 12
    """Frames per clip."""
    conditions: tuple[Condition, ...] = ("detector", "planted")
    """Driving poses: clean (exact), detector (simulated detector errors) or planted (misplaced hands or elbows)."""
    first: int = 3000
    """Index of the first held-out clip."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if not self.conditions:
            raise ConfigError("no test conditions", "at least one", "add one to 'conditions'")


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationConfig(Settings):
    """Settings of an ablation: its training runs, and how the trained models are tested."""

    run: str
    """Folder for all runs and the result."""
    train: dict[str, Any]
    """Training settings shared by all runs: fields of a recipe, except run, seed and those that the arms set."""
    start: str = "tiny"
    """Model folder that all runs start from; tiny is the bundled model."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; each arm is trained once per seed."""
    test: TestConfig = field(default_factory=TestConfig)
    """Test clips."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds={self.seeds}", "distinct seeds, at least one", "correct 'seeds'")
        taken = {"run", "seed", "model"} & self.train.keys()
        if taken:
            raise ConfigError(f"train sets {sorted(taken)}", "settings that all runs share", "remove them")
