"""Shards of synthetic people with exact poses, for training, tests and benchmarks."""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
from numpy import ndarray

from mimicmotion.data.shards.writing import (
    RecordData,
    ShardProgress,
    ShardSettings,
    ShardsWritten,
    plan_shards,
    write_shards,
)
from mimicmotion.errors import InputError
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.runtime.files import sha256_file
from mimicmotion.synth import render_clip
from mimicmotion.synth.assets import default_path, load_assets
from mimicmotion.synth.clip import SOURCE, Truth
from mimicmotion.synth.recordings import load_recording

FRAME_RATES = (15.0, 10.0, 6.0)
"""Frames per second of the clips in turn: the interval of frames is randomised, as the paper's is not known."""

HELD_OUT_SEED = 10_000_000
"""Clips of the split val have the seeds from this number on; those of train stay below it."""

RECORDS_PER_SHARD = 100
RECORDED_SHARE = 1 / 3
"""Of the clips, that follow a recorded motion where there are any."""


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
    mocap: Path | str | None = None,
    truth: bool = False,
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
        mocap: folder of recorded motions (BVH files, or pose files of videos), which a third of the clips follow.
        truth: also keep masks and the flow to the reference, see `pack_truth`.
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
    load_assets()  # says what is missing before any work
    recordings = find_recordings(mocap) if mocap is not None else ()
    settings = {
        "source": SOURCE, "frames": frames, "camera_motion": float(camera_motion), "fps": list(FRAME_RATES),
        "people": sha256_file(default_path()), "mocap": [p.name for p in recordings], "truth": truth,
    }  # fmt: skip
    make = functools.partial(
        synthetic_records, frames=frames, size=size, camera_motion=camera_motion, recordings=recordings, truth=truth
    )
    shared = ShardSettings(size=size, store=store, settings=settings)
    return write_shards(folder, plan, make, shared, processes=processes)


def find_recordings(folder: Path | str) -> tuple[Path, ...]:
    """The recorded motions of a folder, by name.

    Raises:
        InputError: it holds none.
    """
    found = tuple(sorted(p for p in Path(folder).glob("*") if p.suffix in (".bvh", ".npz", ".json")))
    if not found:
        raise InputError(f"{folder} holds no recorded motion", "BVH files or pose files", "name another folder")
    return found


def synthetic_records(
    seed: int,
    *,
    frames: int,
    size: tuple[int, int],
    camera_motion: float,
    recordings: tuple[Path, ...] = (),
    truth: bool = False,
) -> Iterator[RecordData]:
    """The one record of a seed."""
    fps = FRAME_RATES[seed % len(FRAME_RATES)]
    rng = np.random.default_rng([seed, 7])
    moving = bool(rng.random() < camera_motion)
    recording = recordings[rng.integers(len(recordings))] if recordings and rng.random() < RECORDED_SHARE else None
    motion = load_recording(recording) if recording else None
    clip = render_clip(seed, frames, size, fps=fps, motion=motion, camera_motion=moving)
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
        truth=pack_truth(clip.truth) if truth else None,
    )


def pack_truth(truth: Truth) -> dict[str, ndarray]:
    """What is known of a clip, as records keep it; the reference comes first.

    Returns:
        mask: (frames, height, width) uint8, the person's share of each pixel in 255ths. flow: (frames, height / 2,
        width / 2, 2) float16, from every second pixel of each frame to the same place in the reference, in pixels
        (x, y). in_reference: whether that place is seen there.
    """
    flow = np.concatenate([np.zeros_like(truth.flow[:1]), truth.flow])[:, ::2, ::2]
    seen = np.concatenate([np.ones_like(truth.in_reference[:1]), truth.in_reference])[:, ::2, ::2]
    mask = np.concatenate([truth.reference_mask[None], truth.mask])
    limit = np.finfo(np.float16).max
    return {"mask": mask, "flow": np.clip(flow, -limit, limit).astype(np.float16), "in_reference": seen}
