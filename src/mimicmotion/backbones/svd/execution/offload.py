"""Weight offloading: weights are stored on the host, and copied to the device when needed. Results do not change.

- `OffloadedModule` loads all weights of a network at once.
- `OffloadedBlocks` loads each block of the U-Net shortly before it runs, and frees it afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mimicmotion.backbones.svd.execution.memory import tensors_of
from mimicmotion.errors import ConfigError


class OffloadedModule:
    """A module with its weights on the host and, while they are loaded, copies of them on a device.

    Parameters stay the same objects. Unloading copies nothing back, since the weights are still on the host.

    Args:
        module: a network or a block; its weights are moved to the host.
        device: device to compute on.
        without: submodules whose weights are not offloaded.
        stream: CUDA stream for copies, to overlap them with computation; None copies on the current stream.
    """

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        without: Iterable[nn.Module] = (),
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        self.module, self.device, self.without, self.stream = module, device, tuple(without), stream
        self.host: dict[Tensor, Tensor] = {}
        self.ready: torch.Event | None = None
        with torch.inference_mode(False):  # inference tensors could not be used outside inference mode
            nn.Module.to(module, device="cpu")
            if stream is not None:  # copies are only asynchronous from pinned memory
                for t in filter(_is_plain, self._tensors()):
                    t.data = t.data.pin_memory()

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are on the device, or being copied."""
        return bool(self.host)

    def _tensors(self) -> list[Tensor]:
        excluded = set(tensors_of(*self.without))
        return [t for t in tensors_of(self.module) if t not in excluded]

    @torch.inference_mode(False)
    def load(self) -> None:
        """Copy the weights to the device. With a stream, call `wait` before using them."""
        if self.is_loaded:
            return
        tensors = self._tensors()
        # memory is allocated and freed on the current stream, so that it is reused in the right order
        copies = [_allocate(t, self.device) for t in tensors]
        self._copy([(c, t.data) for c, t in zip(copies, tensors, strict=True) if _is_plain(t)])
        self.host = {t: _exchange(t, c) for t, c in zip(tensors, copies, strict=True)}

    def _copy(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):  # type: ignore[arg-type]  # None is allowed and has no effect
            for copy, data in pairs:
                copy.copy_(data, non_blocking=self.stream is not None)
        if self.stream is not None:
            self.ready = self.stream.record_event()

    def wait(self) -> None:
        """Make the current stream wait for the copies."""
        if self.ready is not None:
            torch.cuda.current_stream(self.device).wait_event(self.ready)
            self.ready = None

    def unload(self) -> None:
        """Free the device's copies."""
        self.wait()
        for t, data in self.host.items():
            _exchange(t, data)
        self.host = {}

    def release(self) -> None:
        """Stop offloading; the weights stay on the host."""
        self.unload()


class OffloadedBlocks(OffloadedModule):
    """A network whose blocks are loaded one by one while it runs; `load` loads the other weights.

    While a block computes, the next one is loaded (after the last, the first one), on a GPU in a second stream. At most
    two blocks are on the device at a time. Blocks may be skipped, at the cost of an unused copy. After an error in a
    block, all of them are freed.

    Args:
        network: the network, whose blocks get hooks.
        blocks: the blocks in order of execution.
        device: device to compute on.

    Raises:
        ConfigError: there are no blocks.
    """

    def __init__(self, network: nn.Module, blocks: Sequence[nn.Module], device: torch.device) -> None:
        if not blocks:
            raise ConfigError(f"a {type(network).__name__} without blocks", "a network of blocks", "offload modules")
        super().__init__(network, device, without=blocks)
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.blocks = {block: OffloadedModule(block, device, stream=stream) for block in blocks}
        self.following = dict(pairwise([*blocks, blocks[0]]))
        self.handles: list[RemovableHandle] = []
        for block in blocks:
            self.handles.append(block.register_forward_pre_hook(self._before))
            self.handles.append(block.register_forward_hook(self._after, always_call=True))

    def _before(self, block: nn.Module, _args: object) -> None:
        needed = (block, self.following[block])
        for other, offloaded in self.blocks.items():
            if other not in needed:
                offloaded.unload()
        for one in needed:
            self.blocks[one].load()
        self.blocks[block].wait()

    def _after(self, block: nn.Module, _args: object, out: object) -> None:
        for one in self.blocks if out is None else (block,):  # None means that the block failed
            self.blocks[one].unload()

    def unload(self) -> None:
        """Free all copies on the device."""
        super().unload()
        for offloaded in self.blocks.values():
            offloaded.unload()

    def release(self) -> None:
        """Stop offloading; all weights stay on the host."""
        self.unload()
        for handle in self.handles:
            handle.remove()


def _is_plain(t: Tensor) -> bool:
    """Return whether a tensor's data can be set, which the tensor subclasses of quantised weights do not allow."""
    return type(t) in (Tensor, nn.Parameter)


def _allocate(t: Tensor, device: torch.device) -> Tensor:
    """Allocate memory for a copy on the device. A quantised weight is copied right away."""
    if _is_plain(t):
        return torch.empty_like(t.data, device=device)
    return nn.Parameter(t.detach().to(device), requires_grad=False)


def _exchange(t: Tensor, data: Tensor) -> Tensor:
    """Replace the data of a tensor and return the old data."""
    if not _is_plain(t):
        torch.utils.swap_tensors(t, data)
        return data
    old, t.data = t.data, data
    return old


def blocks_of(unet: Any) -> list[nn.Module]:
    """List the U-Net's blocks in order of execution."""
    return [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
