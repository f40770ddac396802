"""Settings of how the networks run; the result stays the same (but for rounding)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings.parsing import Help, Range, Settings

Offload = Literal["auto", "none", "modules", "blocks"]


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions(Settings):
    """How the networks run."""

    memory: Annotated[float | None, Range(0.01, 10_000), Help("Memory", first=True)] = None
    """GiB that the networks may use (of the GPU, or of the host without one); default: all free memory."""
    compile: Annotated[bool, Help("Speed")] = False
    """Compile the U-Net's blocks: the first run takes minutes more, later ones find them compiled."""
    offload: Annotated[Offload, Help("Memory")] = "auto"
    """Weights that wait on the host: none, modules (networks that are not in use) or blocks (of the U-Net too)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compile and self.offload == "blocks":
            raise ConfigError(
                "compile with offload blocks", "one of the two: compiled blocks hold their weights", "drop one of them"
            )
