"""Layers shared by the U-Net and the temporal decoder.

Spatial layers take feature maps (frames of all videos, channels, h, w). Temporal layers take videos with the positions
as one axis, (batch, channels, frames, positions), a view of the maps in either memory format. Both can run in chunks; a
temporal GroupNorm then computes its moments first. While gradients are recorded, no layer works in place.
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
    """Apply `run` to chunks of tensors and concatenate the results (without gradients, in a preallocated buffer).

    Args:
        run: function applied to each chunk; its result has the length of the chunk, and it may work in place.
        tensors: inputs of equal length along `dim`, or None; the first is not None.
        chunk: entries per chunk; None means all.
        dim: axis to split.
        out: optional buffer for the results if there are several chunks, such as an input that is no longer needed.
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
    """Return x + y, computed in place in `x` without gradients."""
    return x + y if torch.is_grad_enabled() else x.add_(y)


def silu(x: Tensor) -> Tensor:
    """Apply SiLU, in place without gradients."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def _channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


# --- linear layers --------------------------------------------------------------------------------------------------

# PyTorch multiplies float32 matrices with MKL, which is slower on processors not made by Intel. oneDNN is fast on all
# processors, and its operator (which PyTorch uses in compiled models) can fuse a residual addition.
ONEDNN_LINEAR: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


@functools.cache
def onednn_supports(dtype: torch.dtype) -> bool:
    """Return whether oneDNN's linear layer supports a dtype and is faster on this processor."""
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
        """Apply the layer."""
        if not _fused(self, input):
            return super().forward(input)
        return ONEDNN_LINEAR(input.contiguous(), self.weight, self.bias, "none", [], "")


def linear_add(
    layer: Any, x: Float[Tensor, "... channels"], residual: Float[Tensor, "... out"]
) -> Float[Tensor, "... out"]:
    """Return `layer(x) + residual` as a new tensor, fused if that is faster.

    The layer may be of any class, such as an adapter or a quantised layer.
    """
    if not _fused(layer, x):
        return add(layer(x), residual)
    return ONEDNN_LINEAR.binary(x.contiguous(), residual.contiguous(), layer.weight, layer.bias, "add")


def linear_gated(layer: Any, x: Float[Tensor, "... channels"]) -> Float[Tensor, "... half"]:
    """Apply GEGLU (Shazeer 2020) to `layer(x)`: its first half times GELU of its second half; see `linear_add`."""
    if not _fused(layer, x):
        value, gate = layer(x).chunk(2, dim=-1)
        gate = F.gelu(gate)  # a new tensor, so it may be changed in place
        return value * gate if torch.is_grad_enabled() else gate.mul_(value)
    value, gate = layer.weight.chunk(2)
    low, high = (None, None) if layer.bias is None else layer.bias.chunk(2)
    x = x.contiguous()
    return ONEDNN_LINEAR.binary(x, ONEDNN_LINEAR(x, gate, high, "gelu", [], "none"), value, low, "mul")


def _fused(layer: Any, x: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False  # the compiler fuses by itself
    if not isinstance(layer, Linear) or x.device.type != "cpu" or x.numel() == 0:
        return False
    # quantised and sharded weights are subclasses, which oneDNN does not support; `CpuShape` stands for a plain tensor
    plain = all(type(t) in (Tensor, nn.Parameter, CpuShape) for t in (x, layer.weight))
    return plain and x.dtype == layer.weight.dtype and onednn_supports(x.dtype)


# --- embeddings of numbers ------------------------------------------------------------------------------------------


def sinusoids(values: Real[Tensor, " n"], dim: int) -> Float[Tensor, "n {dim}"]:
    """Embed numbers as sinusoids (Vaswani et al. 2017) in float32: cosines first, frequencies from 1 to 1/10,000."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(dim // 2, device=values.device).float() / (dim // 2))
    angles = values.float()[:, None] * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], 1), (0, dim % 2))


class TimestepEmbedding(nn.Module):
    """Two linear layers applied to a sinusoidal embedding."""

    def __init__(self, channels: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.linear_1 = Linear(channels, hidden)
        self.linear_2 = Linear(hidden, out or hidden)

    def forward(self, x: Float[Tensor, "n channels"]) -> Float[Tensor, "n out"]:
        """Apply the layers."""
        return self.linear_2(F.silu(self.linear_1(x)))


# --- norms and convolutions -----------------------------------------------------------------------------------------


def _wide(x: Tensor) -> Tensor:
    """Convert to at least float32, since half precision would lose digits in differences of large numbers."""
    return x if x.dtype == torch.float64 else x.float()


def _moments(
    x: Float[Tensor, "n channels _a _b"],
) -> tuple[int, Float[Tensor, "n channels"], Float[Tensor, "n channels"]]:
    """Return the number of values per channel, their mean and their variance."""
    x = _wide(x)
    mean = x.mean((2, 3))
    centred = x - mean[:, :, None, None]
    squares = centred.square() if torch.is_grad_enabled() else centred.square_()
    return x.shape[2] * x.shape[3], mean, squares.mean((2, 3))


class GroupNorm(nn.GroupNorm):
    """GroupNorm that can also normalise a chunk of a video, given the moments of the whole video."""

    def forward(
        self, input: Float[Tensor, "n channels _a _b"], moments: tuple[Tensor, Tensor] | None = None
    ) -> Float[Tensor, "n channels _a _b"]:
        """Normalise `input`; with `moments` of the whole video, `input` is a chunk of it."""
        if moments is None:
            if torch.is_grad_enabled() and not input.requires_grad:
                input = input.contiguous()  # with channels last, PyTorch's backward pass crashes the process
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
        """Return the mean and variance of each channel's group over all parts, in at least float32."""
        each = [_moments(x) for x in parts]
        total = sum(count for count, _, _ in each)
        mean = torch.stack([m * (count / total) for count, m, _ in each]).sum(0)
        # variance within the parts and between them
        variance = torch.stack([(v + (m - mean).square()) * (count / total) for count, m, v in each]).sum(0)
        means, variances = (t.unflatten(1, (self.num_groups, -1)) for t in (mean, variance))
        variance = variances.mean(2, keepdim=True) + means.var(2, correction=0, keepdim=True)
        mean = means.mean(2, keepdim=True)
        return mean.expand_as(means).flatten(1), variance.expand_as(means).flatten(1)

    def _slow(self, x: Tensor) -> bool:
        """Return whether PyTorch's kernel is slower than plain arithmetic (by up to 10 times, measured).

        On a CPU, it takes a slow path for channels-last tensors with fewer than 1,024 positions.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu":
            return False
        if x.shape[2] * x.shape[3] >= 1024 or not _channels_last(x) or x.dtype == torch.float64:
            return False
        return x.dtype != torch.float32 or x.shape[1] // self.num_groups < 8


def conv3x3(channels: int, out: int) -> nn.Conv2d:
    """Return a 3x3 convolution that preserves the size."""
    return nn.Conv2d(channels, out, 3, padding=1)


class TemporalConv(nn.Conv3d):
    """A convolution along time, whose weight has the shape of a 3D convolution."""

    def __init__(self, channels: int, out: int, kernel: int = 3) -> None:
        super().__init__(channels, out, (kernel, 1, 1), padding=(kernel // 2, 0, 0))

    def forward(self, input: Video) -> Float[Tensor, "batch out frames positions"]:
        """Apply the layer, as a 2D convolution over (frames, positions), which is far faster.

        With channels last in memory, this needs no copy.
        """
        return F.conv2d(input, self.weight[..., 0], self.bias, padding=(self.kernel_size[0] // 2, 0))


class Upsample(nn.Module):
    """Nearest-neighbour upsampling to twice the size (or to a given size), followed by a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Maps, size: Sequence[int] | None = None) -> Maps:
        """Upsample feature maps."""
        if x.is_cuda and (x.shape[0] >= 64 or 4 * x.numel() > 2**31):
            x = x.contiguous()  # in PyTorch's kernel for channels last, 32-bit indices overflow
        scale = 2.0 if size is None else None
        return self.conv(F.interpolate(x, size=None if size is None else list(size), scale_factor=scale))


class Downsample(nn.Module):
    """A convolution that halves the size.

    Args:
        channels: number of input and output channels.
        padding: padding on all sides; 0 pads right and bottom only, as in the autoencoder.
    """

    def __init__(self, channels: int, padding: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Maps) -> Maps:
        """Downsample feature maps; with padding 1, half of an odd size is rounded up."""
        return self.conv(x if self.conv.padding[0] else F.pad(x, (0, 1, 0, 1)))


# --- residual blocks ------------------------------------------------------------------------------------------------


class ResnetBlock(nn.Module):
    """Residual block on single frames.

    Args:
        channels: number of input channels.
        out: number of output channels.
        time_channels: channels of the time embedding; None for no embedding.
        eps: epsilon of the GroupNorms.
        groups: number of groups in each GroupNorm.
        conv: constructor of the convolutions, called with (channels, out).
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
        """Apply the block; returns a new tensor."""
        h = self.conv1(silu(self.norm1(x)))
        if self.time_emb_proj is not None and time is not None:
            h = add(h, self.time_emb_proj(F.silu(time))[:, :, None, None])
        h = self.conv2(silu(self.norm2(h)))
        return add(h, x if self.conv_shortcut is None else self.conv_shortcut(x))


class TemporalResnetBlock(ResnetBlock):
    """Residual block along time; for the arguments, see `ResnetBlock`."""

    def __init__(self, channels: int, time_channels: int | None, eps: float, groups: int) -> None:
        super().__init__(channels, channels, time_channels, eps, groups, TemporalConv)

    def forward(  # pyrefly: ignore[bad-override]
        self,
        x: Video,
        time: Float[Tensor, "batch frames dim"] | None,
        weight: Float[Tensor, " 1"],
        chunk: int | None = None,
    ) -> Video:
        """Return `x` + `weight` * the block's residual.

        Args:
            x: input; without gradients, it is overwritten by the result.
            time: embedding of the noise level of each frame.
            weight: temporal weight from `TimeMixer`.
            chunk: positions per chunk; None means all.
        """

        def half(norm: GroupNorm, conv: nn.Module, x: Video, base: Video | None = None) -> Video:
            moments = None if chunk is None else norm.moments(x.split(chunk, 3))

            def run(x: Video, base: Video | None) -> Video:
                h = conv(silu(norm(x, moments)))
                if base is None:
                    return h
                in_place = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
                return base.addcmul_(h, weight) if in_place else torch.addcmul(base, h, weight)

            return map_chunks(run, (x, base), chunk, dim=3, out=base)

        h = half(self.norm1, self.conv1, x)
        if self.time_emb_proj is not None and time is not None:
            h = add(h, self.time_emb_proj(F.silu(time)).transpose(1, 2)[..., None])
        return half(self.norm2, self.conv2, h, base=x)


class TimeMixer(nn.Module):
    """Learned mixing weight of a temporal layer.

    Args:
        switched: whether the sigmoid is the temporal weight (in the decoder) instead of the spatial one (in the U-Net).
    """

    def __init__(self, switched: bool = False) -> None:
        super().__init__()
        self.mix_factor = nn.Parameter(torch.tensor([0.0 if switched else 0.5]))
        self.switched = switched

    def forward(self) -> Float[Tensor, " 1"]:
        """Return the temporal weight."""
        return torch.sigmoid(self.mix_factor if self.switched else -self.mix_factor)


class SpatioTemporalResBlock(nn.Module):
    """A spatial residual block followed by a temporal one, whose residual is added with a learned weight.

    Args:
        channels: number of input channels.
        out: number of output channels.
        time_channels: channels of the time embedding; None for no embedding.
        eps: epsilon of the spatial norms.
        temporal_eps: epsilon of the temporal norms; None means `eps`.
        groups: number of groups in each GroupNorm.
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
        """Apply the block; returns a new tensor.

        Args:
            x: feature maps, or several (skip connections), which are concatenated along the channels.
            frames: number of frames per video; n is a multiple of it.
            time: embedding of the noise level of each frame.
            execution: execution options.
        """

        def spatial(*part: Any) -> Tensor:
            *several, time = part
            joined = several[0] if len(several) == 1 else torch.cat(several, 1)
            return execution.run(self.spatial_res_block, joined, time)

        maps = map_chunks(spatial, (*([x] if isinstance(x, Tensor) else x), time), execution.frame_chunk)
        return self.temporal(maps, frames, time, execution)

    def temporal(self, maps: Maps, frames: int, time: Float[Tensor, "n dim"] | None, execution: Execution) -> Maps:
        """Apply the temporal block, in place in `maps` without gradients."""
        # (B F) C H W -> B C F (H W), a view in either memory format
        video = maps.unflatten(0, (-1, frames)).flatten(3).transpose(1, 2)
        time = None if time is None else time.unflatten(0, (-1, frames))
        block, weight, chunk = self.temporal_res_block, self.time_mixer().to(maps.dtype), execution.position_chunk
        if chunk is None or chunk >= video.shape[3]:
            video = execution.run(block, video, time, weight)
        else:
            video = block(video, time, weight, chunk)
        # B C F (H W) -> (B F) C H W, the same view back
        return video.transpose(1, 2).flatten(0, 1).unflatten(2, maps.shape[2:])
