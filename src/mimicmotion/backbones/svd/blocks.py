"""The blocks of SVD's U-Net (Blattmann et al., arXiv 2311.15127).

Every layer along space has one along time behind it, whose result is mixed in by a learned share. In shapes n counts
the frames of all videos of a batch; a transformer's sequences are positions of a frame, or frames of a position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mimicmotion.backbones.svd.attention import Attention
from mimicmotion.backbones.svd.execution.options import Execution
from mimicmotion.backbones.svd.layers import (
    Downsample,
    GroupNorm,
    Linear,
    Maps,
    SpatioTemporalResBlock,
    TimeMixer,
    TimestepEmbedding,
    Upsample,
    add,
    chunks,
    linear_add,
    linear_gated,
    map_chunks,
    sinusoids,
)

Tokens = Float[Tensor, "rows tokens channels"]


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """What all blocks of one forward see.

    Attributes:
        frames: of each video.
        time: embedding of noise level and micro-conditioning, for each frame.
        context: of each video, for cross-attention.
        execution: how to compute.
        kernel: of attention, see `attend`.
    """

    frames: int
    time: Float[Tensor, "n dim"]
    context: Float[Tensor, "batch tokens channels"]
    execution: Execution
    kernel: str


# --- transformers ---------------------------------------------------------------------------------------------------


class GEGLU(nn.Module):
    """Holds the first layer of a feed-forward under its usual name."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = Linear(channels, 2 * inner)

    def forward(self, x: Float[Tensor, "... channels"]) -> Float[Tensor, "... inner"]:
        """Project and gate."""
        return linear_gated(self.proj, x)


class FeedForward(nn.Module):
    """Two layers, four times as wide between them, over chunks of tokens."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([GEGLU(channels, 4 * channels), nn.Identity(), Linear(4 * channels, channels)])

    def forward(self, x: Tokens, residual: Tokens, chunk: int | None = None) -> Tokens:
        """Residual + result, in new memory."""
        flat, rest = x.flatten(0, 1), residual.flatten(0, 1)  # (rows tokens) channels
        out = map_chunks(lambda p: linear_add(self.net[2], self.net[0](flat[p]), rest[p]), len(flat), chunk)
        return out.unflatten(0, x.shape[:2])


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward; with one feed-forward more in front where it looks along time.

    Args:
        channels: of the tokens.
        heads: of both attentions.
        context_dim: channels of the context.
        temporal: whether it has the feed-forward in front.
    """

    def __init__(self, channels: int, heads: int, context_dim: int, temporal: bool = False) -> None:
        super().__init__()
        self.temporal = temporal
        self.norm_in = nn.LayerNorm(channels) if temporal else None
        self.ff_in = FeedForward(channels) if temporal else None
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, heads, context_dim)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(
        self,
        x: Tokens,
        context: Float[Tensor, "few context dim"],
        kernel: str = "sdpa",
        chunk: int | None = None,
    ) -> Tokens:
        """Compute; the result is new memory.

        Args:
            x: sequences.
            context: one for `rows / few` sequences each, in order.
            kernel: of self-attention.
            chunk: tokens at once in feed-forwards.
        """
        if self.norm_in is not None and self.ff_in is not None:
            x = self.ff_in(self.norm_in(x), x, chunk)
        x = self.attn1(self.norm1(x), x, kernel)
        x = self._add_context(x, context)
        return self.ff(self.norm3(x), x, chunk)

    def _add_context(self, x: Tokens, context: Float[Tensor, "few context dim"]) -> Tokens:
        if context.shape[1] == 1:
            # Softmax over one value is 1: every token gets the same. (few rows/few) tokens channels
            change = self.attn2.of_one(context)[:, None]
            return add(x.unflatten(0, (len(context), -1)), change).flatten(0, 1)
        rows = context.repeat_interleave(len(x) // len(context), 0)
        return self.attn2(self.norm2(x), x, context=rows)


class SpatioTemporalTransformer(nn.Module):
    """Transformer blocks over the positions of a frame, each followed by one over the frames of a position.

    Args:
        channels: of the maps.
        heads: of all attentions.
        depth: number of pairs of blocks.
        context_dim: channels of the context.
        groups: of the norm.
    """

    def __init__(self, channels: int, heads: int, depth: int, context_dim: int, groups: int = 32) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(channels, heads, context_dim) for _ in range(depth))
        self.temporal_transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, heads, context_dim, temporal=True) for _ in range(depth)
        )
        self.time_pos_embed = TimestepEmbedding(channels, 4 * channels, channels)
        self.time_mixer = TimeMixer()
        self.proj_out = Linear(channels, channels)

    def forward(self, x: Maps, shared: Shared) -> Maps:
        """Compute, in three passes a pair: over frames, over positions, over frames; the result is new memory."""
        execution = shared.execution
        context = shared.context.repeat_interleave(shared.frames, 0)
        places = self.time_pos_embed(sinusoids(torch.arange(shared.frames, device=x.device), x.shape[1]).to(x.dtype))
        hidden: Tensor | None = None
        for block, temporal in zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True):

            def spatial(part: slice, block: nn.Module = block, before: Tensor | None = hidden) -> Tensor:
                tokens = self._tokens(x[part]) if before is None else before[part]
                return execution.block(block, tokens, context[part], shared.kernel, execution.feed_forward_chunk)

            hidden = map_chunks(spatial, x.shape[0], execution.frame_chunk)
            hidden = self._mix_temporal(temporal, hidden, places, shared)
        assert hidden is not None
        return self._project(hidden, x, execution.frame_chunk)

    def _tokens(self, x: Float[Tensor, "n channels h w"]) -> Tokens:
        # n c h w -> n (h w) c, a view with channels last in memory
        return self.proj_in(self.norm(x).permute(0, 2, 3, 1).flatten(1, 2))

    def _mix_temporal(
        self, block: nn.Module, hidden: Tokens, places: Float[Tensor, "frames channels"], shared: Shared
    ) -> Tokens:
        """Blend in the temporal block's result; in the memory of `hidden` where no gradients are recorded."""
        execution, share = shared.execution, self.time_mixer().to(hidden.dtype)
        video = hidden.unflatten(0, (-1, shared.frames))  # batch frames positions channels

        def mixed(part: slice) -> Tensor:
            old = video[:, :, part]
            # -> (batch positions) frames channels
            tokens = (old + places[:, None]).transpose(1, 2).flatten(0, 1)
            new = execution.block(block, tokens, shared.context, shared.kernel, execution.feed_forward_chunk)
            new = new.unflatten(0, (len(video), -1)).transpose(1, 2)
            # Under autocast the two may differ in number format.
            return old + share * (new - old) if torch.is_grad_enabled() else old.lerp_(new.to(old.dtype), share)

        if torch.is_grad_enabled():
            return map_chunks(mixed, video.shape[2], execution.position_chunk, dim=2).flatten(0, 1)
        for part in chunks(video.shape[2], execution.position_chunk):
            mixed(part)
        return hidden

    def _project(self, hidden: Tokens, x: Float[Tensor, "n channels h w"], chunk: int | None) -> Maps:
        """X + proj_out(hidden); in the memory of `hidden` where no gradients are recorded."""
        n, channels, height, width = x.shape

        def change(part: slice) -> Tensor:  # n (h w) c -> n c h w
            return self.proj_out(hidden[part]).unflatten(1, (height, width)).permute(0, 3, 1, 2)

        if torch.is_grad_enabled():
            return x + map_chunks(change, n, chunk)
        if x.is_contiguous():
            out = hidden.view(n, channels, height, width)
        else:  # channels last, like the tokens
            out = hidden.unflatten(1, (height, width)).permute(0, 3, 1, 2)
        for part in chunks(n, chunk):
            torch.add(change(part), x[part], out=out[part])
        return out


# --- blocks ---------------------------------------------------------------------------------------------------------


class Level(nn.Module):
    """Residual blocks, each with a transformer behind it where the level has them.

    Args:
        widths: channels that go into each residual block; as many blocks.
        channels: of the result.
        time_channels: of the time embedding.
        eps: of the residual blocks' norms.
        groups: of all norms.
        heads: of the transformers.
        depths: blocks of each transformer; None has no transformers.
        context_dim: channels of their context.
    """

    def __init__(
        self,
        widths: Sequence[int],
        channels: int,
        *,
        time_channels: int,
        eps: float,
        groups: int,
        heads: int,
        depths: Sequence[int] | None,
        context_dim: int,
    ) -> None:
        super().__init__()
        resnets, attentions = [], []
        for i, width in enumerate(widths):
            resnets.append(SpatioTemporalResBlock(width, channels, time_channels, eps=eps, groups=groups))
            if depths is not None and i < len(depths):
                attentions.append(SpatioTemporalTransformer(channels, heads, depths[i], context_dim, groups))
        self.attentions = nn.ModuleList(attentions) if attentions else None
        self.resnets = nn.ModuleList(resnets)

    def residual(self, index: int, x: Maps | Sequence[Maps], shared: Shared) -> Maps:
        """Run a residual block."""
        execution = shared.execution
        return execution.checkpointed(self.resnets[index], x, shared.frames, shared.time, execution)

    def attend(self, index: int, x: Maps, shared: Shared) -> Maps:
        """Run a transformer, where there is one."""
        if self.attentions is None:
            return x
        return shared.execution.checkpointed(self.attentions[index], x, shared, nested=True)


class DownBlock(Level):
    """A level on the way down; arguments as for `Level`, and whether half the size follows."""

    def __init__(self, widths: Sequence[int], channels: int, *, downsample: bool, **options: Any) -> None:
        super().__init__(widths, channels, **options)
        self.downsamplers = nn.ModuleList([Downsample(channels)]) if downsample else None

    def forward(self, x: Maps, shared: Shared) -> list[Maps]:
        """The skip connections, of which the last is the result."""
        skips = []
        for i in range(len(self.resnets)):
            x = self.residual(i, x, shared)
            x = self.attend(i, x, shared)
            skips.append(x)
        for layer in self.downsamplers or ():
            x = map_chunks(lambda part, layer=layer, x=x: layer(x[part]), x.shape[0], shared.execution.frame_chunk)
            skips.append(x)
        return skips


class MidBlock(Level):
    """The lowest level: a residual block, a transformer, a residual block."""

    def forward(self, x: Maps, shared: Shared) -> Maps:
        """Compute."""
        x = self.residual(0, x, shared)
        x = self.attend(0, x, shared)
        return self.residual(1, x, shared)


class UpBlock(Level):
    """A level on the way up; arguments as for `Level`, and whether twice the size follows."""

    def __init__(self, widths: Sequence[int], channels: int, *, upsample: bool, **options: Any) -> None:
        super().__init__(widths, channels, **options)
        self.upsamplers = nn.ModuleList([Upsample(channels)]) if upsample else None

    def forward(self, x: Maps, skips: list[Maps], shared: Shared, size: Sequence[int] | None = None) -> Maps:
        """Compute.

        Args:
            x: from below.
            skips: connections, the last one first; taken out of the list, so that they are freed when used.
            shared: what all blocks see.
            size: height and width of the result where it grows; sizes that do not halve evenly need it.
        """
        for i in range(len(self.resnets)):
            x = self.residual(i, (x, skips.pop()), shared)
            x = self.attend(i, x, shared)
        for layer in self.upsamplers or ():
            x = map_chunks(
                lambda part, layer=layer, x=x: layer(x[part], size), x.shape[0], shared.execution.frame_chunk
            )
        return x
