"""SVD's autoencoder: an image encoder and a decoder with temporal layers (arXiv 2311.15127)."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mimicmotion.backbones.svd.config import Config, read_config
from mimicmotion.backbones.svd.execution.options import Execution
from mimicmotion.backbones.svd.layers import (
    Downsample,
    GroupNorm,
    Linear,
    Maps,
    ResnetBlock,
    SpatioTemporalResBlock,
    TemporalConv,
    Upsample,
    conv3x3,
    map_chunks,
    silu,
)
from mimicmotion.errors import ConfigError

FIELDS = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [64],
    "layers_per_block": 1,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
    "force_upcast": True,
    "patch_size": 1,
}
CLASSES = ("AutoencoderKLTemporalDecoder", "Autoencoder")
GROUPS, EPS, TEMPORAL_EPS = 32, 1e-6, 1e-5


class Autoencoder(nn.Module):
    """Encodes pictures in [-1, 1] to latents, and decodes latents of a video to frames.

    Config and parameter names match diffusers' `AutoencoderKLTemporalDecoder`. The additional field `patch_size` (p)
    folds p x p pixels into channels first, which makes a small model several times faster. `in_channels` and
    `out_channels` are then 3 p^2, and a latent covers p * 2^(levels - 1) pixels per side.

    Args:
        config: contents of config.json; missing fields have the defaults in `FIELDS`.

    Raises:
        ConfigError: a class, field or kind of block is not supported, or channels do not match the patches.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        name = config.get("_class_name", CLASSES[0])
        if name not in CLASSES:
            raise ConfigError(f"autoencoder of class {name}", " or ".join(CLASSES), "use another autoencoder")
        levels = len(config.get("block_out_channels", FIELDS["block_out_channels"]))
        only = {"down_block_types": ["DownEncoderBlock2D"] * levels}
        c = read_config("autoencoder", config, FIELDS, only=only, without_effect=("sample_size",))
        self.patch_size = c.pop("patch_size")
        channels = 3 * self.patch_size**2
        if (c.in_channels, c.out_channels) != (channels, channels):
            got = f"in_channels={c.in_channels}, out_channels={c.out_channels}, patch_size={self.patch_size}"
            raise ConfigError(got, "3 * patch_size^2 channels in and out", "correct vae/config.json")
        self.encoder = Encoder(c)
        self.decoder = TemporalDecoder(c)
        self.quant_conv = nn.Conv2d(2 * c.latent_channels, 2 * c.latent_channels, 1)
        # without patches, diffusers can also load the model if this field is left out
        patches = {} if self.patch_size == 1 else {"patch_size": self.patch_size}
        self.config = Config({"_class_name": CLASSES[bool(patches)], **c, **patches})

    @property
    def downscale(self) -> int:
        """Pixels per latent along one side."""
        return self.patch_size * 2 ** (len(self.config.block_out_channels) - 1)

    def encode(
        self, images: Float[Tensor, "n 3 height width"]
    ) -> tuple[Float[Tensor, "n channels h w"], Float[Tensor, "n channels h w"]]:
        """Encode pictures. Return the mean and log-variance of the latents, NOT multiplied by the scaling factor."""
        x = F.pixel_unshuffle(images, self.patch_size) if self.patch_size > 1 else images
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n channels h w"]:
        """Encode pictures to the mean of the latents, which is also the mode."""
        return self.encode(images)[0]

    def decode(
        self, z: Float[Tensor, "n channels h w"], frames: int, frame_chunk: int | None = None
    ) -> Float[Tensor, "n 3 height width"]:
        """Decode to frames in about [-1, 1].

        Args:
            z: latents divided by the scaling factor; n = videos * frames.
            frames: number of frames per video, which influence each other.
            frame_chunk: frames per chunk in spatial layers; temporal layers use chunks with as many values. This saves
                memory, and does not change the result up to rounding. None means all.
        """
        out = self.decoder(z, frames, frame_chunk)
        return F.pixel_shuffle(out, self.patch_size) if self.patch_size > 1 else out


def _level(**parts: Sequence[nn.Module]) -> nn.ModuleDict:
    """Return a container for the layers of a level, with the parameter names of diffusers."""
    return nn.ModuleDict({name: nn.ModuleList(layers) for name, layers in parts.items()})


class Encoder(nn.Module):
    """Residual blocks at decreasing resolution, and attention at the lowest."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        widths, layers = c.block_out_channels, c.layers_per_block
        last = widths[-1]
        self.conv_in = conv3x3(c.in_channels, widths[0])
        self.down_blocks: Any = nn.ModuleList()
        for before, width in zip([widths[0], *widths], widths, strict=False):
            resnets = [ResnetBlock(before if i == 0 else width, width, eps=EPS, groups=GROUPS) for i in range(layers)]
            smaller = [Downsample(width, padding=0)] if len(self.down_blocks) + 1 < len(widths) else []
            self.down_blocks.append(_level(resnets=resnets, downsamplers=smaller))
        mid = [ResnetBlock(last, last, eps=EPS, groups=GROUPS) for _ in range(2)]
        self.mid_block: Any = _level(attentions=[FrameAttention(last)], resnets=mid)
        self.conv_norm_out = GroupNorm(GROUPS, last, eps=EPS)
        self.conv_out = conv3x3(last, 2 * c.latent_channels)

    def forward(self, x: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n twice h w"]:
        """Encode pictures to the mean and log-variance of the latents."""
        x = self.conv_in(x)
        for block in self.down_blocks:
            for layer in (*block["resnets"], *block["downsamplers"]):
                x = layer(x)
        first, second = self.mid_block["resnets"]
        x = second(self.mid_block["attentions"][0](first(x)))
        return self.conv_out(silu(self.conv_norm_out(x)))


class TemporalDecoder(nn.Module):
    """Spatial and temporal residual blocks at increasing resolution, and attention at the lowest."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        widths, layers = c.block_out_channels[::-1], c.layers_per_block

        options: dict[str, Any] = {"eps": EPS, "temporal_eps": TEMPORAL_EPS, "groups": GROUPS, "switched": True}
        block = functools.partial(SpatioTemporalResBlock, **options)
        self.conv_in = conv3x3(c.latent_channels, widths[0])
        mid = [block(widths[0], widths[0]) for _ in range(layers)]
        self.mid_block: Any = _level(attentions=[FrameAttention(widths[0])], resnets=mid)
        self.up_blocks: Any = nn.ModuleList()
        for before, width in zip([widths[0], *widths], widths, strict=False):
            resnets = [block(before if i == 0 else width, width) for i in range(layers + 1)]
            larger = [Upsample(width)] if len(self.up_blocks) + 1 < len(widths) else []
            self.up_blocks.append(_level(resnets=resnets, upsamplers=larger))
        self.conv_norm_out = GroupNorm(GROUPS, widths[-1], eps=EPS)
        self.conv_out = conv3x3(widths[-1], c.out_channels)
        self.time_conv_out = TemporalConv(c.out_channels, c.out_channels)

    def forward(
        self, z: Float[Tensor, "n latent h w"], frames: int, frame_chunk: int | None = None
    ) -> Float[Tensor, "n channels height width"]:
        """Decode; see `Autoencoder.decode`."""
        x, fraction = z, min(1.0, (frame_chunk or len(z)) / len(z))
        for before, block in self.blocks():
            # both in one chunk, so that the output of an upsampler is never stored for all frames
            spatial = block.spatial_res_block if before is None else nn.Sequential(before, block.spatial_res_block)
            x = map_chunks(spatial, [x], frame_chunk)
            chunk = max(1, int(x.shape[2] * x.shape[3] * fraction))
            x = block.temporal(x, frames, None, Execution(position_chunk=chunk))
        x = map_chunks(lambda x: self.conv_out(silu(self.conv_norm_out(x))), [x], frame_chunk)
        # (B F) C H W -> B C F (H W), and back
        video = x.unflatten(0, (-1, frames)).flatten(3).transpose(1, 2)
        return self.time_conv_out(video).transpose(1, 2).flatten(0, 1).unflatten(2, x.shape[2:])

    def blocks(self) -> Iterator[tuple[nn.Module | None, Any]]:
        """Yield pairs (layer to run before the residual block, or None; residual block)."""
        first, *others = self.mid_block["resnets"]
        yield self.conv_in, first
        # As in diffusers, a third block is not used, and with a single one the attention is not used either.
        yield from zip(self.mid_block["attentions"], others, strict=False)
        before = None
        for up in self.up_blocks:
            yield before, up["resnets"][0]
            yield from ((None, block) for block in up["resnets"][1:])
            before = next(iter(up["upsamplers"]), None)


class FrameAttention(nn.Module):
    """Residual self-attention with one head over the positions of each frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.group_norm = GroupNorm(GROUPS, width, eps=EPS)
        self.to_q, self.to_k, self.to_v = (Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([Linear(width, width)])

    def forward(self, x: Maps) -> Maps:
        """Apply the layer; returns a new tensor."""
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)  # N C H W -> N (H W) C
        q, k, v = (project(tokens)[:, None] for project in (self.to_q, self.to_k, self.to_v))
        mixed = self.to_out[0](F.scaled_dot_product_attention(q, k, v)[:, 0])
        return x + mixed.transpose(1, 2).unflatten(2, x.shape[2:])  # N (H W) C -> N C H W


@torch.inference_mode()
def encode_mode(vae: Autoencoder, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels h w"]:
    """Encode pictures to the mode of the posterior, NOT multiplied by the scaling factor.

    SVD is conditioned on such latents of a picture; latents to denoise are also multiplied by
    `vae.config.scaling_factor`. With `force_upcast`, a float16 encoder computes in float32, because its activations
    overflow float16. For this, its weights are copied temporarily; the module itself is not changed.

    Args:
        vae: the autoencoder.
        images: RGB in [-1, 1], on any device.

    Returns:
        Latents on the autoencoder's device, float32.
    """
    param = next(vae.parameters())
    if param.dtype != torch.float16 or not vae.config.force_upcast:
        return vae(images.to(param.device, param.dtype)).float()
    weights = {k: v.float() for k, v in vae.state_dict().items() if not k.startswith("decoder.")}
    return torch.func.functional_call(vae, weights, (images.to(param.device, torch.float32),))


def encoder_digest(vae: Autoencoder) -> str:
    """Return the SHA-256 of the encoder's weights in float16, which is the same for float32 and float16 files.

    Autoencoders with the same digest produce the same latents, even if their decoders differ.
    """
    digest = hashlib.sha256()
    for name, value in sorted(vae.state_dict().items()):
        if not name.startswith("decoder."):
            half = value.detach().to("cpu", torch.float16).contiguous()
            digest.update(f"{name} {tuple(half.shape)}\n".encode())
            digest.update(half.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()
