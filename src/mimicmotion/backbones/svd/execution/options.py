"""Execution options of a network, such as chunks and memory format, which do not affect its result (up to rounding)."""

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

    They change results and gradients by at most 1e-5 (relative to the largest value) in float32. Without gradients,
    tensors are always reused and freed as early as possible.
    """

    frame_chunk: int | None = None
    """Frames (of all videos of the batch) per chunk in spatial layers; None means all."""
    position_chunk: int | None = None
    """Positions (for all frames and videos) per chunk in temporal layers; None means all."""
    feed_forward_chunk: int | None = None
    """Tokens per chunk in feed-forwards, whose inner layer is eight times as wide; None means all."""
    channels_last: bool = False
    """Use the channels-last memory format for weights and inputs of convolutions."""
    compile: bool = False
    """Compile the repeated layers with torch.compile, and cache the compiled code on disk. Cannot be combined with
    hooks that load the weights of single layers."""
    checkpointing: Checkpointing = "off"
    """Gradient checkpointing: "blocks" recomputes the inside of each residual and transformer block, "nested" also the
    activations between a spatial transformer block and its temporal one."""

    def run(self, layer: nn.Module, *args: Any) -> Any:
        """Call `layer(*args)`, compiled if enabled."""
        return compiled(type(layer).forward, layer)(layer, *args) if self.compile else layer(*args)

    def checkpointed(self, function: Callable[..., Any], *args: Any, nested: bool = False) -> Any:
        """Call `function(*args)`, checkpointed if enabled. `nested`: whether `function` checkpoints parts of itself."""
        if not torch.is_grad_enabled() or self.checkpointing not in (("nested",) if nested else ("blocks", "nested")):
            return function(*args)
        # there are no random layers, so no generator state needs to be restored
        return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)

    def block(self, block: nn.Module, *args: Any) -> Any:
        """Call `block(*args)`, compiled and checkpointed if enabled."""
        return self.checkpointed(partial(self.run, block), *args)
