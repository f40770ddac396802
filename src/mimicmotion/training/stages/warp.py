"""Training of the small model's warp network on ground-truth masks and flow (stage `warp`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mimicmotion.backbones.svd.decode import to_uint8
from mimicmotion.backbones.svd.pose_features import to_unit
from mimicmotion.backbones.tiny.warp import CELL, PICTURES, Warped, WarpInput, WarpNet, warp_input
from mimicmotion.data.shards.shards import Shards
from mimicmotion.errors import InputError
from mimicmotion.evaluation.metrics.pixels import moving_region
from mimicmotion.pose.guidance.limb_warp import cut
from mimicmotion.pose.guidance.skeleton import PoseDrawer
from mimicmotion.settings.training import TrainConfig
from mimicmotion.synth.noise import perturb_poses
from mimicmotion.training.networks import load_networks
from mimicmotion.training.stages.common import PartTask, held_out_shards, training_shards
from mimicmotion.training.stages.validate import SEED, clip_scores
from mimicmotion.training.task import StepResult, Validation

MOVING = 3.0
"""Loss weight of the moving region, where the true frame differs from the reference picture."""
GAINS = (0.6, 1.2), (-0.2, 0.2)
"""Ranges of the random contrast and brightness of recoloured clips."""


class WarpBatch(NamedTuple):
    """A batch of frames from some clips.

    Attributes:
        keys: names of the clips.
        inputs: inputs of the network.
        true: true frames, in [-1, 1].
        moving: whether each pixel of the true frames differs from the reference picture.
        mask: coverage of each pixel by the person, 0..1.
        position: position (x, y) in the reference picture, in pixels, that every second pixel shows.
        seen: whether that position is visible in the reference picture, 0 or 1.
    """

    keys: list[str]
    inputs: WarpInput
    true: Float[Tensor, "n 3 height width"]
    moving: Bool[Tensor, "n height width"]
    mask: Float[Tensor, "n height width"]
    position: Float[Tensor, "n 2 h w"]
    seen: Float[Tensor, "n h w"]


def warp_loss(output: Warped, batch: WarpBatch) -> tuple[Float[Tensor, " n"], dict[str, float]]:
    """Compute the loss of each frame, and the means of its terms for the log.

    The terms are errors of colours (L1, with a higher weight in the moving region), outline (cross entropy, and
    1 - intersection over union), visibility (cross entropy), and positions (in pixels, on a logarithmic scale) where
    the person is visible in both pictures.
    """
    weight = 1 + (MOVING - 1) * batch.moving.float()
    colours = ((output.frames - batch.true).abs().mean(1) * weight).mean((1, 2)) / weight.mean((1, 2))
    outline = F.binary_cross_entropy_with_logits(output.outline, batch.mask, reduction="none").mean((1, 2))
    cover = output.outline.sigmoid()
    both = (cover * batch.mask).sum((1, 2))
    overlap = both / (cover.sum((1, 2)) + batch.mask.sum((1, 2)) - both).clamp_min(1)
    known = batch.seen * (batch.mask[:, ::2, ::2] > 0.9)
    error = ((output.place[:, :, ::2, ::2] - batch.position).square().sum(1) + 0.01).sqrt()
    places = ((1 + error / 2).log() * known).sum((1, 2)) / known.sum((1, 2)).clamp_min(1)
    seen = F.avg_pool2d(batch.seen[:, None], CELL // 2)[:, 0]
    visible = F.binary_cross_entropy_with_logits(output.visible, seen, reduction="none").mean((1, 2))
    parts = {"colours": colours, "outline": outline, "missed": 1 - overlap, "places": places, "visible": visible}
    error = (error.detach() * known).sum() / known.sum().clamp_min(1)
    log = {name: float(x.detach().mean()) for name, x in parts.items()} | {"pixels_away": float(error)}
    return 4 * colours + 10 * outline + 8 * (1 - overlap) + places + 0.2 * visible, log


def recoloured(batch: WarpBatch, rng: np.random.Generator) -> WarpBatch:
    """Permute the colour channels and change each channel's contrast and brightness; drawn poses keep their colours."""
    gain, offset = (torch.from_numpy(rng.uniform(*ends, 3).astype(np.float32))[:, None, None] for ends in GAINS)
    order = torch.from_numpy(rng.permutation(3))

    def change(pictures: Tensor) -> Tensor:
        return (pictures[:, order] * gain + offset).clamp(-1, 1)

    inputs, cells = batch.inputs, batch.inputs.cells.clone()
    for first in PICTURES:
        cells[:, first : first + 3] = change(cells[:, first : first + 3])
    colours = torch.cat([change(c) for c in inputs.colours.split(3, 1)], 1)
    changed = {"colours": colours, "background": change(inputs.background), "picture": change(inputs.picture)}
    return batch._replace(inputs=inputs._replace(cells=cells, **changed), true=change(batch.true))


class WarpTask(PartTask):
    """Trains the warp network on rendered clips (`mimicmotion prepare synthetic --truth`).

    The first frame of a clip is the reference picture.

    Args:
        config: settings of a run with stage `warp`.
        shards: the training data; None opens the shards of the config.

    Raises:
        InputError: shards are missing or empty, or contain no ground truth.
        WeightsError: the model, or LPIPS if the loss uses it, is missing or damaged.
    """

    part = "warp"

    def __init__(self, config: TrainConfig, shards: Shards | None = None) -> None:
        self.config, self.options = config, config.warp
        parts = load_networks(config.model, config.seed)
        self.shards = shards or training_shards(config)
        if self.shards[0].truth is None:
            fix = "prepare them with: mimicmotion prepare synthetic --truth"
            raise InputError("shards without ground truth", "masks and flow of rendered people", fix)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            fresh = parts.warp is None or self.options.new
            widths = self.options.widths if fresh else parts.warp.config["widths"]
            net = WarpNet(widths, self.options.decided)
        if not fresh:
            net.load_state_dict(parts.warp.state_dict())
        super().__init__(parts, net, self.options.perceptual)
        self._clips: dict[int, WarpBatch] = {}
        self.drawer = PoseDrawer(self.shards.size, **self.parts.settings.get("pose_drawing", {}))
        self.identity: dict[str, Any] = {
            "stage": "warp",
            "data": self.shards.digest,
            "warp": dataclasses.asdict(self.options) | {"widths": list(self.net.config["widths"])},
        }

    def batch(self, step: int, numbers: Sequence[int]) -> WarpBatch:  # noqa: ARG002
        """Return random frames of one clip for each of these sample numbers."""
        return _concatenated([self._sample(n) for n in numbers])

    def _sample(self, number: int) -> WarpBatch:
        rng = np.random.default_rng([self.config.seed, number])
        variant = int(rng.integers(self.options.clips))
        if variant not in self._clips:  # cached, because computing a clip takes longer than a training step
            self._clips[variant] = self.clip(self.shards, variant, self.config.seed)
        clip = self._clips[variant]
        count = min(self.config.data.sample.num_frames - 1, len(clip.keys))
        chosen = torch.from_numpy(np.sort(rng.choice(len(clip.keys), count, replace=False)))
        inputs = WarpInput(*(x[chosen] for x in clip.inputs))
        frames = WarpBatch([clip.keys[i] for i in chosen], inputs, *(x[chosen] for x in clip[2:]))
        return recoloured(frames, rng) if rng.random() < self.options.recolour else frames

    def clip(self, shards: Shards, number: int, seed: int) -> WarpBatch:
        """Make a training clip of the record with this number, possibly mirrored or with simulated detector noise."""
        rng, record = np.random.default_rng([seed, number, 1]), shards[number % len(shards)]
        noise = self.config.data.sample.detector_noise * (rng.random() >= self.options.exact_poses)
        poses, pictures, truth = record.poses, record.frames(range(len(record))), record.truth
        assert truth is not None
        if rng.random() < 0.5:
            poses, pictures = poses.mirrored(), np.ascontiguousarray(pictures[:, :, ::-1])
            truth = {name: x[:, :, ::-1] for name, x in truth.items()} | {"flow": truth["flow"][:, :, ::-1] * [-1, 1]}
        own, driving = (perturb_poses(p, int(rng.integers(2**31)), noise) for p in (poses[:1], poses[1:]))
        inputs = warp_input(cut(pictures[0], own), pictures[0], own, driving, self.drawer)
        height, width = self.shards.size
        y, x = np.mgrid[0:height:2, 0:width:2].astype(np.float32)
        position = np.moveaxis(truth["flow"][1:].astype(np.float32) + np.stack([x, y], -1), -1, 1)
        return WarpBatch(
            [record.key] * len(driving),
            inputs,
            to_unit(pictures[1:]),
            torch.from_numpy(moving_region(pictures[1:], pictures[0])),
            torch.from_numpy(truth["mask"][1:].astype(np.float32) / 255),
            torch.from_numpy(np.ascontiguousarray(position)),
            torch.from_numpy(truth["in_reference"][1:].astype(np.float32)),
        )

    def loss(self, model: nn.Module, batch: WarpBatch, step: int) -> StepResult:  # noqa: ARG002
        """Compute `warp_loss` plus, if enabled, LPIPS."""
        output = model(batch.inputs)
        each, log = warp_loss(output, batch)
        return self.result(each, log, batch.keys, output.frames, batch.true)

    @torch.no_grad()
    def validate(self, step: int, weights: Mapping[str, Tensor]) -> Validation:  # noqa: ARG002
        """Compute PSNR, SSIM and the gain over the limb warp on held-out clips, and a picture of four of them."""
        shards, net = held_out_shards(self.config, self.shards), self.with_weights(weights)
        scores, rows = [], []
        for number in range(self.config.validation.clips):
            clip = self.clip(shards, number, SEED)
            output, true = to_uint8(net(clip.inputs).frames), to_uint8(clip.true)
            reference = shards[number % len(shards)].frames([0])[0]
            score, baseline = (clip_scores(f, true, reference) for f in (output, to_uint8(clip.inputs.picture)))
            scores.append(score | {"gain_over_warp": score["psnr_moving"] - baseline["psnr_moving"]})
            if number < 4:
                rows += [[reference, *true], [reference, *output]]
        return self.validation(scores, rows)


def _concatenated(clips: Sequence[WarpBatch]) -> WarpBatch:
    """Concatenate the frames of several clips."""
    keys = [key for clip in clips for key in clip.keys]
    inputs = WarpInput(*(torch.cat(x) for x in zip(*(clip.inputs for clip in clips), strict=True)))
    return WarpBatch(keys, inputs, *(torch.cat(x) for x in zip(*(clip[2:] for clip in clips), strict=True)))
