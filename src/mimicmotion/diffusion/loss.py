"""The training objective: EDM with sigma_data = 1 and a v-target, as Stable Video Diffusion (its appendix D).

With F the output of the network and v = (eps - sigma * x0) / sqrt(1 + sigma^2), EDM's weight (1 + sigma^2) / sigma^2
cancels c_out^2, so the loss on x0 is the plain mean of (F - v)^2. All sigma arithmetic is float32: half precision
overflows at sigma ~ 700.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from mimicmotion.errors import ConfigError, InputError

Latents = Float[Tensor, "batch frames channels height width"]


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Training noise levels: ln(sigma) ~ N(mean, std^2)."""

    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise ConfigError(f"mean={self.mean}, std={self.std}", "a finite mean and std > 0", "use a preset")

    def sample(self, count: int, generator: torch.Generator | None = None) -> Float32[Tensor, " {count}"]:
        """Draw `count` levels, float32 on the CPU."""
        return (self.mean + self.std * torch.randn(count, generator=generator)).exp()


SIGMA_PRESETS = {
    "mimicmotion": LogNormal(0.5, 1.4),
    "svd-320x576": LogNormal(0.7, 1.6),
    "svd-576x1024": LogNormal(1.0, 1.6),
}
"""Noise levels of MimicMotion and of SVD's image-to-video training."""

NOISE_AUG = LogNormal(-3.0, 0.5)
"""Strength of the noise on the reference picture (pixel space) where training uses it; a choice of this project."""


def _column(sigma: Tensor, like: Tensor) -> Float32[Tensor, "batch 1 1 1 1"]:
    return sigma.to(like.device, torch.float32).view(-1, *[1] * (like.ndim - 1))


def network_input(x0: Latents, eps: Latents, sigma: Float[Tensor, " batch"]) -> Latents:
    """What the network sees: c_in * (x0 + sigma * eps), float32."""
    s = _column(sigma, x0)
    return (x0.float() + s * eps.float()) / (s * s + 1).sqrt()


def c_noise(sigma: Float[Tensor, " batch"]) -> Float32[Tensor, " batch"]:
    """The network's time input, ln(sigma) / 4."""
    return sigma.float().log() / 4


def v_target(x0: Latents, eps: Latents, sigma: Float[Tensor, " batch"]) -> Latents:
    """What the network should say: v = (eps - sigma * x0) / sqrt(1 + sigma^2), float32."""
    s = _column(sigma, x0)
    return (eps.float() - s * x0.float()) / (s * s + 1).sqrt()


def x0_from_v(x: Latents, v: Latents, sigma: Float[Tensor, " batch"]) -> Latents:
    """Clean latents from the noisy ones x = x0 + sigma * eps: c_skip * x + c_out * v, float32."""
    s = _column(sigma, x)
    return x.float() / (s * s + 1) - s / (s * s + 1).sqrt() * v.float()


def hand_weights(
    mask: Float[Tensor, "batch frames hands height width"], scale: float, downscale: int, *, reference_slot: bool
) -> Float32[Tensor, "batch frames 1 h w"]:
    """Loss weight M = 1 + (scale - 1) * m per latent (hand region enhancement, paper section 3.4).

    Args:
        mask: 1 inside the box of a reliable hand, 0 elsewhere, in pixels; one channel per hand or their union. Hands
            are united by the maximum, so that an unreliable hand (all 0) cannot wipe out the other's box.
        scale: weight inside a hand box (MimicMotion: 10).
        downscale: pixels per latent; m is the area average.
        reference_slot: frame 0 is the reference picture, which keeps weight 1.
    """
    if scale < 0 or not math.isfinite(scale):
        raise ConfigError(f"hand_scale={scale}", "a finite weight >= 0", "use 10, or 1 to switch it off")
    union = mask.float().amax(dim=2)
    m = F.avg_pool2d(union, downscale)  # frames play the channels: B F H W -> B F h w
    weights = (1 + (scale - 1) * m).unsqueeze(2)
    if reference_slot:
        weights[:, 0] = 1
    return weights


def weighted_mse(output: Latents, target: Latents, weights: Tensor | None = None) -> Float32[Tensor, ""]:
    """mean(M * (F - v)^2) in float32; M is not renormalised, so a picture without hands is not weighed up."""
    if output.shape != target.shape:
        raise InputError(f"output {tuple(output.shape)}", f"{tuple(target.shape)}", "give both the same shape")
    error = (output.float() - target.float()).square()
    return (error if weights is None else weights * error).mean()


def draw_dropped(batch: int, probability: float, generator: torch.Generator | None = None) -> Bool[Tensor, " {batch}"]:
    """Which samples train without condition; for these call `drop_conditions` on picture AND pose."""
    if not 0 <= probability <= 1:
        raise ConfigError(f"condition_dropout={probability}", "0 to 1", "use 0.1, or 0 to switch it off")
    return torch.rand(batch, generator=generator) < probability


def drop_conditions(dropped: Bool[Tensor, " batch"], *conditions: Tensor) -> tuple[Tensor, ...]:
    """Zero all conditions of the dropped samples together: image embedding, reference latent and pose features.

    The unconditional pass of guidance has none of the three, so none may be left in training. (Zeros added after
    conv_in are exactly "no pose"; a black pose frame through PoseNet is not.)
    """
    return tuple(
        torch.where(
            dropped.to(c.device).view(-1, *[1] * (c.ndim - 1)), torch.zeros((), dtype=c.dtype, device=c.device), c
        )
        for c in conditions
    )
