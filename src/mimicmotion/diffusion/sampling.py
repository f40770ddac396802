"""Samplers: generators that yield after every step, so progress, previews, cancelling and resuming come free."""

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
    """Raise NonFiniteError if a network's output (`what`) holds NaN or infinity."""
    if not math.isfinite(values.sum(dtype=torch.float32)):  # a sum needs no tensor of the same size
        fix = "use dtype float32 or bfloat16 (float16 can overflow); `mimicmotion weights verify` checks the weights"
        raise NonFiniteError(f"NaN or infinity in {what}", "finite numbers", fix)


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """State after one step.

    Attributes:
        index: 0 for the first step.
        total: number of steps of the schedule.
        sigma: noise level that is now in `latents`.
        latents: the noisy latents, from which step `index + 1` goes on.
        x0: the clean latents that the denoiser saw in this step (for previews); None where they were not kept.
        memory: what a sampler moreover needs to go on from here (shares its tensors with `x0`).
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
    """Follow the probability-flow ODE down the noise levels.

    - euler: Euler's method (Karras et al. 2022, algorithm 1 without churn).
    - dpmpp-2m: DPM-Solver++(2M) (Lu et al. 2022) in terms of sigma: second order from the clean latents of this and
      the last step; the first step, and one that ends at level 0, are of first order.

    Args:
        denoiser: gives x0.
        x: noisy latents at level `sigmas[start]`.
        sigmas: falling levels, on the CPU; n levels make n - 1 steps.
        sampler: the method.
        start: first step to make; to resume give `step.index + 1` with `step.latents` and `step.memory`.
        memory: of the step before `start`; euler needs none.
        keep_x0: keep the clean latents of each step for previews (dpmpp-2m keeps them anyway).
        in_place: write each step over `x` (and over the memory): the tensors of a yielded step hold only until the
            next one is asked for. Otherwise each step has tensors of its own.

    Raises:
        ConfigError: unknown sampler, or `start` is not a step of the schedule.
        InputError: the memory is missing or of another shape.
        NonFiniteError: the denoiser returned NaN or infinity.
    """
    total = len(sigmas) - 1
    if sampler not in get_args(Sampler):
        raise ConfigError(f"sampler={sampler!r}", " or ".join(get_args(Sampler)), "correct 'sampler'")
    if not 0 <= start < total:
        raise ConfigError(f"start={start}", f"0 to {total - 1}: the schedule has {total} steps", "correct 'start'")
    second_order, known = sampler == "dpmpp-2m", {}
    if second_order and start:
        last = (memory or {}).get("x0")
        if last is None or last.shape != x.shape:
            raise InputError(
                "no x0 in memory" if last is None else f"memory x0 of shape {tuple(last.shape)}",
                f"the last step's clean latents {tuple(x.shape)}: {sampler} goes on from two steps",
                "pass the memory of the step that is resumed",
            )
        known["x0"] = last.to(x)
    return _sample(denoiser, x, sigmas, second_order, start, known, keep_x0, in_place)


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
        # inference_mode holds inside the step only: around a yield it would leak into the caller.
        with torch.inference_mode():
            x0 = denoiser(x, sigmas[index], range(x.shape[1]))
            x = advance(x, x0, memory.get("x0"), sigmas, index, in_place)
            check_finite(x, f"the latents after step {index + 1} of {total}")
        memory = {"x0": x0} if second_order else {}
        step = Step(index, total, float(sigmas[index + 1]), x, x0 if keep_x0 else None, memory)
        del x0  # the step holds what is wanted of it
        yield step
        del step


def advance(
    x: Latents,
    x0: Latents,
    last: Latents | None,
    sigmas: Float[Tensor, " levels"],
    index: int,
    in_place: bool = False,
) -> Latents:
    """One step from level `index` to the next; `last` is x0 of the step before, None makes it Euler's.

    With t = -ln sigma the ODE is (x / sigma)' = x0 / sigma. Euler's method holds x0 constant, which moves x towards it
    by 1 - sigma_next / sigma of the way. Second order takes x0 as a line in t through the two last values and moves
    towards its value in the middle of the step.

    Args:
        x: noisy latents.
        x0: clean latents of this step.
        last: clean latents of the step before.
        sigmas: levels.
        index: of the step.
        in_place: write over `x` and `last`.
    """
    lerp = Tensor.lerp_ if in_place else Tensor.lerp
    sigma, sigma_next = float(sigmas[index]), float(sigmas[index + 1])
    target = x0
    if last is not None and sigma_next > 0:
        half = 0.5 * math.log(sigma / sigma_next) / math.log(float(sigmas[index - 1]) / sigma)
        target = lerp(last, x0, 1 + half)  # half a step beyond x0
    return lerp(x, target, 1 - sigma_next / sigma)
