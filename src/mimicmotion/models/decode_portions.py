"""SVD's decoder in portions: the same frames in a fraction of the memory.

The decoder sees several frames at once because it looks along time, and holds whole activations of all of them at full
size: 9 GiB for 8 frames of 576x1024 in float16. But a layer looks either at one frame or at one place over time, so
each can run over a few frames or a few rows. Only the norms over time need everything: their statistics are gathered
first. What remains is two activations of all frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mimicmotion.models.layers import chunks as portions

Frames = Float[Tensor, "frames channels h w"]
Layer = Callable[[Frames], Frames]


def decode_in_portions(
    decoder: Any, z: Float[Tensor, "frames latent h w"], portion: int
) -> Float[Tensor, "frames 3 height width"]:
    """Decode the frames of one clip as `decoder(z, num_frames=len(z))` does, `portion` frames at a time.

    The same sums in another order: differs by rounding (some 1e-6 in float32).

    Args:
        decoder: diffusers' TemporalDecoder.
        z: latents, divided by the scaling factor.
        portion: frames at once in layers that look at one frame; others take as many values at once.
    """
    single = torch.zeros(1, len(z), dtype=z.dtype, device=z.device)  # no frame is a picture of its own
    mid = decoder.mid_block
    clip = _Clip(z, portion, single)
    clip.later(decoder.conv_in)
    clip.block(mid.resnets[0])
    for attention, resnet in zip(mid.attentions, mid.resnets[1:], strict=False):  # as diffusers pairs them
        clip.later(attention)
        clip.block(resnet)
    clip.later(lambda x: x.to(next(decoder.up_blocks.parameters()).dtype))
    for up in decoder.up_blocks:
        for resnet in up.resnets:
            clip.block(resnet)
        for upsampler in up.upsamplers or ():
            clip.later(upsampler)
    for layer in (decoder.conv_norm_out, decoder.conv_act, decoder.conv_out):
        clip.later(layer)
    # 3 channels are left: (F 3 H W) -> (1 3 F H W) and back
    return decoder.time_conv_out(clip.now().transpose(0, 1)[None])[0].transpose(0, 1)


class _Clip:
    """Frames, and the layers for single frames that are still to be run on them (then in portions, one after another).

    So what an upsampler makes is never held for all frames.
    """

    def __init__(self, x: Frames, portion: int, single: Tensor) -> None:
        self.x, self.portion, self.single = x, portion, single
        self.layers: list[Layer] = []

    def later(self, layer: Layer) -> None:
        self.layers.append(layer)

    def now(self) -> Frames:
        out: Tensor | None = None
        for place in portions(len(self.x), self.portion):
            part = self.x[place]
            for layer in self.layers:
                part = layer(part)
            if out is None:
                if self.portion >= len(self.x):
                    out = part
                    break
                out = part.new_empty(len(self.x), *part.shape[1:])
            out[place] = part
        if out is None:
            raise ValueError("no frames")
        self.layers, self.x = [], out
        return out

    def block(self, block: Any) -> None:
        """A SpatioTemporalResBlock."""
        self.later(lambda x: block.spatial_res_block(x, None))
        x = self.now()
        height, rows = x.shape[2], max(1, x.shape[2] * self.portion // len(x))
        temporal_in_place(block, x, self.single, list(portions(height, rows)))


def temporal_in_place(block: Any, x: Frames, single: Tensor, parts: list[slice]) -> None:
    """Second half of a SpatioTemporalResBlock (along time, then mixed with what came in), written over `x`.

    Args:
        block: the block; without a time embedding.
        x: result of its spatial half.
        single: zeros, (1, frames).
        parts: rows of the frames that are taken at once.
    """
    layers = block.temporal_res_block
    clip = x.transpose(0, 1)[None]  # (F C H W) -> (1 C F H W), a view
    first = _normed(layers.norm1, layers.nonlinearity, clip, parts)
    hidden = torch.empty_like(x)
    hidden_clip = hidden.transpose(0, 1)[None]
    for rows, part in zip(parts, first, strict=True):
        hidden_clip[..., rows, :] = layers.conv1(part)
    second = _normed(layers.norm2, layers.nonlinearity, hidden_clip, parts)
    for rows, part in zip(parts, second, strict=True):
        before = clip[..., rows, :]
        shortcut = before if layers.conv_shortcut is None else layers.conv_shortcut(before)
        after = shortcut + layers.conv2(part)
        clip[..., rows, :] = block.time_mixer(x_spatial=before, x_temporal=after, image_only_indicator=single)


def _normed(norm: nn.GroupNorm, act: Layer, clip: Tensor, parts: list[slice]) -> Iterator[Tensor]:
    """Parts of `act(norm(clip))`, with the statistics of the whole clip."""
    mean, variance = _moments([clip[..., rows, :] for rows in parts], norm.num_groups)
    scale = (variance + norm.eps).rsqrt().repeat_interleave(clip.shape[1] // norm.num_groups)
    shift = -mean.repeat_interleave(clip.shape[1] // norm.num_groups) * scale
    if norm.affine:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    scale, shift = scale.view(1, -1, 1, 1, 1), shift.view(1, -1, 1, 1, 1)
    for rows in parts:
        # as the plain norm: statistics and product in float32, the result in the format of the network
        yield act(torch.addcmul(shift, _wide(clip[..., rows, :]), scale).to(clip.dtype))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _moments(parts: list[Tensor], groups: int) -> tuple[Float[Tensor, " groups"], Float[Tensor, " groups"]]:
    """Mean and variance of each group of channels over all parts, (1, C, F, h, W) each."""
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for part in parts:
        values = _wide(part).reshape(groups, -1)
        variance, middle = torch.var_mean(values, dim=1, correction=0)
        size = values.shape[1]
        del values
        if not count:
            count, mean, squares = size, middle, variance * size
            continue
        # joining two sets (Chan et al. 1979): no difference of large sums
        apart = middle - mean
        squares = squares + variance * size + apart**2 * (count * size / (count + size))
        mean = mean + apart * (size / (count + size))
        count += size
    return mean, squares / count
