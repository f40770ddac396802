"""Out of memory: one step down the ladder, and the same work again."""

from __future__ import annotations

import dataclasses
import gc
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from mimicmotion.conditioning import ConditionedUNet
from mimicmotion.diffusion.denoiser import Latents, Sigma
from mimicmotion.errors import ConfigError
from mimicmotion.planning.ladder import next_decode_rung, next_rung
from mimicmotion.planning.plan import ExecutionPlan

logger = logging.getLogger(__name__)

T = TypeVar("T")
StepDown = Callable[[ExecutionPlan], ExecutionPlan | None]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full: of a GPU, of Apple's, or of the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    words = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(w in str(error) for w in words)


def give_back() -> None:
    """Free what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def again(pipe: Any, what: str, work: Callable[[], T], step_down: StepDown) -> T:
    """Do some work; where memory is full, change the pipeline's plan by one step and do the same again.

    Raises:
        ConfigError: there is no further step; says what to do.
    """
    while True:
        try:
            return work()
        except (RuntimeError, MemoryError) as e:
            if not is_out_of_memory(e):
                raise
            said = str(e).splitlines()[0] if str(e) else type(e).__name__
        # Here the error is gone, and with its frames the tensors that they held.
        plan = step_down(pipe.plan)
        if plan is None:
            raise ConfigError(
                f"out of memory in stage {what}, also in the smallest way to run ({pipe.plan.describe()}): {said}",
                "more free memory",
                "make the result smaller, lower segment_frames, or close other programs",
            )
        logger.warning("out of memory in stage %s (%s); going on with: %s", what, said, plan.describe())
        give_back()
        pipe.configure(plan)


def spread_out(plan: ExecutionPlan) -> ExecutionPlan | None:
    """One step down in encoding: networks that are not in use leave the device."""
    return dataclasses.replace(plan, offload="modules", latents_on_host=True) if plan.offload == "none" else None


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class RecoveringUNet:
    """A `ConditionedUNet` that goes on after running out of memory, with the same pass and the same latents.

    Attributes:
        pipe: whose plan holds for each call, and is changed.
        network: the U-Net with its conditioning.
    """

    pipe: Any
    network: ConditionedUNet

    def conditional(self, x: Latents, c_noise: Sigma, frames: Sequence[int]) -> Latents:
        """V with picture and pose."""
        return self._again(x, lambda network: network.conditional(x, c_noise, frames), guided=False)

    def pair(self, x: Latents, c_noise: Sigma, frames: Sequence[int]) -> tuple[Latents, Latents]:
        """(unconditional v, conditional v)."""
        return self._again(x, lambda network: network.pair(x, c_noise, frames), guided=True)

    def _again(self, x: Tensor, run: Callable[[ConditionedUNet], T], guided: bool) -> T:
        two = guided and self.network.cache is None

        def work() -> T:
            self.pipe.use("unet")
            batch = self.network.one_batch and self.pipe.plan.guidance_in_one_batch
            return run(dataclasses.replace(self.network, one_batch=batch))

        def down(plan: ExecutionPlan) -> ExecutionPlan | None:
            batch = plan.guidance_in_one_batch and two and self.network.one_batch
            plan = dataclasses.replace(plan, guidance_in_one_batch=batch)  # one pass alone is no smaller without
            return next_rung(plan, self.pipe.device, x.shape[0] * x.shape[1], x.shape[-2] * x.shape[-1])

        return again(self.pipe, "denoise", work, down)


def decode_clip(pipe: Any, decode: Callable[..., Tensor], vae: Any, latents: Tensor) -> Tensor:
    """Decode the frames of a clip by the pipeline's plan; smaller portions, then tiles, where memory is full."""

    def work() -> Tensor:
        pipe.use("vae")
        return decode(vae, latents, frame_chunk=pipe.plan.decode_portion, tile=pipe.plan.decode_tile)

    def down(plan: ExecutionPlan) -> ExecutionPlan | None:
        side = min(latents.shape[-2:]) * pipe.downscale
        smaller = next_decode_rung(plan, len(latents), side, pipe.device)
        if smaller is not None and smaller.decode_tile != plan.decode_tile:
            logger.warning("frames are decoded in tiles from here on: the result is not exact")
        return smaller

    return again(pipe, "decode", work, down)
