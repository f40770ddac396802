"""Out of memory: one fallback level down, and the same work again."""

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
    """Do some work; where memory is full, change the plan by one level and do the same again.

    Args:
        backbone: whose networks work.
        stage: what the work is part of.
        work: what to do; it takes its plan from the backbone.
        shape: see `fallback_levels`.

    Raises:
        ConfigError: there is no further level; says what to do.
    """
    while True:
        try:
            return work()
        except (RuntimeError, MemoryError) as e:
            if not out_of_memory(e):
                raise
            message = str(e).splitlines()[0] if str(e) else type(e).__name__
        # Here the error is gone, and with its frames the tensors that they held.
        plan: ExecutionPlan = backbone.plan
        smaller = next(fallback_levels(plan, stage, shape, may_offload=backbone.device.type != "cpu"), None)
        if smaller is None:
            raise ConfigError(
                f"out of memory in stage {stage}, also in the smallest way to run ({plan.describe()}): {message}",
                "more free memory",
                "make the result smaller, lower segment_frames, or close other programs",
            )
        logger.warning("out of memory in stage %s (%s); going on with: %s", stage, message, smaller.describe())
        gc.collect()
        torch.cuda.empty_cache()
        backbone.configure(smaller)
