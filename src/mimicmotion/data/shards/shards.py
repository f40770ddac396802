"""Shards: records (scenes of videos with poses) in tar files, with random access.

A shard is a tar file that `webdataset.WebDataset` can read too. The members of record KEY are KEY.json (metadata),
KEY.mp4 or KEY.00000.png ... or KEY.00000.jpg ... (frames), KEY.poses.npz (a pose file), and optionally KEY.truth.npz
(masks and flow of rendered people). FOLDER/index.json lists the position of each member.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from mimicmotion.data.shards.archive import REMAKE, Span, read_spans
from mimicmotion.data.shards.frames import decode_pictures, decode_video
from mimicmotion.data.shards.index import RecordEntry, ShardEntry
from mimicmotion.data.shards.storage import Folder, Remote, find_storage
from mimicmotion.errors import InputError, MediaError, PoseError
from mimicmotion.pose.files import parse_poses
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.runtime.reading import reading


class Record:
    """A scene, whose parts except the frames are read on first access and cached.

    Attributes:
        key: name of the record, `<video id>-<scene number>`.
        video: id of the source video.
        stills: number of leading frames outside the timeline, which can only be references.
        fps: frames per second.
    """

    def __init__(self, shards: Shards, shard: ShardEntry, entry: RecordEntry) -> None:
        self._shards, self._shard, self._entry = shards, shard, entry
        self.key, self.video, self.stills, self.fps = entry.key, entry.video, entry.stills, entry.fps

    def __len__(self) -> int:
        return self._entry.num_frames

    @property
    def where(self) -> str:
        """Shard and key, for messages."""
        return f"{self._shards.storage.name}: {self._shard.file}: record {self.key}"

    @functools.cached_property
    def meta(self) -> dict[str, Any]:
        """Metadata: video, source, sha256, start_s, fps, size, num_frames, stills, split, crop and others."""
        with reading(f"{self.where}: json", "JSON", REMAKE, MediaError):
            return json.loads(self._read("json"))

    @functools.cached_property
    def poses(self) -> PoseSequence:
        """A pose for each frame, in pixels of the frames.

        Raises:
            MediaError: the member is damaged, or does not have one pose per frame.
        """
        try:
            poses = parse_poses(io.BytesIO(self._read("poses.npz")), f"{self.where}: poses.npz")
        except PoseError as e:
            raise MediaError(e.got, e.expected, REMAKE) from e
        if len(poses) != len(self) or poses.size != self._shards.size:
            got = f"{self.where}: {len(poses)} poses of frames {poses.size}"
            raise MediaError(got, f"{len(self)} of {self._shards.size}", REMAKE)
        return poses

    @functools.cached_property
    def truth(self) -> dict[str, ndarray] | None:
        """Ground truth of rendered frames (see `data.synthetic.pack_truth`); None if the record has none.

        Raises:
            MediaError: the member is damaged.
        """
        if "truth.npz" not in self._entry.members:
            return None
        where = f"{self.where}: truth.npz"
        with reading(where, "an .npz file", REMAKE, MediaError), np.load(io.BytesIO(self._read("truth.npz"))) as stored:
            return {name: stored[name] for name in stored.files}

    def frames(self, indices: Sequence[int]) -> UInt8[ndarray, "n height width 3"]:
        """RGB frames in the order of `indices`, which may repeat.

        Raises:
            InputError: there is no such frame.
            MediaError: the shard is damaged.
        """
        if wrong := [int(i) for i in indices if not 0 <= i < len(self)]:
            raise InputError(f"{self.where}: frame {wrong[0]}", f"0 to {len(self) - 1}", "ask for a frame that exists")
        size = self._shards.size
        if self._shards.store == "video":
            return decode_video(self._read("mp4"), indices, size, self.fps, f"{self.where}: mp4")
        data = self._spans([self._entry.frames[i] for i in indices])
        return decode_pictures(data, size, lambda n: f"{self.where}: frame {indices[n]}")

    def _spans(self, spans: Sequence[Span]) -> list[bytes]:
        return read_spans(self._shards.storage.find(self._shard), spans)

    def _read(self, name: str) -> bytes:
        if name not in self._entry.members:
            raise MediaError(f"{self.where} has no {name}", "complete records", REMAKE)
        return self._spans([self._entry.members[name]])[0]


class Shards:
    """The records of one split, in the order of the index. Picklable; safe in processes and threads.

    Attributes:
        storage: storage of the shards.
        split: train or val.
        size: (height, width) of all frames.
        store: how frames are stored: png, jpeg or video.
        settings: settings with which the records were made.
        digest: identity of the data: sha256 over the checksums of the shards of this split.
        keys: key of each record.
        num_frames: number of frames of each record.
        stills: number of leading frames of each record that are outside the timeline.
        fps: frames per second of each record.
        videos: video id to the indices of its records.
        sums: sha256 of the shard of each record; with the key, it identifies the record.
    """

    def __init__(self, storage: Folder | Remote, split: str) -> None:
        index = storage.index()
        shards = index.splits.get(split, [])
        self.storage, self.split, self.size, self.store = storage, split, index.size, index.store
        self.settings, self.digest = index.settings, index.digest(split)
        self._entries = [(s, r) for s in shards for r in s.records]
        if not self._entries:
            there = ", ".join(f"{k} ({sum(len(s.records) for s in v)})" for k, v in index.splits.items())
            raise InputError(f"{storage.name} has no records of split {split!r}", there, "choose or prepare another")
        self.keys = [r.key for _, r in self._entries]
        self.num_frames = [r.num_frames for _, r in self._entries]
        self.stills = [r.stills for _, r in self._entries]
        self.fps = [r.fps for _, r in self._entries]
        self.sums = [s.sha256 for s, _ in self._entries]
        self.videos: dict[str, list[int]] = {}
        for i, (_, r) in enumerate(self._entries):
            self.videos.setdefault(r.video, []).append(i)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, number: int) -> Record:
        return Record(self, *self._entries[number])


def open_shards(where: str | Path, split: str = "train", *, cache: Path | None = None) -> Shards:
    """Open a set of shards.

    Args:
        where: a folder, or a URL that begins with file, http, https, s3, gs or hf (s3 and gs need
            `mimicmotion[remote]`); the name of a file replaces {} in it, or is appended with a slash.
        split: train or val.
        cache: folder for copies of remote shards; `$MIMICMOTION_CACHE/shards` if None.

    Raises:
        InputError: there are no shards or no records of this split, the format is unknown, or the URL is unsupported.
        MediaError: a shard is damaged, truncated or lacks a member; the message names shard and record.
    """
    return Shards(find_storage(where, cache), split)
