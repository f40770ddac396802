"""Settings of how the networks run; the result stays the same (but for rounding)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings.parsing import Help, Range, Settings

Attention = Literal["auto", "math", "sdpa", "flash", "cudnn", "fa3"]
Offload = Literal["auto", "none", "modules", "blocks"]


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions(Settings):
    """How the networks run."""

    memory: Annotated[float | None, Range(0.01, 10_000), Help("Memory", first=True)] = None
    """GiB that the networks may use (of the GPU, or of the host without one); default: all free memory."""
    attention: Annotated[Attention, Help("Speed")] = "auto"
    """Kernel of self-attention: auto, math, sdpa (PyTorch chooses), flash, cudnn or fa3 (FlashAttention-3)."""
    compile: Annotated[bool, Help("Speed")] = False
    """Compile the U-Net's blocks: the first run takes minutes more, later ones find them compiled."""
    channels_last: Annotated[bool | None, Help("Advanced")] = None
    """Keep channels innermost in convolutions; empty does so where it is faster."""
    frame_chunk: Annotated[int | None, Range(1, 100_000), Help("Memory")] = None
    """Frames at once in the U-Net's layers that look at single frames; empty lets the memory decide."""
    offload: Annotated[Offload, Help("Memory")] = "auto"
    """Weights that wait on the host: none, modules (networks that are not in use) or blocks (of the U-Net too)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compile and self.offload == "blocks":
            raise ConfigError(
                "compile with offload blocks", "one of the two: compiled blocks hold their weights", "drop one of them"
            )
