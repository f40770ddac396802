"""A base model in a few lines: it shows the picture with the drawn pose over it, in blocks of 8x8 pixels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mimicmotion.backbones.base import Backbone, ConditionedNetwork, Request


@dataclass
class Told:
    """Latents are colours of blocks: of the picture, and of each pose frame."""

    picture: torch.Tensor
    poses: torch.Tensor

    @property
    def num_frames(self) -> int:
        return len(self.poses)


def blocks(frames: np.ndarray) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(torch.from_numpy(frames).movedim(-1, 1).float() / 127.5 - 1, 8)


class ToyBackbone(Backbone):
    name = "toy"

    def __init__(self, settings: dict) -> None:
        self.settings = settings

    @classmethod
    def load(cls, folder, checkpoint=None, *, device="cpu", dtype=torch.float32) -> ToyBackbone:
        return cls(json.loads((folder / "mimicmotion.json").read_text())["settings"])

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "mimicmotion.json").write_text(json.dumps({"backbone": self.name, "settings": self.settings}))

    def latent_shape(self, size):
        return 3, size[0] // 8, size[1] // 8

    def encode(self, request: Request, sampling, image_noise=None) -> Told:
        return Told(blocks(request.image[None]), blocks(np.asarray(request.poses[0 : request.num_frames])))

    def network(self, conditioning: Told, recipe, memory=None) -> ConditionedNetwork:
        slot = recipe.plan.reference_slot

        def conditional(x, sigma, frames):
            poses = conditioning.poses[[max(f - slot, 0) for f in frames]]
            return torch.where(poses.mean(1, keepdim=True) > -0.9, poses, conditioning.picture)[None].to(x)

        def pair(x, sigma, frames):
            return torch.zeros_like(x), conditional(x, sigma, frames)

        return ConditionedNetwork(conditional, pair, precondition=lambda network: network)

    def decode(self, latents, *, chunk=8, released=False, request=None, first=0):
        for frame in latents.repeat_interleave(8, -1).repeat_interleave(8, -2):
            yield ((frame + 1) * 127.5).round().clamp(0, 255).byte().movedim(0, -1).numpy()
