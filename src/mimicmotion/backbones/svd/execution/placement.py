"""Puts a plan on the networks of a backbone: where weights are, and when they come and go."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mimicmotion.backbones.svd.execution.offload import Parked, ParkedBlocks, blocks_of
from mimicmotion.backbones.svd.execution.plan import ExecutionPlan

LARGE = ("unet", "vae", "image_encoder")
"""Networks that are moved; PoseNet and the detail network are so small that they stay."""


class Placement:
    """The networks of a backbone, placed as a plan says.

    Args:
        backbone: its networks are moved.
        device: where it works.
        plan: what to begin with.
    """

    def __init__(self, backbone: Any, device: torch.device, plan: ExecutionPlan) -> None:
        self.backbone, self.device = backbone, device
        self.parked: dict[str, Parked] = {}
        self.offload = plan.offload
        self.apply(plan)

    def apply(self, plan: ExecutionPlan) -> None:
        """Change to a plan; may be called between two calls of a network."""
        if plan.offload != self.offload:
            self.release()
        self.offload = plan.offload
        self.backbone.unet.set_execution(plan.unet)
        for small in (self.backbone.pose_net, self.backbone.detail):
            if small is not None:
                nn.Module.to(small, device=self.device)
        for name in LARGE:
            module = getattr(self.backbone, name)
            if plan.offload == "none":
                nn.Module.to(module, device=self.device)
            elif name not in self.parked:
                blocks = plan.offload == "blocks" and name == "unet"
                self.parked[name] = (
                    ParkedBlocks(module, blocks_of(module), self.device) if blocks else Parked(module, self.device)
                )

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
            parked.release()
        self.parked.clear()
