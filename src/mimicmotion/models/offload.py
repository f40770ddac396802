"""Weights that are not on the device all the time.

- Modules: a network that has nothing to do waits on the host (`Parked`).
- Blocks: each block of the U-Net comes when its turn is near and goes afterwards; on a GPU a second stream brings the
  next block while one computes. diffusers' group offloading does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from diffusers.hooks import HookRegistry, apply_group_offloading
from torch import Tensor, nn

OFFLOADING_HOOKS = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")


# --- modules --------------------------------------------------------------------------------------------------------


class Parked:
    """A network with its weights on the host and, when asked for, copies of them on a device.

    The way back costs nothing: the host's copy has stayed.

    Args:
        module: the network; its weights are moved to the host.
        device: where it works.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.module, self.device = module, device
        nn.Module.to(module, device="cpu")
        self.host: dict[Tensor, Tensor] = {}
        self.here = device.type == "cpu"
        # Quantised weights are tensors of other classes, which do not let their data be swapped.
        self.plain = all(type(t) in (Tensor, nn.Parameter) for t in _tensors(module))

    def bring(self) -> None:
        """Put the weights on the device."""
        if self.here:
            return
        if not self.plain:
            nn.Module.to(self.module, device=self.device)
            self.here = True
            return
        self.host = {t: t.data for t in _tensors(self.module)}
        for t, data in self.host.items():
            t.data = data.to(self.device)
        self.here = True

    def park(self) -> None:
        """Free the device's copies."""
        if not self.here or self.device.type == "cpu":
            return
        if not self.plain:
            nn.Module.to(self.module, device="cpu")
        for t, data in self.host.items():
            t.data = data
        self.host = {}
        self.here = False


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


# --- blocks ---------------------------------------------------------------------------------------------------------


def offload_blocks(unet: nn.Module, device: torch.device) -> None:
    """Let the blocks of a U-Net wait on the host; put an execution on first (`mimicmotion.models.execution`)."""
    nn.Module.to(unet, device="cpu")
    stream = device.type == "cuda"
    apply_group_offloading(
        unet,
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=stream,
        non_blocking=stream,
    )


def is_offloaded(unet: nn.Module) -> bool:
    """Whether `offload_blocks` was called."""
    return any("group_offloading" in _hooks(m) for m in unet.modules())


def bring_blocks(unet: nn.Module) -> None:
    """Undo `offload_blocks`; the weights stay where they are (on the host between two passes)."""
    if not is_offloaded(unet):
        return
    for name in OFFLOADING_HOOKS:
        for module in unet.modules():
            if name in _hooks(module):
                HookRegistry.check_if_exists_or_initialize(module).remove_hook(name, recurse=False)
    nn.Module.to(unet, device="cpu")


def _hooks(module: nn.Module) -> Mapping[str, Any]:
    registry = getattr(module, "_diffusers_hook", None)
    return {} if registry is None else registry.hooks


def blocks_of(unet: Any) -> list[nn.Module]:
    """The blocks that come and go, in the order in which they compute; the rest of the network stays on the device."""
    return [*unet.down_blocks, *unet.up_blocks]
