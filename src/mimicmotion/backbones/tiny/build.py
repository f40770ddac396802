"""Build the networks of the bundled model: narrow versions of SVD's networks.

The only architectural difference is that the autoencoder works on patches. The temporal decoder needs at least 32
channels at full resolution, which takes 220 ms per 224x128 frame on one CPU core. With patches of 4x4 pixels folded
into channels first (`patch_size`), a frame takes 45 ms, and training is four times faster.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mimicmotion.backbones.svd.image_encoder import ImageEncoder
from mimicmotion.backbones.svd.layers import ResnetBlock
from mimicmotion.backbones.svd.posenet import PoseNet
from mimicmotion.backbones.svd.vae import Autoencoder, FrameAttention
from mimicmotion.errors import ConfigError


def unet_config(
    widths: tuple[int, ...] = (64, 96, 96),
    attention: tuple[bool, ...] = (False, True, True),
    latent_channels: int = 16,
    token_dim: int = 64,
) -> dict[str, Any]:
    """Return the contents of `config.json` for a narrow U-Net; widths must be multiples of 32.

    `norm_num_groups` is lower than diffusers' 32. With 32, groups would only have two channels, and the last norm would
    remove the mean and scale of the colours.
    """
    down = ["CrossAttnDownBlockSpatioTemporal" if a else "DownBlockSpatioTemporal" for a in attention]
    up = ["CrossAttnUpBlockSpatioTemporal" if a else "UpBlockSpatioTemporal" for a in reversed(attention)]
    return {
        "in_channels": 2 * latent_channels,
        "out_channels": latent_channels,
        "block_out_channels": list(widths),
        "down_block_types": down,
        "up_block_types": up,
        "layers_per_block": 1,
        "cross_attention_dim": token_dim,
        "num_attention_heads": [max(1, w // 96) for w in widths],
        "addition_time_embed_dim": 64,
        "projection_class_embeddings_input_dim": 192,
        "num_frames": 16,
        "norm_num_groups": 8,
    }


def build_tiny_posenet(out_channels: int, reference_pose: bool = True) -> PoseNet:
    """Build a PoseNet for training from scratch, without zero-initialising its last layer.

    The initial weights are larger than PyTorch's. With PyTorch's, differences between poses shrink to 0.001 over the
    nine convolutions, and PoseNet takes two thousand steps to start learning.
    """
    net = PoseNet(out_channels, (6 if reference_pose else 3, 16, 32, 64))
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=1.8 * module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    probe = torch.full((1, 1, net.widths[0], 64, 64), -1.0)
    probe[:, :, 0, 8:56, 26], probe[:, :, 1, 31, 8:56] = 0.5, 0.5  # two thin strokes on black
    with torch.no_grad():
        net.final_proj.weight *= 0.5 / net(probe).std().clamp_min(1e-6)
    return net


def build_tiny_image_encoder(token_dim: int = 64) -> ImageEncoder:
    """Build a narrow CLIP picture encoder for 64x64 pixels in patches of 8x8."""
    return ImageEncoder(
        {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "projection_dim": token_dim,
        }
    )


def autoencoder_config(patch_size: int = 8, latent_channels: int = 16) -> dict[str, Any]:
    """Return the contents of `config.json` for an autoencoder with one level of 128 channels."""
    return {
        "patch_size": patch_size,
        "in_channels": 3 * patch_size**2,
        "out_channels": 3 * patch_size**2,
        "block_out_channels": [128],
        "latent_channels": latent_channels,
        "scaling_factor": 1.0,
        "force_upcast": False,
    }


@torch.no_grad()
def init_with_pca(vae: Autoencoder, mean: Float[Tensor, "3 p p"], basis: Float[Tensor, "channels 3 p p"]) -> None:
    """Initialise a one-level autoencoder as a linear projection of patches and its inverse.

    The residual blocks start as identities. Each latent uses four channels: x, -x, and a large constant with both
    signs, which fixes the scale of the GroupNorm before the last convolution. There, SiLU(x) - SiLU(-x) = x. The other
    channels keep their random initialisation.

    Args:
        vae: autoencoder with one level of 128 channels, and at most 32 latent channels.
        mean: mean patch of pictures in [-1, 1].
        basis: filters; latent k = sum of basis[k] * (patch - mean).
    """
    k, width = len(basis), vae.config.block_out_channels[0]
    encoder: Any = vae.encoder
    decoder: Any = vae.decoder
    to_moments: Any = vae.quant_conv
    for module in vae.modules():
        last = module.conv2 if isinstance(module, ResnetBlock) else None
        last = module.to_out[0] if isinstance(module, FrameAttention) else last
        for p in () if last is None else last.parameters():
            nn.init.zeros_(p)
    filters, offset = basis.flatten(1), -(basis * mean).flatten(1).sum(1)
    _carry(encoder.conv_in, filters, offset, constant=50.0)
    gain = _gain(50.0, width)
    nn.init.zeros_(encoder.conv_out.weight)
    nn.init.zeros_(encoder.conv_out.bias)
    for i in range(k):
        encoder.conv_out.weight[i, 4 * i, 1, 1], encoder.conv_out.weight[i, 4 * i + 1, 1, 1] = gain, -gain
    to_moments.weight.copy_(torch.eye(2 * k)[:, :, None, None])
    to_moments.bias.zero_()
    to_moments.bias[k:] = -5.0  # log-variance: a little noise on the latents makes the decoder robust
    # The basis is orthogonal but not normalised. A smaller constant keeps the decoder's linear path trainable.
    patches = filters / filters.square().sum(1, keepdim=True)
    _carry(decoder.conv_in, torch.eye(k), torch.zeros(k), constant=4.0)
    gain, out = _gain(4.0, width), decoder.conv_out
    nn.init.zeros_(out.weight)
    out.bias.copy_(mean.flatten())
    for i in range(k):
        out.weight[:, 4 * i, 1, 1], out.weight[:, 4 * i + 1, 1, 1] = gain * patches[i], -gain * patches[i]
    nn.init.dirac_(decoder.time_conv_out.weight)
    nn.init.zeros_(decoder.time_conv_out.bias)


def _carry(conv: nn.Conv2d, filters: Float[Tensor, "k c"], offset: Float[Tensor, " k"], constant: float) -> None:
    """Set the weights for output channels 4i .. 4i + 3: value i, its negative, and the constant with both signs."""
    bias = conv.bias if conv.bias is not None else torch.zeros(conv.out_channels)
    for i in range(len(filters)):
        conv.weight[4 * i : 4 * i + 4].zero_()
        conv.weight[4 * i, :, 1, 1], conv.weight[4 * i + 1, :, 1, 1] = filters[i], -filters[i]
        bias[4 * i], bias[4 * i + 1] = offset[i], -offset[i]
        bias[4 * i + 2], bias[4 * i + 3] = constant, -constant


def _gain(constant: float, width: int) -> float:
    """Return the factor that undoes the GroupNorm (32 groups) over channels x, -x, constant, -constant, for small x."""
    if width != 128:
        raise ConfigError(f"width={width}", "128, so that each group of the GroupNorm has four channels", "use 128")
    return constant / 2**0.5
