"""Samplers: generators that yield after every step, so progress, previews, cancelling and resuming come free.

A sampler works on parts: its denoiser hands out rows of the video whose clean latents are final (`fusion.fuse_parts`),
and steps them at once. So one set of latents is enough, however long the video is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from mimicmotion.config.speed import Sampler
from mimicmotion.diffusion.denoiser import Denoiser, Latents, PartDenoiser, Sigma
from mimicmotion.errors import ConfigError, InputError, MimicMotionError

Part = Float[Tensor, "batch part channels height width"]
"""Some of the frames of `Latents`."""


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
        x0: the clean latents that the denoiser saw in this step (for previews); None where they were not kept.
        memory: what a sampler moreover needs to go on from here (shares its tensors with `x0`).
        open_rows: rows that this step has not moved yet, of a step that is handed out in parts; nothing goes on from
            it before there are none.
    """

    index: int
    total: int
    sigma: float
    latents: Latents
    x0: Latents | None
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    open_rows: frozenset[int] = frozenset()


def whole(denoiser: Denoiser) -> PartDenoiser:
    """All rows as one part."""

    def parts(x: Latents, sigma: Sigma, frames: Sequence[int]) -> Iterator[tuple[list[int], Latents]]:
        yield list(range(x.shape[1])), denoiser(x, sigma, frames)

    return parts


def sample(
    denoiser: PartDenoiser,
    x: Latents,
    sigmas: Float[Tensor, " levels"],
    sampler: Sampler = "euler",
    *,
    start: int = 0,
    memory: Mapping[str, Tensor] | None = None,
    keep_x0: bool = True,
    in_place: bool = False,
    last_in_parts: bool = False,
) -> Iterator[Step]:
    """Follow the probability-flow ODE down the noise levels.

    - euler: Euler's method (Karras et al. 2022, algorithm 1 without churn).
    - dpmpp-2m: DPM-Solver++(2M) (Lu et al. 2022) in terms of sigma: second order from the clean latents of this and
      the last step; the first step, and one that ends at level 0, are of first order.

    Args:
        denoiser: gives x0, part by part.
        x: noisy latents at level `sigmas[start]`, wherever they shall be kept; parts may come from another device.
        sigmas: falling levels, on the CPU; n levels make n - 1 steps.
        sampler: the method.
        start: first step to make; to resume give `step.index + 1` with `step.latents` and `step.memory`.
        memory: of the step before `start`; euler needs none.
        keep_x0: keep the clean latents of each step for previews, as much memory again (dpmpp-2m keeps them anyway).
        in_place: write each step over `x` (and over the memory): the tensors of a yielded step hold only until the
            next one is asked for. Otherwise each step has tensors of its own.
        last_in_parts: yield during the last step too, each time that the denoiser has handed out rows: they are clean
            for good. These states share the tensors of the last one, and name the rows that are open still.

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
    second_order = sampler == "dpmpp-2m"
    clean = (memory or {}).get("x0") if start and second_order else None
    if start and second_order and (clean is None or clean.shape != x.shape):
        raise InputError(
            "no x0 in memory" if clean is None else f"memory x0 of shape {tuple(clean.shape)}",
            f"the last step's clean latents {tuple(x.shape)}: {sampler} goes on from two steps",
            "pass the memory of the step that is resumed",
        )
    clean = None if clean is None else clean.to(x)
    return _sample(denoiser, x, sigmas, second_order, start, clean, keep_x0, in_place, last_in_parts)


def _sample(
    denoiser: PartDenoiser,
    x: Latents,
    sigmas: Tensor,
    second_order: bool,
    start: int,
    clean: Latents | None,
    keep_x0: bool,
    in_place: bool,
    last_in_parts: bool,
) -> Iterator[Step]:
    total = len(sigmas) - 1
    for index in range(start, total):
        level, open_rows = float(sigmas[index + 1]), set(range(x.shape[1]))
        # inference_mode holds inside the step only: around a yield it would leak into the caller.
        with torch.inference_mode():
            if not in_place:
                x, clean = x.clone(), None if clean is None else clean.clone()
            if clean is None and (keep_x0 or second_order):
                clean = torch.empty_like(x)
            parts = denoiser(x, sigmas[index], range(x.shape[1]))
        shown = clean if keep_x0 else None
        while True:
            with torch.inference_mode():
                part = next(parts, None)
                if part is None:
                    break
                _move(x, clean, *part, second_order and index > 0, sigmas, index)
            open_rows.difference_update(part[0])
            del part
            if last_in_parts and index + 1 == total and open_rows:
                yield Step(index, total, level, x, shown, open_rows=frozenset(open_rows))
        remembered = {"x0": clean} if second_order and clean is not None else {}
        yield Step(index, total, level, x, shown, remembered)


def _move(
    x: Latents, clean: Latents | None, rows: list[int], x0: Part, known: bool, sigmas: Tensor, index: int
) -> None:
    """Step these rows, in place; `known`: `clean` holds their x0 of the step before."""
    at = torch.tensor(rows, device=x.device)
    last = clean[:, at].to(x0) if known and clean is not None else None
    moved = advance(x[:, at].to(x0), x0, last, sigmas, index)
    if not torch.isfinite(moved).all():
        raise _not_finite(index, len(sigmas) - 1)
    x[:, at] = moved.to(x)
    if clean is not None:
        clean[:, at] = x0.to(clean)


def advance(x: Latents, x0: Latents, last: Latents | None, sigmas: Float[Tensor, " levels"], index: int) -> Latents:
    """One step of some rows from level `index` to the next; `last`: their x0 of the step before, None is Euler.

    With t = -ln sigma the ODE is (x / sigma)' = x0 / sigma; taking x0 as a line in t through the two last values and
    evaluating it in the middle of the step gives second order.
    """
    sigma, sigma_next = float(sigmas[index]), float(sigmas[index + 1])
    if last is None or sigma_next == 0:
        return x + (sigma_next - sigma) * ((x - x0) / sigma)
    before = math.log(float(sigmas[index - 1]) / sigma)
    half = 0.5 * math.log(sigma / sigma_next) / before
    ratio = sigma_next / sigma
    return ratio * x + (1 - ratio) * (x0 + half * (x0 - last))


def _not_finite(index: int, total: int) -> NonFiniteError:
    return NonFiniteError(
        f"NaN or infinity in the latents after step {index + 1} of {total}",
        "finite latents",
        "use dtype float32 or bfloat16 (float16 can overflow), and check the weights",
    )


def sample_euler(denoiser: Denoiser, x: Latents, sigmas: Float[Tensor, " levels"], start: int = 0) -> Iterator[Step]:
    """`sample` by Euler's method, of a denoiser that gives all rows at once."""
    return sample(whole(denoiser), x, sigmas, start=start)
