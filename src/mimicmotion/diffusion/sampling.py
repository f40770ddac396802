"""Samplers, as generators that yield after every step for progress, previews, cancelling and resuming."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from mimicmotion.diffusion.denoiser import Denoiser, Latents
from mimicmotion.errors import ConfigError, InputError, NonFiniteError
from mimicmotion.settings.sampling import Sampler


def check_finite(values: Tensor, what: str) -> None:
    """Raise NonFiniteError if a network's output (`what`) contains NaN or infinity."""
    if not math.isfinite(values.sum(dtype=torch.float32)):  # the sum avoids a temporary tensor of this size
        fix = "use dtype float32 or bfloat16 (float16 can overflow); `mimicmotion weights verify` checks the weights"
        raise NonFiniteError(f"NaN or infinity in {what}", "finite numbers", fix)


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """State of the sampler after a step.

    Attributes:
        index: index of the step, from 0.
        total: number of steps of the schedule.
        sigma: current noise level of `latents`.
        latents: the noisy latents that step `index + 1` continues from.
        x0: the clean latents predicted in this step, for previews; None with `keep_x0=False`.
        memory: other tensors that the next step needs (may include `x0` itself); empty for Euler with plain guidance.
    """

    index: int
    total: int
    sigma: float
    latents: Latents
    x0: Latents | None
    memory: Mapping[str, Tensor] = field(default_factory=dict)


def sample(
    denoiser: Denoiser,
    x: Latents,
    sigmas: Float[Tensor, " levels"],
    sampler: Sampler = "euler",
    *,
    start: int = 0,
    memory: Mapping[str, Tensor] | None = None,
    keep_x0: bool = True,
    in_place: bool = False,
) -> Iterator[Step]:
    """Integrate the probability-flow ODE along the noise levels.

    - euler: Euler's method (Karras et al. 2022, algorithm 1 without churn).
    - dpmpp-2m: DPM-Solver++(2M) (Lu et al. 2022) in terms of sigma. Second order, using the clean latents of this and
      the previous step; the first step, and a step that ends at level 0, are first order.

    Args:
        denoiser: predicts x0.
        x: noisy latents at level `sigmas[start]`.
        sigmas: decreasing levels, on the CPU; n levels give n - 1 steps.
        sampler: the sampler.
        start: index of the first step; to resume, pass `step.index + 1` with `step.latents` and `step.memory`.
        memory: memory of the step before `start`; euler needs none.
        keep_x0: keep the clean latents of each step for previews (dpmpp-2m keeps them anyway).
        in_place: overwrite `x` and the memory in each step, so that the tensors of a yielded step are valid only until
            the next one is requested. Otherwise each step has its own tensors.

    Raises:
        ConfigError: the sampler is unknown, or `start` is not a step of the schedule.
        InputError: the memory lacks `x0`, which dpmpp-2m needs to resume.
        NonFiniteError: the denoiser returned NaN or infinity.
    """
    total = len(sigmas) - 1
    if sampler not in get_args(Sampler):
        raise ConfigError(f"sampler={sampler!r}", " or ".join(get_args(Sampler)), "correct 'sampler'")
    if not 0 <= start < total:
        raise ConfigError(f"start={start}", f"0 to {total - 1}: the schedule has {total} steps", "correct 'start'")
    second_order = sampler == "dpmpp-2m"
    restored = {}
    if second_order and start:
        last = (memory or {}).get("x0")
        if last is None or last.shape != x.shape:
            got = "no x0 in memory" if last is None else f"memory x0 of shape {tuple(last.shape)}"
            raise InputError(got, f"the previous step's clean latents {tuple(x.shape)}", "pass that step's memory")
        restored["x0"] = last.to(x)
    return _sample(denoiser, x, sigmas, second_order, start, restored, keep_x0, in_place)


def _sample(
    denoiser: Denoiser,
    x: Latents,
    sigmas: Tensor,
    second_order: bool,
    start: int,
    memory: dict[str, Tensor],
    keep_x0: bool,
    in_place: bool,
) -> Iterator[Step]:
    total = len(sigmas) - 1
    for index in range(start, total):
        # inference_mode must not span the yield, or it would leak into the caller.
        with torch.inference_mode():
            x0 = denoiser(x, sigmas[index], range(x.shape[1]))
            x = advance(x, x0, memory.get("x0"), sigmas, index, in_place)
            check_finite(x, f"the latents after step {index + 1} of {total}")
        memory = {"x0": x0} if second_order else {}
        step = Step(index, total, float(sigmas[index + 1]), x, x0 if keep_x0 else None, memory)
        del x0  # the step keeps it if requested
        yield step
        del step


def advance(
    x: Latents, x0: Latents, last: Latents | None, sigmas: Float[Tensor, " levels"], index: int, in_place: bool = False
) -> Latents:
    """Take one step from level `index` to the next: second order with `last`, but Euler without it or to level 0.

    With t = -ln sigma the ODE is (x / sigma)' = x0 / sigma. Euler's method keeps x0 constant, which moves x towards it
    by a fraction of 1 - sigma_next / sigma. The second-order method extrapolates x0 linearly in t from its last two
    values, and moves x towards its value in the middle of the step.

    Args:
        x: noisy latents.
        x0: clean latents of this step.
        last: clean latents of the previous step, or None.
        sigmas: noise levels.
        index: index of the step.
        in_place: overwrite `x` and `last`.
    """
    lerp = Tensor.lerp_ if in_place else Tensor.lerp
    sigma, sigma_next = float(sigmas[index]), float(sigmas[index + 1])
    target = x0
    if last is not None and sigma_next > 0:
        half = 0.5 * math.log(sigma / sigma_next) / math.log(float(sigmas[index - 1]) / sigma)
        target = lerp(last, x0, 1 + half)  # half a step beyond x0
    return lerp(x, target, 1 - sigma_next / sigma)
