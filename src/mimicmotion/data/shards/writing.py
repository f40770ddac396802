"""Write shards in parallel, following a plan that can be resumed.

A shard gets its final name when complete, and the index is written last. Each shard records what it was made from, so
finished shards are reused after an interruption. The same records and settings give the same bytes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import logging
import re
import tarfile
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from mimicmotion.data.shards.frames import check_store, compress_frames
from mimicmotion.data.shards.index import (
    FORMAT,
    HEAD,
    INDEX,
    VERSION,
    ShardEntry,
    canonical,
    make_index,
    save_index,
    scan_shard,
    shard_files,
)
from mimicmotion.errors import InputError, MediaError, OutputError
from mimicmotion.pose.files import dump_poses
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.runtime.files import atomic_path, check_writable, writing
from mimicmotion.runtime.progress import Job, Progress
from mimicmotion.runtime.run_folder import clear_leftovers, differences
from mimicmotion.runtime.workers import run_parallel

logger = logging.getLogger(__name__)


_KEY = re.compile(r"[^./\\\s][^./\\]{0,79}")


@dataclass(frozen=True, kw_only=True)
class RecordData:
    """One scene to be written.

    Attributes:
        key: unique name without dots or slashes, `<video id>-<scene number>`. (WebDataset's keys end at the first dot.)
        video: id of the source video; the reference picture may come from any scene of the same video.
        frames: RGB frames of one size, which are streamed.
        poses: one pose per frame, in pixels of these frames; `poses.fps` is the rate of the frames.
        stills: number of leading frames outside the timeline, which can only be references.
        meta: additional plain data, such as source, sha256, start_s, crop, statistics.
        truth: ground truth of rendered frames, see `mimicmotion.data.synthetic.pack_truth`.
    """

    key: str
    video: str
    frames: Iterable[UInt8[ndarray, "height width 3"]]
    poses: PoseSequence
    stills: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)
    truth: Mapping[str, ndarray] | None = None


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """Properties shared by all shards in a folder.

    Attributes:
        size: (height, width) of the frames.
        store: how frames are stored: png, jpeg or video.
        settings: other settings the records were made with, as plain data.
    """

    size: tuple[int, int]
    store: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def head(self, split: str) -> dict[str, Any]:
        """Return the content of a shard's first member, without the digest of its items."""
        shared = {"size": list(self.size), "store": self.store, "settings": dict(self.settings)}
        return {"format": FORMAT, "version": VERSION, "split": split} | shared


@dataclass(frozen=True)
class ShardPlan:
    """Plan of one shard.

    Attributes:
        split: train or val.
        number: number of the shard within its split, from 0.
        items: arguments of `make_records`: plain data, paths or dataclasses.
    """

    split: str
    number: int
    items: tuple[Any, ...]

    @property
    def name(self) -> str:
        """File name of the shard."""
        return f"{self.split}-{self.number:05d}.tar"

    def digest(self) -> str:
        """Return a hash of the items, by which finished shards are recognised."""
        return hashlib.sha256(canonical(self.items).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ShardsWritten:
    """Result of `write_shards`: `reused` counts shards that already existed, `records` those of each split."""

    folder: Path
    shards: int
    reused: int
    records: dict[str, int]
    frames: int
    bytes: int


def plan_shards(items: Sequence[Any], per_shard: int, split: str = "train") -> list[ShardPlan]:
    """Distribute items over shards in order, `per_shard` to each."""
    starts = range(0, len(items), per_shard)
    return [ShardPlan(split, n, tuple(items[s : s + per_shard])) for n, s in enumerate(starts)]


def write_shards(
    folder: Path | str,
    plan: Sequence[ShardPlan],
    make_records: Callable[[Any], Iterable[RecordData]],
    shared: ShardSettings,
    *,
    processes: int = 1,
    stage: str = "shards",
) -> Job[ShardsWritten]:
    """Write the shards of a plan, each in a single process, and then the index.

    Complete shards made from the same items and settings are reused. The result depends neither on `processes` nor on
    interruptions.

    Args:
        folder: folder of the shards.
        plan: planned shards.
        make_records: returns the records of an item (possibly none). Must be deterministic and, with several
            processes, picklable: a function of a module, or a `functools.partial` of one.
        shared: size, store and settings.
        processes: number of processes; 1 uses this process.
        stage: name of the stage in progress reports, which count items, including those of reused shards.

    Raises:
        InputError: nothing is planned.
        OutputError: the folder cannot be written, or holds shards with other settings or outside the plan.
        ConfigError: the store is unknown or cannot hold frames of this size.
    """
    folder = Path(folder)
    check_store(shared.store, shared.size)
    check_writable(folder / INDEX)
    total = sum(len(p.items) for p in plan)
    if not total:
        raise InputError("nothing to write", "at least one item", "check the source of the data")
    beyond = {p.name for p in shard_files(folder)} - {p.name for p in plan}
    if beyond:
        got = f"{folder} contains {min(beyond)}, which is not part of this set"
        raise OutputError(got, "a new folder, or one with a part of the same set", "choose another folder")
    found = [_existing(folder / p.name, p, shared) for p in plan]
    entries = [e for e in found if e is not None]
    reused = len(entries)
    todo = [p for p, e in zip(plan, found, strict=True) if e is None]
    if todo:  # the index is about to become outdated
        (folder / INDEX).unlink(missing_ok=True)
    clear_leftovers(folder, {INDEX, *(p.name for p in plan)})
    done = total - sum(len(p.items) for p in todo)
    yield Progress(stage, done, total)
    work = functools.partial(_write_shard, folder, make_records, shared)
    with contextlib.closing(run_parallel(work, todo, processes)) as reports:
        for report in reports:
            if isinstance(report, ShardEntry):
                entries.append(report)
            else:
                done += report
            yield Progress(stage, done, total)
    index = make_index(shared.head(""), entries)
    save_index(index, folder)
    return ShardsWritten(
        folder,
        len(entries),
        reused,
        {name: sum(len(s.records) for s in some) for name, some in index.splits.items()},
        sum(r.num_frames for s in entries for r in s.records),
        sum(s.bytes for s in entries),
    )


def _write_shard(
    folder: Path, make_records: Callable[[Any], Iterable[RecordData]], shared: ShardSettings, plan: ShardPlan
) -> Generator[int, None, ShardEntry]:
    """Write one shard; yield 1 after each item, and 0 after each record so that the caller can stop."""
    path = folder / plan.name
    head = shared.head(plan.split) | {"plan": plan.digest()}
    keys = set[str]()
    with atomic_path(path) as part, writing(path), tarfile.open(part, "w:") as tar:
        _add(tar, HEAD, canonical(head).encode())
        for item in plan.items:
            for record in make_records(item):
                if record.key in keys:
                    raise InputError(f"record {record.key!r} occurs twice", "each key once", "choose another key")
                keys.add(record.key)
                for ending, data in sorted(_members(record, shared, plan.split).items()):
                    _add(tar, f"{record.key}.{ending}", data)
                yield 0
            yield 1
    return scan_shard(path)[1]


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a member with the constant default owner, mode and time of `TarInfo`."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _members(record: RecordData, shared: ShardSettings, split: str) -> dict[str, bytes]:
    """Encode a record as members of a tar file, and return their bytes by file suffix."""
    count, fps = len(record.poses), record.poses.fps
    if not _KEY.fullmatch(record.key) or record.key.startswith("__"):
        raise InputError(f"record {record.key!r}", "a key of 1 to 80 characters without dots or slashes", "rename it")
    if record.poses.size != tuple(shared.size) or not 0 <= record.stills <= count or not count:
        got = f"record {record.key}: {count} poses in frames of size {record.poses.size}, {record.stills} stills"
        raise InputError(got, f"frames of size {shared.size}, and no more stills than frames", "correct the record")
    members = compress_frames(record.frames, shared.store, shared.size, fps, count)
    facts = {"key": record.key, "video": record.video, "num_frames": count, "stills": record.stills, "fps": fps}
    members["json"] = canonical({**record.meta, **facts, "size": shared.size, "split": split}).encode()
    members["poses.npz"] = dump_poses(record.poses)
    if record.truth is not None:
        file = io.BytesIO()
        np.savez_compressed(file, **record.truth)  # type: ignore[arg-type]
        members["truth.npz"] = file.getvalue()
    return members


def _existing(path: Path, plan: ShardPlan, shared: ShardSettings) -> ShardEntry | None:
    """Return the index entry of a planned shard that already exists; None if it must be written."""
    if not path.exists():
        return None
    try:
        head, entry = scan_shard(path)
    except MediaError as e:
        logger.warning("%s; rewriting it", e.got)
        return None
    made_from, wanted = head.pop("plan", None), canonical(shared.head(plan.split))
    if canonical(head) != wanted:
        got = f"{path} was made with other settings: {', '.join(differences(head, json.loads(wanted)))}"
        raise OutputError(got, "the same settings", "choose another folder, or delete this one")
    if made_from != plan.digest():
        logger.info("%s contains items other than planned; rewriting it", path)
        return None
    return entry
