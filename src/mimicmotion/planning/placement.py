"""Puts a plan on the networks of a pipeline: where weights are, and when they come and go."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mimicmotion.models.offload import Parked, bring_blocks, is_offloaded, offload_blocks
from mimicmotion.planning.plan import ExecutionPlan

LARGE = ("unet", "vae", "image_encoder")
"""Networks that are moved; PoseNet and the detail network are so small that they stay."""


class Placement:
    """The networks of a pipeline, placed as a plan says.

    Args:
        pipe: the pipeline.
        device: where it works.
        plan: what to begin with.
    """

    def __init__(self, pipe: Any, device: torch.device, plan: ExecutionPlan) -> None:
        self.pipe, self.device = pipe, device
        self.parked: dict[str, Parked] = {}
        self.apply(plan)

    def apply(self, plan: ExecutionPlan) -> None:
        """Change to a plan; may be called between two calls of a network."""
        unet = self.pipe.unet
        blocks = plan.offload == "blocks"
        if is_offloaded(unet) and not blocks:
            bring_blocks(unet)
        if self.parked and (plan.offload == "none" or (blocks and "unet" in self.parked)):
            self.release()
        unet.set_execution(plan.unet)
        for small in (self.pipe.pose_net, self.pipe.detail):
            if small is not None:
                nn.Module.to(small, device=self.device)
        if plan.offload == "none":
            for name in LARGE:
                nn.Module.to(getattr(self.pipe, name), device=self.device)
            return
        for name in LARGE:
            if name not in self.parked and not (blocks and name == "unet"):
                self.parked[name] = Parked(getattr(self.pipe, name), self.device)
        if blocks and not is_offloaded(unet):
            offload_blocks(unet, self.device)

    def use(self, name: str) -> None:
        """Have a network on the device; others that are not always there make room first."""
        for other, parked in self.parked.items():
            if other != name:
                parked.park()
        if name in self.parked:
            self.parked[name].bring()

    def release(self) -> None:
        """All weights to the host."""
        for parked in self.parked.values():
            parked.park()
        self.parked.clear()
        bring_blocks(self.pipe.unet)
