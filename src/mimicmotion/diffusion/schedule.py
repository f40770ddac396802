"""Noise schedules: the sigmas that the sampler visits, from the largest down to 0."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from mimicmotion.errors import ConfigError
from mimicmotion.settings.sampling import Schedule

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 700.0, 7.0
"""Noise range of Stable Video Diffusion, and the exponent in equation 5 of Karras et al. 2022."""

AYS_SVD = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)
"""The schedule of Align Your Steps for Stable Video Diffusion: 11 levels, so 10 steps."""

DEFAULT_STEPS: dict[Schedule, int] = {"karras": 25, "ays": len(AYS_SVD) - 1}
"""Default number of steps of each schedule."""


def named_sigmas(schedule: Schedule, steps: int | None = None) -> Float64[Tensor, " levels"]:
    """Return the noise levels of a schedule by name. `steps=None` uses its default number of steps.

    Raises:
        ConfigError: the schedule is unknown, or `steps` is less than 1.
    """
    if schedule not in DEFAULT_STEPS:
        raise ConfigError(f"schedule={schedule!r}", " or ".join(DEFAULT_STEPS), "correct 'schedule'")
    count = DEFAULT_STEPS[schedule] if steps is None else steps
    return karras_sigmas(count) if schedule == "karras" else ays_sigmas(count)


def karras_sigmas(steps: int) -> Float64[Tensor, " {steps}+1"]:
    """Return noise levels equally spaced in sigma^(1/rho), followed by 0 (Karras et al. 2022, equation 5)."""
    if steps < 1:
        raise ConfigError(f"num_inference_steps={steps}", "at least 1", "raise num_inference_steps")
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
    sigmas = (high + ramp * (low - high)) ** RHO
    return torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)])


def explicit_sigmas(values: Sequence[float]) -> Float64[Tensor, " levels"]:
    """Validate a custom schedule and return it as a tensor. n levels give n - 1 steps; sampling ends at the last level.

    Raises:
        ConfigError: there are fewer than two levels, or they are not finite, decreasing and at least 0.
    """
    sigmas = torch.tensor([float(v) for v in values], dtype=torch.float64)
    decreasing = bool((sigmas[1:] < sigmas[:-1]).all()) and bool(torch.isfinite(sigmas).all())
    if len(sigmas) < 2 or not decreasing or float(sigmas[-1]) < 0:
        raise ConfigError(
            f"sigmas={[round(float(v), 4) for v in values]}",
            "at least two finite levels, each smaller than the one before, none below 0",
            "list the levels from the noisiest to the cleanest, for example 700, 54.5, 4.25, 0.17",
        )
    return sigmas


def ays_sigmas(steps: int = 10) -> Float64[Tensor, " {steps}+1"]:
    """Return the noise levels of Align Your Steps for SVD, interpolated log-linearly if `steps` is not 10."""
    if steps < 1:
        raise ConfigError(f"num_inference_steps={steps}", "at least 1", "raise num_inference_steps")
    log = torch.tensor(AYS_SVD, dtype=torch.float64).log()
    position = torch.linspace(0, len(AYS_SVD) - 1, steps + 1, dtype=torch.float64)
    left = position.floor().long().clamp(max=len(AYS_SVD) - 2)
    return torch.lerp(log[left], log[left + 1], position - left).exp()


def initial_scale(sigmas: Float64[Tensor, " levels"]) -> float:
    """Return sqrt(sigma^2 + 1), which scales unit noise to the variance of noisy latents at the first level."""
    return float((sigmas[0] ** 2 + 1) ** 0.5)
