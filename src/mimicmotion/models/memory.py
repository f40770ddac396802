"""How much memory a computation takes, found without doing it: the networks run on shapes alone.

A network without data ("meta" tensors) is run as the real one would be, and the bytes of every tensor are followed
from where it is made to where it is freed. So the peak belongs to the code that runs, chunks and all, and needs no
formula of its own. Attention counts as the kernels compute it that keep no matrix of scores.

Not in it: the device's context and libraries, workspaces that convolutions and matrix products ask for, and what the
allocator loses to fragments. `mimicmotion.planning` leaves room for these.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mimicmotion.models.attention import ROW_BYTES
from mimicmotion.models.layers import ONEDNN_LINEAR

_LINEAR_AND_MORE: Any = getattr(ONEDNN_LINEAR, "binary", None)
_NORM = torch.ops.aten.group_norm.default
_COPYING = {
    _NORM,
    torch.ops.aten.convolution.default,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv2d.padding,
    torch.ops.aten.conv3d.default,
}
_Recipe = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]


class LiveBytes(TorchDispatchMode):
    """Follows the bytes of all storages that operations make, until they are freed.

    On meta tensors the shapes of an operation are worked out once and then remembered: loops over chunks cost little.

    Args:
        resident: tensors that were there before and are counted elsewhere (parameters).
        labels: called at each new peak for a word on where it is; for finding out what holds memory.

    Attributes:
        now: bytes alive.
        peak: the most so far.
    """

    def __init__(self, resident: Iterable[Tensor] = (), labels: Callable[[], Any] | None = None) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self.labels, self.label = labels, None
        self._live: dict[int, int] = {t.untyped_storage()._cdata: 0 for t in resident}
        self._known: dict[Any, _Recipe | list[_Recipe]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, or make an empty result of the shape it had the last time; count what it made."""
        out = self._run(func, args, kwargs or {})
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, Tensor):
                self._count(t)
        return out

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is _LINEAR_AND_MORE and args[0].is_meta:  # PyTorch knows no shapes for it
            return args[0].new_empty(*args[0].shape[:-1], args[2].shape[0])
        if func._schema.name.endswith("_") and args and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]  # written in place, and there is nothing to write
        if func._schema.is_mutable or any(r.alias_info is not None for r in func._schema.returns):
            return func(*args, **kwargs)  # views and in-place work make no storage and are cheap
        try:
            key = (func, _key(args), _key(tuple(kwargs.items())))
            found = self._known.get(key)
        except TypeError:  # something that cannot be a key
            return func(*args, **kwargs)
        if found is None:
            out = func(*args, **kwargs)
            recipe = _recipe(out)
            if recipe is not None:
                self._known[key] = recipe
            return out
        return [_empty(r) for r in found] if isinstance(found, list) else _empty(found)

    def _count(self, t: Tensor) -> None:
        storage = t.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return
        size = storage.nbytes()
        self._live[key] = size
        self.now += size
        weakref.finalize(storage, self._free, key)
        self._reach(self.now)

    def _reach(self, size: int) -> None:
        if size > self.peak:
            self.peak = size
            if self.labels is not None:
                self.label = self.labels()

    def _free(self, key: int) -> None:
        self.now -= self._live.pop(key, 0)

    def biggest(self, count: int = 12) -> list[int]:
        """Bytes of the largest tensors alive now."""
        return sorted(self._live.values(), reverse=True)[:count]


def _copied(func: Any, x: Tensor, weight: Any, out: Tensor) -> int:
    """Bytes of the copies that an operation makes for itself on a CPU, gone when it is done.

    oneDNN's convolutions put input and result into an order of their own. With channels last there is none of the
    result, nor of an input that has them last. A norm wants its input in one piece.
    """
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim, torch.contiguous_format)
    if _is_last(x, last):
        return 0
    if func is _NORM:
        return 0 if x.is_contiguous() else _stored(x)
    return _stored(x) if _is_last(weight, last) else max(_stored(x), _stored(out))


def _is_last(x: Tensor, layout: torch.memory_format) -> bool:
    return x.is_contiguous(memory_format=layout) and not x.is_contiguous()


def _key(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.stride(), value.dtype, value.device.type)
    if isinstance(value, (tuple, list)):
        return tuple(_key(v) for v in value)
    return type(value), value  # 1, 1.0 and True are different arguments


def _recipe(out: Any) -> _Recipe | list[_Recipe] | None:
    """Shape, strides and dtype of each result; None where results are no fresh meta tensors."""
    if isinstance(out, Tensor):
        fresh = out.device.type == "meta" and type(out) is Tensor
        return (tuple(out.shape), out.stride(), out.dtype) if fresh else None
    if isinstance(out, (tuple, list)) and out:
        parts = [_recipe(t) for t in out]
        return None if None in parts else parts  # type: ignore[return-value]
    return None


def _empty(recipe: Any) -> Tensor:
    return torch.empty_strided(recipe[0], recipe[1], dtype=recipe[2], device="meta")


class LeanAttention(TorchFunctionMode):
    """Takes the place of `scaled_dot_product_attention`, with the memory of a kernel that keeps no scores.

    Args:
        scores: count the matrix of scores and its softmax, as the plain kernel ("math") keeps them.
        rows: count what `mimicmotion.models.attention.rows_attention` makes: a scaled copy of the queries, and the
            scores of some of them.
    """

    def __init__(self, scores: bool = False, rows: bool = False) -> None:
        super().__init__()
        self.scores, self.rows = scores, rows

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Stand in for attention; everything else runs."""
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        query, key, value = given["query"], given["key"], given["value"]
        shape = (*query.shape[:-1], key.shape[-2] if self.scores else 1)
        scores = torch.empty(shape, device=query.device, dtype=query.dtype if self.scores else torch.float32)
        weights = torch.empty_like(scores) if self.scores else scores
        scaled = torch.empty_like(query) if self.rows else scores
        some = query.new_empty(2 * ROW_BYTES // query.element_size()) if self.rows else scores
        # Kernels write (batch, tokens, heads, dim), which the caller's transpose makes contiguous without a copy.
        out = query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]).transpose(1, 2)
        del scores, weights, scaled, some
        return out


@contextmanager
def follow(resident: Iterable[Tensor] = (), *, scores: bool = False, rows: bool = False) -> Iterator[LiveBytes]:
    """Count the bytes that a `with` block makes; afterwards `peak` of what it was given says the most.

    Args:
        resident: tensors that are counted elsewhere.
        scores: see `LeanAttention`; for meta tensors only. Real tensors keep their own kernel.
        rows: see there.
    """
    live = LiveBytes(resident)
    with torch.inference_mode(), live, LeanAttention(scores, rows):
        yield live


def tensors_of(*modules: nn.Module | None) -> list[Tensor]:
    """Parameters and buffers."""
    return [t for m in modules if m is not None for t in (*m.parameters(), *m.buffers())]


def weight_bytes(*modules: nn.Module | None) -> int:
    """Bytes of parameters and buffers, those that are shared counted once."""
    seen = {t.untyped_storage()._cdata if t.device.type != "meta" else id(t): t for t in tensors_of(*modules)}
    return sum(_stored(t) for t in seen.values())


def _stored(tensor: Tensor) -> int:
    flatten = getattr(tensor, "__tensor_flatten__", None)  # quantised weights name the tensors they are made of
    if flatten is None:
        return tensor.numel() * tensor.element_size()
    return sum(_stored(getattr(tensor, name)) for name in flatten()[0])


def meta_twin(module: Any) -> Any:
    """A network of the same config, dtype, kernels and mode without data, fresh: without hooks or adapters."""
    from mimicmotion.models.checkpoint import build_part

    twin = build_part(module)
    dtype = next(module.parameters()).dtype
    nn.Module.to(twin, device="meta", dtype=dtype)
    return twin.eval()
