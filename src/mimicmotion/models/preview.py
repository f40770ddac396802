"""Previews by a tiny autoencoder (TAESD and its like), which decodes a frame in a hundredth of the time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor, nn

from mimicmotion.errors import ConfigError, WeightsError
from mimicmotion.models.vae import to_uint8

WEIGHTS = "diffusion_pytorch_model.safetensors"


class PreviewDecoder:
    """Latents to rough frames, each by itself.

    Args:
        network: diffusers' AutoencoderTiny; it takes latents as they are denoised (with the scaling factor).
    """

    def __init__(self, network: Any) -> None:
        self.network = network

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return int(self.network.config.latent_channels)

    @property
    def downscale(self) -> int:
        """Pixels per latent along one side."""
        return 2 ** (len(self.network.config.decoder_block_out_channels) - 1)

    @torch.inference_mode()
    def __call__(self, latents: Float[Tensor, "frames channels h w"]) -> UInt8[ndarray, "frames height width 3"]:
        """Decode frame by frame."""
        param = next(self.network.decoder.parameters())
        frames = [self.network.decode(z[None].to(param.device, param.dtype)).sample[0] for z in latents]
        return to_uint8(torch.stack(frames))


def load_preview_decoder(
    path: str | Path,
    *,
    latent_channels: int,
    downscale: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> PreviewDecoder:
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
    _fill(network, file)
    decoder = PreviewDecoder(network.to(device=device, dtype=dtype).eval())
    found, wanted = (decoder.latent_channels, decoder.downscale), (latent_channels, downscale)
    if found != wanted:
        raise ConfigError(
            f"preview_decoder {config if config.exists() else file}: {found[0]} channels, {found[1]} pixels a latent",
            f"{wanted[0]} channels, {wanted[1]} pixels: the model's latents",
            "use an autoencoder of this model's latents, or leave preview_decoder out",
        )
    return decoder


def _build(file: Path) -> Any:
    """The network of the config beside the file, without weights."""
    from diffusers import AutoencoderTiny

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
            return AutoencoderTiny.from_config(config)
    except (TypeError, ValueError, IndexError) as e:
        raise WeightsError(f"preview_decoder {config_file}: {e}", expected, fix) from e


def _fill(network: nn.Module, file: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    fix = "give the folder or file of a tiny autoencoder in diffusers' layout"
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as e:
        raise WeightsError(f"preview_decoder {file}: {e}", "a whole .safetensors file", fix) from e
    try:
        network.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as e:
        first = " ".join(str(e).split())[:200]
        raise WeightsError(f"preview_decoder {file}: {first}", "the weights of diffusers' AutoencoderTiny", fix) from e
