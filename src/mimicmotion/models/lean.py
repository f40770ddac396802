"""The blocks of SVD's U-Net with portions, and with tensors reused and freed as early as possible.

Spatial layers see one frame and run over portions of frames; temporal layers see one place and run over portions of
places, where a GroupNorm over time takes its moments first. Activations may have channels last in memory, in which
case what the layers along time need is a view. Classes take the place of the plain ones (see `lean_layers`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.resnet import SpatioTemporalResBlock
from diffusers.models.transformers.transformer_temporal import (
    TransformerSpatioTemporalModel,
    TransformerTemporalModelOutput,
)
from diffusers.models.unets.unet_3d_blocks import (
    CrossAttnDownBlockSpatioTemporal,
    CrossAttnUpBlockSpatioTemporal,
    DownBlockSpatioTemporal,
    UpBlockSpatioTemporal,
)
from diffusers.models.unets.unet_spatio_temporal_condition import (
    UNetSpatioTemporalConditionModel,
    UNetSpatioTemporalConditionOutput,
)
from jaxtyping import Float
from torch import Tensor

from mimicmotion.models.attention import SelfAttention
from mimicmotion.models.compiled import compiled
from mimicmotion.models.lean_layers import (
    Moments,
    feed_forward,
    in_portions,
    linear_with_residual,
    portions,
    recording,
)
from mimicmotion.models.unet import ConstantAttention

Maps = Float[Tensor, "n channels h w"]
Tokens = Float[Tensor, "n tokens channels"]


# --- residual blocks ------------------------------------------------------------------------------------------------


def spatial_resnet(block: Any, x: Maps, temb: Float[Tensor, "n dim"]) -> Maps:
    """`ResnetBlock2D` of some frames; the result is new memory."""
    h = F.silu(block.norm1(x), inplace=True)
    h = block.conv1(h)
    h += block.time_emb_proj(F.silu(temb))[:, :, None, None]
    h = F.silu(block.norm2(h), inplace=True)
    h = block.conv2(h)
    return h.add_(x if block.conv_shortcut is None else block.conv_shortcut(x))


def temporal_change(block: Any, x: Tensor, temb: Tensor, weight: Tensor) -> Tensor:
    """What `temporal_resnet` adds, for all places at once."""
    h = block.conv1(F.silu(block.norm1(x), inplace=True))
    h += block.time_emb_proj(F.silu(temb)).transpose(1, 2)[..., None]
    return block.conv2(F.silu(block.norm2(h), inplace=True)).mul_(weight)


def temporal_resnet(
    block: Any,
    x: Float[Tensor, "batch channels frames places"],
    temb: Float[Tensor, "batch frames dim"],
    weight: Float[Tensor, "batch 1 frames 1"],
    chunk: int | None,
    compile: bool = False,
) -> None:
    """Add `TemporalResnetBlock`'s change, times `weight`, to `x` in place.

    The blend a*x + (1-a)*(x + change) of `AlphaBlender` is x + (1-a)*change.
    """
    places = x.shape[3]
    if chunk is None or chunk >= places:
        change = compiled(temporal_change, block) if compile else temporal_change
        x += change(block, x, temb, weight)
        return
    bias = block.time_emb_proj(F.silu(temb)).transpose(1, 2)[..., None]
    first, second = Moments(), Moments()
    for part in portions(places, chunk):
        first.add(x[..., part])
    h = torch.empty_like(x)
    for part in portions(places, chunk):
        y = F.silu(block.norm1(x[..., part], moments=first), inplace=True)
        h[..., part] = block.conv1(y).add_(bias)
        second.add(h[..., part])
    for part in portions(places, chunk):
        y = F.silu(block.norm2(h[..., part], moments=second), inplace=True)
        x[..., part] += block.conv2(y).mul_(weight)


def temporal_share(mixer: Any, indicator: Float[Tensor, "batch frames"], like: Tensor) -> Float[Tensor, "n 1 1"]:
    """Weight of the temporal branch of each frame, by the mixer's forward: hooks of offloading must see its call."""
    zeros = like.new_zeros(indicator.numel(), 1, 1)
    return mixer(x_spatial=zeros, x_temporal=torch.ones_like(zeros), image_only_indicator=indicator)


class LeanResBlock(SpatioTemporalResBlock):
    """Residual block; takes its input also in parts that are to be joined along the channels (skip connections)."""

    execution: Any

    def forward(
        self,
        hidden_states: Maps | tuple[Maps, ...],
        temb: Tensor | None = None,
        image_only_indicator: Tensor | None = None,
    ) -> Maps:
        """Compute; the result is new memory."""
        parts = hidden_states if isinstance(hidden_states, (tuple, list)) else (hidden_states,)
        if recording() or temb is None or image_only_indicator is None:
            return super().forward(
                torch.cat(tuple(parts), 1) if len(parts) > 1 else parts[0], temb, image_only_indicator
            )
        batch, frames = image_only_indicator.shape
        resnet = self.spatial_res_block
        run = compiled(spatial_resnet, resnet) if self.execution.compile else spatial_resnet

        def spatial(part: slice) -> Maps:
            x = torch.cat([p[part] for p in parts], 1) if len(parts) > 1 else parts[0][part]
            return run(resnet, x, temb[part])

        x = in_portions(spatial, parts[0].shape[0], self.execution.frame_chunk)
        weight = temporal_share(self.time_mixer, image_only_indicator, x).view(batch, 1, frames, 1)
        # (B F) C H W -> B C F (H W), a view in either memory format
        video = x.unflatten(0, (batch, frames)).flatten(3).transpose(1, 2)
        temporal_resnet(
            self.temporal_res_block,
            video,
            temb.unflatten(0, (batch, frames)),
            weight,
            self.execution.position_chunk,
            self.execution.compile,
        )
        return x


# --- transformers ---------------------------------------------------------------------------------------------------


def self_attention(attn: Any, norm: Any, x: Tokens) -> Tokens:
    """X + attention(norm(x))."""
    processor = attn.processor
    y = norm(x)
    if isinstance(processor, SelfAttention):
        return linear_with_residual(attn.to_out[0], processor.heads(attn, y), x)
    return attn(y).add_(x)


def add_cross_attention(attn: Any, norm: Any, x: Tokens, context: Float[Tensor, "n context dim"]) -> None:
    """Add cross-attention in place; `context` may have one row for many of `x`'s."""
    if attn is None:
        return
    if isinstance(attn.processor, ConstantAttention) and context.shape[1] == 1:
        x.unflatten(0, (context.shape[0], -1)).add_(attn.to_out[0](attn.to_v(context))[:, None])
    else:
        rows = context.repeat_interleave(x.shape[0] // context.shape[0], 0)
        x += attn(norm(x), encoder_hidden_states=rows)


def spatial_tokens(block: Any, x: Tokens, context: Float[Tensor, "n context dim"], chunk: int | None) -> Tokens:
    """`BasicTransformerBlock` of some frames."""
    x = self_attention(block.attn1, block.norm1, x)
    add_cross_attention(block.attn2, block.norm2, x, context)
    return feed_forward(block.ff, block.norm3(x), x, chunk)


def temporal_tokens(block: Any, x: Tokens, context: Float[Tensor, "batch context dim"], chunk: int | None) -> Tokens:
    """`TemporalBasicTransformerBlock` with one sequence of frames for each place: (batch places) frames channels."""
    x = feed_forward(block.ff_in, block.norm_in(x), x if block.is_res else None, chunk)
    x = self_attention(block.attn1, block.norm1, x)
    add_cross_attention(block.attn2, block.norm2, x, context)
    return feed_forward(block.ff, block.norm3(x), x if block.is_res else None, chunk)


class LeanTransformer(TransformerSpatioTemporalModel):
    """Spatial and temporal transformer; three passes: over frames, over places, over frames."""

    execution: Any

    def forward(
        self,
        hidden_states: Maps,
        encoder_hidden_states: Tensor | None = None,
        image_only_indicator: Tensor | None = None,
        return_dict: bool = True,
    ) -> TransformerTemporalModelOutput | tuple[Tensor]:
        """Compute; the result is new memory."""
        if recording() or encoder_hidden_states is None or image_only_indicator is None:
            return super().forward(hidden_states, encoder_hidden_states, image_only_indicator, return_dict)
        x = hidden_states
        batch, frames = image_only_indicator.shape
        contexts = encoder_hidden_states.unflatten(0, (batch, frames))[:, 0]  # the first frame's, as diffusers does
        emb = self._frame_embedding(frames, x)
        hidden: Tensor | None = None
        for number, (block, temporal) in enumerate(
            zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True)
        ):

            def spatial(part: slice, number: int = number, block: Any = block, before: Any = hidden) -> Tokens:
                tokens = self._tokens(x[part]) if number == 0 else before[part]
                run = compiled(spatial_tokens, block) if self.execution.compile else spatial_tokens
                return run(block, tokens, encoder_hidden_states[part], self.execution.feed_forward_chunk)

            hidden = in_portions(spatial, x.shape[0], self.execution.frame_chunk)
            share = temporal_share(self.time_mixer, image_only_indicator, hidden)
            self._add_temporal(temporal, hidden.unflatten(0, (batch, frames)), emb, contexts, share)
        out = self._project(x, hidden)
        return TransformerTemporalModelOutput(sample=out) if return_dict else (out,)

    def _frame_embedding(self, frames: int, like: Tensor) -> Float[Tensor, "frames channels"]:
        steps = self.time_proj(torch.arange(frames, device=like.device)).to(like.dtype)
        return self.time_pos_embed(steps)

    def _tokens(self, x: Maps) -> Tokens:
        # Channels last in memory make this a view.
        return self.proj_in(self.norm(x).permute(0, 2, 3, 1).flatten(1, 2))

    def _add_temporal(
        self,
        block: Any,
        hidden: Float[Tensor, "batch frames places channels"],
        emb: Float[Tensor, "frames channels"],
        contexts: Tensor,
        share: Float[Tensor, "n 1 1"],
    ) -> None:
        """Blend in the temporal block's result, in place."""
        run = compiled(temporal_tokens, block) if self.execution.compile else temporal_tokens
        weight = share.view(hidden.shape[0], hidden.shape[1], 1, 1)
        for part in portions(hidden.shape[2], self.execution.position_chunk):
            old = hidden[:, :, part]
            tokens = (old + emb[:, None]).transpose(1, 2).flatten(0, 1)  # (B places) F C
            new = run(block, tokens, contexts, self.execution.feed_forward_chunk)
            del tokens
            new = new.unflatten(0, (hidden.shape[0], -1)).transpose(1, 2)
            old.lerp_(new, weight.expand_as(new))

    def _project(self, x: Maps, hidden: Tensor | None) -> Maps:
        """proj_out and the residual, into the memory of `hidden`, which is as large."""
        if hidden is None:
            raise RuntimeError("a transformer without blocks")
        n, channels, height, width = x.shape
        if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
            out = hidden.unflatten(1, (height, width)).permute(0, 3, 1, 2)
        else:
            out = hidden.view(n, channels, height, width)
        for part in portions(n, self.execution.frame_chunk):
            y = self.proj_out(hidden[part])
            torch.add(y.unflatten(1, (height, width)).permute(0, 3, 1, 2), x[part], out=out[part])
        return out


# --- blocks and network ---------------------------------------------------------------------------------------------


def resample(layers: Any, x: Maps, chunk: int | None, *args: Any) -> Maps:
    """Up- or downsamplers over portions of frames."""
    for layer in layers or ():
        x = in_portions(lambda part, layer=layer, x=x: layer(x[part], *args), x.shape[0], chunk)
    return x


class LeanDownBlock(DownBlockSpatioTemporal):
    """Residual blocks and a downsampler."""

    execution: Any

    def forward(
        self, hidden_states: Maps, temb: Tensor | None = None, image_only_indicator: Tensor | None = None
    ) -> tuple[Maps, tuple[Maps, ...]]:
        """Compute; also the skip connections."""
        if recording():
            return super().forward(hidden_states, temb, image_only_indicator)
        outputs = []
        for resnet in self.resnets:
            hidden_states = resnet(hidden_states, temb, image_only_indicator=image_only_indicator)
            outputs.append(hidden_states)
        if self.downsamplers is not None:
            hidden_states = resample(self.downsamplers, hidden_states, self.execution.frame_chunk)
            outputs.append(hidden_states)
        return hidden_states, tuple(outputs)


class LeanCrossDownBlock(CrossAttnDownBlockSpatioTemporal):
    """Residual blocks, transformers and a downsampler."""

    execution: Any

    def forward(
        self,
        hidden_states: Maps,
        temb: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        image_only_indicator: Tensor | None = None,
    ) -> tuple[Maps, tuple[Maps, ...]]:
        """Compute; also the skip connections."""
        if recording():
            return super().forward(hidden_states, temb, encoder_hidden_states, image_only_indicator)
        outputs = []
        for resnet, attn in zip(self.resnets, self.attentions, strict=True):
            hidden_states = resnet(hidden_states, temb, image_only_indicator=image_only_indicator)
            hidden_states = attn(hidden_states, encoder_hidden_states, image_only_indicator, return_dict=False)[0]
            outputs.append(hidden_states)
        if self.downsamplers is not None:
            hidden_states = resample(self.downsamplers, hidden_states, self.execution.frame_chunk)
            outputs.append(hidden_states)
        return hidden_states, tuple(outputs)


def take(skips: Any) -> tuple[Maps, Any]:
    """The last skip connection and the rest; a list is emptied, so that nobody keeps the tensor alive."""
    return (skips.pop(), skips) if isinstance(skips, list) else (skips[-1], skips[:-1])


class LeanUpBlock(UpBlockSpatioTemporal):
    """Residual blocks on the joined skip connections, and an upsampler."""

    execution: Any

    def forward(
        self,
        hidden_states: Maps,
        res_hidden_states_tuple: Any,
        temb: Tensor | None = None,
        image_only_indicator: Tensor | None = None,
        upsample_size: int | None = None,
    ) -> Maps:
        """Compute; skip connections given as a list are taken out of it."""
        if recording():
            skips = tuple(res_hidden_states_tuple)
            return super().forward(hidden_states, skips, temb, image_only_indicator, upsample_size)
        for resnet in self.resnets:
            skip, res_hidden_states_tuple = take(res_hidden_states_tuple)
            hidden_states, skip = resnet((hidden_states, skip), temb, image_only_indicator=image_only_indicator), None
        return resample(self.upsamplers, hidden_states, self.execution.frame_chunk, upsample_size)


class LeanCrossUpBlock(CrossAttnUpBlockSpatioTemporal):
    """Residual blocks on the joined skip connections, transformers, and an upsampler."""

    execution: Any

    def forward(
        self,
        hidden_states: Maps,
        res_hidden_states_tuple: Any,
        temb: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        image_only_indicator: Tensor | None = None,
        upsample_size: int | None = None,
    ) -> Maps:
        """Compute; skip connections given as a list are taken out of it."""
        if recording():
            skips = tuple(res_hidden_states_tuple)
            return super().forward(
                hidden_states, skips, temb, encoder_hidden_states, image_only_indicator, upsample_size
            )
        for resnet, attn in zip(self.resnets, self.attentions, strict=True):
            skip, res_hidden_states_tuple = take(res_hidden_states_tuple)
            hidden_states, skip = resnet((hidden_states, skip), temb, image_only_indicator=image_only_indicator), None
            hidden_states = attn(hidden_states, encoder_hidden_states, image_only_indicator, return_dict=False)[0]
        return resample(self.upsamplers, hidden_states, self.execution.frame_chunk, upsample_size)


class LeanUNet(UNetSpatioTemporalConditionModel):
    """The network; hands each skip connection over, so that it is freed as soon as it is used."""

    execution: Any

    def forward(
        self,
        sample: Float[Tensor, "batch frames channels h w"],
        timestep: Tensor | float,
        encoder_hidden_states: Float[Tensor, "batch tokens dim"],
        added_time_ids: Float[Tensor, "batch ids"],
        return_dict: bool = True,
    ) -> UNetSpatioTemporalConditionOutput | tuple[Tensor]:
        """Compute; the arguments are those of diffusers' network."""
        if recording():
            return super().forward(sample, timestep, encoder_hidden_states, added_time_ids, return_dict)
        batch, frames = sample.shape[:2]
        emb = self._embedding(timestep, added_time_ids, sample)
        shared: dict[str, Any] = {
            "temb": emb.repeat_interleave(frames, 0, output_size=batch * frames),
            "image_only_indicator": torch.zeros(batch, frames, dtype=sample.dtype, device=sample.device),
        }
        context = encoder_hidden_states.repeat_interleave(frames, 0, output_size=batch * frames)
        x, chunk = sample.flatten(0, 1), self.execution.frame_chunk
        x = in_portions(lambda part, x=x: self._enter(x[part]), batch * frames, chunk)
        skips: list[Tensor] = [x]
        for block in self.down_blocks:
            x, outputs = block(hidden_states=x, **shared, **_context(block, context))
            skips.extend(outputs)
            del outputs
        x = self.mid_block(hidden_states=x, encoder_hidden_states=context, **shared)
        up_blocks: Any = self.up_blocks
        for block in up_blocks:
            count = len(block.resnets)
            mine = skips[-count:]
            del skips[-count:]
            # What comes next has the size of the next skip connection, also where sizes are odd.
            size = skips[-1].shape[2:] if skips and self._odd(sample) else None
            x = block(
                hidden_states=x, res_hidden_states_tuple=mine, upsample_size=size, **shared, **_context(block, context)
            )
        x = in_portions(lambda part, x=x: self._leave(x[part]), batch * frames, chunk)
        x = x.contiguous().unflatten(0, (batch, frames))
        return UNetSpatioTemporalConditionOutput(sample=x) if return_dict else (x,)

    def _embedding(self, timestep: Any, added_time_ids: Tensor, sample: Tensor) -> Float[Tensor, "batch dim"]:
        batch = sample.shape[0]
        time = torch.as_tensor(timestep, device=sample.device).reshape(-1).expand(batch)
        emb = self.time_embedding(self.time_proj(time).to(sample.dtype))
        ids = self.add_time_proj(added_time_ids.flatten()).reshape(batch, -1)
        return emb + self.add_embedding(ids.to(emb.dtype))

    def _enter(self, x: Maps) -> Maps:
        x = self.conv_in(x)
        return x.contiguous(memory_format=torch.channels_last) if self.execution.channels_last else x

    def _leave(self, x: Maps) -> Maps:
        return self.conv_out(F.silu(self.conv_norm_out(x), inplace=True))

    def _odd(self, sample: Tensor) -> bool:
        return any(s % 2**self.num_upsamplers for s in sample.shape[-2:])


def _context(block: Any, context: Tensor) -> dict[str, Tensor]:
    return {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}


# Saved models name the class that reads them: diffusers' own.
LeanUNet.__name__ = UNetSpatioTemporalConditionModel.__name__
