"""How a U-Net computes: in which portions, memory format and attention kernel. What it computes stays the same.

Nothing here is global: an execution is put on one model, can be changed at any time and taken off again. Parameters
keep their names, and blocks keep their signatures, so that offloading and caches wrap them as they wrap plain ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn

from mimicmotion.errors import ConfigError

AttentionKernel = Literal["plain", "auto", "math", "sdpa", "efficient", "flash", "cudnn", "fa3"]


@dataclass(frozen=True, kw_only=True, slots=True)
class UNetExecution:
    """Settings of `apply_execution`; the defaults are the plain network of diffusers.

    None of them changes the result by more than 1e-5 (relative to its largest value) in float32. With any of them the
    network frees and reuses tensors as soon as it can; that needs `torch.no_grad` or inference mode, where gradients
    are recorded the plain way is taken.
    """

    frame_chunk: int | None = None
    """Frames (of all videos of the batch) at once in layers that look at one frame; None is all."""
    position_chunk: int | None = None
    """Places of a frame (of all frames and videos) at once in layers that look along time; None is all."""
    feed_forward_chunk: int | None = None
    """Tokens at once in feed-forwards, whose inner layer is eight times as wide; None is all."""
    channels_last: bool = False
    """Channels last in memory, for weights of convolutions and for what flows through them."""
    attention: AttentionKernel = "plain"
    """Kernel of self-attention: "auto" picks by device and number format, "sdpa" leaves it to PyTorch."""
    compile: bool = False
    """Compile the repeated blocks with torch.compile; compiled code is kept on disk."""

    def __post_init__(self) -> None:
        for name in ("frame_chunk", "position_chunk", "feed_forward_chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value}", "a number from 1 on, or None for all at once", f"correct {name}")
        if self.attention not in get_args(AttentionKernel):
            kernels = ", ".join(get_args(AttentionKernel))
            raise ConfigError(f"attention={self.attention!r}", f"one of {kernels}", 'use "auto"')


def apply_execution(unet: nn.Module, execution: UNetExecution) -> None:
    """Let this model compute as `execution` says; `UNetExecution()` gives the plain network back.

    Put it on before hooks for offloading: those keep the forward that they find.

    Args:
        unet: diffusers' `UNetSpatioTemporalConditionModel`, with or without the pose input.
        execution: how to compute. Applying the same again does nothing.

    Raises:
        ConfigError: an attention kernel or a compiler that is not there.
    """
    raise NotImplementedError


def execution_of(unet: nn.Module) -> UNetExecution:
    """What was put on a model."""
    found: Any = getattr(unet, "execution", None)
    return found or UNetExecution()
