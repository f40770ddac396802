"""Denoisers: from the network's v-prediction to clean latents, with classifier-free guidance.

A `Network` says v, a `Denoiser` says x0. Guidance joins networks, `precondition_v` makes a denoiser of a network,
`fusion.fuse` makes a denoiser for a long video of one for segments. x0 is affine in v with the same skip term for all,
so guiding or fusing v equals guiding or fusing x0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "batch frames channels height width"]
Sigma = Float[Tensor, ""]


@runtime_checkable
class Denoiser(Protocol):
    """Clean latents from noisy ones."""

    def __call__(self, x: Latents, sigma: Sigma, frames: Sequence[int]) -> Latents:
        """Return x0 for noisy `x = x0 + sigma * eps` (sigma lies on the CPU); `frames`: rows of the conditioning."""
        ...


@runtime_checkable
class Network(Protocol):
    """A network's output F (a v-prediction) for scaled input."""

    def __call__(self, x: Latents, c_noise: Sigma, frames: Sequence[int]) -> Latents:
        """Return v for `x` already multiplied by c_in; c_noise is ln(sigma) / 4."""
        ...


@runtime_checkable
class NetworkPair(Protocol):
    """The same network without and with its condition."""

    def __call__(self, x: Latents, c_noise: Sigma, frames: Sequence[int]) -> tuple[Latents, Latents]:
        """Return (unconditional v, conditional v)."""
        ...


def precondition_v(network: Network) -> Denoiser:
    """EDM preconditioning with sigma_data = 1 for a network that predicts v (SVD, appendix D)."""

    def denoise(x: Latents, sigma: Sigma, frames: Sequence[int]) -> Latents:
        s = float(sigma)  # double precision on the host, whatever x is
        c_skip, c_in = 1 / (s**2 + 1), 1 / (s**2 + 1) ** 0.5
        return c_skip * x - s * c_in * network(c_in * x, 0.25 * sigma.log(), frames)

    return denoise


def guidance_ramp(
    num_frames: int, min_guidance_scale: float, max_guidance_scale: float
) -> Float[Tensor, " {num_frames}"]:
    """Guidance scale per frame, linear from the first to the last frame of the whole video (as SVD's pipeline)."""
    return torch.linspace(min_guidance_scale, max_guidance_scale, num_frames, dtype=torch.float64)


def shift(inner: Denoiser, offset: Callable[[Sequence[int]], Latents]) -> Denoiser:
    """A denoiser of whole latents from one of their difference to `offset` (of the frames asked for).

    x = offset + r + sigma * eps has the same noise as its difference r + sigma * eps, so the sampler need not know.
    """

    def denoise(x: Latents, sigma: Sigma, frames: Sequence[int]) -> Latents:
        known = offset(frames).to(x)
        return known + inner(x - known, sigma, frames)

    return denoise


def guide(pair: NetworkPair, scale: Float[Tensor, " rows"]) -> Network:
    """Classifier-free guidance: v = v_uncond + scale * (v_cond - v_uncond).

    Args:
        pair: gives both predictions; whether in one batch of two or in two passes is its own business.
        scale: guidance scale of each row of the conditioning (`frames` picks from it).
    """

    def network(x: Latents, c_noise: Sigma, frames: Sequence[int]) -> Latents:
        uncond, cond = pair(x, c_noise, frames)
        return uncond + frame_scale(scale, frames, cond) * (cond - uncond)

    return network


def frame_scale(scale: Float[Tensor, " rows"], frames: Sequence[int], like: Tensor) -> Float[Tensor, "1 frames 1 1 1"]:
    """Guidance scale of these rows, to multiply latents by."""
    return scale[torch.as_tensor(list(frames))].to(like.device, like.dtype).view(1, -1, 1, 1, 1)
