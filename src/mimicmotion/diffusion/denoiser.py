"""Denoisers: from the network's v-prediction to clean latents, with classifier-free guidance.

A `Network` predicts v, a `Denoiser` predicts x0. `guide` combines networks, `precondition_v` turns a network into a
denoiser, and `fusion.fuse` turns a denoiser for segments into one for long videos. x0 is affine in v, with a skip term
that is the same for all predictions, so guiding or fusing v is equivalent to guiding or fusing x0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "batch frames channels height width"]
Sigma = Float[Tensor, ""]


Denoiser = Callable[[Latents, Sigma, Sequence[int]], Latents]
"""Called with noisy latents x = x0 + sigma * eps, sigma (on the CPU) and the rows of the conditioning; returns x0."""
Network = Callable[[Latents, Sigma, Sequence[int]], Latents]
"""Called with latents multiplied by c_in, c_noise = ln(sigma) / 4 and the rows; returns v (the raw output F)."""
NetworkPair = Callable[[Latents, Sigma, Sequence[int]], tuple[Latents, Latents]]
"""Called like a `Network`; runs it without and with its conditioning, and returns (unconditional v, conditional v)."""


def precondition_v(network: Network) -> Denoiser:
    """Apply EDM preconditioning with sigma_data = 1 to a network that predicts v (SVD, appendix D)."""

    def denoise(x: Latents, sigma: Sigma, frames: Sequence[int]) -> Latents:
        s = float(sigma)  # double precision on the host, whatever the dtype of x
        c_skip, c_in = 1 / (s**2 + 1), 1 / (s**2 + 1) ** 0.5
        return c_skip * x - s * c_in * network(c_in * x, 0.25 * sigma.log(), frames)

    return denoise


def guidance_ramp(
    num_frames: int, min_guidance_scale: float, max_guidance_scale: float
) -> Float[Tensor, " {num_frames}"]:
    """Return the guidance scale of each frame, interpolated linearly from the first frame to the last (as in SVD)."""
    return torch.linspace(min_guidance_scale, max_guidance_scale, num_frames, dtype=torch.float64)


def shift(inner: Denoiser, offset: Callable[[Sequence[int]], Latents]) -> Denoiser:
    """Turn a denoiser of residuals, latents minus `offset(frames)`, into a denoiser of the latents.

    Subtracting the offset does not change the noise: x = offset + r + sigma * eps becomes r + sigma * eps. The sampler
    is therefore unaffected.
    """

    def denoise(x: Latents, sigma: Sigma, frames: Sequence[int]) -> Latents:
        base = offset(frames).to(x)
        return base + inner(x - base, sigma, frames)

    return denoise


def guide(pair: NetworkPair, scale: Float[Tensor, " rows"]) -> Network:
    """Apply classifier-free guidance: v = v_uncond + scale * (v_cond - v_uncond).

    Args:
        pair: returns both predictions, from one batch of two or from two passes.
        scale: guidance scale of each row of the conditioning, indexed by `frames`.
    """

    def network(x: Latents, c_noise: Sigma, frames: Sequence[int]) -> Latents:
        uncond, cond = pair(x, c_noise, frames)
        return uncond + frame_scale(scale, frames, cond) * (cond - uncond)

    return network


def frame_scale(scale: Float[Tensor, " rows"], frames: Sequence[int], like: Tensor) -> Float[Tensor, "1 frames 1 1 1"]:
    """Return the guidance scale of the given rows, shaped to broadcast with latents."""
    return scale[torch.as_tensor(list(frames))].to(like.device, like.dtype).view(1, -1, 1, 1, 1)
