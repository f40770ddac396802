"""Weight offloading: weights stay on the host and are copied to the device while needed. Results do not change.

- `Parked`: all weights of an idle network.
- `ParkedBlocks`: each block of the U-Net is loaded shortly before it runs and freed afterwards.
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


class Parked:
    """A module with its weights on the host and, when asked for, copies of them on a device.

    Parameters stay the same objects. Going back costs nothing: the host's weights have stayed.

    Args:
        module: a network or a block of one; its weights are moved to the host.
        device: where it computes.
        without: parts of it that are left alone.
        stream: copies are made on this CUDA stream, while the current one computes; None copies on the current one.
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
        with torch.inference_mode(False):  # what is made in inference mode could not be used outside of it
            nn.Module.to(module, device="cpu")
            if stream is not None:  # the host waits for copies from memory that is not pinned
                for t in filter(_is_plain, self._tensors()):
                    t.data = t.data.pin_memory()

    @property
    def here(self) -> bool:
        """Whether the weights are on the device, or on their way."""
        return bool(self.host)

    def _tensors(self) -> list[Tensor]:
        others = set(tensors_of(*self.without))
        return [t for t in tensors_of(self.module) if t not in others]

    @torch.inference_mode(False)
    def bring(self) -> None:
        """Copy the weights to the device. With a stream, call `wait` before using them."""
        if self.here:
            return
        tensors = self._tensors()
        # Memory comes from the current stream, and `park` gives it back there: so it is used again in the right order.
        copies = [_room(t, self.device) for t in tensors]
        self._copy([(c, t.data) for c, t in zip(copies, tensors, strict=True) if _is_plain(t)])
        self.host = {t: _exchange(t, c) for t, c in zip(tensors, copies, strict=True)}

    def _copy(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):  # type: ignore[arg-type]  # None is allowed, and changes nothing
            for copy, data in pairs:
                copy.copy_(data, non_blocking=self.stream is not None)
        if self.stream is not None:
            self.ready = self.stream.record_event()

    def wait(self) -> None:
        """Let the current stream wait until the copies are there."""
        if self.ready is not None:
            torch.cuda.current_stream(self.device).wait_event(self.ready)
            self.ready = None

    def park(self) -> None:
        """Free the device's copies."""
        self.wait()
        for t, data in self.host.items():
            _exchange(t, data)
        self.host = {}

    def release(self) -> None:
        """Stop offloading; the weights stay on the host."""
        self.park()


class ParkedBlocks(Parked):
    """A network whose blocks are loaded one by one; the rest is loaded on request.

    While a block computes, the next one is loaded, on a GPU in a second stream; the first one follows the last. At most
    two are on the device at a time. Skipping a block is allowed, but costs a copy. After an error in a block, all are
    freed.

    Args:
        network: the network, whose blocks get hooks.
        blocks: the blocks in the order of their execution.
        device: device that they run on.

    Raises:
        ConfigError: there are no blocks.
    """

    def __init__(self, network: nn.Module, blocks: Sequence[nn.Module], device: torch.device) -> None:
        if not blocks:
            raise ConfigError(f"no blocks in a {type(network).__name__}", "a network of blocks", "offload modules")
        super().__init__(network, device, without=blocks)
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.blocks = {block: Parked(block, device, stream=stream) for block in blocks}
        self.following = dict(pairwise([*blocks, blocks[0]]))  # the last one's is the first
        self.handles: list[RemovableHandle] = []
        for block in blocks:
            self.handles.append(block.register_forward_pre_hook(self._before))
            self.handles.append(block.register_forward_hook(self._after, always_call=True))

    def _before(self, block: nn.Module, _args: object) -> None:
        turn = (block, self.following[block])
        for other, parked in self.blocks.items():
            if other not in turn:
                parked.park()
        for one in turn:
            self.blocks[one].bring()
        self.blocks[block].wait()

    def _after(self, block: nn.Module, _args: object, out: object) -> None:
        for one in self.blocks if out is None else (block,):  # None: it has failed
            self.blocks[one].park()

    def park(self) -> None:
        """Free all copies on the device."""
        super().park()
        for parked in self.blocks.values():
            parked.park()

    def release(self) -> None:
        """Stop offloading; all weights stay on the host."""
        self.park()
        for handle in self.handles:
            handle.remove()


def _is_plain(t: Tensor) -> bool:
    """Quantised weights are tensors of other classes, which do not let their data be set."""
    return type(t) in (Tensor, nn.Parameter)


def _room(t: Tensor, device: torch.device) -> Tensor:
    """Memory for a copy on the device; of a quantised weight the copy itself."""
    if _is_plain(t):
        return torch.empty_like(t.data, device=device)
    return nn.Parameter(t.detach().to(device), requires_grad=False)


def _exchange(t: Tensor, data: Tensor) -> Tensor:
    """Replace the data of a tensor. Returns the old data."""
    if not _is_plain(t):
        torch.utils.swap_tensors(t, data)
        return data
    old, t.data = t.data, data
    return old


def blocks_of(unet: Any) -> list[nn.Module]:
    """The U-Net's blocks in the order of their execution."""
    return [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
