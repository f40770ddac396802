"""Predict the memory of a computation by running the networks on shapes only.

Tensors without data (on the meta device) pass through a network like real ones, with the same chunks, and the bytes of
each tensor are counted from its creation until it is freed. Attention is counted as in fused kernels, which store no
matrix of scores. PyTorch's own fake tensors work similarly, but take five times as long per operation.

The device's context and libraries, workspaces of convolutions and matrix products, and fragmentation are not counted;
`mimicmotion.runtime.device.free_memory` leaves room for them.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")
ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
ONEDNN_LINEAR: Any = getattr(getattr(torch.ops.mkldnn, "_linear_pointwise", None), "binary", None)
GROUP_NORM = torch.ops.aten.group_norm.default
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
CONVOLUTIONS = {torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding, torch.ops.aten.conv3d.default}


class CpuShape(Tensor):
    """A tensor without data whose device is the CPU, so that networks run their CPU code."""

    device = torch.device("cpu")
    __torch_function__: Any = torch._C._disabled_torch_function_impl  # results of operations are plain tensors


class LiveBytes(TorchDispatchMode):
    """Runs all operations in a `with` block on shapes, and counts the bytes of live tensors.

    Use it in inference mode, in which layers such as attention are dispatched as a single operation.

    Args:
        cpu: whether tensors pretend to be on a CPU. Otherwise they are on the meta device, as a substitute for a GPU.
        resident: tensors that are not counted, such as parameters.
        scratch: returns the workspace of attention in bytes for (query, key).

    Attributes:
        now: current number of bytes.
        peaks: peak of each section in turn; append `now` to begin a new section.
    """

    def __init__(self, cpu: bool, resident: Iterable[Tensor], scratch: Callable[[Tensor, Tensor], int]) -> None:
        super().__init__()
        self.now, self.peaks = 0, [0]
        self.cpu, self.scratch = cpu, scratch
        self._sizes = {t.untyped_storage()._cdata: 0 for t in resident}
        self._known: dict[Any, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count its results."""
        if func._schema.name.endswith("_"):
            return args[0]  # in place: nothing to compute
        out = self._run(func, _map(_on_meta, args), {k: _map(_on_meta, v) for k, v in (kwargs or {}).items()})
        _map(self._count, out)
        if func is ATTENTION:
            self._reach(self.scratch(*args[:2]))
        if func in CONVOLUTIONS:
            self._reach(_copied(args[0], args[1], out, self.cpu))
        return _map(lambda t: t.as_subclass(CpuShape) if isinstance(t, Tensor) else t, out) if self.cpu else out

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation on the meta device. Shapes of results are cached, so that loops over chunks are cheap."""
        if len(func._schema.returns) != 1 or func._schema.returns[0].alias_info is not None:
            return func(*args, **kwargs)  # several results, or a view
        key = str((func, _map(_facts, args), _map(_facts, list(kwargs.items()))))
        if key not in self._known:
            out = _infer(func, args, kwargs, self.cpu)
            if not isinstance(out, Tensor):
                return out
            self._known[key] = out.shape, out.stride(), out.dtype
        shape, stride, dtype = self._known[key]
        return torch.empty_strided(shape, stride, dtype=dtype, device=META)

    def _count(self, out: Any) -> None:
        if isinstance(out, Tensor) and (key := (storage := out.untyped_storage())._cdata) not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self._free, key)
            self._reach(0)

    def _reach(self, more: int) -> None:
        self.peaks[-1] = max(self.peaks[-1], self.now + more)

    def _free(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)


def _infer(func: Any, args: Any, kwargs: Any, cpu: bool) -> Any:
    if func is ATTENTION:  # fused kernels write (n, tokens, heads, dim), contiguous after the caller's transpose
        n, heads, tokens, _ = args[0].shape
        return args[0].new_empty(n, tokens, heads, args[2].shape[-1]).transpose(1, 2)
    if func is ONEDNN_LINEAR:  # PyTorch cannot infer its shape
        return args[0].new_empty(*args[0].shape[:-1], args[2].shape[0])
    out = func(*args, **kwargs)
    like = args[:1] if func is GROUP_NORM and cpu else args[:2] if func in CONVOLUTIONS else ()
    last = any(map(_channels_last, like))
    return out.contiguous(memory_format=LAST[out.ndim]) if last else out


def _map(change: Callable[[Any], Any], value: Any) -> Any:
    return [_map(change, v) for v in value] if isinstance(value, (tuple, list)) else change(value)


def _on_meta(value: Any) -> Any:
    if isinstance(value, torch.device):
        return META
    return value.as_subclass(Tensor) if isinstance(value, Tensor) else value


def _facts(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.stride(), value.dtype
    return type(value), value  # 1, 1.0 and True are different arguments


def _copied(x: Tensor, weight: Tensor, out: Tensor, cpu: bool) -> int:
    """Return the bytes of temporary copies in a convolution.

    Convolutions copy the input if its memory format differs from the weight's. Without channels last, oneDNN (on a
    CPU) reorders input and result into blocks of as many channels as its registers hold. For 16-bit dtypes that oneDNN
    does not support, PyTorch unfolds the input.
    """
    if cpu and x.element_size() == 2 and not _supported_by_onednn(x.dtype):
        return out.numel() // out.shape[1] * weight[0].numel() * x.element_size() * (weight[0, 0].numel() > 1)
    if _channels_last(x):
        return 0
    if _channels_last(weight) or not cpu:
        return x.nbytes * _channels_last(weight)
    block = {"AVX512": 16, "AVX2": 8}.get(torch.backends.cpu.get_cpu_capability(), 4)
    return max(x.nbytes, out.nbytes * math.ceil(out.shape[1] / block) * block // out.shape[1])


def _supported_by_onednn(dtype: torch.dtype) -> bool:
    mkldnn: Any = torch.ops.mkldnn
    return mkldnn._is_mkldnn_fp16_supported() if dtype == torch.float16 else mkldnn._is_mkldnn_bf16_supported()


def _channels_last(x: Tensor) -> bool:
    return x.ndim in LAST and x.is_contiguous(memory_format=LAST[x.ndim]) and not x.is_contiguous()


def tensors_of(*modules: nn.Module | None) -> list[Tensor]:
    """List the parameters and buffers of the modules."""
    return [t for m in modules if m is not None for t in (*m.parameters(), *m.buffers())]


def weight_bytes(*modules: nn.Module | None) -> int:
    """Return the bytes of the modules' parameters and buffers; shared ones count once."""
    return sum(map(_stored, {id(t): t for t in tensors_of(*modules)}.values()))


def _stored(tensor: Tensor) -> int:
    flatten = getattr(tensor, "__tensor_flatten__", None)  # quantised weights consist of several tensors
    return tensor.nbytes if flatten is None else sum(_stored(getattr(tensor, name)) for name in flatten()[0])
