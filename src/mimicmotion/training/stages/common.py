"""Code shared by the stages: opening shards, and a base class for training one network of the small model."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn

from mimicmotion.backbones.svd.checkpoint import Components, save_components
from mimicmotion.data.shards.shards import Shards, open_shards
from mimicmotion.errors import InputError
from mimicmotion.evaluation.networks.features import load_lpips
from mimicmotion.settings.training import TrainConfig
from mimicmotion.training.bundled import contact_sheet
from mimicmotion.training.task import StepResult, Task, Validation

logger = logging.getLogger(__name__)

EXPORT_DTYPE = torch.float16


def shard_cache(config: TrainConfig) -> Path:
    """Return the cache folder for copies of remote shards, latents and predicted clips."""
    return Path(config.data.cache or Path(config.run) / "cache")


def training_shards(config: TrainConfig) -> Shards:
    """Open the shards of the training split.

    Raises:
        InputError: the shards are missing or empty.
    """
    return open_shards(config.data.shards, "train", cache=shard_cache(config) / "shards")


def held_out_shards(config: TrainConfig, training: Shards) -> Shards:
    """Open the shards of the validation split; return `training` if there is none."""
    try:
        return open_shards(config.data.shards, "val", cache=shard_cache(config) / "shards")
    except InputError as e:
        logger.warning("no validation split (%s); using fixed samples of the training split", e.got)
        return training


class PartTask(Task):
    """Base class for training the detail or warp network of the small model, whose other networks are frozen.

    Args:
        parts: networks of the model.
        net: network to train.
        perceptual: weight of LPIPS in the loss; 0 for none.

    Raises:
        WeightsError: LPIPS is missing or damaged.
    """

    part: str
    """Name of the trained network, a field of `Components`."""
    shards: Shards
    """Training data."""

    def __init__(self, parts: Components, net: Any, perceptual: float) -> None:
        self.parts, self.net, self.perceptual = parts, net, perceptual
        self.model: nn.Module = net
        self.lpips = load_lpips("alex", device="cpu").requires_grad_(False) if perceptual else None

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return all parameters of the trained network."""
        return dict(self.net.named_parameters())

    def place(self, device: torch.device) -> None:
        """Move LPIPS to the device, if the loss uses it."""
        if self.lpips is not None:
            self.lpips.to(device)

    def result(
        self,
        each: Float[Tensor, " n"],
        log: dict[str, float],
        keys: list[str],
        output: Float[Tensor, "n 3 h w"],
        target: Float[Tensor, "n 3 h w"],
    ) -> StepResult:
        """Build the result of a batch from the loss of each frame, plus LPIPS of output and target if enabled."""
        if self.lpips is not None:
            lpips = self.lpips(output, target)
            each, log = each + self.perceptual * lpips, log | {"lpips": float(lpips.detach().mean())}
        return StepResult(each.mean(), log, keys, each.detach())

    def export(self, folder: Path, weights: Mapping[str, Tensor]) -> Path:
        """Write the complete model in float16, with these weights and the size of the training frames."""
        height, width = self.shards.size
        settings = self.parts.settings | {"height": height, "width": width}
        parts = dataclasses.replace(self.parts, settings=settings, **{self.part: self.with_weights(weights)})
        return save_components(parts, folder, dtype=EXPORT_DTYPE)

    def with_weights(self, weights: Mapping[str, Tensor]) -> Any:
        """Return a copy of the trained network with these weights, on the CPU."""
        net = type(self.net)(**self.net.config)
        net.load_state_dict({k: v.detach().cpu() for k, v in weights.items()})
        return net.eval()

    def validation(self, scores: Sequence[dict[str, float]], rows: Sequence[Sequence[ndarray]]) -> Validation:
        """Build a `Validation` from the mean scores of all clips and a sheet of picture rows."""
        mean = {name: float(np.mean([s[name] for s in scores])) for name in scores[0]}
        return Validation(mean, {self.part: contact_sheet(rows)}, best="psnr_moving", higher_is_better=True)
