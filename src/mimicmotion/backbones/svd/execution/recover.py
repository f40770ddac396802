"""Recovery from out-of-memory errors: repeat the work with a plan that needs less memory."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from mimicmotion.backbones.svd.execution.levels import fallback_levels
from mimicmotion.backbones.svd.execution.plan import ExecutionPlan, Stage
from mimicmotion.errors import ConfigError, out_of_memory

logger = logging.getLogger(__name__)

T = TypeVar("T")


def recovering(backbone: Any, stage: Stage, work: Callable[[], T], shape: tuple[int, int, int] = (1, 0, 0)) -> T:
    """Call `work`. If memory runs out, switch to the next fallback level and call it again.

    Args:
        backbone: backbone, whose plan `work` uses.
        stage: stage that the work belongs to.
        work: function to call.
        shape: see `fallback_levels`.

    Raises:
        ConfigError: there is no further level; the error says what to do.
    """
    while True:
        try:
            return work()
        except (RuntimeError, MemoryError) as e:
            if not out_of_memory(e):
                raise
            message = str(e).splitlines()[0] if str(e) else type(e).__name__
        # outside of the except block, so that the tensors held by the error's stack frames are freed
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
