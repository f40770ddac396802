"""Samplers: generators that yield after every step, so progress, previews, cancelling and resuming come free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mimicmotion.diffusion.denoiser import Denoiser, Latents
from mimicmotion.errors import ConfigError, MimicMotionError


class NonFiniteError(MimicMotionError, ArithmeticError):
    """The network's output is not a number: sampling on would waste the time."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """State after one step.

    Attributes:
        index: 0 for the first step.
        total: number of steps of the schedule.
        sigma: noise level that is now in `latents`.
        latents: the noisy latents, from which step `index + 1` goes on.
        x0: the clean latents that the denoiser saw in this step (for previews).
    """

    index: int
    total: int
    sigma: float
    latents: Latents
    x0: Latents


def sample_euler(denoiser: Denoiser, x: Latents, sigmas: Float[Tensor, " levels"], start: int = 0) -> Iterator[Step]:
    """Euler's method on the probability-flow ODE (Karras et al. 2022, algorithm 1 without churn).

    Args:
        denoiser: gives x0.
        x: noisy latents at level `sigmas[start]`.
        sigmas: falling levels, on the CPU; n levels make n - 1 steps.
        start: first step to make; give `step.index + 1` with `step.latents` to resume.

    Raises:
        ConfigError: `start` is not a step of the schedule.
        NonFiniteError: the denoiser returned NaN or infinity.
    """
    total = len(sigmas) - 1
    if not 0 <= start < total:
        raise ConfigError(f"start={start}", f"0 to {total - 1}: the schedule has {total} steps", "correct 'start'")
    frames = range(x.shape[1])
    for index in range(start, total):
        # inference_mode holds inside the step only: around a yield it would leak into the caller.
        with torch.inference_mode():
            sigma, sigma_next = float(sigmas[index]), float(sigmas[index + 1])
            x0 = denoiser(x, sigmas[index], frames)
            x = x + (sigma_next - sigma) * ((x - x0) / sigma)
            if not torch.isfinite(x).all():
                raise NonFiniteError(
                    f"NaN or infinity in the latents after step {index + 1} of {total}",
                    "finite latents",
                    "use dtype float32 or bfloat16 (float16 can overflow), and check the weights",
                )
        yield Step(index, total, sigma_next, x, x0)
