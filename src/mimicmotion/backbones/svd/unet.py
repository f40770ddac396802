"""SVD's U-Net (Blattmann et al., arXiv 2311.15127) with a pose input.

Names of parameters and fields of the config are those of diffusers' `UNetSpatioTemporalConditionModel`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mimicmotion.backbones.svd.attention import check_kernel, choose_kernel
from mimicmotion.backbones.svd.blocks import (
    DownBlock,
    MidBlock,
    Shared,
    SpatioTemporalTransformer,
    TransformerBlock,
    UpBlock,
)
from mimicmotion.backbones.svd.config import Config, read_config
from mimicmotion.backbones.svd.execution.compiled import check_compiler, keep_compiled_code
from mimicmotion.backbones.svd.execution.options import Execution
from mimicmotion.backbones.svd.layers import (
    GroupNorm,
    Maps,
    TemporalResnetBlock,
    TimeMixer,
    TimestepEmbedding,
    map_chunks,
    silu,
    sinusoids,
)
from mimicmotion.errors import ConfigError, InputError

DOWN = {"CrossAttnDownBlockSpatioTemporal": True, "DownBlockSpatioTemporal": False}
UP = {"CrossAttnUpBlockSpatioTemporal": True, "UpBlockSpatioTemporal": False}
"""Names of blocks to whether they have transformers."""

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
"""Fields of the config with their defaults, those of diffusers."""
GROUPS = 32
"""Of all GroupNorms, where the config has no `norm_num_groups` (diffusers has no such field)."""


@dataclass(slots=True, eq=False)
class Features:
    """What `UNet.shallow` has computed: the way down through the outermost level.

    Attributes:
        skips: maps for the way up; the last one goes into the deep part.
        shared: what all blocks see.
    """

    skips: list[Maps]
    shared: Shared


class UNet(nn.Module):
    """The network, with random weights.

    Args:
        config: the `config.json` of a diffusers `UNetSpatioTemporalConditionModel`; one field more is understood,
            `norm_num_groups` of all GroupNorms. Fields that begin with an underscore are skipped.

    Raises:
        ConfigError: an unknown field, or values that do not go together.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = c = _read(config)
        self.execution = Execution()
        widths, levels = c.block_out_channels, len(c.block_out_channels)
        layers, groups = _per_level(c, "layers_per_block"), c.get("norm_num_groups", GROUPS)
        heads, context = _per_level(c, "num_attention_heads"), _per_level(c, "cross_attention_dim")
        depths = _per_level(c, "transformer_layers_per_block")
        time = 4 * widths[0]
        self.skips = [count + 1 for count in reversed(layers)]
        """How many skip connections each block on the way up takes."""

        def options(level: int, count: int, attention: bool, eps: float) -> dict[str, Any]:
            depth = _depths(depths[level], count) if attention else None
            shape = {"heads": heads[level], "depths": depth, "context_dim": context[level]}
            return {"time_channels": time, "eps": eps, "groups": groups, **shape}

        self.conv_in = nn.Conv2d(c.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(widths[0], time)
        self.add_embedding = TimestepEmbedding(c.projection_class_embeddings_input_dim, time)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        for i, (width, count) in enumerate(zip(widths, layers, strict=True)):
            attention = DOWN[c.down_block_types[i]]
            inputs = [widths[max(i - 1, 0)], *[width] * (count - 1)]
            more = options(i, count, attention, 1e-6 if attention else 1e-5)
            self.down_blocks.append(DownBlock(inputs, width, downsample=i < levels - 1, **more))
        self.mid_block = MidBlock([widths[-1]] * 2, widths[-1], **options(levels - 1, 1, True, 1e-5))
        for i in range(levels):
            level = levels - 1 - i
            count, below = layers[level] + 1, widths[min(level + 1, levels - 1)]
            # Of each residual block: what comes from below or before, and the skip connection.
            skips = [widths[level]] * (count - 1) + [widths[max(level - 1, 0)]]
            inputs = [a + b for a, b in zip([below, *[widths[level]] * (count - 1)], skips, strict=True)]
            more = options(level, count, UP[c.up_block_types[i]], 1e-6)
            self.up_blocks.append(UpBlock(inputs, widths[level], upsample=level > 0, **more))
        self.conv_norm_out = GroupNorm(groups, widths[0], eps=1e-5)
        self.conv_out = nn.Conv2d(widths[0], c.out_channels, 3, padding=1)

    @property
    def dtype(self) -> torch.dtype:
        """Number format that inputs must have."""
        return self.conv_in.weight.dtype

    def set_execution(self, execution: Execution) -> None:
        """Compute as `execution` says from now on; the weights take its memory format.

        Raises:
            ConfigError: an attention kernel or a compiler that is not there.
        """
        device = self.conv_in.weight.device
        check_kernel(execution.attention, device)
        if execution.compile:
            check_compiler(device)
            keep_compiled_code()
        if execution.channels_last != self.execution.channels_last:
            set_memory_format(self, execution.channels_last)
        self.execution = execution

    def forward(
        self,
        sample: Float[Tensor, "batch frames channels h w"],
        timestep: Tensor | float,
        context: Float[Tensor, "batch tokens dim"],
        added_time_ids: Float[Tensor, "batch ids"],
        pose: Float[Tensor, "few frames features h w"] | None = None,
    ) -> Float[Tensor, "batch frames out h w"]:
        """Predict.

        Args:
            sample: noisy latents and the picture's, scaled for the network, on the channel axis.
            timestep: noise level as the network knows it, ln(sigma) / 4; one number or one for each video.
            context: embedding of the picture.
            added_time_ids: micro-conditioning.
            pose: features added behind the first convolution, for each video or one for all; None adds nothing.

        Raises:
            InputError: pose features of another shape.
        """
        features = self.shallow(sample, timestep, context, added_time_ids, pose)
        return self.finish(features, self.deep(features))

    def shallow(
        self,
        sample: Float[Tensor, "batch frames channels h w"],
        timestep: Tensor | float,
        context: Float[Tensor, "batch tokens dim"],
        added_time_ids: Float[Tensor, "batch ids"],
        pose: Float[Tensor, "few frames features h w"] | None = None,
    ) -> Features:
        """The way down through the outermost level; arguments as for `forward`."""
        shared = self._shared(sample, timestep, context, added_time_ids)
        flat = sample.flatten(0, 1)  # b f c h w -> (b f) c h w
        if pose is not None:
            pose = self._checked(pose, sample).flatten(0, 1)

        def enter(part: slice) -> Tensor:
            x = self.conv_in(flat[part])
            if self.execution.channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            if pose is None:
                return x
            return x + pose[part] if torch.is_grad_enabled() else x.add_(pose[part])

        x = map_chunks(enter, flat.shape[0], self.execution.frame_chunk)
        return Features([x, *self.down_blocks[0](x, shared)], shared)

    def deep(self, features: Features) -> Maps:
        """All levels but the outermost; takes its skip connection out of `features`."""
        outer, shared = self.skips[-1], features.shared
        x, skips = features.skips[-1], features.skips[outer:]
        del features.skips[outer:]
        for block in self.down_blocks[1:]:
            more = block(x, shared)
            skips += more
            x = more[-1]
        x = self.mid_block(x, shared)
        for block, count in zip(self.up_blocks[:-1], self.skips, strict=False):
            mine = skips[-count:]
            del skips[-count:]
            size = (skips or features.skips)[-1].shape[2:]
            x = block(x, mine, shared, size)
        return x

    def finish(self, features: Features, deep: Maps) -> Float[Tensor, "batch frames out h w"]:
        """The way up through the outermost level.

        Args:
            features: of `shallow`; its skip connections are taken out.
            deep: what `deep` gives for these features, or for similar ones.
        """
        mine, shared = features.skips[: self.skips[-1]], features.shared
        features.skips.clear()
        x = self.up_blocks[-1](deep, mine, shared)
        x = map_chunks(lambda p: self.conv_out(silu(self.conv_norm_out(x[p]))), len(x), self.execution.frame_chunk)
        return x.contiguous().unflatten(0, (-1, shared.frames))  # (b f) c h w -> b f c h w

    def _shared(self, sample: Tensor, timestep: Tensor | float, context: Tensor, ids: Tensor) -> Shared:
        batch, frames = sample.shape[:2]
        # Sinusoids are float32: half precision would round ln(sigma).
        level = torch.as_tensor(timestep, device=sample.device).reshape(-1).expand(batch)
        time = self.time_embedding(sinusoids(level, self.config.block_out_channels[0]).to(sample.dtype))
        micro = sinusoids(ids.flatten(), self.config.addition_time_embed_dim).unflatten(0, (batch, -1)).flatten(1)
        time = time + self.add_embedding(micro.to(sample.dtype))
        kernel = choose_kernel(self.execution.attention, sample.device, sample.dtype)
        return Shared(frames, time.repeat_interleave(frames, 0), context, self.execution, kernel)

    def _checked(self, pose: Tensor, sample: Tensor) -> Tensor:
        """Pose features of each video, in the number format of the sample."""
        batch, frames, _, *size = sample.shape
        if pose.shape[0] not in (1, batch) or pose.shape[1:] != (frames, self.conv_in.out_channels, *size):
            raise InputError(
                f"pose features of shape {tuple(pose.shape)}",
                f"{(batch, frames, self.conv_in.out_channels, *size)}, or 1 for the batch",
                "encode the poses of these frames at this size",
            )
        return pose.to(sample.dtype).expand(batch, -1, -1, -1, -1)


def build_unet(
    config: Mapping[str, Any], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> UNet:
    """A U-Net with random weights, to be used.

    Args:
        config: see `UNet`.
        device: "meta" builds the shapes alone, without memory.
        dtype: of all parameters.

    Raises:
        ConfigError: see `UNet`.
    """
    with torch.device(device):
        return UNet(config).to(dtype).eval()


def unused_parameter_names(unet: nn.Module) -> list[str]:
    """Parameters that cannot change the output with one context token: to_q, to_k and norm2 of each cross-attention.

    They have no gradient: leave them out of an optimiser but keep them in checkpoints.

    Raises:
        ConfigError: the network has no cross-attention.
    """
    names = [n for n, module in unet.named_modules() if isinstance(module, TransformerBlock)]
    return _within(unet, [f"{n}.{part}" for n in names for part in ("attn2.to_q", "attn2.to_k", "norm2")])


def temporal_parameter_names(unet: nn.Module) -> list[str]:
    """Parameters of what looks along time, 656 of SVD's 1525 million.

    Temporal attention and its frame embedding, temporal convolutions, and the numbers that mix both with their spatial
    counterparts.

    Raises:
        ConfigError: the network has no temporal layers.
    """
    kinds = (TemporalResnetBlock, TimeMixer)
    parts: list[str] = []
    for name, module in unet.named_modules():
        if isinstance(module, kinds) or (isinstance(module, TransformerBlock) and module.temporal):
            parts.append(name)
        elif isinstance(module, SpatioTemporalTransformer):
            parts.append(f"{name}.time_pos_embed")
    return _within(unet, parts)


def _within(unet: nn.Module, modules: list[str]) -> list[str]:
    """Names of the parameters of modules."""
    prefixes = tuple(f"{name}." for name in modules)
    if not prefixes:
        got = f"a {type(unet).__name__} without transformers and temporal layers"
        raise ConfigError(
            got, "a network of mimicmotion.backbones.svd.unet", "use build_unet, or choose another trained.what"
        )
    return [n for n, _ in unet.named_parameters() if n.startswith(prefixes)]


def set_memory_format(unet: nn.Module, channels_last: bool) -> None:
    """Store the weights of convolutions with channels last, or as they were; values and names stay the same.

    `unet.to(memory_format=...)` fails on this network, whose parameters have four and five dimensions.
    """
    for module in unet.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            flat = torch.channels_last if module.weight.ndim == 4 else torch.channels_last_3d
            with torch.no_grad():
                module.weight.data = module.weight.data.contiguous(
                    memory_format=flat if channels_last else torch.contiguous_format
                )


# --- config ---------------------------------------------------------------------------------------------------------


def _read(given: Mapping[str, Any]) -> Config:
    names = ("UNetSpatioTemporalConditionModel", UNet.__name__)
    if given.get("_class_name", names[0]) not in names:
        _refuse(f"class {given['_class_name']}", " or ".join(names))
    fields = FIELDS if given.get("norm_num_groups", GROUPS) == GROUPS else FIELDS | {"norm_num_groups": GROUPS}
    config = read_config("U-Net", given, fields, without_effect=("sample_size", "num_frames", "norm_num_groups"))
    if "norm_num_groups" not in fields:  # what diffusers opens has no such field
        config.pop("norm_num_groups", None)
    config["_class_name"] = names[fields is not FIELDS]
    levels = len(config.block_out_channels)
    for name, known in (("down_block_types", DOWN), ("up_block_types", UP)):
        if len(config[name]) != levels or set(config[name]) - set(known):
            _refuse(f"{name}={config[name]}", f"{levels} of {', '.join(known)}")
    for width, heads in zip(config.block_out_channels, _per_level(config, "num_attention_heads"), strict=True):
        if width % heads:
            _refuse(f"num_attention_heads={heads} at a width of {width}", "a divisor of the width")
        if width % (groups := config.get("norm_num_groups", GROUPS)):
            _refuse(f"block_out_channels={width}", f"multiples of the norms' {groups} groups")
    return config


def _per_level(config: Config, name: str) -> list[Any]:
    """A field that is one value for all levels, or a list of one for each."""
    value, levels = config[name], len(config.block_out_channels)
    if not isinstance(value, Sequence):
        return [value] * levels
    if len(value) != levels:
        _refuse(f"{name}={value}", f"one for each of {levels} levels, or one for all")
    return list(value)


def _depths(value: int | Sequence[int], count: int) -> list[int]:
    """Blocks of each of a level's transformers."""
    depths = [value] * count if isinstance(value, int) else list(value)[:count]
    if len(depths) < count:
        _refuse(f"transformer_layers_per_block={value}", f"{count} numbers for this level, or one for all")
    return depths


def _refuse(got: str, expected: str) -> NoReturn:
    raise ConfigError(f"U-Net config: {got}", expected, "correct unet/config.json")
