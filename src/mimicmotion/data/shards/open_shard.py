"""One shard while it is written: records become members of a tar, the same bytes for the same records."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16, Float32, UInt8
from numpy import ndarray

from mimicmotion.data.shards.frames import encode_frames
from mimicmotion.data.shards.index import FORMAT, HEAD, VERSION, canonical
from mimicmotion.errors import InputError
from mimicmotion.pose.files import dump_poses
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.runtime.files import atomic_path, writing

_KEY = re.compile(r"[^./\s][^./]{0,79}")  # WebDataset ends the key at the first dot


@dataclass(frozen=True, kw_only=True)
class RecordData:
    """One scene, as it is given to be written.

    Attributes:
        key: name of its own, without dot or slash: `<video id>-<scene number>`.
        video: id of the source video; the reference picture may come from any scene of the same video.
        frames: RGB frames of one size, taken one after the other (a generator will do).
        poses: one pose a frame, in pixels of these frames; `poses.fps` is the rate of the frames.
        stills: number of leading frames that are no part of the time line, but may serve as reference.
        meta: further plain data, such as source, sha256, start_s, crop, statistics.
        latents: of the frames, by the autoencoder's mode, unscaled.
        embeddings: CLIP embedding of each frame.
        truth: what is known of rendered frames: see `mimicmotion.data.synthetic.shards.pack_truth`.
    """

    key: str
    video: str
    frames: Iterable[UInt8[ndarray, "height width 3"]]
    poses: PoseSequence
    stills: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)
    latents: Float16[ndarray, "frames c h w"] | None = None
    embeddings: Float32[ndarray, "frames dim"] | None = None
    truth: Mapping[str, ndarray] | None = None


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """What all shards of a folder have in common.

    Attributes:
        size: (height, width) of the frames.
        store: how frames are kept: png, jpeg or video.
        settings: further plain data that the records depend on; `latents_model` names the model of the latents.
    """

    size: tuple[int, int]
    store: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def head(self, split: str, plan: str | None) -> dict[str, Any]:
        """The first member of a shard; `plan` identifies what it is made from."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "size": list(self.size),
            "store": self.store,
            "settings": dict(self.settings),
            "split": split,
            "plan": plan,
        }


class OpenShard:
    """A shard that is being written into an open file."""

    def __init__(self, file: io.BufferedWriter, shared: ShardSettings, split: str, plan: str | None = None) -> None:
        self._tar, self._shared, self._split = _tar_writer(file), shared, split
        self._file, self._keys = file, set[str]()
        key, _, ending = HEAD.partition(".")
        self._tar.write({"__key__": key, ending: canonical(shared.head(split, plan)).encode()})

    def __len__(self) -> int:
        return len(self._keys)

    def tell(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def add(self, record: RecordData) -> None:
        """Write one record.

        Raises:
            InputError: a field does not fit.
        """
        _check(record, self._shared, self._keys)
        size, count = self._shared.size, len(record.poses)
        try:
            members = encode_frames(record.frames, self._shared.store, size, record.poses.fps, count)
        except InputError as e:
            raise type(e)(f"record {record.key}: {e.got}", e.expected, e.fix) from e
        meta = dict(record.meta) | {
            "key": record.key,
            "video": record.video,
            "num_frames": count,
            "stills": record.stills,
            "fps": record.poses.fps,
            "size": list(size),
            "split": self._split,
        }
        members["json"] = canonical(meta).encode()
        members["poses.npz"] = dump_poses(record.poses)
        if record.latents is not None:
            members["latents.npy"] = _npy(record.latents.astype(np.float16))
        if record.embeddings is not None:
            members["embeddings.npy"] = _npy(record.embeddings.astype(np.float32))
        if record.truth is not None:
            packed = io.BytesIO()
            np.savez_compressed(packed, allow_pickle=False, **record.truth)
            members["truth.npz"] = packed.getvalue()
        self._tar.write({"__key__": record.key, **members})
        self._keys.add(record.key)

    def close(self) -> None:
        """Write the end mark."""
        self._tar.close()


@contextlib.contextmanager
def open_shard(path: Path, shared: ShardSettings, split: str, plan: str | None = None) -> Iterator[OpenShard]:
    """A shard that appears as `path` when the body is done, and leaves nothing if it fails."""
    with atomic_path(path) as part, writing(path), part.open("wb") as file:
        shard = OpenShard(file, shared, split, plan)
        try:
            yield shard
        except BaseException:
            with contextlib.suppress(Exception):  # the file goes anyway; tarfile must not find it closed later
                shard.close()
            raise
        shard.close()


def _tar_writer(file: io.BufferedWriter) -> Any:
    try:
        from webdataset import TarWriter
    except ImportError as e:
        fix = "pip install 'mimicmotion[train]'"
        raise InputError("the package 'webdataset' is not installed", "it, to write shards", fix) from e
    # everything that could differ from run to run is fixed
    return TarWriter(file, user="", group="", mode=0o644, mtime=0, encoder=False, compress=False)


def _npy(array: ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _check(record: RecordData, shared: ShardSettings, keys: set[str]) -> None:
    name, count = f"record {record.key!r}", len(record.poses)
    if not _KEY.fullmatch(record.key) or record.key.startswith("__"):
        raise InputError(name, "1 to 80 characters without dot or slash", "choose another key")
    if record.key in keys:
        raise InputError(f"{name} is there twice", "each key once", "choose another key")
    if record.poses.size != tuple(shared.size):
        raise InputError(f"{name}: poses of frames {record.poses.size}", f"{shared.size}", "scale the poses")
    if not 0 <= record.stills <= count or not count:
        got = f"{name}: {count} frames, {record.stills} stills"
        raise InputError(got, "at least 1 frame, and no more stills than frames", "correct the record")
    if not record.poses.fps > 0:
        raise InputError(f"{name}: fps={record.poses.fps}", "fps above 0", "give the poses their frame rate")
    for what, array, dims in (("latents", record.latents, 4), ("embeddings", record.embeddings, 2)):
        if array is not None and (array.ndim != dims or len(array) != count or not np.isfinite(array).all()):
            got = f"{name}: {what} {array.shape}, or with NaN"
            raise InputError(got, f"{dims} dimensions, {count} frames, finite", "correct the record")
