"""Layers of the U-Net in forms that cost less memory and time than the plain ones and give the same numbers.

Each is a subclass of the plain layer that can take its place (`module.__class__ = ...`), because parameters then keep
their names, and hooks of offloading see the calls that they expect: every parameter is used within its layer's call.
Where gradients are recorded, the plain form is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mimicmotion.models.cpu_kernels import ONEDNN_LINEAR, cpu_kernels_available, on_cpu, plain_on_cpu

Planes = Float[Tensor, "batch channels frames places"]


def recording() -> bool:
    """Whether gradients are recorded: then nothing may be done in place."""
    return torch.is_grad_enabled()


first_portions: ContextVar[bool] = ContextVar("first_portions", default=False)
"""Set while a network runs on shapes to find out its memory: two portions of a loop say what all need."""


def portions(total: int, size: int | None) -> Iterator[slice]:
    """Cut 0..total-1 into slices of `size`; the last one may be shorter. None is one slice."""
    step = size or max(total, 1)
    starts = range(0, total, step)
    for start in starts[:2] if first_portions.get() else starts:
        yield slice(start, min(start + step, total))


# --- linear layers --------------------------------------------------------------------------------------------------


def _fused(x: Tensor, layer: nn.Linear) -> Any:
    """OneDNN's linear layer with an operation fused behind it, or None where it may not take the plain one's place."""
    if torch.compiler.is_compiling() or recording() or type(x) is not Tensor:  # a compiler makes its own
        return None
    if not cpu_kernels_available() or not plain_on_cpu(x, layer.weight):
        return None
    return ONEDNN_LINEAR


class LeanLinear(nn.Linear):
    """A linear layer that adds a residual in the same pass."""

    def forward(
        self, input: Float[Tensor, "... channels"], residual: Float[Tensor, "... out"] | None = None
    ) -> Float[Tensor, "... out"]:
        """Project; `residual` is added and left as it is."""
        fused = _fused(input, self)
        if fused is None:
            out = F.linear(input, self.weight, self.bias)
            if residual is None:
                return out
            return out + residual if recording() else out.add_(residual)
        input = input.contiguous()
        if residual is None:
            return fused(input, self.weight, self.bias, "none", [], "")
        return fused.binary(input, residual.contiguous(), self.weight, self.bias, "add")


class GatedLinear(nn.Linear):
    """The first layer of a GEGLU feed-forward."""

    def forward(self, input: Float[Tensor, "... channels"], gated: bool = False) -> Float[Tensor, "... inner"]:
        """Project; with `gated` the first half of the channels times GELU of the second."""
        if not gated:
            return F.linear(input, self.weight, self.bias)
        fused = _fused(input, self)
        if fused is None:
            value, gate = F.linear(input, self.weight, self.bias).chunk(2, dim=-1)
            # The gate alone is new memory; the product takes its place.
            return F.gelu(gate).mul_(value) if not recording() else value * F.gelu(gate)
        input, half = input.contiguous(), self.out_features // 2
        weight, bias = self.weight, self.bias
        low, high = (None, None) if bias is None else (bias[:half], bias[half:])
        gate = fused(input, weight[half:], high, "gelu", [], "none")
        return fused.binary(input, gate, weight[:half], low, "mul")


def linear_with_residual(layer: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    """`layer(x) + residual` for any kind of linear layer (adapters and quantised ones stay as they are)."""
    if isinstance(layer, LeanLinear):
        return layer(x, residual=residual)
    return layer(x).add_(residual)


def feed_forward(
    ff: Any, x: Float[Tensor, "n tokens channels"], residual: Tensor | None, chunk: int | None
) -> Float[Tensor, "n tokens out"]:
    """A feed-forward in portions of tokens, any remainder included; `residual` is added."""
    first, last = ff.net[0], ff.net[2]
    shape = x.shape[:-1]
    x = x.reshape(-1, x.shape[-1])
    rest = None if residual is None else residual.reshape(-1, residual.shape[-1])

    def run(part: slice) -> Tensor:
        proj = first.proj
        inner = proj(x[part], gated=True) if isinstance(proj, GatedLinear) else first(x[part])
        return last(inner) if rest is None else linear_with_residual(last, inner, rest[part])

    return in_portions(run, x.shape[0], chunk).unflatten(0, shape)


def in_portions(run: Any, total: int, chunk: int | None, out: Tensor | None = None) -> Tensor:
    """Join `run(slice)` over the first axis without holding all parts twice."""
    if chunk is None or chunk >= total:
        return run(slice(0, total))
    for part in portions(total, chunk):
        result = run(part)
        if out is None:
            last = result.ndim == 4 and result.is_contiguous(memory_format=torch.channels_last)
            out = torch.empty(
                (total, *result.shape[1:]),
                dtype=result.dtype,
                device=result.device,
                memory_format=torch.channels_last if last else torch.contiguous_format,
            )
        out[part] = result
        del result
    return out  # type: ignore[return-value]


# --- layers along time ----------------------------------------------------------------------------------------------


class TimeConv(nn.Conv3d):
    """A convolution along time alone (kernel 3 x 1 x 1), also for videos whose places are one axis."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (batch, channels, frames, h, w) or (batch, channels, frames, places).

        The second form is a convolution in two dimensions, for which libraries are far faster; with channels last in
        memory it needs no copy.
        """
        if input.ndim == 5:
            return super().forward(input)
        return F.conv2d(input, self.weight[..., 0], self.bias, padding=(self.kernel_size[0] // 2, 0))


@dataclass(slots=True)
class Moments:
    """Mean and squared deviations of each channel, joined over portions (Chan et al. 1983)."""

    count: int = 0
    mean: Tensor | None = None
    squares: Tensor | None = None

    def add(self, x: Planes) -> None:
        """Take in a portion."""
        x, count = x.float(), x.shape[2] * x.shape[3]
        mean = x.mean((2, 3))
        squares = (x - mean[:, :, None, None]).square_().sum((2, 3))
        if self.mean is None or self.squares is None:
            self.count, self.mean, self.squares = count, mean, squares
            return
        delta, total = mean - self.mean, self.count + count
        self.squares = self.squares + squares + delta.square() * (self.count * count / total)
        self.mean, self.count = self.mean + delta * (count / total), total

    def of_groups(self, groups: int) -> tuple[Float[Tensor, "batch channels"], Float[Tensor, "batch channels"]]:
        """Mean and variance of each channel's group."""
        if self.mean is None or self.squares is None:
            raise RuntimeError("no portion was added")
        means = self.mean.unflatten(1, (groups, -1))
        mean = means.mean(2, keepdim=True)
        within = self.squares.unflatten(1, (groups, -1)).sum(2, keepdim=True)
        between = (means - mean).square().sum(2, keepdim=True) * self.count
        variance = (within + between) / (self.count * means.shape[2])
        return mean.expand_as(means).flatten(1), variance.expand_as(means).flatten(1)


SMALL_MAP = 1024
"""Places below which PyTorch's GroupNorm takes another way through channels-last memory."""


def _slow_norm(x: Tensor, groups: int) -> bool:
    """Whether PyTorch's GroupNorm on a CPU is 2 to 20 times slower than other ways to the same numbers (measured)."""
    if not on_cpu(x) or x.ndim != 4 or torch.compiler.is_compiling():
        return False
    small = x.shape[2] * x.shape[3] < SMALL_MAP and x.is_contiguous(memory_format=torch.channels_last)
    return small and not x.is_contiguous() and (x.dtype != torch.float32 or x.shape[1] // groups < 8)


class LeanNorm(nn.GroupNorm):
    """GroupNorm, also of a portion of the places when the moments of all are known."""

    def forward(self, input: Tensor, moments: Moments | None = None) -> Tensor:
        """Normalise; with `moments` (of the whole video) `input` is a portion."""
        if moments is None:
            if recording() or not _slow_norm(input, self.num_groups):
                return super().forward(input)
            if input.dtype != torch.float32 and not _slow_norm(wide := input.float(), self.num_groups):
                weight, bias = (None if p is None else p.float() for p in (self.weight, self.bias))
                return F.group_norm(wide, self.num_groups, weight, bias, self.eps).to(input.dtype)
            moments = Moments()
            moments.add(input)
        mean, variance = moments.of_groups(self.num_groups)
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        shift = -mean * scale if not self.affine else self.bias - mean * scale
        # In float32: in half precision the difference of two large numbers would be rounded twice.
        out = torch.addcmul(shift[:, :, None, None], input.float(), scale[:, :, None, None])
        return out.to(input.dtype)
