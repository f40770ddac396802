"""SVD's U-Net with a pose input, built on diffusers without a fork, and its constant cross-attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from torch import Tensor, nn

from mimicmotion.errors import ConfigError, InputError


class PoseConvIn(nn.Conv2d):
    """Drop-in for `unet.conv_in`: convolve the latents, then add pose features.

    The features ride behind the latents on the channel axis, so the U-Net's own forward stays as it is and the
    parameters keep their names. Without pose channels this is the plain convolution: the unconditional pass of the
    published model uses no pose at all (which is not the same as a black pose map).
    """

    def forward(self, input: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n out height width"]:
        """Apply to `[latents | pose features]` or to latents alone."""
        extra = input.shape[1] - self.in_channels
        if extra == 0:
            return super().forward(input)
        if extra != self.out_channels:  # a single extra channel would otherwise broadcast silently
            raise InputError(
                f"U-Net input with {input.shape[1]} channels",
                f"{self.in_channels} latent channels, alone or followed by {self.out_channels} pose features",
                "build the input with mimicmotion.models.unet.with_pose",
            )
        return super().forward(input[:, : self.in_channels]) + input[:, self.in_channels :]


def with_pose(
    latents: Float[Tensor, "batch frames channels h w"], pose: Float[Tensor, "batch frames features h w"] | None
) -> Float[Tensor, "batch frames channels_and_features h w"]:
    """Put PoseNet's features behind the latents for the U-Net; None leaves the latents as they are.

    A pose batch of 1 is repeated over the batch of the latents.
    """
    if pose is None:
        return latents
    pose = pose.to(latents.dtype).expand(latents.shape[0], -1, -1, -1, -1)
    return torch.cat([latents, pose], dim=2)


def build_unet(
    config: Mapping[str, Any],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> UNetSpatioTemporalConditionModel:
    """Build SVD's U-Net with random weights and the pose input in place of `conv_in`.

    Args:
        config: the `config.json` of a diffusers `UNetSpatioTemporalConditionModel`; one key more is understood,
            `norm_num_groups` of all GroupNorms (diffusers has 32, fixed).
        device: "meta" builds the shapes alone, without memory.
        dtype: of all parameters.

    Raises:
        ConfigError: the config is not one that diffusers accepts.
    """
    plain = dict(config)
    groups = plain.pop("norm_num_groups", None)
    try:
        with torch.device(device):
            unet: Any = UNetSpatioTemporalConditionModel.from_config(plain)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"U-Net config: {e}", "the config of SVD's U-Net", "correct unet/config.json") from e
    add_pose_input(unet)
    if groups:
        _set_norm_groups(unet, groups)
    # Not diffusers' own `to`, which logs a warning about an empty list; the device again because diffusers makes the
    # mixing factors by a constructor that ignores the default device.
    nn.Module.to(unet, device=device, dtype=dtype)
    return unet.eval()


def _set_norm_groups(unet: Any, groups: int) -> None:
    """Normalise over fewer, larger groups: 32 groups of a narrow network are 2 channels each, which loses colour."""
    for module in unet.modules():
        if isinstance(module, nn.GroupNorm):
            if module.num_channels % groups:
                raise ConfigError(f"norm_num_groups={groups}", f"a divisor of {module.num_channels}", "use 8 or 32")
            module.num_groups = groups
    unet.register_to_config(norm_num_groups=groups)


def add_pose_input(unet: Any) -> None:
    """Replace `unet.conv_in` by `PoseConvIn` with the same parameters (this one model, nothing global)."""
    plain = unet.conv_in
    if isinstance(plain, PoseConvIn):
        return
    conv = PoseConvIn(plain.in_channels, plain.out_channels, kernel_size=3, padding=1, device="meta")
    conv.weight, conv.bias = plain.weight, plain.bias
    unet.conv_in = conv


class ConstantAttention:
    """Attention over ONE context token: softmax over one value is 1, so the result is `to_out(to_v(token))`.

    It is the same for every pixel, frame and timestep; queries and keys are not needed. With more context tokens the
    plain processor is used.
    """

    def __init__(self, plain: Any) -> None:
        self.plain = plain

    def __call__(
        self,
        attn: Any,
        hidden_states: Float[Tensor, "n tokens channels"],
        encoder_hidden_states: Float[Tensor, "n context dim"] | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Float[Tensor, "n tokens channels"]:
        """Attend; the arguments are those of diffusers' attention processors."""
        context = encoder_hidden_states
        if context is None or context.shape[1] != 1 or attention_mask is not None:
            return self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        # to_out is [linear, dropout]; the one token is spread over the queries as a view, without a copy.
        value = attn.to_out[1](attn.to_out[0](attn.to_v(context)))
        return value.expand(-1, hidden_states.shape[1], -1)


def cross_attentions(unet: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and module of each cross-attention, of the spatial and the temporal transformers."""
    for name, module in unet.named_modules():
        if name.endswith(".attn2") and isinstance(module, Attention):
            yield name, module


def use_constant_cross_attention(unet: nn.Module, enabled: bool = True) -> int:
    """Switch the short form of cross-attention on or off for this model; it gives what the plain one gives.

    Returns:
        The number of attention layers that were switched.
    """
    switched = 0
    for _, attn in cross_attentions(unet):
        processor = attn.processor
        if enabled and not isinstance(processor, ConstantAttention):
            plain_form = not attn.residual_connection and attn.rescale_output_factor == 1 and attn.group_norm is None
            if plain_form and attn.spatial_norm is None and attn.norm_cross is None:
                attn.set_processor(ConstantAttention(processor))
                switched += 1
        elif not enabled and isinstance(processor, ConstantAttention):
            attn.set_processor(processor.plain)
            switched += 1
    return switched


def unused_parameter_names(unet: nn.Module) -> list[str]:
    """Parameters that cannot change the output with one context token: to_q, to_k and norm2 of each cross-attention.

    Leave them out of an optimiser (their gradient is zero) but keep them in checkpoints.
    """
    parts: list[str] = []
    for name, _ in cross_attentions(unet):
        parts += [f"{name}.to_q.", f"{name}.to_k.", f"{name.removesuffix('attn2')}norm2."]
    return [n for n, _ in unet.named_parameters() if n.startswith(tuple(parts))]
