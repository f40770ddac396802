"""Guidance that skips the unconditional pass in some steps.

The conditional pass always runs. Guidance is only applied within an interval of noise levels (Kynkaanniemi et al.
2024). Every n-th guided step runs the unconditional pass; the others reuse the difference between the passes (in v)
from the last step that ran it. It is stored per segment, since a row shared by two segments differs in its position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mimicmotion.diffusion.denoiser import Denoiser, Latents, Network, NetworkPair, Sigma, frame_scale, guide
from mimicmotion.errors import InputError
from mimicmotion.settings import SamplingSettings

Pass = Literal["none", "both", "reuse"]
"""Guidance of a step: none, with both passes, or with the conditional pass and the stored difference."""


def plan_passes(
    sigmas: Float[Tensor, " levels"], scale: Float[Tensor, " rows"], sampling: SamplingSettings
) -> tuple[Pass, ...]:
    """Choose the guidance of each step.

    Args:
        sigmas: noise levels; step i starts at level i.
        scale: guidance scale of each row; if all are 1, no step is guided.
        sampling: settings. `guidance_interval` is the range of guided levels, inclusive (None guides all); every
            `guidance_every`-th guided step runs the unconditional pass, starting with the first.
    """
    low, high = sampling.guidance_interval or (0.0, float("inf"))
    every = sampling.guidance_every or 1
    if bool((scale == 1).all()):
        return ("none",) * (len(sigmas) - 1)
    passes: list[Pass] = []
    guided = 0
    for sigma in sigmas[:-1].tolist():
        inside = low <= sigma <= high
        passes.append(("reuse" if guided % every else "both") if inside else "none")
        guided += inside
    return tuple(passes)


class Differences:
    """Stores the last difference between the two passes (conditional minus unconditional v) for each segment.

    Args:
        segments: rows of each segment.
        device: device that stores the differences.
        dtype: dtype of the stored differences; None uses the latents' dtype. Half precision is sufficient if the
            network itself computes in half precision.
    """

    def __init__(
        self, segments: Sequence[tuple[int, ...]], device: torch.device | str, dtype: torch.dtype | None = None
    ) -> None:
        self.names = {rows: f"guidance.{i}" for i, rows in enumerate(segments)}
        self.device, self.dtype = device, dtype
        self.stored: dict[str, Latents] = {}
        """Difference by name. Saved with each step, to resume from it."""

    def store(self, frames: Sequence[int], difference: Latents) -> None:
        """Store the difference of the segment with these rows."""
        self.stored[self.names[tuple(frames)]] = difference.to(self.device, self.dtype)

    def get(self, frames: Sequence[int], like: Latents) -> Latents:
        """Return the difference of the segment with these rows, on the device and in the dtype of `like`."""
        if not self.stored:
            fix = "start at a step that runs both passes"
            raise InputError("no difference is stored", "an earlier step with both passes of guidance", fix)
        return self.stored[self.names[tuple(frames)]].to(like)

    def restore(self, memory: Mapping[str, Tensor]) -> None:
        """Restore the differences from the memory of a step. Raises InputError if some are missing."""
        if missing := [name for name in self.names.values() if name not in memory]:
            raise InputError(f"no {missing[0]} in memory", "the previous step's differences", "pass that step's memory")
        self.stored = {name: memory[name].to(self.device, self.dtype) for name in self.names.values()}


def guide_reusing(conditional: Network, scale: Float[Tensor, " rows"], differences: Differences) -> Network:
    """Apply guidance with the stored difference: v = v_cond + (scale - 1) * difference."""

    def network(x: Latents, c_noise: Sigma, frames: Sequence[int]) -> Latents:
        cond = conditional(x, c_noise, frames)
        return cond + (frame_scale(scale, frames, cond) - 1) * differences.get(frames, cond)

    return network


def guide_and_store(pair: NetworkPair, scale: Float[Tensor, " rows"], differences: Differences) -> Network:
    """Apply guidance with both passes, and store their difference."""

    def storing(x: Latents, c_noise: Sigma, frames: Sequence[int]) -> tuple[Latents, Latents]:
        uncond, cond = pair(x, c_noise, frames)
        differences.store(frames, cond - uncond)
        return uncond, cond

    return guide(storing, scale)


def by_level(sigmas: Float[Tensor, " levels"], denoisers: Sequence[Denoiser]) -> Denoiser:
    """Combine denoisers into one that uses the i-th denoiser at the i-th noise level."""
    table = {float(sigma): denoiser for sigma, denoiser in zip(sigmas, denoisers, strict=False)}

    def denoise(x: Latents, sigma: Sigma, frames: Sequence[int]) -> Latents:
        return table[float(sigma)](x, sigma, frames)

    return denoise
