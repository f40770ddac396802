"""Shards of synthetic people with exact poses, for training, tests and benchmarks."""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np

from mimicmotion.data.writing import (
    RecordData,
    ShardProgress,
    ShardSettings,
    ShardsWritten,
    plan_shards,
    write_shards,
)
from mimicmotion.errors import InputError
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.synth import render_clip
from mimicmotion.synth.clip import SOURCE

FRAME_RATES = (15.0, 10.0, 6.0)
"""Frames per second of the clips in turn: the interval of frames is randomised, as the paper's is not known."""

HELD_OUT_SEED = 10_000_000
"""Clips of the split val have the seeds from this number on; those of train stay below it."""

RECORDS_PER_SHARD = 100


def write_synthetic(
    folder: Path | str,
    count: int,
    *,
    frames: int = 16,
    size: tuple[int, int] = (224, 128),
    first_seed: int = 0,
    held_out: int = 0,
    store: str = "png",
    camera_motion: float = 0.0,
    records_per_shard: int = RECORDS_PER_SHARD,
    processes: int = 1,
) -> Generator[ShardProgress, None, ShardsWritten]:
    """Render clips into shards. Frame 0 of a record is a still of the person in another pose (`stills` is 1).

    An interrupted call goes on at the first shard that is not complete; a larger `count` adds to what is there.

    Args:
        folder: where the shards go.
        count: clips of the split train, of the seeds `first_seed` and following.
        frames: of each clip, the still not counted.
        size: (height, width).
        first_seed: seed of the first clip.
        held_out: clips of the split val, of the seeds `HELD_OUT_SEED` and following.
        store: how frames are kept: png (exact), jpeg or video.
        camera_motion: share of the clips in which the camera moves, 0..1.
        records_per_shard: clips in one file.
        processes: how many render at once; the files do not depend on it.

    Yields:
        A report after each clip.

    Raises:
        InputError: a value is out of range.
        OutputError: as `write_shards`.
    """
    for name, value, low in (("count", count, 0), ("frames", frames, 1), ("held_out", held_out, 0)):
        if value < low:
            raise InputError(f"{name}={value}", f"at least {low}", f"correct {name}")
    if first_seed < 0 or first_seed + count > HELD_OUT_SEED:
        got = f"seeds {first_seed} to {first_seed + count}"
        raise InputError(got, f"0 to {HELD_OUT_SEED}, from where on they are held out", "choose other seeds")
    if not 0 <= camera_motion <= 1 or records_per_shard < 1:
        got = f"camera_motion={camera_motion}, records_per_shard={records_per_shard}"
        raise InputError(got, "0 to 1, and at least 1", "correct the setting")
    plan = [
        *plan_shards(range(first_seed, first_seed + count), records_per_shard, "train"),
        *plan_shards(range(HELD_OUT_SEED, HELD_OUT_SEED + held_out), records_per_shard, "val"),
    ]
    settings = {"source": SOURCE, "frames": frames, "camera_motion": float(camera_motion), "fps": list(FRAME_RATES)}
    make = functools.partial(synthetic_records, frames=frames, size=size, camera_motion=camera_motion)
    shared = ShardSettings(size=size, store=store, settings=settings)
    return write_shards(folder, plan, make, shared, processes=processes)


def synthetic_records(seed: int, *, frames: int, size: tuple[int, int], camera_motion: float) -> Iterator[RecordData]:
    """The one record of a seed."""
    fps = FRAME_RATES[seed % len(FRAME_RATES)]
    moving = bool(np.random.default_rng([seed, 7]).random() < camera_motion)
    clip = render_clip(seed, frames, size, fps=fps, camera_motion=moving)
    poses = PoseSequence(
        np.concatenate([clip.reference_pose.xy, clip.poses.xy]),
        np.concatenate([clip.reference_pose.confidence, clip.poses.confidence]),
        size,
        fps,
        clip.poses.source,
    )
    video = f"synthetic-{seed:08d}"
    yield RecordData(
        key=f"{video}-000",
        video=video,
        frames=[clip.reference_frame, *clip.frames],
        poses=poses,
        stills=1,
        meta={"source": clip.poses.source, "seed": seed, "camera_motion": moving, "start_s": 0.0},
    )
