"""Settings of how the networks run; the result stays the same (but for rounding)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings.parsing import STRICT, check_range

Attention = Literal["auto", "math", "sdpa", "flash", "cudnn", "fa3"]
Offload = Literal["auto", "none", "modules", "blocks"]


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """How the networks run."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    memory: float | None = None
    """GiB that the networks may use (of the GPU, or of the host without one); empty is what is free."""
    attention: Attention = "auto"
    """Kernel of self-attention: auto, math, sdpa (PyTorch chooses), flash, cudnn or fa3 (FlashAttention-3)."""
    compile: bool = False
    """Compile the U-Net's blocks: the first run takes minutes more, later ones find them compiled."""
    channels_last: bool | None = None
    """Keep channels innermost in convolutions; empty does so where it is faster."""
    frame_chunk: int | None = None
    """Frames at once in the U-Net's layers that look at single frames; empty lets the memory decide."""
    offload: Offload = "auto"
    """Weights that wait on the host: none, modules (networks that are not in use) or blocks (of the U-Net too)."""

    def __post_init__(self) -> None:
        if self.compile and self.offload == "blocks":
            raise ConfigError(
                "compile with offload blocks", "one of the two: compiled blocks hold their weights", "drop one of them"
            )
        check_range(self, {"memory": (0.01, 10_000), "frame_chunk": (1, 100_000)})
