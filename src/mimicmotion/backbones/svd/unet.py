"""SVD's U-Net (Blattmann et al., arXiv 2311.15127) with a pose input.

Parameter names and config fields match diffusers' `UNetSpatioTemporalConditionModel`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Literal, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mimicmotion.backbones.svd.attention import choose_kernel
from mimicmotion.backbones.svd.blocks import Level, Shared, SpatioTemporalTransformer
from mimicmotion.backbones.svd.config import Config, read_config
from mimicmotion.backbones.svd.execution.compiled import check_compiler, keep_compiled_code
from mimicmotion.backbones.svd.execution.options import Execution
from mimicmotion.backbones.svd.layers import (
    Downsample,
    GroupNorm,
    Maps,
    SpatioTemporalResBlock,
    TimestepEmbedding,
    Upsample,
    add,
    conv3x3,
    map_chunks,
    silu,
    sinusoids,
)
from mimicmotion.errors import ConfigError, InputError

DOWN = {"CrossAttnDownBlockSpatioTemporal": True, "DownBlockSpatioTemporal": False}
UP = {"CrossAttnUpBlockSpatioTemporal": True, "UpBlockSpatioTemporal": False}
"""Types of blocks, and whether they have transformers."""

FIELDS: dict[str, Any] = {
    "in_channels": 8,
    "out_channels": 4,
    "down_block_types": [*["CrossAttnDownBlockSpatioTemporal"] * 3, "DownBlockSpatioTemporal"],
    "up_block_types": ["UpBlockSpatioTemporal", *["CrossAttnUpBlockSpatioTemporal"] * 3],
    "block_out_channels": [320, 640, 1280, 1280],
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 768,
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "transformer_layers_per_block": 1,
    "num_attention_heads": [5, 10, 20, 20],
}
"""Fields of the config and their defaults, as in diffusers."""
GROUPS = 32
"""Default number of groups in each GroupNorm. Only this package has the field `norm_num_groups`; diffusers uses 32."""


class UNet(nn.Module):
    """The U-Net, with random weights.

    Args:
        config: `config.json` of a diffusers `UNetSpatioTemporalConditionModel`, with an optional additional field
            `norm_num_groups` for all GroupNorms. Fields that begin with an underscore are ignored.

    Raises:
        ConfigError: a field is unknown, or values are inconsistent.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = c = _read(config)
        self.execution = Execution()
        widths, last = c.block_out_channels, len(c.block_out_channels) - 1
        layers, heads = _per_level(c, "layers_per_block"), _per_level(c, "num_attention_heads")
        depths, contexts = _per_level(c, "transformer_layers_per_block"), _per_level(c, "cross_attention_dim")
        groups, time = c.get("norm_num_groups", GROUPS), 4 * widths[0]

        def level(kind: Literal["down", "mid", "up"], i: int, inputs: list[int], attention: bool, eps: float) -> Level:
            """Build level `i`; `inputs` are the numbers of input channels of its residual blocks."""
            width, resnets, attentions = widths[i], [], []
            count = 1 if kind == "mid" else len(inputs) if attention else 0
            each = [depths[i]] * count if isinstance(depths[i], int) else list(depths[i])[:count]
            if len(each) < count:
                _refuse(f"transformer_layers_per_block={depths[i]}", f"{count} numbers for this level, or one for all")
            for channels, depth in zip_longest(inputs, each):
                resnets.append(SpatioTemporalResBlock(channels, width, time, eps=eps, groups=groups))
                if depth is not None:
                    attentions.append(SpatioTemporalTransformer(width, heads[i], depth, contexts[i], groups))
            down = [Downsample(width)] if kind == "down" and i < last else []
            return Level(kind, resnets, attentions, down, [Upsample(width)] if kind == "up" and i > 0 else [])

        self.conv_in = conv3x3(c.in_channels, widths[0])
        self.time_embedding = TimestepEmbedding(widths[0], time)
        self.add_embedding = TimestepEmbedding(c.projection_class_embeddings_input_dim, time)
        self.down_blocks: Any = nn.ModuleList()
        self.up_blocks: Any = nn.ModuleList()
        for i, (width, kind) in enumerate(zip(widths, c.down_block_types, strict=True)):
            inputs = [widths[max(i - 1, 0)], *[width] * (layers[i] - 1)]
            self.down_blocks.append(level("down", i, inputs, DOWN[kind], 1e-6 if DOWN[kind] else 1e-5))
        self.mid_block = level("mid", last, [widths[-1]] * 2, True, 1e-5)
        for i, kind in zip(range(last, -1, -1), c.up_block_types, strict=True):
            # the input of a residual block is the previous output and a skip connection
            before = [widths[min(i + 1, last)], *[widths[i]] * layers[i]]
            skips = [*[widths[i]] * layers[i], widths[max(i - 1, 0)]]
            inputs = [a + b for a, b in zip(before, skips, strict=True)]
            self.up_blocks.append(level("up", i, inputs, UP[kind], 1e-6))
        self.conv_norm_out = GroupNorm(groups, widths[0], eps=1e-5)
        self.conv_out = conv3x3(widths[0], c.out_channels)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype that inputs must have."""
        return self.conv_in.weight.dtype

    def set_execution(self, execution: Execution) -> None:
        """Apply execution options, and convert the weights to the memory format.

        Raises:
            ConfigError: the compiler is not available.
        """
        if execution.compile:
            check_compiler(self.conv_in.weight.device)
            keep_compiled_code()
        if execution.channels_last != self.execution.channels_last:
            # `self.to(memory_format=...)` does not support a mix of four- and five-dimensional parameters
            for module in self.modules():
                if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                    last = torch.channels_last if isinstance(module, nn.Conv2d) else torch.channels_last_3d
                    layout = last if execution.channels_last else torch.contiguous_format
                    module.weight.data = module.weight.data.contiguous(memory_format=layout)
        self.execution = execution

    def forward(
        self,
        sample: Float[Tensor, "batch frames channels h w"],
        timestep: Tensor | float,
        context: Float[Tensor, "batch tokens dim"],
        added_time_ids: Float[Tensor, "batch ids"],
        pose: Float[Tensor, "few frames features h w"] | None = None,
        deep: Callable[[Maps, Callable[[], Maps]], Maps] | None = None,
    ) -> Float[Tensor, "batch frames out h w"]:
        """Predict v.

        Args:
            sample: scaled noisy latents and latents of the picture, concatenated along the channels.
            timestep: noise level as ln(sigma) / 4; one number, or one per video.
            context: embedding of the picture.
            added_time_ids: micro-conditioning.
            pose: pose features to add after the first convolution, one per video or one for all; None for no pose.
            deep: called with the input of the levels below the outermost one and with a function that computes their
                output; must return this output, computed or cached. None always computes it.

        Raises:
            InputError: the pose features have the wrong shape.
        """
        (batch, frames, _, *size), execution = sample.shape, self.execution
        if pose is not None:
            want = (frames, self.conv_in.out_channels, *size)
            if pose.shape[0] not in (1, batch) or pose.shape[1:] != want:
                got = f"pose features of shape {tuple(pose.shape)}"
                fix = "encode the poses of these frames at this size"
                raise InputError(got, f"{(batch, *want)}, or a batch of 1", fix)
            pose = pose.to(sample.dtype).expand(batch, -1, -1, -1, -1).flatten(0, 1)
        # in float32, as half precision would round ln(sigma)
        noise = torch.as_tensor(timestep, device=sample.device).reshape(-1).expand(batch)
        time = self.time_embedding(sinusoids(noise, self.config.block_out_channels[0]).to(sample.dtype))
        ids = sinusoids(added_time_ids.flatten(), self.config.addition_time_embed_dim).unflatten(0, (batch, -1))
        time = time + self.add_embedding(ids.flatten(1).to(sample.dtype))
        # `is_cpu` is False for the shapes of `execution.memory`, so that they run attention as a single operation
        kernel = choose_kernel(sample.is_cpu, sample.dtype)
        shared = Shared(frames, time.repeat_interleave(frames, 0), context, execution, kernel)

        def enter(x: Maps, pose: Maps | None) -> Maps:
            x = self.conv_in(x)
            x = x.contiguous(memory_format=torch.channels_last) if execution.channels_last else x
            return x if pose is None else add(x, pose)

        def deeper() -> Maps:
            x = skips[-1]
            for block in self.down_blocks[1:]:
                x = block(x, shared, skips)
            x = self.mid_block(x, shared, skips)
            for block in self.up_blocks[:-1]:
                x = block(x, shared, skips)
            return x

        # b f c h w -> (b f) c h w
        skips = [map_chunks(enter, (sample.flatten(0, 1), pose), execution.frame_chunk)]
        del pose
        self.down_blocks[0](skips[0], shared, skips)
        x = deeper() if deep is None else deep(skips[-1], deeper)
        del skips[len(self.up_blocks[-1].resnets) :]  # unused if `deeper` was not called
        x = self.up_blocks[-1](x, shared, skips)
        x = map_chunks(lambda x: self.conv_out(silu(self.conv_norm_out(x))), [x], execution.frame_chunk)
        return x.contiguous().unflatten(0, (batch, frames))  # (b f) c h w -> b f c h w


def build_unet(
    config: Mapping[str, Any], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> UNet:
    """Build a U-Net with random weights, for inference.

    Args:
        config: see `UNet`.
        device: device of the parameters; "meta" takes no memory.
        dtype: dtype of the parameters.

    Raises:
        ConfigError: see `UNet`.
    """
    with torch.device(device):
        return UNet(config).to(dtype).eval()


def unused_parameter_names(unet: nn.Module) -> list[str]:
    """List the parameters that have no effect with a single context token: cross-attention's to_q, to_k and norm2.

    Their gradients are zero. Exclude them from the optimiser, but keep them in checkpoints.

    Raises:
        ConfigError: the network has no cross-attention.
    """
    return _matching(unet, r"transformer_blocks\.\d+\.(attn2\.to_[qk]|norm2)\.")


def temporal_parameter_names(unet: nn.Module) -> list[str]:
    """List the names of the temporal layers' parameters (656 million of SVD's 1525 million numbers).

    These are temporal attention and its frame embedding, temporal convolutions, and the weights that mix both with
    their spatial counterparts.

    Raises:
        ConfigError: the network has no temporal layers.
    """
    return _matching(unet, r"(temporal_res_block|temporal_transformer_blocks|time_mixer|time_pos_embed)\.")


def _matching(unet: nn.Module, pattern: str) -> list[str]:
    names = [n for n, _ in unet.named_parameters() if re.search(pattern, n)]
    if not names:
        got = f"a {type(unet).__name__} without transformers or temporal layers"
        raise ConfigError(got, "a U-Net made by build_unet", "use build_unet, or choose another trained.what")
    return names


# --- config ---------------------------------------------------------------------------------------------------------


def _read(given: Mapping[str, Any]) -> Config:
    names = ("UNetSpatioTemporalConditionModel", UNet.__name__)
    if given.get("_class_name", names[0]) not in names:
        _refuse(f"class {given['_class_name']}", " or ".join(names))
    fields = FIELDS if given.get("norm_num_groups", GROUPS) == GROUPS else FIELDS | {"norm_num_groups": GROUPS}
    config = read_config("U-Net", given, fields, without_effect=("sample_size", "num_frames", "norm_num_groups"))
    if "norm_num_groups" not in fields:  # diffusers does not know this field
        config.pop("norm_num_groups", None)
    config["_class_name"] = names[fields is not FIELDS]
    levels = len(config.block_out_channels)
    for name, known in (("down_block_types", DOWN), ("up_block_types", UP)):
        if len(config[name]) != levels or set(config[name]) - set(known):
            _refuse(f"{name}={config[name]}", f"{levels} of {', '.join(known)}")
    for width, heads in zip(config.block_out_channels, _per_level(config, "num_attention_heads"), strict=True):
        if width % heads:
            _refuse(f"num_attention_heads={heads} with {width} channels", "a divisor of the number of channels")
        if width % (groups := config.get("norm_num_groups", GROUPS)):
            _refuse(f"block_out_channels={width}", f"multiples of {groups}, the groups of the norms")
    return config


def _per_level(config: Config, name: str) -> list[Any]:
    """Return the value of a field for each level; the config has one value for all levels, or a list."""
    value, levels = config[name], len(config.block_out_channels)
    if not isinstance(value, Sequence):
        return [value] * levels
    if len(value) != levels:
        _refuse(f"{name}={value}", f"one value for each of {levels} levels, or one for all")
    return list(value)


def _refuse(got: str, expected: str) -> NoReturn:
    raise ConfigError(f"U-Net config: {got}", expected, "correct unet/config.json")
