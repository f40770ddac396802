"""Recipes, which define how a video is denoised and validate it before any network runs, and the initial noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from mimicmotion.diffusion.denoiser import guidance_ramp
from mimicmotion.diffusion.fusion import FusionPlan, make_plan
from mimicmotion.diffusion.guidance import Pass, plan_passes
from mimicmotion.diffusion.noise import PICTURE_FRAME, REFERENCE_FRAME, frame_noise, periodic_noise, released_noise
from mimicmotion.diffusion.schedule import explicit_sigmas, named_sigmas
from mimicmotion.errors import PoseError
from mimicmotion.settings import FusionConfig, SamplingOptions, SamplingSettings, parse, resolve_tier
from mimicmotion.settings.parsing import refuse_unused

DEFAULT_GUIDANCE = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """How a video is denoised: its segments, noise levels and guidance.

    Attributes:
        fusion: how the video is split into segments and joined.
        plan: the segments of this video.
        sigmas: decreasing noise levels, on the CPU.
        guidance: classifier-free guidance scale of each row of the plan.
        sampling: the sampling settings, with the tier's values filled in.
    """

    fusion: FusionConfig
    plan: FusionPlan
    sigmas: Float64[Tensor, " levels"]
    guidance: Float64[Tensor, " rows"]
    sampling: SamplingSettings

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The guidance of each step."""
        return plan_passes(self.sigmas, self.guidance, self.sampling)

    @property
    def network_passes(self) -> int:
        """Total number of network passes: per segment, two in steps that run both passes, otherwise one."""
        return len(self.plan.segments) * sum(2 if p == "both" else 1 for p in self.passes)


@dataclass(frozen=True, slots=True, eq=False)
class Noise:
    """Unit noise of a video, on the CPU.

    Attributes:
        latents: noise of all rows of the plan, the reference slot first.
        picture: noise to augment the reference picture, used if `noise_aug_strength` is not 0.
    """

    latents: Float32[Tensor, "1 rows channels h w"]
    picture: Float32[Tensor, "1 3 height width"]


def make_recipe(
    num_frames: int,
    sampling: SamplingOptions,
    model: Mapping[str, Any],
    *,
    reference_slot: bool,
    fusion: FusionConfig | None = None,
) -> Recipe:
    """Make a recipe from settings, and validate them.

    Args:
        num_frames: number of frames of the video.
        sampling: sampling settings. Settings that are None come from the tier, or else from the model.
        model: the model's default settings: `num_inference_steps` or `sigmas`, `guidance_scale`, `fusion`.
        reference_slot: whether there is a reference pose. Without one there is no slot, regardless of `fusion`.
        fusion: how the video is split into segments and joined; None uses the model's default.

    Raises:
        PoseError: mode "released" is used without a reference pose.
        InputError: there are no frames, or a setting is out of range.
    """
    settings = resolve_tier(sampling, default_steps(model))
    fusion = parse(FusionConfig, model.get("fusion", {})) if fusion is None else fusion
    if not reference_slot:
        if fusion.mode == "released":
            raise PoseError("fusion=released without reference_pose", "the picture's drawn pose", "pass reference_pose")
        fusion = dataclasses.replace(fusion, reference_slot=False)
    levels, steps = settings.sigmas, settings.num_inference_steps
    if levels is None and steps is None and settings.schedule is None:
        levels = model.get("sigmas")
    if steps is None and settings.schedule in (None, "karras"):
        steps = model.get("num_inference_steps")
    sigmas = named_sigmas(settings.schedule or "karras", steps) if levels is None else explicit_sigmas(levels)
    scale = settings.guidance_scale
    if scale is None:
        scale = float(model.get("guidance_scale", DEFAULT_GUIDANCE))
    first, last = (scale if end is None else end for end in (settings.min_guidance_scale, settings.max_guidance_scale))
    if max(first, last) <= 1:
        refuse_unused(sampling, ["guidance_interval", "guidance_every"], f"with a guidance of {max(first, last):g}")
    plan = make_plan(num_frames, fusion)
    return Recipe(fusion, plan, sigmas, guidance_ramp(plan.num_rows, first, last), settings)


def default_steps(model: Mapping[str, Any]) -> int:
    """Return a model's default number of denoising steps."""
    levels = model.get("sigmas")
    return int(model.get("num_inference_steps") or 25) if levels is None else len(levels) - 1


def draw_noise(
    recipe: Recipe,
    size: tuple[int, int],
    latent: tuple[int, int, int],
    *,
    seed: int = 42,
    generator: torch.Generator | None = None,
) -> Noise:
    """Draw the noise of a video.

    The noise of each frame depends only on the seed and the frame number. Mode "released" instead draws the noise of
    one segment in the published code's order and repeats it along time.

    Args:
        recipe: recipe of the video.
        size: (height, width) in pixels.
        latent: (channels, h, w) of a frame's latents.
        seed: seed of the noise; ignored if `generator` is set.
        generator: random generator that the seed is drawn from (in mode "released", the noise itself).
    """
    slot, rows = int(recipe.plan.reference_slot), recipe.plan.num_rows
    if recipe.fusion.mode == "released":
        generator = torch.Generator().manual_seed(seed) if generator is None else generator
        picture, unit = released_noise(generator, size, latent, recipe.fusion.segment_frames)
        return Noise(periodic_noise(unit, rows), picture)
    if generator is not None:
        seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    unit = frame_noise(seed, [*[REFERENCE_FRAME] * slot, *range(rows - slot)], latent)[None]
    return Noise(unit, frame_noise(seed, [PICTURE_FRAME], (3, *size)))
