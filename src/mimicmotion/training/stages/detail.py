"""Training of the small model's detail network (stage `detail`)."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor, nn

from mimicmotion.arrays import Frame, Frames
from mimicmotion.backbones.svd.checkpoint import Components, load_part
from mimicmotion.backbones.svd.decode import to_uint8
from mimicmotion.backbones.svd.pose_features import to_unit
from mimicmotion.backbones.tiny.backbone import TinyBackbone
from mimicmotion.backbones.tiny.detail import DetailNet
from mimicmotion.backbones.tiny.warp import MovedPicture
from mimicmotion.data.samples.batch import Sample
from mimicmotion.data.samples.sample import SampleMaker
from mimicmotion.data.shards.shards import Shards
from mimicmotion.errors import ConfigError, InputError
from mimicmotion.evaluation.metrics.pixels import moving_region
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.pose.guidance.limb_warp import WarpedPoses, limb_warp
from mimicmotion.pose.guidance.skeleton import PoseDrawer
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.runtime.files import atomic_path, check_writable, sha256_file, writing
from mimicmotion.settings.training import TrainConfig
from mimicmotion.training.bundled import to_unit_tensor
from mimicmotion.training.networks import load_networks
from mimicmotion.training.processes import autocast, shared
from mimicmotion.training.stages.common import PartTask, held_out_shards, shard_cache, training_shards
from mimicmotion.training.stages.validate import SEED, clip_scores
from mimicmotion.training.task import StepResult, Validation

logger = logging.getLogger(__name__)

FLOOR = 2e-4
"""Added to mean squared errors (pixels in [-1, 1]) before taking the logarithm; corresponds to 43 dB."""
_SHOWN = 4  # frames per clip in the validation picture


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """A clip and the model's prediction of it.

    Attributes:
        reference: the reference picture.
        reference_pose: drawn pose of the reference picture.
        true: true frames of the clip.
        warped: reference picture warped to the pose of each frame.
        decoded: frames generated without the detail network.
        poses: drawn poses.
    """

    reference: UInt8[ndarray, "height width 3"]
    reference_pose: UInt8[ndarray, "height width 3"]
    true: Frames
    warped: Frames
    decoded: Frames
    poses: Frames

    def to_array(self) -> Frames:
        """Concatenate all pictures into one array for saving."""
        stills = np.stack([self.reference, self.reference_pose])
        return np.concatenate([stills, self.true, self.warped, self.decoded, self.poses])

    @staticmethod
    def from_array(pictures: Frames) -> Predicted:
        """Restore a clip from the result of `to_array`."""
        n = (len(pictures) - 2) // 4
        return Predicted(pictures[0], pictures[1], *(pictures[2 + k * n : 2 + (k + 1) * n] for k in range(4)))

    def frame(self, i: int) -> UInt8[ndarray, "6 height width 3"]:
        """Return the pictures of frame `i` in the order of `FrameBatch.pictures`."""
        inputs = self.decoded[i], self.warped[i], self.reference, self.poses[i], self.reference_pose
        return np.stack([*inputs, self.true[i]])


class FrameBatch(NamedTuple):
    """A batch of single frames from many clips.

    Attributes:
        numbers: sample numbers.
        keys: names of the samples.
        pictures: inputs of the network (decoded, warped, reference, pose, reference pose), and the true frame.
        moving: whether pixels of the true frame differ from the reference (`evaluation.metrics.pixels.moving_region`).
    """

    numbers: list[int]
    keys: list[str]
    pictures: UInt8[Tensor, "batch 6 height width 3"]
    moving: Bool[Tensor, "batch height width"]


def detail_loss(
    output: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"], moving: Bool[Tensor, "n h w"], weight: float
) -> Float[Tensor, " n"]:
    """Compute the logarithm of each frame's mean squared error, so that the mean over frames corresponds to mean PSNR.

    Args:
        output: frames in about [-1, 1].
        target: true frames.
        moving: mask of the moving region.
        weight: weight of the pixels in the moving region; the others have weight 1.
    """
    w = 1 + (weight - 1) * moving.float()
    error = (output.float() - target).square().mean(1)
    return (((w * error).mean((1, 2)) / w.mean((1, 2))) + FLOOR).log()


def recoloured(
    pictures: UInt8[ndarray, "n height width 3"], rng: np.random.Generator
) -> UInt8[ndarray, "n height width 3"]:
    """Permute the colour channels of all pictures, and change the contrast and brightness of each channel."""
    gain, offset = rng.uniform(0.6, 1.2, 3), rng.uniform(-25, 25, 3)
    values = np.arange(256)[:, None]
    table = np.clip(np.rint((values - 127.5) * gain + 127.5 + offset), 0, 255).astype(np.uint8)
    order = rng.permutation(3)
    return np.stack([table[:, k][pictures[..., order[k]]] for k in range(3)], -1)


class DetailTask(PartTask):
    """Trains the detail network on frames generated for training clips by the rest of the model, which is frozen.

    These frames are generated once, before the first step, and cached.

    Args:
        config: settings of a run with stage `detail`.
        shards: the training data; None opens the shards of the config.

    Raises:
        ConfigError: the model does not use a warped picture, or frames have the wrong size.
        InputError: shards are missing, empty or too short.
        WeightsError: the model, or LPIPS if the loss uses it, is missing or damaged.
    """

    part = "detail"

    def __init__(self, config: TrainConfig, shards: Shards | None = None) -> None:
        self.config, self.options = config, config.detail
        self.cache = shard_cache(config)
        parts = load_networks(config.model, config.seed)
        settings = {**parts.settings, **config.model.settings}
        if settings.get("reference_warp", "none") == "none":
            fix = "train one with model.reference_warp: residual first"
            raise ConfigError("detail stage for a model without a warped picture", "a model that uses one", fix)
        parts = dataclasses.replace(parts, settings=settings)
        self.shards = shards or training_shards(config)
        start = self._start(parts)
        leans: dict[str, Any] = {"sharp_lean": self.options.sharp_lean, "blurred_lean": self.options.blurred_lean}
        fine: dict[str, Any] = {"fine": start.config["fine"] or self.options.fine}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            net = DetailNet(**(start.config | leans | fine))
        net.load_state_dict(start.state_dict(), strict=fine["fine"] == start.config["fine"])
        super().__init__(parts, net, self.options.perceptual)
        self.device = torch.device("cpu")
        model = [[p.parent.name, sha256_file(p)] for p in self.parts.files if p.parent.name != "detail"]
        self.identity: dict[str, Any] = {
            "stage": "detail",
            "data": self.shards.digest,
            "start": model,
            "detail": dataclasses.asdict(self.options) | self.net.config,
        }
        self.train_clips = self._clips(self.shards, config.seed, "train", {})
        self.held_out: _Clips | None = None

    def _move(self, reference: Frame, own: PoseSequence, driving: PoseSequence) -> Frames:
        """Warp the picture as in inference: with the warp network, if the model has one."""
        if self.parts.warp is None:
            return limb_warp(reference, own, driving)
        drawer = PoseDrawer(self.shards.size, **self.parts.settings.get("pose_drawing", {}))
        return MovedPicture(self.parts.warp, reference, own, driving, drawer)[:]

    def _start(self, parts: Components) -> DetailNet:
        """Return the network that training starts from."""
        o = self.options
        if o.start:
            return load_part(o.start, "detail")
        if parts.detail is not None and not o.new:
            return parts.detail
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return DetailNet(o.widths, o.blocks, o.dropout, o.fine)

    def _clips(self, shards: Shards, seed: int, name: str, changes: Mapping[str, Any]) -> _Clips:
        sample = dataclasses.replace(self.config.data.sample, **changes)
        parts, vae = self.parts, self.parts.vae
        drawing = parts.settings.get("pose_drawing", {})
        noisy, exact = (
            SampleMaker(shards, s, seed=seed, downscale=vae.downscale, drawing=drawing, warp=self._move)
            for s in (sample, dataclasses.replace(sample, detector_noise=0.0))
        )
        share = self.options.exact_poses if sample.detector_noise else 0.0

        def make(number: int) -> Sample:
            return (exact if np.random.default_rng([seed, number, 1]).random() < share else noisy)(number)

        facts = [self.identity["start"], shards.digest, dataclasses.asdict(sample), share, seed, parts.settings]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
        return _Clips(self, make, self.cache / f"detail-{name}-{digest}")

    def place(self, device: torch.device) -> None:
        """Move LPIPS to the device, and generate the training frames, distributed over the processes."""
        super().place(device)
        self.device = device
        with self._networks(), shared(self._count) as clips:
            self.train_clips.fill(clips)

    @property
    def _count(self) -> int:
        return 1 if self.config.overfit_one_clip else self.options.clips

    @contextlib.contextmanager
    def _networks(self) -> Iterator[None]:
        """Move the frozen networks to the device for the block, and back to the CPU afterwards to free memory."""
        modules: tuple[Any, ...] = (self.parts.unet, self.parts.vae, self.parts.image_encoder, self.parts.pose_net)
        try:
            for module in modules:
                nn.Module.to(module, device=self.device)
            yield
        finally:
            for module in modules:
                nn.Module.to(module, device="cpu")

    def predict(self, sample: Sample) -> Predicted:
        """Generate the frames of a sample without the detail network."""
        slot = int(self.config.data.sample.reference_slot)
        if sample.frames is None or sample.warped is None:
            raise InputError("a sample without frames", "frames and warped picture", "prepare samples with both")
        pipe = MimicMotionPipeline(TinyBackbone(dataclasses.replace(self.parts, detail=None, warp=None)))
        warped = sample.warped[slot:]
        fast = self.device.type != "cpu"  # on a CPU, inference uses float32
        with autocast(self.config, self.device) if fast else contextlib.nullcontext():
            frames = pipe(
                sample.reference, WarpedPoses(sample.poses[slot:], warped), sample.reference_pose, seed=sample.number
            ).frames
        stills, driving = (sample.reference, sample.reference_pose), sample.poses[slot:]
        return Predicted(*stills, sample.frames[slot:], warped, np.asarray(frames), driving)

    def batch(self, step: int, numbers: Sequence[int]) -> FrameBatch:  # noqa: ARG002
        """Return one frame of a random clip for each of these sample numbers."""
        keys, pictures, masks = zip(*(self._frame(n) for n in numbers), strict=True)
        moving = torch.from_numpy(np.stack(masks))
        return FrameBatch(list(numbers), list(keys), torch.from_numpy(np.stack(pictures)), moving)

    def _frame(self, sample: int) -> tuple[str, UInt8[ndarray, "6 height width 3"], Bool[ndarray, "height width"]]:
        rng = np.random.default_rng([self.config.seed, sample])
        number = int(rng.integers(self._count))
        clip = self.train_clips[number]
        i = int(rng.integers(len(clip.true)))
        pictures = clip.frame(i)
        if rng.random() < self.options.recolour:
            photos = [0, 1, 2, 5]  # not the drawn poses, whose colours encode left and right
            pictures[photos] = recoloured(pictures[photos], rng)
        return f"{number}/{i}", pictures, moving_region(pictures[5:], pictures[2])[0]

    def loss(self, model: nn.Module, batch: FrameBatch, step: int) -> StepResult:  # noqa: ARG002
        """Compute `detail_loss` plus, if enabled, LPIPS; the log has the gain over the decoded frames in dB."""
        *given, target = (to_unit_tensor(batch.pictures[:, k]) for k in range(6))
        soft, output = given[0], model(*given)
        each = detail_loss(output, target, batch.moving, self.options.moving_weight)
        with torch.no_grad():
            before = detail_loss(soft, target, batch.moving, self.options.moving_weight)
            gain = float((before - each).mean() * 10 / np.log(10))
        return self.result(each, {"gain": gain}, batch.keys, output, target)

    @torch.no_grad()
    def validate(self, step: int, weights: Mapping[str, Tensor]) -> Validation:  # noqa: ARG002
        """Compute PSNR, SSIM and the gains over the decoded frames and the warped picture on held-out clips."""
        clips = self._held_out()
        net = self.with_weights(weights).to(self.device)
        rows, scores = [], []
        for k in range(1 if self.config.overfit_one_clip else self.config.validation.clips):
            clip = clips[k]
            inputs = ([to_unit(p[None]).to(self.device) for p in clip.frame(i)[:5]] for i in range(len(clip.true)))
            output = to_uint8(torch.cat([net(*pictures) for pictures in inputs]))
            score = clip_scores(output, clip.true, clip.reference)
            for name, other in (("decoded", clip.decoded), ("warp", clip.warped)):
                baseline = clip_scores(other, clip.true, clip.reference)
                score[f"gain_over_{name}"] = score["psnr_moving"] - baseline["psnr_moving"]
            scores.append(score)
            chosen = np.unique(np.linspace(0, len(output) - 1, _SHOWN).astype(int))
            rows += [list(frames[chosen]) for frames in (clip.true, clip.warped, clip.decoded, output)]
        return self.validation(scores, rows)

    def _held_out(self) -> _Clips:
        """Validation clips, generated on first use; with `overfit_one_clip`, the training clip."""
        if self.config.overfit_one_clip:
            return self.train_clips
        if self.held_out is None:
            shards = held_out_shards(self.config, self.shards)
            self.held_out = self._clips(shards, SEED, "val", {"reverse": 0.0, "short_records": "skip"})
        with self._networks():
            self.held_out.fill(range(self.config.validation.clips))
        return self.held_out


class _Clips:
    """Predicted clips on disk, each in one atomically written file, so that several processes can share a folder."""

    def __init__(self, task: DetailTask, make: Callable[[int], Sample], folder: Path) -> None:
        self.task, self.make, self.folder = task, make, folder
        check_writable(folder / "0.npy")

    def path(self, number: int) -> Path:
        return self.folder / f"{number}.npy"

    def fill(self, numbers: Sequence[int]) -> None:
        missing = [n for n in numbers if not self.path(n).exists()]
        for done, number in enumerate(missing):
            if done % 20 == 0:
                logger.info("generating training frames: clip %d of %d", done, len(missing))
            clip = self.task.predict(self.make(number))
            path = self.path(number)
            with atomic_path(path) as part, writing(path), part.open("wb") as file:
                np.save(file, clip.to_array())

    def __getitem__(self, number: int) -> Predicted:
        return Predicted.from_array(np.load(self.path(number), mmap_mode="r"))  # a step reads only few frames
