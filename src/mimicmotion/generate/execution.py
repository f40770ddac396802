"""How a job's networks run: planned for the memory there is, or for what the settings allow."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mimicmotion.settings import GenerateConfig

if TYPE_CHECKING:
    from mimicmotion.backbones.svd.execution.plan import ExecutionPlan
    from mimicmotion.diffusion.recipe import Recipe
    from mimicmotion.pipeline import MimicMotionPipeline

logger = logging.getLogger(__name__)


def plan_run(config: GenerateConfig, pipe: MimicMotionPipeline, size: tuple[int, int], recipe: Recipe) -> ExecutionPlan:
    """The fastest way to run that fits.

    Args:
        config: settings; `memory` takes the place of what is free.
        pipe: the loaded model; its weights may still be on the host.
        size: (height, width) of the result.
        recipe: of the video.

    Raises:
        ConfigError: nothing fits; says what is missing.
    """
    from mimicmotion.backbones.svd.execution.levels import plan_execution
    from mimicmotion.backbones.svd.execution.memory import weight_bytes
    from mimicmotion.backbones.svd.execution.predict import Workload
    from mimicmotion.runtime.device import choose_device
    from mimicmotion.runtime.free_memory import free_memory

    device = pipe.device if pipe.device.type != "cpu" else choose_device(config.device)
    networks = (pipe.unet, pipe.vae, pipe.image_encoder, pipe.pose_net, pipe.detail)
    there = weight_bytes(*networks) if pipe.device.type == device.type else 0
    budget = free_memory(device, there) if config.memory is None else int(config.memory * 2**30)
    segments, num_frames = recipe.plan.segments, recipe.plan.num_rows - recipe.plan.reference_slot
    work = Workload(
        size=size,
        segment_frames=min(len(segments[0]), num_frames + 1),
        num_frames=num_frames,
        guided=not all(p == "none" for p in recipe.passes),
        decode_chunk=config.decode_chunk_size,
        warped=pipe.needs_warped_picture,
        cached_segments=len(segments) if recipe.block_cache else 0,
        latent_copies=2 + (config.preview or recipe.sampler == "dpmpp-2m"),
    )
    return plan_execution(pipe, work, budget, config, device=device)


def run_by_plan(
    config: GenerateConfig,
    pipe: MimicMotionPipeline,
    size: tuple[int, int],
    recipe: Recipe,
    earlier: ExecutionPlan | None = None,
) -> ExecutionPlan:
    """Plan, and put the plan on the pipeline; a pipeline that was configured before keeps its own plan.

    With `earlier`, how an interrupted run ran, that is taken: the same bits come of the same chunks only.
    """
    from mimicmotion.runtime.device import choose_device

    if pipe.is_configured:
        return pipe.plan
    device = pipe.device if pipe.device.type != "cpu" else choose_device(config.device)
    plan = plan_run(config, pipe, size, recipe) if earlier is None else earlier
    logger.info("runs with %s", plan.describe())
    if not plan.exact:
        logger.warning("%s: the result is not exactly that of the plain way", plan.describe())
    pipe.configure(plan, device)
    return plan
