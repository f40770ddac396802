"""Settings of an ablation: frozen, parsed strictly from YAML by `mimicmotion.settings.parse`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings.parsing import Range, Settings

Condition = Literal["clean", "detector", "planted"]
ArmName = Literal["none", "hand", "confidence", "both"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TestConfig(Settings):
    """What the trained models are measured on: held-out synthetic people."""

    __test__: ClassVar[bool] = False  # not a test case

    clips: Annotated[int, Range(2)] = 16
    """Held-out clips, each of another person."""
    frames: Annotated[int, Range(2)] = 12
    """Frames per clip."""
    conditions: tuple[Condition, ...] = ("detector", "planted")
    """Poses that drive the figure: exact ones, with imitated detector errors, or with planted errors."""
    noise: float = 1.0
    """Strength of the imitated detector (condition detector)."""
    first: int = 3000
    """Number of the first held-out clip."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if not self.conditions:
            raise ConfigError("no conditions", "at least one", "add one")


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationConfig(Settings):
    """The whole experiment."""

    run: str
    """Folder of all runs and of the result."""
    train: dict[str, Any]
    """Settings that all trainings share: fields of a training recipe, without run, seed and what the arms decide."""
    start: str = "tiny"
    """Model folder that all trainings start from; tiny is the bundled one."""
    fresh_pose_net: bool = True
    """Give the start a new PoseNet with random weights."""
    arms: tuple[ArmName, ...] = ("none", "hand", "confidence", "both")
    """Cells of the table."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training per arm and seed."""
    hand_scale: float = 10.0
    """Loss weight of reliable hands in the arms with hand loss."""
    test: TestConfig = field(default_factory=TestConfig)
    """The measurement."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if not self.seeds or not self.arms or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds={self.seeds}, arms={self.arms}", "distinct seeds, at least one arm", "add some")
        taken = {"run", "seed", "model"} & self.train.keys()
        if taken:
            raise ConfigError(f"train has {sorted(taken)}", "settings that all runs share", "leave them out")
