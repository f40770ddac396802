"""Execution options of a network, such as chunks and memory format, which do not change its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mimicmotion.backbones.svd.execution.compiled import compiled

Checkpointing = Literal["off", "blocks", "nested"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """Options of a network's forward pass, passed to all blocks.

    None of them changes the result by more than 1e-5 (relative to its largest value) in float32, nor a gradient.
    Where no gradients are recorded, tensors are reused and freed as soon as they can be, whatever the settings.
    """

    frame_chunk: int | None = None
    """Frames (of all videos of the batch) at once in layers that look at one frame; None is all."""
    position_chunk: int | None = None
    """Positions of a frame (of all frames and videos) at once in layers that look along time; None is all."""
    feed_forward_chunk: int | None = None
    """Tokens at once in feed-forwards, whose inner layer is eight times as wide; None is all."""
    channels_last: bool = False
    """Channels last in memory, for weights of convolutions and for what flows through them."""
    compile: bool = False
    """Compile the repeated layers with torch.compile; compiled code is kept on disk. Not together with hooks that bring
    weights of single layers."""
    checkpointing: Checkpointing = "off"
    """Gradient checkpointing: "blocks" recomputes the inside of each residual and transformer block, "nested" also the
    values between a spatial and its temporal transformer block."""

    def run(self, layer: nn.Module, *args: Any) -> Any:
        """Call `layer(*args)`, compiled if enabled."""
        return compiled(type(layer).forward, layer)(layer, *args) if self.compile else layer(*args)

    def checkpointed(self, function: Callable[..., Any], *args: Any, nested: bool = False) -> Any:
        """Call `function(*args)`, checkpointed if enabled.

        `nested` says that parts of the function are checkpointed themselves.
        """
        if not torch.is_grad_enabled() or self.checkpointing not in (("nested",) if nested else ("blocks", "nested")):
            return function(*args)
        # No random layers inside, so there is no generator state to keep.
        return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)

    def block(self, block: nn.Module, *args: Any) -> Any:
        """`block(*args)` by both."""
        return self.checkpointed(partial(self.run, block), *args)
