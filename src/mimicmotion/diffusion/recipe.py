"""How one video is denoised, worked out and checked before anything is computed; and the noise it starts from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from mimicmotion.diffusion.denoiser import guidance_ramp
from mimicmotion.diffusion.fusion import FusionPlan, make_plan
from mimicmotion.diffusion.guidance import Pass, plan_passes
from mimicmotion.diffusion.noise import PICTURE_FRAME, REFERENCE_FRAME, frame_noise, periodic_noise, released_noise
from mimicmotion.diffusion.schedule import explicit_sigmas, named_sigmas
from mimicmotion.errors import ConfigError, InputError, PoseError
from mimicmotion.settings import FusionConfig
from mimicmotion.settings.speed import Sampler, Schedule


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """Segments, noise levels, sampler and guidance of one video.

    Attributes:
        fusion: how segments are cut and joined.
        plan: the segments of this video.
        sigmas: noise levels, falling, on the CPU.
        guidance: classifier-free guidance scale of each row of the plan.
        one_batch: both passes of guidance as one batch of two (faster on a GPU), or one after the other (less memory).
        sampler: solver of the probability-flow ODE.
        guidance_interval: lowest and highest noise level that is guided, both included; None guides all.
        guidance_every: of the guided steps each so-many-th runs the unconditional pass; the others use the last
            difference of both passes again.
        block_cache: error budget of using deep features again (`BlockCache`); 0 computes all.
    """

    fusion: FusionConfig
    plan: FusionPlan
    sigmas: Float64[Tensor, " levels"]
    guidance: Float64[Tensor, " rows"]
    one_batch: bool = True
    sampler: Sampler = "euler"
    guidance_interval: tuple[float, float] | None = None
    guidance_every: int = 1
    block_cache: float = 0.0

    @property
    def passes(self) -> tuple[Pass, ...]:
        """What guidance does in each step."""
        return plan_passes(self.sigmas, self.guidance, self.guidance_interval, self.guidance_every)


@dataclass(frozen=True, slots=True, eq=False)
class Noise:
    """Unit noise of one video, on the CPU.

    Attributes:
        latents: of all rows of the plan, the reference slot in front.
        picture: for augmenting the reference picture (used where `noise_aug_strength` is not 0).
    """

    latents: Float32[Tensor, "1 rows channels h w"]
    picture: Float32[Tensor, "1 3 height width"]


def make_recipe(
    num_frames: int,
    fusion: FusionConfig,
    *,
    reference_slot: bool,
    steps: int | None = None,
    schedule: Schedule = "karras",
    sigmas: Sequence[float] | None = None,
    guidance: tuple[float, float] = (2.0, 2.0),
    one_batch: bool = True,
    sampler: Sampler = "euler",
    guidance_interval: tuple[float, float] | None = None,
    guidance_every: int = 1,
    block_cache: float = 0.0,
) -> Recipe:
    """Work out and check a recipe.

    Args:
        num_frames: of the video.
        fusion: how segments are cut and joined.
        reference_slot: whether there is a reference pose; without one there is no slot, whatever `fusion` says.
        steps: of the schedule; None is the usual number.
        schedule: of the noise levels.
        sigmas: noise levels in its place.
        guidance: scale of the first and of the last frame.
        one_batch: see `Recipe`, as the remaining ones.
        sampler: see `Recipe`.
        guidance_interval: see `Recipe`.
        guidance_every: see `Recipe`.
        block_cache: see `Recipe`.

    Raises:
        PoseError: mode "released" without a reference pose.
        InputError: no frames, or a setting out of range.
    """
    if not reference_slot:
        if fusion.mode == "released":
            raise PoseError("fusion mode released without reference_pose", "the picture's drawn pose", "pass it")
        fusion = dataclasses.replace(fusion, reference_slot=False)
    for name, value in zip(("min_guidance_scale", "max_guidance_scale"), guidance, strict=True):
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{name}={value}", "a finite number, 0 or more", "use 2.0 (1 is no guidance)")
    plan = make_plan(num_frames, fusion)
    levels = named_sigmas(schedule, steps) if sigmas is None else explicit_sigmas(sigmas)
    ramp = guidance_ramp(plan.num_rows, *guidance)
    if sampler not in get_args(Sampler):
        raise ConfigError(f"sampler={sampler!r}", " or ".join(get_args(Sampler)), "correct 'sampler'")
    if not (math.isfinite(block_cache) and block_cache >= 0):
        raise ConfigError(f"block_cache={block_cache}", "a finite number, 0 or more", "use 0 for none")
    recipe = Recipe(fusion, plan, levels, ramp, one_batch, sampler, guidance_interval, guidance_every, block_cache)
    _ = recipe.passes  # finds a wrong interval now
    return recipe


def draw_noise(
    recipe: Recipe,
    size: tuple[int, int],
    latent: tuple[int, int, int],
    *,
    seed: int = 42,
    generator: torch.Generator | None = None,
    latents: Float[Tensor, "1 frames channels h w"] | None = None,
) -> Noise:
    """Draw the noise of a video.

    Each frame's noise depends on the seed and on the frame's number in the video alone. Mode "released" instead draws
    one segment in the published code's order and repeats it along time.

    Args:
        recipe: of the video.
        size: (height, width) in pixels.
        latent: (channels, h, w) of one frame's latents.
        seed: of the noise.
        generator: takes the place of the seed; one seed is drawn from it (mode "released": the noise itself).
        latents: unit noise to use instead, the reference slot in front; where it has fewer frames it is repeated along
            time, where it has more the rest is not used.

    Raises:
        InputError: `latents` has another shape, or is not finite.
    """
    slot, rows = int(recipe.plan.reference_slot), recipe.plan.num_rows
    if recipe.fusion.mode == "released":
        generator = torch.Generator().manual_seed(seed) if generator is None else generator
        picture, unit = released_noise(generator, size, latent, recipe.fusion.segment_frames)
    else:
        if generator is not None:
            seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        picture = frame_noise(seed, [PICTURE_FRAME], (3, *size))
        unit = frame_noise(seed, [*[REFERENCE_FRAME] * slot, *range(rows - slot)], latent)[None]
    if latents is not None:
        if latents.ndim != 5 or latents.shape[0] != 1 or latents.shape[2:] != latent or latents.shape[1] < 1:
            expected = f"(1, frames, {', '.join(map(str, latent))})"
            raise InputError(f"latents of shape {tuple(latents.shape)}", expected, "draw unit noise of this shape")
        if not bool(torch.isfinite(latents).all()):
            raise InputError("NaN or infinity in latents", "unit Gaussian noise", "draw it anew")
        unit = latents.float().cpu()
    return Noise(periodic_noise(unit, rows), picture)
