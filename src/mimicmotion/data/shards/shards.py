"""Shards: records (scenes of videos with poses) in tar files, with random access.

A shard is a tar file that `webdataset.WebDataset` can read too. The members of record KEY are KEY.json (metadata),
KEY.mp4 or KEY.00000.png ... or KEY.00000.jpg ... (frames), KEY.poses.npz (a pose file), and optionally KEY.truth.npz
(masks and flow of rendered people). FOLDER/index.json lists the position of each member.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import logging
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from mimicmotion.data.shards.frames import decode_pictures, decode_video
from mimicmotion.data.shards.index import INDEX, REMAKE, Index, RecordEntry, ShardEntry, Span, load_index, read_spans
from mimicmotion.errors import ConfigError, InputError, MediaError, PoseError
from mimicmotion.pose.files import parse_poses
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.runtime.extras import install_command
from mimicmotion.runtime.files import atomic_path, sha256_file, writing
from mimicmotion.runtime.reading import reading
from mimicmotion.weights.registry import cache_folder

logger = logging.getLogger(__name__)

SCHEMES = ("http", "https", "s3", "gs", "hf")
"""Allowed schemes of URLs besides file; none of them can run a program."""
_TIMEOUT = 60.0  # seconds without a byte
_CHUNK = 1 << 20


def find_storage(where: str | Path, cache: Path | None = None) -> Folder | Remote:
    """Return the storage of the shards at a path or URL.

    Raises:
        InputError: the URL has a scheme other than `SCHEMES`.
    """
    text = str(where)
    url = urlparse(text)
    if url.scheme == "file":
        return Folder(Path(urllib.request.url2pathname(url.path)))
    # a scheme of one letter is a Windows drive
    if isinstance(where, Path) or len(url.scheme) < 2:
        return Folder(Path(where))
    if url.scheme not in SCHEMES:
        schemes = ", ".join(f"{s}://" for s in SCHEMES)
        raise InputError(f"shards at {text}", f"a folder or a URL with file://, {schemes}", "copy them to one of these")
    return Remote(text, cache)


class Folder:
    """Shards in a local folder, read in place."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, str(folder)

    def index(self) -> Index:
        """Read the index, and check that all shards exist and have the right size.

        Raises:
            InputError: the folder or its index is missing, or the index has another format version.
            MediaError: a shard is missing or has the wrong size.
        """
        if not (self.folder / INDEX).exists():
            got = f"{self.folder} has no {INDEX}"
            raise InputError(got, "a folder of shards", "check the path, or run prepare to completion")
        index = load_index(self.folder / INDEX)
        for shard in (s for some in index.splits.values() for s in some):
            path = self.folder / shard.file
            size = path.stat().st_size if path.exists() else -1
            if size != shard.bytes:
                got = f"{path} is missing" if size < 0 else f"{path} has {size} bytes"
                raise MediaError(got, f"{shard.bytes} bytes according to {INDEX}", "copy it or run prepare again")
        return index

    def find(self, shard: ShardEntry) -> Path:
        """Return the path of a shard."""
        return self.folder / shard.file


class Remote:
    """Shards at a URL with one of `SCHEMES`.

    The name of a file replaces {} in the URL, or is appended to it after a slash.
    """

    def __init__(self, url: str, cache: Path | None) -> None:
        self.name = url
        root = cache_folder() / "shards" if cache is None else Path(cache)
        self.cache = root / hashlib.sha256(url.encode()).hexdigest()[:16]

    def index(self) -> Index:
        """Copy the index (every time, because it may have changed) and read it.

        Raises:
            InputError: it cannot be fetched and there is no earlier copy, or it has another format version.
            ConfigError: a package that reads such URLs is not installed.
        """
        path = self.cache / INDEX
        try:
            self._copy(INDEX, path, None)
        except InputError as e:
            if not path.exists():
                raise
            logger.warning("%s; using the copy in %s", e.got, self.cache)
        return load_index(path)

    def find(self, shard: ShardEntry) -> Path:
        """Return the path of a shard's local copy, which one process fetches and verifies on first use.

        Raises:
            InputError: it cannot be fetched.
            MediaError: its checksum is not the one in the index.
            OutputError: the cache cannot be written.
        """
        # named by content, so that a set that is replaced under the same URL does not use old copies
        path = self.cache / f"{shard.sha256[:16]}-{shard.file}"
        if not path.exists():
            from filelock import FileLock

            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f".{path.name}.lock")):
                if not path.exists():
                    self._copy(shard.file, path, shard.sha256)
        return path

    def _copy(self, name: str, path: Path, sha256: str | None) -> None:
        url = self.name.replace("{}", name) if "{}" in self.name else f"{self.name.rstrip('/')}/{name}"
        logger.info("copying %s to %s", url, path)
        with atomic_path(path) as part:
            with writing(path), part.open("wb") as file:
                for chunk in _read(url):
                    file.write(chunk)
            if sha256 is not None and (found := sha256_file(part)) != sha256:
                got = f"{url} has sha256 {found[:16]}..."
                raise MediaError(got, f"{sha256[:16]}... according to {INDEX}", "upload this shard and the index again")


def _read(url: str) -> Iterator[bytes]:
    """Yield the bytes of the file at a URL in chunks."""
    try:
        with _open(url) as source:
            while chunk := source.read(_CHUNK):
                yield chunk
    except ImportError as e:  # fsspec names the package
        raise ConfigError(f"{url} cannot be read ({e})", "the 'remote' extra", install_command("remote")) from e
    except Exception as e:  # each library raises its own errors
        raise InputError(f"{url} cannot be read ({e})", f"a set of shards with {INDEX}", "check the URL") from e


def _open(url: str) -> Any:
    scheme = urlparse(url).scheme
    if scheme in ("http", "https"):
        return urllib.request.urlopen(url, timeout=_TIMEOUT)
    import fsspec

    # not fsspec.open, which follows chains such as a::b
    return fsspec.filesystem(scheme).open(url, "rb")


class Record:
    """A scene. Its parts are read on access and, except for the frames, cached.

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
        """Storage, shard and key of the record, for messages."""
        return f"{self._shards.storage.name}: {self._shard.file}: record {self.key}"

    @functools.cached_property
    def meta(self) -> dict[str, Any]:
        """The metadata: video, source, sha256, start_s, fps, size, num_frames, stills, split, crop and others."""
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
            got = f"{self.where}: {len(poses)} poses in frames of size {poses.size}"
            raise MediaError(got, f"{len(self)} poses in frames of size {self._shards.size}", REMAKE)
        return poses

    @functools.cached_property
    def truth(self) -> dict[str, ndarray] | None:
        """The ground truth of rendered frames (see `data.synthetic.pack_truth`); None if the record has none.

        Raises:
            MediaError: the member is damaged.
        """
        if "truth.npz" not in self._entry.members:
            return None
        where = f"{self.where}: truth.npz"
        with reading(where, "an .npz file", REMAKE, MediaError), np.load(io.BytesIO(self._read("truth.npz"))) as stored:
            return {name: stored[name] for name in stored.files}

    def frames(self, indices: Sequence[int]) -> UInt8[ndarray, "n height width 3"]:
        """Decode RGB frames in the order of `indices`, which may repeat.

        Raises:
            InputError: there is no such frame.
            MediaError: the shard is damaged.
        """
        if wrong := [int(i) for i in indices if not 0 <= i < len(self)]:
            raise InputError(f"{self.where}: frame {wrong[0]}", f"0 to {len(self) - 1}", "choose an existing frame")
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
        videos: indices of the records of each video, by video id.
        sums: sha256 of the shard of each record; with the key, it identifies the record.
    """

    def __init__(self, storage: Folder | Remote, split: str) -> None:
        index = storage.index()
        shards = index.splits.get(split, [])
        self.storage, self.split, self.size, self.store = storage, split, index.size, index.store
        self.settings, self.digest = index.settings, index.digest(split)
        self._entries = [(s, r) for s in shards for r in s.records]
        if not self._entries:
            known = ", ".join(f"{k} ({sum(len(s.records) for s in v)})" for k, v in index.splits.items())
            got = f"{storage.name} has no records in split {split!r}"
            raise InputError(got, f"one of {known}", "choose another split")
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
            `mimicmotion[remote]`); the name of a file replaces {} in it, or is appended after a slash.
        split: train or val.
        cache: folder for copies of remote shards; `$MIMICMOTION_CACHE/shards` if None.

    Raises:
        InputError: there are no shards or no records of this split, the format is unknown, or the URL is unsupported.
        MediaError: a shard is damaged, truncated or lacks a member; the message names the shard and record.
    """
    return Shards(find_storage(where, cache), split)
