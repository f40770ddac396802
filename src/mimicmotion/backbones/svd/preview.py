"""Previews by a tiny autoencoder (TAESD and its like), which decodes a frame in a hundredth of the time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mimicmotion.backbones.svd.config import read_config
from mimicmotion.backbones.svd.decode import to_uint8
from mimicmotion.errors import ConfigError, WeightsError
from mimicmotion.weights.tensors import assign

WEIGHTS = "diffusion_pytorch_model.safetensors"
FIELDS = {
    "latent_channels": 4,
    "out_channels": 3,
    "decoder_block_out_channels": [64, 64, 64, 64],
    "num_decoder_blocks": [3, 3, 3, 1],
    "act_fn": "relu",
    "upsample_fn": "nearest",
    "upsampling_scaling_factor": 2,
}
WITHOUT_EFFECT = (
    "in_channels", "encoder_block_out_channels", "num_encoder_blocks", "block_out_channels", "latent_magnitude",
    "latent_shift", "force_upcast", "scaling_factor", "shift_factor",
)  # fmt: skip
"""Fields of the encoder, and those for storing latents as bytes."""
ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "swish": nn.SiLU, "mish": nn.Mish}
UPSAMPLING = ("nearest", "nearest-exact", "bilinear", "bicubic", "area")


class TinyDecoder(nn.Module):
    """The decoder of diffusers' `AutoencoderTiny`: plain convolutions, each frame by itself.

    Args:
        config: the autoencoder's config.json; fields left out have the defaults of `FIELDS` (TAESD's).

    Raises:
        ConfigError: a field or value that it does not know.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        c = self.config = read_config("preview decoder", config, FIELDS, without_effect=WITHOUT_EFFECT)
        widths, counts = c.decoder_block_out_channels, c.num_decoder_blocks
        if len(widths) != len(counts) or len(set(widths)) != 1:
            got = f"decoder_block_out_channels={widths}, num_decoder_blocks={counts}"
            raise ConfigError(got, "the same width at each level, and a number of blocks for each", "correct it")
        if c.act_fn not in ACTIVATIONS or c.upsample_fn not in UPSAMPLING:
            got = f"act_fn={c.act_fn!r}, upsample_fn={c.upsample_fn!r}"
            raise ConfigError(got, f"{', '.join(ACTIVATIONS)}; {', '.join(UPSAMPLING)}", "use another autoencoder")
        width = widths[0]
        layers: list[nn.Module] = [nn.Conv2d(c.latent_channels, width, 3, padding=1), ACTIVATIONS[c.act_fn]()]
        for level, count in enumerate(counts, 1):
            layers += [TinyBlock(width, c.act_fn) for _ in range(count)]
            if level < len(counts):
                layers.append(nn.Upsample(scale_factor=c.upsampling_scaling_factor, mode=c.upsample_fn))
                layers.append(nn.Conv2d(width, width, 3, padding=1, bias=False))
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, c.out_channels, 3, padding=1))

    def forward(self, z: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n 3 height width"]:
        """Latents as they are denoised (with the scaling factor) to frames, about [-1, 1]."""
        return self.layers(torch.tanh(z / 3) * 3) * 2 - 1

    @torch.inference_mode()
    def decode(self, latents: Float[Tensor, "n channels h w"]) -> UInt8[ndarray, "n height width 3"]:
        """Latents to rough frames, one at a time."""
        param = next(self.parameters())
        return to_uint8(torch.cat([self(z[None].to(param.device, param.dtype)) for z in latents]))


class TinyBlock(nn.Module):
    """Three convolutions beside a residual."""

    def __init__(self, width: int, act: str) -> None:
        super().__init__()
        act_fn = ACTIVATIONS[act]
        first, second, third = (nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.conv = nn.Sequential(first, act_fn(), second, act_fn(), third)

    def forward(self, x: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n channels h w"]:
        """Compute."""
        return torch.relu(self.conv(x) + x)


def load_preview_decoder(
    path: str | Path,
    *,
    latent_channels: int,
    downscale: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Callable[[Float[Tensor, "frames channels h w"]], UInt8[ndarray, "frames height width 3"]]:
    """Load a tiny autoencoder for the previews of a model.

    Args:
        path: a folder with config.json and diffusion_pytorch_model.safetensors (diffusers' AutoencoderTiny), or a
            .safetensors file (with TAESD's usual settings where there is no config.json beside it).
        latent_channels: of the model (4 for SVD).
        downscale: pixels per latent of the model (8 for SVD).
        device: where it decodes.
        dtype: number format of its weights.

    Raises:
        WeightsError: files are missing, damaged, or not those of such an autoencoder.
        ConfigError: it is one for other latents than the model's.
    """
    path = Path(path)
    file = path / WEIGHTS if path.is_dir() else path
    network, config = _build(file), file.with_name("config.json")
    assign(network, _decoder_tensors(file), (torch.device(device), dtype), f"preview_decoder {file}")
    scale = int(network.config.upsampling_scaling_factor) ** (len(network.config.num_decoder_blocks) - 1)
    found, wanted = (int(network.config.latent_channels), scale), (latent_channels, downscale)
    if found != wanted:
        raise ConfigError(
            f"preview_decoder {config if config.exists() else file}: {found[0]} channels, {found[1]} pixels a latent",
            f"{wanted[0]} channels, {wanted[1]} pixels: the model's latents",
            "use an autoencoder of this model's latents, or leave preview_decoder out",
        )
    return network.decode


def _build(file: Path) -> TinyDecoder:
    """The network of the config beside the file, without weights."""
    config_file = file.with_name("config.json")
    expected, fix = "diffusers' AutoencoderTiny", "give the folder or file of a tiny autoencoder such as TAESD"
    if not file.is_file():
        raise WeightsError(f"preview_decoder {file} is not there", expected, fix)
    config: dict[str, Any] = {}
    if config_file.is_file():
        try:
            config = json.loads(config_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise WeightsError(f"preview_decoder {config_file}: {e}", "a JSON config", fix) from e
        if not isinstance(config, dict) or config.get("_class_name") != "AutoencoderTiny":
            name = config.get("_class_name") if isinstance(config, dict) else type(config).__name__
            raise WeightsError(f"preview_decoder {config_file} is of {name}", expected, fix)
    try:
        with torch.device("meta"):
            return TinyDecoder(config)
    except ConfigError as e:
        raise WeightsError(f"preview_decoder {config_file}: {e.got}", e.expected, e.fix) from e
    except (TypeError, ValueError) as e:
        raise WeightsError(f"preview_decoder {config_file}: {e}", expected, fix) from e


def _decoder_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors of the decoder; the encoder's are left out."""
    fix = "give the folder or file of a tiny autoencoder in diffusers' layout"
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as e:
        raise WeightsError(f"preview_decoder {file}: {e}", "a whole .safetensors file", fix) from e
    return {k.removeprefix("decoder."): v for k, v in tensors.items() if not k.startswith("encoder.")}
