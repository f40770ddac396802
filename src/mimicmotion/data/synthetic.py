"""Shards of synthetic people with exact poses, for training, tests and benchmarks."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy import ndarray

from mimicmotion.data.shards.writing import RecordData, ShardSettings, ShardsWritten, plan_shards, write_shards
from mimicmotion.errors import InputError
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.runtime.files import sha256_file
from mimicmotion.runtime.progress import Job
from mimicmotion.settings.synthetic import HELD_OUT_SEED, SyntheticConfig
from mimicmotion.synth import render_clip
from mimicmotion.synth.assets import default_path, load_assets
from mimicmotion.synth.clip import SOURCE, Truth
from mimicmotion.synth.recordings import load_recording

FRAME_RATES = (15.0, 10.0, 6.0)
"""Frame rates of the clips, chosen in turn by seed; the paper does not state its frame interval."""

RECORDED_SHARE = 1 / 3
"""Fraction of the clips with a recorded motion, if there are recordings."""


@dataclass(frozen=True, slots=True)
class SyntheticResult:
    """Result of `prepare synthetic`."""

    written: ShardsWritten
    seconds: float

    def summary(self) -> str:
        """Return a summary to show to the user."""
        w = self.written
        reused = f" ({w.reused} already existed)" if w.reused else ""
        clips = ", ".join(f"{n} clips of {split}" for split, n in w.records.items())
        size = f"{w.shards} shards{reused}, {w.bytes / 1e6:.1f} MB, {self.seconds:.0f} s"
        return f"{clips}, {w.frames} frames\n{size}\nshards: {w.folder}"


def prepare_synthetic(config: SyntheticConfig) -> Job[SyntheticResult]:
    """Render clips into shards. Frame 0 of a record shows the person in another pose, as a reference (`stills` is 1).

    An interrupted job resumes with the first incomplete shard. A larger count adds clips to an existing set.

    Raises:
        InputError: there is nothing to render, or the folder `mocap` contains no recorded motions.
        OutputError: the folder cannot be written, or holds other shards.
    """
    start = time.perf_counter()
    plan = []
    for split, first, count in (("train", config.first_seed, config.count), ("val", HELD_OUT_SEED, config.held_out)):
        plan += plan_shards(range(first, first + count), config.records_per_shard, split)
    load_assets()  # fails early if they are missing
    files = sorted(config.mocap.glob("*")) if config.mocap else []
    recordings = tuple(p for p in files if p.suffix in (".bvh", ".npz", ".json"))
    if config.mocap and not recordings:
        got = f"{config.mocap} contains no recorded motion"
        raise InputError(got, "BVH files or pose files", "choose another folder")
    settings = {
        "source": SOURCE, "frames": config.frames, "camera_motion": config.camera_motion, "fps": list(FRAME_RATES),
        "people": sha256_file(default_path()), "mocap": [p.name for p in recordings], "truth": config.truth,
    }  # fmt: skip
    make = functools.partial(synthetic_records, config, recordings)
    shared = ShardSettings(size=(config.height, config.width), store=config.store, settings=settings)
    written = yield from write_shards(config.output, plan, make, shared, processes=config.processes, stage="render")
    return SyntheticResult(written, time.perf_counter() - start)


def synthetic_records(config: SyntheticConfig, recordings: tuple[Path, ...], seed: int) -> Iterator[RecordData]:
    """Yield the single record of a seed. If there are recorded motions, a third of the clips use one of them."""
    fps = FRAME_RATES[seed % len(FRAME_RATES)]
    rng = np.random.default_rng([seed, 7])
    moving, size = bool(rng.random() < config.camera_motion), (config.height, config.width)
    recording = recordings[rng.integers(len(recordings))] if recordings and rng.random() < RECORDED_SHARE else None
    motion = load_recording(recording) if recording else None
    clip = render_clip(seed, config.frames, size, fps=fps, motion=motion, camera_motion=moving)
    poses = PoseSequence(
        np.concatenate([clip.reference_pose.xy, clip.poses.xy]),
        np.concatenate([clip.reference_pose.confidence, clip.poses.confidence]),
        size,
        fps,
        clip.poses.source,
    )
    video = f"synthetic-{seed:08d}"
    meta = {"source": clip.poses.source, "seed": seed, "camera_motion": moving, "start_s": 0.0}
    yield RecordData(
        key=f"{video}-000",
        video=video,
        frames=[clip.reference_frame, *clip.frames],
        poses=poses,
        stills=1,
        meta=meta | {"motion": recording.name if recording else None},
        truth=pack_truth(clip.truth) if config.truth else None,
    )


def pack_truth(truth: Truth) -> dict[str, ndarray]:
    """Convert the ground truth of a clip to the form that records store, with the reference first.

    Returns:
        mask: (frames, height, width) uint8, coverage of each pixel by the person, 0..255. flow: (frames, height / 2,
        width / 2, 2) float16, from every second pixel of each frame to the same point in the reference, in pixels
        (x, y). in_reference: (frames, height / 2, width / 2) bool, whether that point is visible there.
    """
    flow = np.concatenate([np.zeros_like(truth.flow[:1]), truth.flow])[:, ::2, ::2]
    seen = np.concatenate([np.ones_like(truth.in_reference[:1]), truth.in_reference])[:, ::2, ::2]
    mask = np.concatenate([truth.reference_mask[None], truth.mask])
    limit = np.finfo(np.float16).max
    return {"mask": mask, "flow": np.clip(flow, -limit, limit).astype(np.float16), "in_reference": seen}
