"""Decoding frames in spatial tiles, for where not even one whole frame fits. NOT exact.

The decoder's attention and its norms look at the whole frame, so a tile comes out a little different (in colour and
contrast above all) from the same place of a whole frame. Tiles therefore overlap and are blended; the error stays and
is reported by `benchmarks/real_size.py`. Use it last: decoding in portions (`decode_portions`) is exact.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mimicmotion.errors import ConfigError
from mimicmotion.models.decode_portions import decode_in_portions
from mimicmotion.models.vae import blend_weight, decode_clip, plan_chunks

TILE_OVERLAP = 0.25
"""Least share of a tile's side that it shares with the next one."""


@torch.inference_mode()
def decode_latents(
    vae: Any,
    latents: Float[Tensor, "frames channels h w"],
    *,
    portion: int | None = None,
    tile: int | None = None,
) -> Float[Tensor, "frames 3 height width"]:
    """Decode the frames of one clip, float32 before clamping, on the autoencoder's device.

    Args:
        vae: diffusers' AutoencoderKLTemporalDecoder, or a network with the same `decode`.
        latents: at unit scale, on any device.
        portion: frames at once inside of the decoder (exact); None is all.
        tile: side of tiles in pixels (not exact); None decodes whole frames. Of each tile, too, `portion` frames.

    Raises:
        ConfigError: a tile that is smaller than 8 latents.
    """
    if tile is None:
        return _decode(vae, latents, portion)
    scale = 2 ** (len(vae.config.block_out_channels) - 1) * vae.config.get("patch_size", 1)
    side = tile // scale
    if side < 8:
        raise ConfigError(f"decode_tile={tile}", f"at least {8 * scale} pixels", f"use {8 * scale} or more")
    height, width = latents.shape[-2:]
    down, across = (plan_chunks(n, side, round(side * TILE_OVERLAP)) for n in (height, width))
    if len(down) == len(across) == 1:
        return _decode(vae, latents, portion)
    out = torch.zeros(len(latents), 3, height * scale, width * scale, device=next(vae.decoder.parameters()).device)
    columns = _ramps(across, scale)
    for rows, weight in zip(down, _ramps(down, scale), strict=True):
        for place, share in zip(across, columns, strict=True):
            part = _decode(vae, latents[..., rows.start : rows.stop, place.start : place.stop], portion)
            part *= weight.to(part).view(-1, 1) * share.to(part)
            out[..., rows.start * scale : rows.stop * scale, place.start * scale : place.stop * scale] += part
    return out


def _decode(vae: Any, latents: Tensor, portion: int | None) -> Float[Tensor, "frames 3 height width"]:
    if portion is None or portion >= len(latents):
        return decode_clip(vae, latents)
    param = next(vae.decoder.parameters())
    z = (latents.to(param.device) / vae.config.scaling_factor).to(param.dtype)
    decoded = decode_in_portions(vae.decoder, z, portion)
    patch = vae.config.get("patch_size", 1)
    return (decoded if patch == 1 else F.pixel_shuffle(decoded, patch)).float()


def _ramps(tiles: list[range], scale: int) -> list[Tensor]:
    """Weight of each tile at its pixels along one axis; over all tiles they sum to 1."""
    total = tiles[-1].stop * scale
    weights = torch.zeros(len(tiles), total, dtype=torch.float64)
    stop = 0
    for i, tile in enumerate(tiles):
        start, end = tile.start * scale, tile.stop * scale
        shared = max(stop - start, 0)
        ramp = torch.tensor([blend_weight(j + 1, shared) for j in range(shared)], dtype=torch.float64)
        weights[i, start:end] = 1
        weights[i, start : start + shared] = ramp
        weights[:i, start : start + shared] *= 1 - ramp
        stop = end
    return [w[t.start * scale : t.stop * scale] for w, t in zip(weights, tiles, strict=True)]
