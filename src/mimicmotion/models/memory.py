"""How much memory a computation takes, found without doing it: the networks run on fake tensors.

Fake tensors (`torch._subclasses.FakeTensorMode`) have a shape, a number format and a device, but no data. So a network
runs as the real one would, chunks and all, while the bytes of each tensor are counted from where it is made to where it
is freed. Attention counts as the fused kernels compute it, which keep no matrix of scores.

Not counted: the device's context and libraries, workspaces that convolutions and matrix products ask for, and what the
allocator loses to fragments. `mimicmotion.planning.budget` leaves room for these.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
ONEDNN_LINEAR: Any = getattr(getattr(torch.ops.mkldnn, "_linear_pointwise", None), "binary", None)
GROUP_NORM = torch.ops.aten.group_norm.default
COPYING = {GROUP_NORM, torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding, torch.ops.aten.conv3d.default}


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside a `with` block, until they are freed.

    Use it in inference mode: there layers such as attention arrive whole, and what they keep for themselves does not
    count.

    Args:
        resident: tensors that are counted elsewhere (parameters).
        scratch: bytes that attention on (query, key) takes for itself.

    Attributes:
        now: bytes alive.
        peaks: the most so far, of each section in turn; append `now` to begin a new one.
    """

    def __init__(
        self, resident: Iterable[Tensor] = (), scratch: Callable[[Tensor, Tensor], int] = lambda _q, _k: 0
    ) -> None:
        super().__init__()
        self.now, self.peaks = 0, [0]
        self.scratch = scratch
        self._sizes = {t.untyped_storage()._cdata: 0 for t in resident}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it makes."""
        if func is ATTENTION:
            query, _, value = args[:3]
            # Fused kernels write (batch, tokens, heads, dim), which the caller's transpose makes contiguous.
            n, heads, tokens, _ = query.shape
            out = query.new_empty(n, tokens, heads, value.shape[-1]).transpose(1, 2)
        elif func is ONEDNN_LINEAR:  # PyTorch knows no shapes for it
            out = args[0].new_empty(*args[0].shape[:-1], args[2].shape[0])
        else:
            out = func(*args, **kwargs or {})
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, Tensor):
                self._count(t.untyped_storage())
        if func is ATTENTION:
            self._reach(self.scratch(*args[:2]))
        if func in COPYING and args[0].device.type == "cpu":
            self._reach(_copied(func, args[0], args[1], out))
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self._free, key)
            self._reach(0)

    def _reach(self, more: int) -> None:
        self.peaks[-1] = max(self.peaks[-1], self.now + more)

    def _free(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)


def _copied(func: Any, x: Tensor, weight: Any, out: Tensor) -> int:
    """Bytes of the copies that an operation makes for itself on a CPU, gone when it is done.

    oneDNN's convolutions put input and result into an order of their own, in blocks of 16 channels. With channels last
    there is none of the result, nor of an input that has them last. A norm wants its input in one piece.
    """
    if _channels_last(x):
        return 0
    if func is GROUP_NORM:
        return 0 if x.is_contiguous() else x.nbytes
    blocks = math.ceil(out.shape[1] / 16) * 16
    return x.nbytes if _channels_last(weight) else max(x.nbytes, out.nbytes * blocks // out.shape[1])


def _channels_last(x: Tensor) -> bool:
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim, torch.contiguous_format)
    return x.is_contiguous(memory_format=layout) and not x.is_contiguous()


def fake_copy(module: nn.Module, fake: AbstractContextManager[Any], device: str) -> Any:
    """A network of the same config and number format, fresh, whose weights are fake.

    Args:
        module: the network; its weights may lie anywhere.
        fake: the `FakeTensorMode` that the copy belongs to; none is needed for "meta".
        device: where the copy pretends to be: "cpu", or "meta" for any other.
    """
    from mimicmotion.models.checkpoint import build_part

    copy = build_part(module)
    dtype, weights = next(module.parameters()).dtype, copy.state_dict()
    with fake:
        weights = {name: torch.empty(t.shape, dtype=dtype, device=device) for name, t in weights.items()}
        copy.load_state_dict(weights, assign=True)
    return copy.eval()


def tensors_of(*modules: nn.Module | None) -> list[Tensor]:
    """Parameters and buffers."""
    return [t for m in modules if m is not None for t in (*m.parameters(), *m.buffers())]


def weight_bytes(*modules: nn.Module | None) -> int:
    """Bytes of parameters and buffers, those that are shared counted once."""
    return sum(map(_stored, {id(t): t for t in tensors_of(*modules)}.values()))


def _stored(tensor: Tensor) -> int:
    flatten = getattr(tensor, "__tensor_flatten__", None)  # quantised weights name the tensors they are made of
    return tensor.nbytes if flatten is None else sum(_stored(getattr(tensor, name)) for name in flatten()[0])
