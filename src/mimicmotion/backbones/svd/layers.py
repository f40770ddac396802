"""Layers shared by the U-Net and the temporal decoder.

Spatial layers take maps (frames of all videos, channels, h, w). Temporal layers take videos with positions as one axis,
(batch, channels, frames, positions), a view of the maps in either memory format. Both can run in chunks; a temporal
GroupNorm then computes its moments first. Nothing is done in place while gradients are recorded.
"""

from __future__ import annotations

import functools
import math
import platform
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
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


def map_chunks(
    run: Callable[..., Tensor],
    tensors: Sequence[Tensor | None],
    chunk: int | None,
    dim: int = 0,
    out: Tensor | None = None,
) -> Tensor:
    """Concatenate `run(*parts)` of chunks, without holding all results twice if no gradients are recorded.

    Args:
        run: computes a chunk of the length of its inputs, and may return their memory.
        tensors: inputs of equal length along `dim`, the first not None.
        chunk: entries per chunk; None is all.
        dim: axis to split.
        out: optional buffer for the results of several chunks, such as an input that is no longer needed.
    """
    assert tensors[0] is not None
    total = tensors[0].shape[dim]
    if chunk is None or chunk >= total:
        return run(*tensors)
    parts = zip(*(repeat(None) if t is None else t.split(chunk, dim) for t in tensors), strict=False)
    if torch.is_grad_enabled():
        return torch.cat([run(*part) for part in parts], dim)
    start = 0
    for part in parts:
        result = run(*part)
        if out is None:
            shape = list(result.shape)
            shape[dim] = total
            layout = torch.channels_last if _channels_last(result) else torch.contiguous_format
            out = torch.empty(shape, dtype=result.dtype, device=result.device, memory_format=layout)
        out.narrow(dim, start, result.shape[dim]).copy_(result)
        start += result.shape[dim]
        del result
    assert out is not None
    return out


def add(x: Tensor, y: Tensor) -> Tensor:
    """X + y, in place in `x` if no gradients are recorded; nobody else may use `x`."""
    return x + y if torch.is_grad_enabled() else x.add_(y)


def silu(x: Tensor) -> Tensor:
    """SiLU, in place in `x` if no gradients are recorded."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def _channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


# --- linear layers --------------------------------------------------------------------------------------------------

# PyTorch multiplies float32 matrices with MKL, which takes a slower path on processors that are not Intel's. oneDNN is
# fast on all of them, and its operator (the one PyTorch uses for compiled models) can fuse a residual addition.
ONEDNN_LINEAR: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


@functools.cache
def onednn_takes(dtype: torch.dtype) -> bool:
    """Whether oneDNN's linear layer is available for a number format and faster on this processor."""
    if ONEDNN_LINEAR is None or not torch.backends.mkldnn.is_available():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


class Linear(nn.Linear):
    """A linear layer, computed by oneDNN if that is faster."""

    def forward(self, input: Float[Tensor, "... channels"]) -> Float[Tensor, "... out"]:
        """Project."""
        if not _fused(self, input):
            return super().forward(input)
        return ONEDNN_LINEAR(input.contiguous(), self.weight, self.bias, "none", [], "")


def linear_add(
    layer: Any, x: Float[Tensor, "... channels"], residual: Float[Tensor, "... out"]
) -> Float[Tensor, "... out"]:
    """`layer(x) + residual`, fused if that is faster. The result is a new tensor.

    The layer may have any class, as adapters and quantised layers do.
    """
    if not _fused(layer, x):
        return add(layer(x), residual)
    return ONEDNN_LINEAR.binary(x.contiguous(), residual.contiguous(), layer.weight, layer.bias, "add")


def linear_gated(layer: Any, x: Float[Tensor, "... channels"]) -> Float[Tensor, "... half"]:
    """The first half of `layer(x)` times GELU of the second (GEGLU, Shazeer 2020); any kind of layer."""
    if not _fused(layer, x):
        value, gate = layer(x).chunk(2, dim=-1)
        gate = F.gelu(gate)  # new memory, unlike the halves
        return value * gate if torch.is_grad_enabled() else gate.mul_(value)
    value, gate = layer.weight.chunk(2)
    low, high = (None, None) if layer.bias is None else layer.bias.chunk(2)
    x = x.contiguous()
    return ONEDNN_LINEAR.binary(x, ONEDNN_LINEAR(x, gate, high, "gelu", [], "none"), value, low, "mul")


def _fused(layer: Any, x: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False  # a compiler makes its own
    if not isinstance(layer, Linear) or x.device.type != "cpu" or x.numel() == 0:
        return False
    # Quantised and sharded weights are subclasses; `CpuShape` stands for a plain one.
    plain = all(type(t) in (Tensor, nn.Parameter, CpuShape) for t in (x, layer.weight))
    return plain and x.dtype == layer.weight.dtype and onednn_takes(x.dtype)


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


def _wide(x: Tensor) -> Tensor:
    """In half precision the difference of two large numbers would be rounded twice."""
    return x if x.dtype == torch.float64 else x.float()


def _moments(
    x: Float[Tensor, "n channels _a _b"],
) -> tuple[int, Float[Tensor, "n channels"], Float[Tensor, "n channels"]]:
    """Number, mean and variance of each channel's values."""
    x = _wide(x)
    mean = x.mean((2, 3))
    apart = x - mean[:, :, None, None]
    squares = apart.square() if torch.is_grad_enabled() else apart.square_()
    return x.shape[2] * x.shape[3], mean, squares.mean((2, 3))


class GroupNorm(nn.GroupNorm):
    """GroupNorm, also of a chunk of a video when the moments of the whole are known."""

    def forward(
        self, input: Float[Tensor, "n channels _a _b"], moments: tuple[Tensor, Tensor] | None = None
    ) -> Float[Tensor, "n channels _a _b"]:
        """Normalise; with `moments` (of the whole video) `input` is a chunk."""
        if moments is None:
            if torch.is_grad_enabled() and not input.requires_grad:
                input = input.contiguous()  # with channels last PyTorch's backward pass crashes the process
            if not self._slow(input):
                return super().forward(input)
            moments = self.moments([input])
        mean, variance = moments
        scale = torch.rsqrt(variance + self.eps) * self.weight
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, :, None, None], _wide(input), scale[:, :, None, None]).to(input.dtype)

    def moments(
        self, parts: Iterable[Float[Tensor, "n channels _a _b"]]
    ) -> tuple[Float[Tensor, "n channels"], Float[Tensor, "n channels"]]:
        """Mean and variance of each channel's group over all parts, in float32 at least."""
        found = [_moments(x) for x in parts]
        total = sum(count for count, _, _ in found)
        mean = torch.stack([m * (count / total) for count, m, _ in found]).sum(0)
        each = [(v + (m - mean).square()) * (count / total) for count, m, v in found]  # within and between
        variance = torch.stack(each).sum(0)
        means, variances = (t.unflatten(1, (self.num_groups, -1)) for t in (mean, variance))
        variance = variances.mean(2, keepdim=True) + means.var(2, correction=0, keepdim=True)
        mean = means.mean(2, keepdim=True)
        return mean.expand_as(means).flatten(1), variance.expand_as(means).flatten(1)

    def _slow(self, x: Tensor) -> bool:
        """Whether PyTorch's kernel is up to 10 times slower than plain arithmetic (measured).

        This happens on a CPU for channels-last memory with fewer than 1,024 positions, where it takes another path.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu":
            return False
        if x.shape[2] * x.shape[3] >= 1024 or not _channels_last(x) or x.dtype == torch.float64:
            return False
        return x.dtype != torch.float32 or x.shape[1] // self.num_groups < 8


def conv3x3(channels: int, out: int) -> nn.Conv2d:
    """A convolution that keeps the size."""
    return nn.Conv2d(channels, out, 3, padding=1)


class TemporalConv(nn.Conv3d):
    """A convolution along time alone; its weight keeps the shape of one over (frames, h, w)."""

    def __init__(self, channels: int, out: int, kernel: int = 3) -> None:
        super().__init__(channels, out, (kernel, 1, 1), padding=(kernel // 2, 0, 0))

    def forward(self, input: Video) -> Float[Tensor, "batch out frames positions"]:
        """Compute it as a 2D convolution over (frames, positions), for which libraries are far faster.

        With channels last in memory it needs no copy.
        """
        return F.conv2d(input, self.weight[..., 0], self.bias, padding=(self.kernel_size[0] // 2, 0))


class Upsample(nn.Module):
    """Nearest neighbour to twice the size (or a given one) and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels)

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
        conv: makes a convolution that keeps the size.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        time_channels: int | None = None,
        eps: float = 1e-6,
        groups: int = 32,
        conv: Callable[[int, int], nn.Module] = conv3x3,
    ) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, channels, eps=eps)
        self.conv1 = conv(channels, out)
        self.time_emb_proj = None if time_channels is None else Linear(time_channels, out)
        self.norm2 = GroupNorm(groups, out, eps=eps)
        self.conv2 = conv(out, out)
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


class TemporalResnetBlock(ResnetBlock):
    """Residual block along time; arguments as for `ResnetBlock`."""

    def __init__(self, channels: int, time_channels: int | None, eps: float, groups: int) -> None:
        super().__init__(channels, channels, time_channels, eps, groups, TemporalConv)

    def forward(  # pyrefly: ignore[bad-override]
        self,
        x: Video,
        time: Float[Tensor, "batch frames dim"] | None,
        share: Float[Tensor, " 1"],
        chunk: int | None = None,
    ) -> Video:
        """X + share * change.

        Args:
            x: the result takes its memory where no gradients are recorded.
            time: embedding of the noise level of each frame.
            share: of `TimeMixer`.
            chunk: positions at once; None is all.
        """

        def half(norm: GroupNorm, conv: nn.Module, x: Video, base: Video | None = None) -> Video:
            moments = None if chunk is None else norm.moments(x.split(chunk, 3))

            def run(x: Video, base: Video | None) -> Video:
                h = conv(silu(norm(x, moments)))
                if base is None:
                    return h
                own = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
                return base.addcmul_(h, share) if own else torch.addcmul(base, h, share)

            return map_chunks(run, (x, base), chunk, dim=3, out=base)

        h = half(self.norm1, self.conv1, x)
        if self.time_emb_proj is not None and time is not None:
            h = add(h, self.time_emb_proj(F.silu(time)).transpose(1, 2)[..., None])
        return half(self.norm2, self.conv2, h, base=x)


class TimeMixer(nn.Module):
    """Learned mixing weight of a temporal layer.

    Args:
        switched: the sigmoid is the temporal weight (in the decoder), not the spatial one (in the U-Net).
    """

    def __init__(self, switched: bool = False) -> None:
        super().__init__()
        self.mix_factor = nn.Parameter(torch.tensor([0.0 if switched else 0.5]))
        self.switched = switched

    def forward(self) -> Float[Tensor, " 1"]:
        """The temporal weight."""
        return torch.sigmoid(self.mix_factor if self.switched else -self.mix_factor)


class SpatioTemporalResBlock(nn.Module):
    """A spatial residual block followed by a temporal one, whose change is mixed in.

    Args:
        channels: of the input.
        out: channels of the result.
        time_channels: of the time embedding; None has none.
        eps: of the spatial norms.
        temporal_eps: of the temporal ones; None is the same.
        groups: of all norms.
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
        switched: bool = False,
    ) -> None:
        super().__init__()
        self.spatial_res_block = ResnetBlock(channels, out, time_channels, eps, groups)
        self.temporal_res_block = TemporalResnetBlock(out, time_channels, temporal_eps or eps, groups)
        self.time_mixer = TimeMixer(switched)

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

        def spatial(*part: Any) -> Tensor:
            *several, time = part
            joined = several[0] if len(several) == 1 else torch.cat(several, 1)
            return execution.run(self.spatial_res_block, joined, time)

        maps = map_chunks(spatial, (*([x] if isinstance(x, Tensor) else x), time), execution.frame_chunk)
        return self.temporal(maps, frames, time, execution)

    def temporal(self, maps: Maps, frames: int, time: Float[Tensor, "n dim"] | None, execution: Execution) -> Maps:
        """The half along time; takes the memory of `maps` where no gradients are recorded."""
        # (B F) C H W -> B C F (H W), a view in either memory format
        video = maps.unflatten(0, (-1, frames)).flatten(3).transpose(1, 2)
        time = None if time is None else time.unflatten(0, (-1, frames))
        block, share, chunk = self.temporal_res_block, self.time_mixer().to(maps.dtype), execution.position_chunk
        if chunk is None or chunk >= video.shape[3]:
            video = execution.run(block, video, time, share)
        else:
            video = block(video, time, share, chunk)
        # B C F (H W) -> (B F) C H W, the same view back
        return video.transpose(1, 2).flatten(0, 1).unflatten(2, maps.shape[2:])
