"""Noise per frame number, drawn on the CPU in float32, so that it does not depend on device, length or segments."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

REFERENCE_FRAME = -1
"""Frame number used to draw the noise of the reference slot."""
PICTURE_FRAME = -2
"""Frame number used to draw the augmentation noise of the reference picture."""

_WORD = (1 << 64) - 1


def frame_noise(seed: int, frame_indices: Iterable[int], shape: tuple[int, ...]) -> Float32[Tensor, "frames ..."]:
    """Draw the unit Gaussian noise of the given frames, in float32 on the CPU.

    The pair (seed, frame) is the key of a counter-based generator. Frame 7 thus has the same noise in a video of 8 or
    8000 frames, and in any segment, batch or process. (A CPU `torch.Generator` only uses 32 bits of its seed, too few
    for two numbers.)
    """
    frames = list(frame_indices)
    noise = np.empty((len(frames), *shape), np.float32)
    for row, frame in zip(noise, frames, strict=True):
        bits = np.random.Philox(key=np.array([seed & _WORD, frame & _WORD], dtype=np.uint64))
        np.random.Generator(bits).standard_normal(dtype=np.float32, out=row)
    return torch.from_numpy(noise)


def periodic_noise(
    noise: Float[Tensor, "batch period ..."], num_frames: int
) -> Float[Tensor, "batch {num_frames} ..."]:
    """Repeat one segment's noise along time, as the published code does: noise(f) = n[f mod period].

    If `noise` covers all frames, the result is a view of it.
    """
    if num_frames <= noise.shape[1]:
        return noise[:, :num_frames]
    return noise[:, torch.arange(num_frames) % noise.shape[1]]


def augment_picture(
    picture: Float[Tensor, "batch 3 height width"], strength: float, noise: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch 3 height width"]:
    """Add noise to the reference picture (-1..1), to be encoded. The network is also conditioned on `strength`."""
    return picture + strength * noise if strength else picture


def added_time_ids(fps: float, motion_bucket: float, noise_aug: float) -> Float32[Tensor, "1 3"]:
    """Return SVD's micro-conditioning: [fps - 1, motion bucket, noise augmentation].

    SVD was trained on fps - 1, so 7 frames per second become 6.
    """
    return torch.tensor([[fps - 1, motion_bucket, noise_aug]], dtype=torch.float32)


def released_noise(
    generator: torch.Generator, picture: tuple[int, int], latent: tuple[int, int, int], period: int
) -> tuple[Float32[Tensor, "1 3 height width"], Float32[Tensor, "1 {period} channels h w"]]:
    """Draw noise in the published code's order: first the picture's (even if unused), then one segment's.

    Args:
        generator: random generator; to reproduce the published code, use its device, which affects the numbers.
        picture: (height, width) of the picture in pixels.
        latent: (channels, h, w) of a frame's latents.
        period: frames per segment; `periodic_noise` repeats them.
    """
    device = generator.device
    image = torch.randn(1, 3, *picture, generator=generator, device=device)
    return image.cpu(), torch.randn(1, period, *latent, generator=generator, device=device).cpu()
