"""The picture's CLIP embedding, prepared as in Stable Video Diffusion, without torchvision."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# Statistics of CLIP's training pictures (RGB, values in [0, 1]).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@torch.inference_mode()
def image_embedding(encoder: Any, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1 dim"]:
    """Embed pictures for the U-Net's cross-attention.

    Args:
        encoder: transformers' CLIPVisionModelWithProjection.
        image: RGB in [-1, 1], any size and device.

    Returns:
        One context token per picture, float32, on the encoder's device. The unconditional pass uses zeros instead.
    """
    param = next(encoder.parameters())
    pixels = clip_pixels(image, encoder.config.image_size)
    return encoder(pixels.to(param.device, param.dtype)).image_embeds.unsqueeze(1).float()


def clip_pixels(image: Float[Tensor, "batch 3 height width"], size: int) -> Float[Tensor, "batch 3 {size} {size}"]:
    """Resize to a square (not keeping the aspect ratio) and normalise as CLIP expects. Computes in float32."""
    small = (resize_antialiased(image.float(), (size, size)) + 1) / 2
    mean, std = (torch.tensor(v, device=small.device).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return (small - mean) / std


def resize_antialiased(image: Float[Tensor, "batch c h w"], size: tuple[int, int]) -> Float[Tensor, "batch c h2 w2"]:
    """Gaussian blur, then bicubic sampling with aligned corners: the resize with which SVD was trained.

    With f = old / new size along an axis, sigma = max((f - 1) / 2, 0.001) pixels and the window is the first odd
    number >= int(max(4 sigma, 3)); borders are reflected.
    """
    for axis, new in ((-1, size[1]), (-2, size[0])):
        image = _blur(image, axis, sigma=max((image.shape[axis] / new - 1) / 2, 0.001))
    return F.interpolate(image, size=size, mode="bicubic", align_corners=True)


def _blur(image: Tensor, axis: int, sigma: float) -> Tensor:
    half = math.floor(max(4 * sigma, 3)) // 2
    offsets = torch.arange(-half, half + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    n, c, h, w = image.shape
    flat = image.reshape(n * c, 1, h, w)
    horizontal = axis == -1
    # Reflection needs more pixels than it adds; tiny pictures (sides up to `half`) repeat the border instead.
    mode = "reflect" if image.shape[axis] > half else "replicate"
    padded = F.pad(flat, (half, half, 0, 0) if horizontal else (0, 0, half, half), mode=mode)
    weight = kernel.view(1, 1, 1, -1) if horizontal else kernel.view(1, 1, -1, 1)
    return F.conv2d(padded, weight).view(n, c, h, w)
