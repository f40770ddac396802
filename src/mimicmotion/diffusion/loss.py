"""The training objective: EDM with sigma_data = 1 and a v-target, as in Stable Video Diffusion (appendix D).

With F the network output and v = (eps - sigma * x0) / sqrt(1 + sigma^2), EDM's weight (1 + sigma^2) / sigma^2 cancels
c_out^2, so the loss on x0 is the plain mean of (F - v)^2. All sigma arithmetic is float32, because half precision
overflows at sigma ~ 700. `training.objective` combines these functions into the loss of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from numpy import ndarray
from torch import Tensor

from mimicmotion.diffusion.denoiser import Latents
from mimicmotion.errors import InputError

SIGMA_PRESETS = {
    "mimicmotion": NormalDist(0.5, 1.4),
    "svd-320x576": NormalDist(0.7, 1.6),
    "svd-576x1024": NormalDist(1.0, 1.6),
}
"""Distribution of ln(sigma) in the training of MimicMotion and of SVD's image-to-video models."""


def _column(sigma: Tensor, like: Tensor) -> Float32[Tensor, "batch 1 1 1 1"]:
    return sigma.to(like.device, torch.float32).view(-1, *[1] * (like.ndim - 1))


def network_input(x0: Latents, eps: Latents, sigma: Float[Tensor, " batch"]) -> Latents:
    """Return the network's input, c_in * (x0 + sigma * eps), in float32."""
    s = _column(sigma, x0)
    return (x0.float() + s * eps.float()) / (s * s + 1).sqrt()


def c_noise(sigma: Float[Tensor, " batch"]) -> Float32[Tensor, " batch"]:
    """Return the network's time input, ln(sigma) / 4."""
    return sigma.float().log() / 4


def v_target(x0: Latents, eps: Latents, sigma: Float[Tensor, " batch"]) -> Latents:
    """Return the network's target, v = (eps - sigma * x0) / sqrt(1 + sigma^2), in float32."""
    s = _column(sigma, x0)
    return (eps.float() - s * x0.float()) / (s * s + 1).sqrt()


def hand_weights(
    mask: Float[Tensor, "batch frames h w"], scale: float, *, reference_slot: bool
) -> Float32[Tensor, "batch frames 1 h w"]:
    """Compute the loss weight M = 1 + (scale - 1) * m of each latent (hand region enhancement, paper section 3.4).

    Args:
        mask: m, the fraction of each latent's area inside the box of a reliable hand, 0 to 1 (`pose.hands.hand_masks`).
        scale: weight inside a hand box (MimicMotion: 10).
        reference_slot: whether frame 0 is the reference picture, which is not generated and keeps weight 1.
    """
    weights = (1 + (scale - 1) * mask.float()).unsqueeze(2)
    if reference_slot:
        weights[:, 0] = 1
    return weights


def weighted_mse(output: Latents, target: Latents, weights: Tensor | None = None) -> Float32[Tensor, " batch"]:
    """Return mean(M * (F - v)^2) of each sample, in float32; M is 1 without `weights`.

    M is not normalised, so that pictures without hands do not gain weight.

    Raises:
        InputError: output and target differ in shape.
    """
    if output.shape != target.shape:
        got, expected = f"output of shape {tuple(output.shape)}", f"the target's shape {tuple(target.shape)}"
        raise InputError(got, expected, "use the U-Net and the autoencoder of one model")
    error = (output.float() - target.float()).square()
    return (error if weights is None else weights * error).flatten(1).mean(1)


def choose_dropped(
    uniform: Float[ndarray, "batch conditions_and_1"], together: float, apart: Sequence[float]
) -> Bool[Tensor, "batch conditions"]:
    """Choose which conditions to drop from which samples in training, as classifier-free guidance requires.

    Args:
        uniform: random numbers in [0, 1). The first column decides on all conditions of a sample together, each other
            column on a single condition.
        together: fraction of samples that lose all conditions.
        apart: for each condition, the additional fraction of samples that lose only this one.
    """
    return torch.from_numpy((uniform[:, 1:] < np.array(apart)) | (uniform[:, :1] < together))


def drop_condition(dropped: Bool[Tensor, " batch"], condition: Tensor) -> Tensor:
    """Zero a condition (image embedding, reference latent or pose features) in the dropped samples.

    The unconditional pass of guidance has none of the three. (Adding zeros after conv_in is exactly "no pose"; a black
    pose frame is not, since PoseNet does not map it to zeros.)
    """
    zero = torch.zeros((), dtype=condition.dtype, device=condition.device)
    return torch.where(dropped.to(condition.device).view(-1, *[1] * (condition.ndim - 1)), zero, condition)
