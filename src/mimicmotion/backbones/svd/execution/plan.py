"""Execution plans, which determine how the networks run, but not what they compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mimicmotion.backbones.base import Plan
from mimicmotion.backbones.svd.execution.options import Execution

GIB = 2**30
Stage = Literal["encode", "denoise", "decode"]
Peaks = Mapping[Stage, int]
"""Predicted peak of each stage on the device in bytes: loaded weights, stored features and latents, working memory.

This excludes the device's context and fragmentation (see `mimicmotion.runtime.device.free_memory`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionPlan(Plan):
    """How the networks run. Segments, steps and other settings that affect the result are not part of it.

    Attributes:
        unet: execution options of the U-Net.
        guidance_in_one_batch: whether both passes of guidance run as one batch, or one after the other.
        offload: what is offloaded to the host: "none", "modules" (networks not in use) or "blocks" (also the blocks of
            the U-Net, each loaded when needed).
        decode_chunk: frames per chunk in the decoder's layers, which does not change the result; None means all.
        peaks: predicted peak of each stage in bytes; empty if nothing was predicted.
        budget: memory limit of the plan in bytes.
    """

    unet: Execution = field(default_factory=Execution)
    guidance_in_one_batch: bool = True
    offload: Literal["none", "modules", "blocks"] = "none"
    decode_chunk: int | None = None
    peaks: Peaks = field(default_factory=dict)
    budget: int | None = None

    @property
    def latents_on_host(self) -> bool:
        """Whether latents and pose features are stored on the host and moved to the device for each segment."""
        return self.offload != "none"

    def describe(self) -> str:
        """Return a one-line description for the user."""
        offload = {"modules": "idle networks on the host", "blocks": "weights on the host, loaded block by block"}
        parts: list[Any] = [
            "both passes in one batch" if self.guidance_in_one_batch else "two passes",
            f"{self.unet.frame_chunk or 'all'} frames at once",
            offload.get(self.offload),
            self.decode_chunk and f"decoder {self.decode_chunk} frame{'s' * (self.decode_chunk > 1)} at once",
        ]
        return ", ".join(part for part in parts if part)

    def describe_peaks(self) -> str:
        """Return the predicted peaks as text for the user."""
        if not self.peaks:
            return "not predicted"
        stages = ", ".join(f"{stage} {peak / GIB:.2f}" for stage, peak in self.peaks.items())
        room = "" if self.budget is None else f" of {self.budget / GIB:.2f}"
        return f"{max(self.peaks.values()) / GIB:.2f}{room} GiB predicted ({stages})"
