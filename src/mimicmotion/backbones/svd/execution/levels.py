"""Choose the fastest execution plan that fits in memory, and fall back to a slower one if memory runs out."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import torch

from mimicmotion.backbones.svd.execution.options import Execution
from mimicmotion.backbones.svd.execution.plan import GIB, ExecutionPlan, Stage
from mimicmotion.backbones.svd.execution.predict import Predictor, Workload
from mimicmotion.errors import ConfigError, out_of_memory
from mimicmotion.settings import ExecutionOptions
from mimicmotion.settings.parsing import refuse_unused

logger = logging.getLogger(__name__)

T = TypeVar("T")

OFFLOAD = ("none", "modules", "blocks")
DENOISE_LEVELS = ((1, "none"), (1, "modules"), (4, "modules"), (8, "modules"), (8, "blocks"))
"""Fallback levels of denoising: number of chunks per segment, and minimum offloading. All of them run the passes of
guidance one after the other.

More chunks would save little: at 576x1024 in float16, SVD's U-Net needs 8.7 GiB of working memory for 72 frames at
once, 4.1 GiB in 4 chunks, and 3.3 GiB in 8."""
DECODE_CHUNKS = (4, 2, 1)
TOKENS_PER_THREAD = 2048
"""Tokens per thread in a chunk of a feed-forward on a CPU, so that the wide intermediate result stays in the caches.

This makes a pass 3% faster in bfloat16 and 0 to 4% in float32, and saves memory."""


def fallback_levels(
    plan: ExecutionPlan, stage: Stage, shape: tuple[int, int, int], *, may_offload: bool
) -> Iterator[ExecutionPlan]:
    """Yield plans that need less and less memory in a stage.

    Args:
        plan: plan that needs too much memory.
        stage: stage in which it needs too much.
        shape: (frames, h, w) of the latents that the stage processes at once, with all videos of the batch.
        may_offload: whether weights may be offloaded to the host (False on a CPU).
    """

    def offload(least: str) -> Any:
        return max(plan.offload, least, key=OFFLOAD.index) if may_offload else plan.offload

    frames, height, width = shape
    changes: list[dict[str, Any]] = []
    if stage == "denoise":
        for count, least in DENOISE_LEVELS:
            unet = plan.unet if count == 1 else in_chunks(plan.unet, count, frames, height * width)
            unet = replace(unet, compile=unet.compile and offload(least) != "blocks")
            changes.append({"unet": unet, "offload": offload(least), "guidance_in_one_batch": False})
    else:
        if stage == "decode":
            changes += [{"decode_chunk": n} for n in DECODE_CHUNKS if n < min(plan.decode_chunk or frames, frames)]
        changes.append({"offload": offload("modules")})
    for change in changes:
        level = replace(plan, **change)
        if level != plan:
            yield level
        plan = level


def in_chunks(unet: Execution, count: int, frames: int, positions: int) -> Execution:
    """Return options that run each kind of layer in at least `count` chunks of about equal size."""
    # deeper layers have up to four times the channels at a quarter of the positions
    chunks = {
        "frame_chunk": math.ceil(frames / count),
        "position_chunk": math.ceil(positions / (4 * count)),
        "feed_forward_chunk": math.ceil(frames * positions / (2 * count)),
    }
    smaller: dict[str, Any] = {name: min(chunk, getattr(unet, name) or chunk) for name, chunk in chunks.items()}
    return replace(unet, **smaller)


def plan_execution(
    predictor: Predictor, work: Workload, budget: int | None, options: ExecutionOptions
) -> ExecutionPlan:
    """Choose the fastest plan that is predicted to fit. Segments are never shortened.

    Args:
        predictor: predictor for the backbone and the device that it will run on.
        work: the work to plan for.
        budget: memory limit in bytes, including weights (`free_memory`); None chooses the fastest plan without a check.
        options: options set by the user.

    Raises:
        ConfigError: no plan fits (the error reports how much memory is missing and what would help), or weights are
            to be offloaded from a CPU.
    """
    if predictor.cpu:
        refuse_unused(options, ["offload"] if options.offload != "none" else [], "on a CPU")
    cpu, may_offload = predictor.cpu, not predictor.cpu and options.offload == "auto"
    plan = ExecutionPlan(
        unet=Execution(
            channels_last=predictor.device.type in ("cpu", "cuda"),
            compile=options.compile,
            feed_forward_chunk=TOKENS_PER_THREAD * torch.get_num_threads() if cpu and not options.compile else None,
        ),
        # one batch is faster on a GPU, but not on a CPU (measured by `benchmarks/memory_prediction.py --repeats`)
        guidance_in_one_batch=not cpu or not work.guided,
        offload="none" if options.offload == "auto" else options.offload,
    )
    if budget is None:
        return plan
    frames: dict[Stage, int] = {"denoise": work.segment_frames, "encode": 1, "decode": work.clip_frames}
    for stage, count in frames.items():
        levels = fallback_levels(plan, stage, (count, *predictor.latent_size(work)), may_offload=may_offload)
        while predictor.peaks(plan, work)[stage] > budget and (smaller := next(levels, None)):
            plan = smaller
    peaks = predictor.peaks(plan, work)
    stage = max(peaks, key=lambda stage: peaks[stage])
    if peaks[stage] <= budget:
        return replace(plan, peaks=peaks, budget=budget)
    segments = f", lower segment_frames (now {work.segment_frames})" if stage == "denoise" else ""
    raise ConfigError(
        f"{budget / GIB:.2f} GiB of memory for stage {stage}, {work.segment_frames} frames per segment",
        f"at least {peaks[stage] / GIB:.2f} GiB (predicted for the most economical plan)",
        f"lower the resolution (now {work.size[1]}x{work.size[0]}){segments}, or allow more memory",
    )


def recovering(backbone: Any, stage: Stage, work: Callable[[], T], shape: tuple[int, int, int] = (1, 0, 0)) -> T:
    """Call `work` and return its result. If memory runs out, switch to the next fallback level and call it again.

    Args:
        backbone: the backbone whose plan `work` uses.
        stage: stage that the work belongs to.
        work: function to call.
        shape: see `fallback_levels`.

    Raises:
        ConfigError: there is no further level.
    """
    while True:
        try:
            return work()
        except (RuntimeError, MemoryError) as e:
            if not out_of_memory(e):
                raise
            message = str(e).splitlines()[0] if str(e) else type(e).__name__
        # outside the except block, so that the tensors held by the error's stack frames are freed
        plan: ExecutionPlan = backbone.plan
        smaller = next(fallback_levels(plan, stage, shape, may_offload=backbone.device.type != "cpu"), None)
        if smaller is None:
            raise ConfigError(
                f"out of memory in stage {stage}, even with the most economical plan ({plan.describe()}): {message}",
                "more free memory",
                "lower segment_frames or the resolution, or close other programs",
            )
        logger.warning("out of memory in stage %s (%s); continuing with: %s", stage, message, smaller.describe())
        gc.collect()
        torch.cuda.empty_cache()
        backbone.configure(smaller)
