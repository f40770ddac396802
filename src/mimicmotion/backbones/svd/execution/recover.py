"""Out of memory: one fallback level down, and the same work again."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from mimicmotion.backbones.svd.conditioning import ConditionedUNet
from mimicmotion.backbones.svd.execution.levels import decode_levels, fallback_levels
from mimicmotion.backbones.svd.execution.plan import ExecutionPlan
from mimicmotion.diffusion.denoiser import Latents, Sigma
from mimicmotion.errors import ConfigError

logger = logging.getLogger(__name__)

T = TypeVar("T")
MESSAGES = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full: of a GPU, of Apple's, or of the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES)


def recovering(
    backbone: Any,
    stage: str,
    work: Callable[[], T],
    levels: Callable[[ExecutionPlan], Iterator[ExecutionPlan]] = lambda _: iter(()),
) -> T:
    """Do some work; where memory is full, change the plan by one level and do the same again.

    Args:
        backbone: whose networks work.
        stage: "encode", "denoise" or "decode", for messages.
        work: what to do; it takes its plan from the backbone.
        levels: fallback levels of a plan for this stage. In encoding and decoding, networks that are not in use leave
            the device first.

    Raises:
        ConfigError: there is no further level; says what to do.
    """
    while True:
        try:
            return work()
        except (RuntimeError, MemoryError) as e:
            if not is_out_of_memory(e):
                raise
            message = str(e).splitlines()[0] if str(e) else type(e).__name__
        # Here the error is gone, and with its frames the tensors that they held.
        plan: ExecutionPlan | None = backbone.plan
        if stage != "denoise" and backbone.device.type != "cpu" and backbone.plan.offload == "none":
            plan = replace(backbone.plan, offload="modules")
        else:
            plan = next(levels(backbone.plan), None)
        if plan is None:
            least = backbone.plan.describe()
            raise ConfigError(
                f"out of memory in stage {stage}, also in the smallest way to run ({least}): {message}",
                "more free memory",
                "make the result smaller, lower segment_frames, or close other programs",
            )
        logger.warning("out of memory in stage %s (%s); going on with: %s", stage, message, plan.describe())
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        backbone.configure(plan)


@dataclass(frozen=True, slots=True, eq=False)
class RecoveringUNet:
    """A `ConditionedUNet` that goes on after running out of memory, with the same pass and the same latents.

    Attributes:
        backbone: whose plan holds for each call, and is changed.
        network: the U-Net with its conditioning.
    """

    backbone: Any
    network: ConditionedUNet

    def conditional(self, x: Latents, c_noise: Sigma, frames: Sequence[int]) -> Latents:
        """V with picture and pose."""
        return self._run(x, lambda network: network.conditional(x, c_noise, frames), one_pass=True)

    def pair(self, x: Latents, c_noise: Sigma, frames: Sequence[int]) -> tuple[Latents, Latents]:
        """(unconditional v, conditional v)."""
        one_pass = self.network.cache is not None  # at a time, whatever the plan
        return self._run(x, lambda network: network.pair(x, c_noise, frames), one_pass)

    def _run(self, x: Tensor, run: Callable[[ConditionedUNet], T], one_pass: bool) -> T:
        def work() -> T:
            self.backbone.use("unet")
            return run(replace(self.network, one_batch=self.backbone.plan.guidance_in_one_batch))

        def levels(plan: ExecutionPlan) -> Iterator[ExecutionPlan]:
            plan = replace(plan, guidance_in_one_batch=plan.guidance_in_one_batch and not one_pass)
            return fallback_levels(plan, x.shape[0] * x.shape[1], x.shape[-2] * x.shape[-1], self.backbone.device)

        return recovering(self.backbone, "denoise", work, levels)


def decode_recovering(backbone: Any, decode: Callable[..., Tensor], vae: Any, latents: Tensor) -> Tensor:
    """Decode the frames of a clip by the plan; fewer frames at once, then tiles, where memory is full."""

    def work() -> Tensor:
        backbone.use("vae")
        return decode(vae, latents, frame_chunk=backbone.plan.decode_chunk, tile=backbone.plan.decode_tile)

    side = max(latents.shape[-2:]) * backbone.downscale
    return recovering(backbone, "decode", work, lambda plan: decode_levels(plan, len(latents), side))
