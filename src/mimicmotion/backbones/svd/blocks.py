"""The blocks of SVD's U-Net (Blattmann et al., arXiv 2311.15127).

Every spatial layer is followed by a temporal one, whose result is mixed in with a learned weight. Spatial transformers
attend over the positions of a frame, temporal ones over the frames at a position. In shapes, n is the number of frames
in a batch of videos.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
    linear_add,
    linear_gated,
    map_chunks,
    sinusoids,
)

Tokens = Float[Tensor, "rows tokens channels"]


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """Inputs shared by all blocks of a forward pass.

    Attributes:
        frames: number of frames per video.
        time: embedding of noise level and micro-conditioning, for each frame.
        context: cross-attention context of each video.
        execution: execution options.
        kernel: attention kernel; see `attend`.
    """

    frames: int
    time: Float[Tensor, "n dim"]
    context: Float[Tensor, "batch tokens channels"]
    execution: Execution
    kernel: str


# --- transformers ---------------------------------------------------------------------------------------------------


class FeedForward(nn.Module):
    """Feed-forward layer with GEGLU and four times the width inside, computed in chunks of tokens."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first = nn.ModuleDict({"proj": Linear(channels, 8 * channels)})
        self.net = nn.ModuleList([first, nn.Identity(), Linear(4 * channels, channels)])

    def forward(self, x: Tokens, residual: Tokens, chunk: int | None = None) -> Tokens:
        """Return `residual` plus the layer's output for `x`, as a new tensor."""
        first: nn.Module = self.net[0]["proj"]  # type: ignore[index]

        def run(x: Float[Tensor, "n channels"], residual: Float[Tensor, "n channels"]) -> Float[Tensor, "n channels"]:
            return linear_add(self.net[2], linear_gated(first, x), residual)

        return map_chunks(run, (x.flatten(0, 1), residual.flatten(0, 1)), chunk).unflatten(0, x.shape[:2])


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward. A temporal block begins with another feed-forward.

    Args:
        channels: channels of the tokens.
        heads: number of attention heads.
        context_dim: channels of the context.
        temporal: whether it is a temporal block.
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
        self, x: Tokens, context: Float[Tensor, "few context dim"], kernel: str = "sdpa", chunk: int | None = None
    ) -> Tokens:
        """Apply the block; returns a new tensor.

        Args:
            x: sequences of tokens.
            context: cross-attention contexts, each shared by `rows / few` consecutive sequences.
            kernel: kernel of self-attention.
            chunk: tokens per chunk in feed-forwards; None means all.
        """
        if self.norm_in is not None and self.ff_in is not None:
            x = self.ff_in(self.norm_in(x), x, chunk)
        x = self.attn1(self.norm1(x), x, kernel)
        if context.shape[1] == 1:
            # With one context token, softmax is 1, so the result depends neither on the tokens nor on queries and keys.
            change = self.attn2.to_out[0](self.attn2.to_v(context))[:, None]
            x = add(x.unflatten(0, (len(context), -1)), change).flatten(0, 1)  # few rows/few tokens channels
        else:
            x = self.attn2(self.norm2(x), x, context=context.repeat_interleave(len(x) // len(context), 0))
        return self.ff(self.norm3(x), x, chunk)


class SpatioTemporalTransformer(nn.Module):
    """Transformer blocks over the positions of a frame, each followed by one over the frames of a position.

    Args:
        channels: channels of the feature maps.
        heads: number of attention heads.
        depth: number of pairs of blocks.
        context_dim: channels of the context.
        groups: number of groups in the GroupNorm.
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
        """Apply the blocks; returns a new tensor."""
        execution, frames, height = shared.execution, shared.frames, x.shape[2]
        context, weight = shared.context.repeat_interleave(frames, 0), self.time_mixer().to(x.dtype)
        embedding = self.time_pos_embed(sinusoids(torch.arange(frames, device=x.device), x.shape[1]).to(x.dtype))

        def run(block: nn.Module, tokens: Tokens, context: Tensor) -> Tokens:
            return execution.block(block, tokens, context, shared.kernel, execution.feed_forward_chunk)

        def enter(x: Maps) -> Tokens:  # n c h w -> n (h w) c, a view with channels last in memory
            return self.proj_in(self.norm(x).permute(0, 2, 3, 1).flatten(1, 2))

        def mix(block: nn.Module, old: Float[Tensor, "batch frames positions channels"]) -> Tensor:
            # -> (batch positions) frames channels
            tokens = (old + embedding[:, None]).transpose(1, 2).flatten(0, 1)
            new = run(block, tokens, shared.context).unflatten(0, (len(old), -1)).transpose(1, 2)
            # under autocast, the two may differ in dtype
            return old + weight * (new - old) if torch.is_grad_enabled() else old.lerp_(new.to(old.dtype), weight)

        def leave(tokens: Tokens, x: Maps) -> Maps:  # n (h w) c -> n c h w
            return x + self.proj_out(tokens).unflatten(1, (height, -1)).permute(0, 3, 1, 2)

        hidden = map_chunks(enter, [x], execution.frame_chunk)
        for block, temporal in zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True):
            spatial = functools.partial(run, block)
            hidden = map_chunks(spatial, (hidden, context), execution.frame_chunk, out=hidden)
            hidden = hidden.unflatten(0, (-1, frames))  # batch frames positions channels
            over_time = functools.partial(mix, temporal)
            hidden = map_chunks(over_time, [hidden], execution.position_chunk, dim=2, out=hidden).flatten(0, 1)
        return map_chunks(leave, (hidden, x), execution.frame_chunk, out=hidden.as_strided(x.shape, x.stride()))


# --- blocks ---------------------------------------------------------------------------------------------------------


class Level(nn.Module):
    """A level of the U-Net: residual blocks, each optionally followed by a transformer, and a resampling layer.

    Args:
        kind: "down" pushes each result to the skip connections, "up" pops one per residual block, "mid" does neither.
        resnets: residual blocks.
        attentions: transformers; the i-th follows the i-th residual block.
        downsamplers: at most one downsampling layer.
        upsamplers: at most one upsampling layer.
    """

    def __init__(
        self,
        kind: Literal["down", "mid", "up"],
        resnets: Sequence[SpatioTemporalResBlock],
        attentions: Sequence[SpatioTemporalTransformer],
        downsamplers: Sequence[Downsample] = (),
        upsamplers: Sequence[Upsample] = (),
    ) -> None:
        super().__init__()
        self.kind = kind
        self.attentions, self.resnets = nn.ModuleList(attentions), nn.ModuleList(resnets)
        self.downsamplers, self.upsamplers = nn.ModuleList(downsamplers), nn.ModuleList(upsamplers)

    def forward(self, x: Maps, shared: Shared, skips: list[Maps]) -> Maps:
        """Apply the level.

        Args:
            x: output of the previous level.
            shared: inputs shared by all levels.
            skips: stack of skip connections: "down" levels push their outputs, "up" levels pop them.
        """
        execution = shared.execution
        for i, resnet in enumerate(self.resnets):
            x = execution.checkpointed(
                resnet, (x, skips.pop()) if self.kind == "up" else x, shared.frames, shared.time, execution
            )
            if i < len(self.attentions):
                x = execution.checkpointed(self.attentions[i], x, shared, nested=True)
            if self.kind == "down":
                skips.append(x)
        for layer in self.downsamplers:
            x = map_chunks(layer, [x], execution.frame_chunk)
            skips.append(x)
        for layer in self.upsamplers:
            size = skips[-1].shape[2:]  # twice the size, or one less if it was odd
            x = map_chunks(lambda part, layer=layer, size=size: layer(part, size), [x], execution.frame_chunk)
        return x
