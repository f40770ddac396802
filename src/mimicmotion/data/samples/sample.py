"""Make training samples from records: frames or latents, drawn poses and hand masks (paper sections 3.2 to 3.4)."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from mimicmotion.arrays import Frame, Frames
from mimicmotion.data.samples.batch import Sample
from mimicmotion.data.samples.latents import LatentCache
from mimicmotion.errors import ConfigError, InputError
from mimicmotion.pose.guidance.skeleton import PoseDrawer
from mimicmotion.pose.hands import hand_masks
from mimicmotion.pose.keypoints import VISIBLE, PoseSequence
from mimicmotion.settings.samples import SampleConfig, Spacing

if TYPE_CHECKING:
    from mimicmotion.data.shards.shards import Record, Shards

logger = logging.getLogger(__name__)

PLAIN = {"confidence_aware": False, "threshold": VISIBLE}
"""How poses are drawn with `guidance: threshold`."""


@dataclass(frozen=True, slots=True)
class FrameChoice:
    """The random choices that determine a sample.

    Attributes:
        record: index of the record with the driving frames.
        frames: indices of its stored frames, in playing order.
        fps: frames per second of these frames.
        reference: (record, stored frame) of the reference picture.
        noise_seeds: seeds of the simulated detector, for driving poses and reference pose.
    """

    record: int
    frames: list[int]
    fps: float
    reference: tuple[int, int]
    noise_seeds: tuple[int, int]


class SampleMaker:
    """Makes samples 0, 1, 2, ..., each a pure function of (seed, number).

    A run can therefore resume at any sample, in any number of processes. All records are equally likely. Safe to use
    in several processes, but not in several threads.

    Args:
        shards: the records, all of one size.
        config: settings of the samples.
        seed: seed of the random choices, at least 0.
        downscale: pixels per latent along each axis.
        drawing: how poses are drawn: the model's settings "pose_drawing" (canvas_short_side, stroke).
        latents: cache of latents, to be used instead of frames.
        warp: warps a picture from its pose to other poses (such as `limb_warp`); None for samples without `warped`.

    Raises:
        InputError: a record is too short for a sample (see `SampleConfig.short_records`).
        ConfigError: the size of the frames is not a multiple of `downscale`.
    """

    def __init__(
        self,
        shards: Shards,
        config: SampleConfig,
        *,
        seed: int,
        downscale: int,
        drawing: Mapping[str, Any],
        latents: LatentCache | None = None,
        warp: Callable[[Frame, PoseSequence, PoseSequence], Frames] | None = None,
    ) -> None:
        height, width = shards.size
        if height % downscale or width % downscale:
            raise ConfigError(
                f"frames of {height}x{width} with {downscale} pixels per latent",
                f"height and width in multiples of {downscale}",
                "prepare the shards again at a suitable size",
            )
        self.shards, self.config, self.seed, self.latents = shards, config, seed, latents
        self.warp = warp
        self.grid = (height // downscale, width // downscale)
        look: Mapping[str, Any] = {**drawing, **PLAIN} if config.guidance == "threshold" else drawing
        self.drawer = PoseDrawer(shards.size, **look)
        # without stills
        self.lengths = [n - stills for n, stills in zip(shards.num_frames, shards.stills, strict=True)]
        self.siblings: list[Sequence[int]] = [[i] for i in range(len(shards))]
        for records in shards.videos.values():
            for i in records:
                self.siblings[i] = records
        self._usable: dict[tuple[int, Spacing], list[int]] = {}
        self.usable(config)

    def usable(self, config: SampleConfig) -> list[int]:
        """Return the indices of the records that are long enough for a sample.

        Raises:
            InputError: one is too short and `config.short_records` is "error", or all are.
        """
        key = (config.num_frames, config.spacing)
        if key not in self._usable:
            fits = [length >= self._needed(i, config) for i, length in enumerate(self.lengths)]
            if not all(fits):
                self._report_short(fits, config)
            self._usable[key] = [i for i, fit in enumerate(fits) if fit]
        return self._usable[key]

    def _shortest_step(self, record: int, config: SampleConfig) -> int:
        """Return the minimum number of stored frames from one driving frame to the next."""
        return max(1, round(config.interval[0] * self.shards.fps[record]))

    def _needed(self, record: int, config: SampleConfig) -> int:
        """Return the minimum length of a record, in frames, for taking driving frames from it."""
        count = config.num_frames - config.reference_slot
        return count if config.spacing == "spread" else (count - 1) * self._shortest_step(record, config) + 1

    def _report_short(self, fits: Sequence[bool], config: SampleConfig) -> None:
        """Raise an error for records that are too short, or log a warning if they are to be skipped."""
        short = f"{fits.count(False)} of {len(fits)} records are too short"
        if config.short_records == "skip" and any(fits):
            logger.warning("%s for a sample and are skipped", short)
            return
        i, count = fits.index(False), config.num_frames - config.reference_slot
        raise InputError(
            f"{short}; {self.shards.keys[i]} has {self.lengths[i]} frames at {self.shards.fps[i]:g} fps",
            f"at least {self._needed(i, config)} for {count} driving frames "
            + ("spread over it" if config.spacing == "spread" else f"every {config.interval[0]:.3g} s"),
            "lower num_frames or the shortest interval, prepare longer scenes"
            + (", or set short_records: skip" if any(fits) else ""),
        )

    def choose(self, rng: np.random.Generator, config: SampleConfig) -> FrameChoice:
        """Choose the frames of a sample. Disabled options also draw random numbers, so no option affects the others.

        Args:
            rng: random generator of this sample alone.
            config: settings of the sample.
        """
        count, usable = config.num_frames - config.reference_slot, self.usable(config)
        record = usable[int(rng.integers(len(usable)))]
        length, fps = self.lengths[record], self.shards.fps[record]
        if config.spacing == "spread":
            times = np.sort(rng.choice(length, count, replace=False))
            span = int(times[-1] - times[0])
            fps = fps * (count - 1) / span if span else fps
        else:  # a step that is log-uniform in time, limited by the scene
            low, high = (math.log(t) for t in config.interval)
            wanted = round(math.exp(rng.uniform(low, high)) * fps)
            longest = (length - 1) // (count - 1) if count > 1 else wanted
            step = max(self._shortest_step(record, config), min(wanted, longest))
            times = rng.integers(length - (count - 1) * step) + step * np.arange(count)
            fps = fps / step
        frames = [self.shards.stills[record] + int(t) for t in times]
        if rng.random() < config.reverse:
            frames.reverse()
        records = self.siblings[record] if config.reference == "video" else [record]
        ends = np.cumsum([self.shards.num_frames[r] for r in records])
        position = int(rng.integers(ends[-1])) * (config.reference != "first")
        which = int(np.searchsorted(ends, position, side="right"))
        reference = (records[which], position - (int(ends[which - 1]) if which else 0))
        rng.random()  # unused; keeps samples as in earlier versions
        seeds = rng.integers(2**31, size=2)
        return FrameChoice(record, frames, fps, reference, (int(seeds[0]), int(seeds[1])))

    def __call__(self, number: int, *, num_frames: int | None = None, spacing: Spacing | None = None) -> Sample:
        """Make sample `number`; `num_frames` and `spacing` override those of the config.

        Raises:
            InputError: a record is too short for `num_frames`.
        """
        config = dataclasses.replace(
            self.config,
            num_frames=self.config.num_frames if num_frames is None else num_frames,
            spacing=spacing or self.config.spacing,
        )
        rng = np.random.default_rng([self.seed, number])
        choice = self.choose(rng, config)
        driver = self.shards[choice.record]
        owner = driver if choice.reference[0] == choice.record else self.shards[choice.reference[0]]  # read once
        driving, own = self._poses(driver, owner, choice)
        poses, reference_pose = self._draw(driving), self._draw(own)[0]
        mask = hand_masks(driving, self.grid, threshold=config.hand_threshold, padding=config.hand_padding)
        if config.reference_slot:
            poses = np.concatenate([reference_pose[None], poses])
            mask = np.concatenate([np.zeros_like(mask[:1]), mask])
        pictures = self._pictures(driver, owner, choice)
        return Sample(
            number=number,
            key=driver.key,
            poses=poses,
            reference_pose=reference_pose,
            hand_mask=mask,
            fps=choice.fps,
            **pictures,
            warped=self._warped(pictures["reference"], own, driving),
        )

    def _warped(
        self, reference: UInt8[ndarray, "H W 3"], own: PoseSequence, driving: PoseSequence
    ) -> UInt8[ndarray, "slots H W 3"] | None:
        if self.warp is None:
            return None
        moved = self.warp(reference, own, driving)
        return np.concatenate([reference[None], moved]) if self.config.reference_slot else moved

    def _poses(self, driver: Record, owner: Record, choice: FrameChoice) -> tuple[PoseSequence, PoseSequence]:
        """Return the poses of the driving frames and of the reference, with simulated detector noise if enabled."""
        found = []
        for record, frames, seed in (
            (driver, choice.frames, choice.noise_seeds[0]),
            (owner, [choice.reference[1]], choice.noise_seeds[1]),
        ):
            poses = dataclasses.replace(record.poses[frames], fps=choice.fps)
            if self.config.detector_noise:
                from mimicmotion.synth.noise import perturb_poses

                poses = perturb_poses(poses, seed, self.config.detector_noise)
            found.append(poses)
        return found[0], found[1]

    def _draw(self, poses: PoseSequence) -> UInt8[ndarray, "frames H W 3"]:
        return np.stack([self.drawer.draw(xy, c) for xy, c in zip(poses.xy, poses.confidence, strict=True)])

    def _pictures(self, driver: Record, owner: Record, choice: FrameChoice) -> dict[str, Any]:
        """Read frames or latents of the slots and the reference, as fields of `Sample`."""
        slot, (number, frame) = self.config.reference_slot, choice.reference
        reference = owner.frames([frame])
        if self.latents is None:
            frames = driver.frames(choice.frames)
            return {"reference": reference[0], "frames": np.concatenate([reference, frames]) if slot else frames}
        latents = self.latents.latents(choice.record, choice.frames)
        own = self.latents.latents(number, [frame])
        return {
            "reference": reference[0],
            "reference_latents": own[0],
            "latents": np.concatenate([own, latents]) if slot else latents,
        }
