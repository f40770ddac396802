"""Layers that the U-Net and the temporal decoder share.

Layers that look at one frame take maps (frames of all videos, channels, h, w); those along time take videos whose
positions are one axis, (batch, channels, frames, positions), a view of the maps in either memory format. Both run over
chunks, where a GroupNorm along time takes its moments first. Nothing is done in place where gradients are recorded.
"""

from __future__ import annotations

import functools
import math
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Real
from torch import Tensor, nn

from mimicmotion.backbones.svd.execution.memory import CpuShape
from mimicmotion.backbones.svd.execution.options import Execution

Maps = Float[Tensor, "n _channels _h _w"]
Video = Float[Tensor, "batch channels frames positions"]


# --- chunks ---------------------------------------------------------------------------------------------------------


def chunks(total: int, size: int | None) -> Iterator[slice]:
    """Cut 0..total-1 into slices of `size`; the last one may be shorter. None is one slice."""
    step = size or max(total, 1)
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))


def map_chunks(run: Callable[[slice], Tensor], total: int, chunk: int | None, dim: int = 0) -> Tensor:
    """Join `run(slice)` along an axis, without holding all results twice where no gradients are recorded.

    Args:
        run: computes a slice of the axis of `total` entries.
        total: entries of all slices together.
        chunk: entries of one slice; None is all.
        dim: the axis.
    """
    if chunk is None or chunk >= total:
        return run(slice(0, total))
    if torch.is_grad_enabled():
        return torch.cat([run(part) for part in chunks(total, chunk)], dim)
    out: Tensor | None = None
    for part in chunks(total, chunk):
        result = run(part)
        if out is None:
            shape = list(result.shape)
            shape[dim] = total
            last = result.ndim == 4 and _channels_last(result)
            layout = torch.channels_last if last else torch.contiguous_format
            out = torch.empty(shape, dtype=result.dtype, device=result.device, memory_format=layout)
        out.narrow(dim, part.start, part.stop - part.start).copy_(result)
        del result
    assert out is not None
    return out


def add(x: Tensor, y: Tensor) -> Tensor:
    """X + y, in x's memory where no gradients are recorded: x must be the caller's own."""
    return x + y if torch.is_grad_enabled() else x.add_(y)


def silu(x: Tensor) -> Tensor:
    """SiLU, in x's memory where no gradients are recorded."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def _channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


# --- linear layers --------------------------------------------------------------------------------------------------

# PyTorch multiplies float32 matrices by MKL, which on processors of another maker than Intel's takes a slower path.
# oneDNN is fast on all, and its operator (PyTorch's own for compiled models) does a little more in the same pass.
ONEDNN_LINEAR: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


@functools.cache
def onednn_takes(dtype: torch.dtype) -> bool:
    """Whether this PyTorch has oneDNN's linear layer for a number format, on a processor for which it is the faster."""
    if ONEDNN_LINEAR is None or not torch.backends.mkldnn.is_available():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


class Linear(nn.Linear):
    """A linear layer that adds a residual or applies a gate in the same pass where that is faster: on CPUs."""

    def forward(
        self, input: Float[Tensor, "... channels"], residual: Float[Tensor, "... out"] | None = None
    ) -> Float[Tensor, "... out"]:
        """Project; `residual` is added and left as it is."""
        if not self._fused(input):
            out = F.linear(input, self.weight, self.bias)
            return out if residual is None else add(out, residual)
        input = input.contiguous()
        if residual is None:
            return ONEDNN_LINEAR(input, self.weight, self.bias, "none", [], "")
        return ONEDNN_LINEAR.binary(input, residual.contiguous(), self.weight, self.bias, "add")

    def gated(self, input: Float[Tensor, "... channels"]) -> Float[Tensor, "... half"]:
        """Project; the first half of the result times GELU of the second (GEGLU, Shazeer 2020)."""
        if not self._fused(input):
            return _gate(F.linear(input, self.weight, self.bias))
        input, half = input.contiguous(), self.out_features // 2
        low, high = (None, None) if self.bias is None else (self.bias[:half], self.bias[half:])
        gate = ONEDNN_LINEAR(input, self.weight[half:], high, "gelu", [], "none")
        return ONEDNN_LINEAR.binary(input, gate, self.weight[:half], low, "mul")

    def _fused(self, x: Tensor) -> bool:
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return False  # a compiler makes its own
        if x.device.type != "cpu" or x.numel() == 0 or x.dtype != self.weight.dtype or not onednn_takes(x.dtype):
            return False
        # Quantised and sharded weights are subclasses; `CpuShape` stands for a plain one.
        return all(type(t) in (Tensor, nn.Parameter, CpuShape) for t in (x, self.weight))


def _gate(x: Float[Tensor, "... twice"]) -> Float[Tensor, "... half"]:
    value, gate = x.chunk(2, dim=-1)
    gate = F.gelu(gate)  # new memory, unlike the halves
    return value * gate if torch.is_grad_enabled() else gate.mul_(value)


def linear_add(layer: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    """`layer(x) + residual` for any kind of linear layer (adapters and quantised layers have classes of their own)."""
    return layer(x, residual=residual) if isinstance(layer, Linear) else add(layer(x), residual)


def linear_gated(layer: nn.Module, x: Tensor) -> Tensor:
    """GEGLU of any kind of linear layer."""
    return layer.gated(x) if isinstance(layer, Linear) else _gate(layer(x))


# --- embeddings of numbers ------------------------------------------------------------------------------------------


def sinusoids(values: Real[Tensor, " n"], dim: int) -> Float[Tensor, "n {dim}"]:
    """Cosines, then sines, of numbers times frequencies from 1 down to 1/10,000 (Vaswani et al. 2017), in float32."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(dim // 2, device=values.device).float() / (dim // 2))
    angles = values.float()[:, None] * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], 1), (0, dim % 2))


class TimestepEmbedding(nn.Module):
    """Two linear layers on sinusoids."""

    def __init__(self, channels: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.linear_1 = Linear(channels, hidden)
        self.linear_2 = Linear(hidden, out or hidden)

    def forward(self, x: Float[Tensor, "n channels"]) -> Float[Tensor, "n out"]:
        """Embed."""
        return self.linear_2(F.silu(self.linear_1(x)))


# --- norms and convolutions -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Number, mean and sum of squared deviations of each channel's values."""

    count: int
    mean: Float[Tensor, "batch channels"]
    squares: Float[Tensor, "batch channels"]

    @staticmethod
    def of(x: Float[Tensor, "batch channels _a _b"]) -> Moments:
        """Those of a tensor, in float32 at least."""
        x = _wide(x)
        mean = x.mean((2, 3))
        apart = x - mean[:, :, None, None]
        squares = apart.square() if torch.is_grad_enabled() else apart.square_()
        return Moments(x.shape[2] * x.shape[3], mean, squares.sum((2, 3)))

    def join(self, other: Moments) -> Moments:
        """Those of both together (Chan et al. 1983)."""
        count = self.count + other.count
        delta = other.mean - self.mean
        squares = self.squares + other.squares + delta.square() * (self.count * other.count / count)
        return Moments(count, self.mean + delta * (other.count / count), squares)

    def of_groups(self, groups: int) -> tuple[Float[Tensor, "batch channels"], Float[Tensor, "batch channels"]]:
        """Mean and variance of each channel's group."""
        means = self.mean.unflatten(1, (groups, -1))
        mean = means.mean(2, keepdim=True)
        within = self.squares.unflatten(1, (groups, -1)).sum(2, keepdim=True)
        between = (means - mean).square().sum(2, keepdim=True) * self.count
        variance = (within + between) / (self.count * means.shape[2])
        return mean.expand_as(means).flatten(1), variance.expand_as(means).flatten(1)


def _wide(x: Tensor) -> Tensor:
    """In half precision the difference of two large numbers would be rounded twice."""
    return x if x.dtype == torch.float64 else x.float()


class GroupNorm(nn.GroupNorm):
    """GroupNorm, also of a chunk of the positions when the moments of all are known."""

    def forward(self, input: Float[Tensor, "n channels _a _b"], moments: Moments | None = None) -> Tensor:
        """Normalise; with `moments` (of the whole video) `input` is a chunk."""
        if moments is None:
            if torch.is_grad_enabled() and not input.requires_grad:
                input = input.contiguous()  # with channels last PyTorch's backward pass crashes the process
            if not self._slow(input):
                return super().forward(input)
            if input.dtype != torch.float32 and not self._slow(wide := input.float()):
                return F.group_norm(wide, self.num_groups, self.weight.float(), self.bias.float(), self.eps).to(
                    input.dtype
                )
            moments = Moments.of(input)
        mean, variance = moments.of_groups(self.num_groups)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, :, None, None], _wide(input), scale[:, :, None, None]).to(input.dtype)

    def _slow(self, x: Tensor) -> bool:
        """Whether PyTorch's kernel is 2 to 20 times slower than other ways to the same numbers (measured).

        So it is on a CPU for channels-last memory of fewer than 1,024 positions, where it takes another way.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu":
            return False
        if x.shape[2] * x.shape[3] >= 1024 or not _channels_last(x) or x.dtype == torch.float64:
            return False
        return x.dtype != torch.float32 or x.shape[1] // self.num_groups < 8


class TemporalConv(nn.Conv3d):
    """A convolution along time alone; its weight keeps the shape of one over (frames, h, w)."""

    def __init__(self, channels: int, out: int, kernel: int = 3) -> None:
        super().__init__(channels, out, (kernel, 1, 1), padding=(kernel // 2, 0, 0))

    def forward(self, input: Video) -> Float[Tensor, "batch out frames positions"]:
        """Convolve as in two dimensions, (frames, positions), for which libraries are far faster.

        With channels last in memory it needs no copy.
        """
        return F.conv2d(input, self.weight[..., 0], self.bias, padding=(self.kernel_size[0] // 2, 0))


class Upsample(nn.Module):
    """Nearest neighbour to twice the size (or a given one) and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Maps, size: Sequence[int] | None = None) -> Maps:
        """Enlarge."""
        if x.is_cuda and (x.shape[0] >= 64 or 4 * x.numel() > 2**31):
            x = x.contiguous()  # PyTorch's kernel for channels last counts in too few bits
        scale = 2.0 if size is None else None
        return self.conv(F.interpolate(x, size=None if size is None else list(size), scale_factor=scale))


class Downsample(nn.Module):
    """A convolution to half the size.

    Args:
        channels: in and out.
        padding: on all sides; 0 pads right and below alone, as the encoder of an autoencoder does.
    """

    def __init__(self, channels: int, padding: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Maps) -> Maps:
        """Shrink; odd sizes are rounded up with padding 1."""
        return self.conv(x if self.conv.padding[0] else F.pad(x, (0, 1, 0, 1)))


# --- residual blocks ------------------------------------------------------------------------------------------------


class ResnetBlock(nn.Module):
    """Residual block of single frames.

    Args:
        channels: of the input.
        out: channels of the result.
        time_channels: of the time embedding; None has none.
        eps: of the norms.
        groups: of the norms.
    """

    def __init__(
        self, channels: int, out: int, time_channels: int | None = None, eps: float = 1e-6, groups: int = 32
    ) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, channels, eps=eps)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.time_emb_proj = None if time_channels is None else Linear(time_channels, out)
        self.norm2 = GroupNorm(groups, out, eps=eps)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels, out, 1) if channels != out else None

    def forward(
        self, x: Float[Tensor, "n channels h w"], time: Float[Tensor, "n dim"] | None = None
    ) -> Float[Tensor, "n out h w"]:
        """Compute; the result is new memory."""
        h = self.conv1(silu(self.norm1(x)))
        if self.time_emb_proj is not None and time is not None:
            h = add(h, self.time_emb_proj(F.silu(time))[:, :, None, None])
        h = self.conv2(silu(self.norm2(h)))
        return add(h, x if self.conv_shortcut is None else self.conv_shortcut(x))


class TemporalResnetBlock(nn.Module):
    """Residual block along time; arguments as for `ResnetBlock`. Its forward is what the block adds to its input."""

    def __init__(self, channels: int, time_channels: int | None = None, eps: float = 1e-6, groups: int = 32) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, channels, eps=eps)
        self.conv1 = TemporalConv(channels, channels)
        self.time_emb_proj = None if time_channels is None else Linear(time_channels, channels)
        self.norm2 = GroupNorm(groups, channels, eps=eps)
        self.conv2 = TemporalConv(channels, channels)

    def forward(self, x: Video, time: Float[Tensor, "batch frames dim"] | None = None) -> Video:
        """The change, for all positions at once."""
        return self.second(self.first(x, self.time_bias(time)))

    def time_bias(
        self, time: Float[Tensor, "batch frames dim"] | None
    ) -> Float[Tensor, "batch channels frames 1"] | None:
        """What the time embedding adds between the two halves."""
        if self.time_emb_proj is None or time is None:
            return None
        return self.time_emb_proj(F.silu(time)).transpose(1, 2)[..., None]

    def first(self, x: Video, bias: Tensor | None, moments: Moments | None = None) -> Video:
        """The first half of the layers; with `moments` (of the whole video) `x` is a chunk of positions."""
        h = self.conv1(silu(self.norm1(x, moments)))
        return h if bias is None else add(h, bias)

    def second(self, h: Video, moments: Moments | None = None) -> Video:
        """The second half."""
        return self.conv2(silu(self.norm2(h, moments)))


class TimeMixer(nn.Module):
    """A learned share of what a temporal layer changes.

    Args:
        factor: at the start; the share is a sigmoid of it.
        switched: the sigmoid is the share of time (in the decoder) and not that of space (in the U-Net).
    """

    def __init__(self, factor: float = 0.5, switched: bool = False) -> None:
        super().__init__()
        self.mix_factor = nn.Parameter(torch.tensor([factor]))
        self.switched = switched

    def forward(self) -> Float[Tensor, " 1"]:
        """The share of time."""
        return torch.sigmoid(self.mix_factor if self.switched else -self.mix_factor)


class SpatioTemporalResBlock(nn.Module):
    """A residual block of frames, then one along time, whose change is mixed in.

    Args:
        channels: of the input.
        out: channels of the result.
        time_channels: of the time embedding; None has none.
        eps: of the spatial norms.
        temporal_eps: of the temporal ones; None is the same.
        groups: of all norms.
        mix_factor: see `TimeMixer`.
        switched: see `TimeMixer`.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        time_channels: int | None = None,
        *,
        eps: float = 1e-6,
        temporal_eps: float | None = None,
        groups: int = 32,
        mix_factor: float = 0.5,
        switched: bool = False,
    ) -> None:
        super().__init__()
        self.spatial_res_block = ResnetBlock(channels, out, time_channels, eps, groups)
        self.temporal_res_block = TemporalResnetBlock(
            out, time_channels, eps if temporal_eps is None else temporal_eps, groups
        )
        self.time_mixer = TimeMixer(mix_factor, switched)

    def forward(
        self,
        x: Maps | Sequence[Maps],
        frames: int,
        time: Float[Tensor, "n dim"] | None = None,
        execution: Execution = Execution(),  # noqa: B008 - frozen
    ) -> Maps:
        """Compute; the result is new memory.

        Args:
            x: maps, or several that are joined along the channels (skip connections), chunk by chunk.
            frames: of each video; n is a multiple of it.
            time: embedding of the noise level of each frame.
            execution: chunks, and whether to compile.
        """
        parts = (x,) if isinstance(x, Tensor) else tuple(x)
        total = parts[0].shape[0]

        def spatial(part: slice) -> Tensor:
            joined = parts[0][part] if len(parts) == 1 else torch.cat([p[part] for p in parts], 1)
            return execution.run(self.spatial_res_block, joined, None if time is None else time[part])

        return self.temporal(map_chunks(spatial, total, execution.frame_chunk), frames, time, execution)

    def temporal(
        self,
        maps: Maps,
        frames: int,
        time: Float[Tensor, "n dim"] | None = None,
        execution: Execution = Execution(),  # noqa: B008 - frozen
    ) -> Maps:
        """The half along time; takes the memory of `maps` where no gradients are recorded."""
        # (B F) C H W -> B C F (H W), a view in either memory format
        video = maps.unflatten(0, (-1, frames)).flatten(3).transpose(1, 2)
        video = self._add_temporal(video, None if time is None else time.unflatten(0, (-1, frames)), execution)
        # B C F (H W) -> (B F) C H W, the same view back
        return video.transpose(1, 2).flatten(0, 1).unflatten(2, maps.shape[2:])

    def _add_temporal(self, x: Video, time: Tensor | None, execution: Execution) -> Video:
        """X + share * change; in the memory of x where no gradients are recorded."""
        block, share = self.temporal_res_block, self.time_mixer().to(x.dtype)
        positions, chunk = x.shape[3], execution.position_chunk
        if chunk is None or chunk >= positions:
            return _add_scaled(x, execution.run(block, x, time), share)
        before = functools.reduce(Moments.join, (Moments.of(x[..., part]) for part in chunks(positions, chunk)))
        bias, found = block.time_bias(time), []

        def first(part: slice) -> Tensor:
            h = block.first(x[..., part], bias, before)
            found.append(Moments.of(h))
            return h

        hidden = map_chunks(first, positions, chunk, dim=3)
        between = functools.reduce(Moments.join, found)
        if torch.is_grad_enabled():
            change = map_chunks(lambda part: block.second(hidden[..., part], between), positions, chunk, dim=3)
            return _add_scaled(x, change, share)
        for part in chunks(positions, chunk):
            _add_scaled(x[..., part], block.second(hidden[..., part], between), share)
        return x


def _add_scaled(x: Tensor, change: Tensor, share: Float[Tensor, " 1"]) -> Tensor:
    """X + change * share, in x's memory where no gradients are recorded."""
    return torch.addcmul(x, change, share) if torch.is_grad_enabled() else x.addcmul_(change, share)
