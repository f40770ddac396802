"""The index of a folder of shards, and the positions of records in their tar files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from mimicmotion.errors import InputError, MediaError
from mimicmotion.runtime.files import atomic_path, sha256_file, writing
from mimicmotion.runtime.reading import read_json, reading

REMAKE = "recreate this shard, or copy it again"
Store = Literal["png", "jpeg", "video"]
"""How frames are stored: png (lossless), jpeg (quality 95), video (H.264, the smallest for real footage)."""
Span = tuple[int, int]
"""Offset and size in bytes."""
_END = 1024  # a complete tar ends with two zero blocks
FORMAT, VERSION, INDEX = "mimicmotion.shards", 1, "index.json"
HEAD = "__shard__/head.json"
"""The first member of a shard describes it. WebDataset skips names of this form."""

# An index may come from the network, and file and key become parts of paths: no dots, roots or shell characters.
_FILE = r"^([A-Za-z0-9_-]+)-\d+\.tar$"
Count = Annotated[int, Field(ge=0)]
SafeSpan = tuple[Count, Count]
_PICTURE = re.compile(r"(\d{5})\.(png|jpg)")


def scan_tar(path: Path) -> dict[str, Span]:
    """Return the positions of the regular files of an uncompressed tar by name, in order. Reads only the headers.

    Raises:
        MediaError: the file is missing, truncated, or not a tar file.
    """
    with (
        reading(path, "a complete tar file", REMAKE, MediaError),
        path.open("rb") as file,
        tarfile.open(fileobj=file, mode="r:") as tar,
    ):
        members = {t.name: (t.offset_data, t.size) for t in tar if t.isreg()}
        # tarfile does not notice a file that was truncated between two members
        file.seek(tar.offset)
        if len(end := file.read(_END)) < _END or any(end):
            raise tarfile.ReadError("no end mark")
    return members


def read_spans(path: Path, spans: Sequence[Span]) -> list[bytes]:
    """Read spans of a file.

    The file is opened in each call (about 20 microseconds), so processes and threads share no file position, and large
    sets of shards do not need many open files.

    Raises:
        MediaError: the file is missing or too short.
    """
    found = []
    with reading(path, "a readable tar file", REMAKE, MediaError), path.open("rb") as file:
        for offset, size in spans:
            file.seek(offset)
            found.append(file.read(size))
            if len(found[-1]) < size:
                raise MediaError(f"{path} ends before byte {offset + size}", "a complete tar file", REMAKE)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordEntry:
    """The position of a record: spans of its members, and of its frames if they are single pictures."""

    key: Annotated[str, Field(pattern=r"^[^./\\\s][^.\\]*$")]
    video: str
    num_frames: Count
    stills: Count = 0
    fps: float
    members: dict[str, SafeSpan]
    frames: list[SafeSpan]

    def __post_init__(self) -> None:
        if self.stills > self.num_frames:
            raise ValueError(f"{self.stills} stills in {self.num_frames} frames")


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One tar file: its name, size and checksum, and its records."""

    file: Annotated[str, Field(pattern=_FILE)]
    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    records: list[RecordEntry] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Index:
    """All shards of a folder, by split."""

    size: tuple[Count, Count]
    store: Store
    settings: dict[str, Any]
    splits: dict[str, list[ShardEntry]]

    def digest(self, split: str) -> str:
        """Return the identity of a split's data: sha256 over the checksums of its shards."""
        sums = [s.sha256 for s in self.splits.get(split, ())]
        return hashlib.sha256(json.dumps([FORMAT, VERSION, sums]).encode()).hexdigest()


_INDEX, _RECORD = TypeAdapter(Index), TypeAdapter(RecordEntry)


def canonical(data: Any) -> str:
    """Convert plain data, paths and dataclasses to canonical JSON: equal data gives equal text."""
    options: dict[str, Any] = {"sort_keys": True, "separators": (",", ":"), "ensure_ascii": False, "allow_nan": False}
    return json.dumps(data, default=_plain, **options)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.as_posix()
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}


def shard_files(folder: Path) -> list[Path]:
    """List the shards of a folder, without unfinished ones under temporary names."""
    return sorted(p for p in folder.glob("*.tar") if not p.name.startswith("."))


def scan_shard(path: Path) -> tuple[dict[str, Any], ShardEntry]:
    """Read a shard, and return its metadata (the first member) and its entry in the index.

    Raises:
        MediaError: the file is damaged or truncated, or a record lacks a member; the message says which.
        InputError: it is a tar file from another tool, or the shard has another format version.
    """
    members = scan_tar(path)
    if HEAD not in members:
        raise InputError(f"{path} is a tar file from another tool", f"one with {HEAD}", "choose another folder")
    with reading(f"{path}: {HEAD}", "JSON", REMAKE, MediaError):
        head = json.loads(read_spans(path, [members[HEAD]])[0])
        check_version(path, head)
    groups: dict[str, dict[str, Span]] = {}
    for name, span in members.items():
        key, _, ending = name.partition(".")
        if name != HEAD:
            groups.setdefault(key, {})[ending] = span
    for key, found in groups.items():
        for ending in ("json", "poses.npz"):
            if ending not in found:
                raise MediaError(f"{path}: record {key} has no member {key}.{ending}", "complete records", REMAKE)
    texts = read_spans(path, [found["json"] for found in groups.values()])
    records = []
    for (key, found), text in zip(groups.items(), texts, strict=True):
        with reading(f"{path}: record {key}: {key}.json", "video, num_frames, stills, fps", REMAKE, MediaError):
            others = {k: span for k, span in found.items() if not _PICTURE.fullmatch(k)}
            entry = _RECORD.validate_python(json.loads(text) | {"key": key, "members": others, "frames": []})
        records.append(dataclasses.replace(entry, frames=_pictures(path, entry, found)))
    return head, ShardEntry(path.name, path.stat().st_size, sha256_file(path), records)


def _pictures(path: Path, entry: RecordEntry, found: Mapping[str, Span]) -> list[Span]:
    """Return the positions of a record's single pictures; empty if it contains a video."""
    if "mp4" in found:
        return []
    pictures = {int(m[1]): span for k, span in found.items() if (m := _PICTURE.fullmatch(k))}
    missing = next((i for i in range(entry.num_frames) if i not in pictures), None)
    if missing is not None or len(pictures) > entry.num_frames:
        got = f"{len(pictures)} frames" + ("" if missing is None else f", no frame {missing}")
        raise MediaError(f"{path}: record {entry.key} has {got}", f"{entry.num_frames} frames", REMAKE)
    return [pictures[i] for i in range(entry.num_frames)]


def check_version(where: Path, head: Mapping[str, Any]) -> None:
    """Raise InputError unless `head` has this format and version."""
    if head.get("format") != FORMAT or head.get("version") != VERSION:
        got = f"{where} is {head.get('format')!r} version {head.get('version')!r}"
        raise InputError(got, f"{FORMAT!r} version {VERSION}", "update mimicmotion, or run prepare again")


def make_index(head: Mapping[str, Any], shards: Iterable[ShardEntry]) -> Index:
    """Build the index of shards with the size, store and settings of `head`; file names determine the splits.

    Raises:
        InputError: there are no records, or two with the same key.
    """
    splits: dict[str, list[ShardEntry]] = {}
    for shard in sorted(shards, key=lambda s: s.file):
        splits.setdefault(shard.file.rpartition("-")[0], []).append(shard)
    keys = [r.key for some in splits.values() for s in some for r in s.records]
    if not keys:
        raise InputError("shards without a record", "at least one record", "check the videos and filters")
    if len(set(keys)) < len(keys):
        twice = next(k for k in keys if keys.count(k) > 1)
        raise InputError(f"record {twice} occurs twice", "each record once", "choose another key")
    height, width = head["size"]
    return Index((height, width), head["store"], head["settings"], splits)


def save_index(index: Index, folder: Path) -> None:
    """Write `index` as FOLDER/index.json.

    Raises:
        OutputError: it cannot be written.
    """
    path = folder / INDEX
    with atomic_path(path) as part, writing(path):
        part.write_text(canonical({"format": FORMAT, "version": VERSION} | _plain(index)) + "\n", encoding="utf-8")


def load_index(path: Path) -> Index:
    """Read an index, and reject names of shards and records that would be unsafe in paths.

    Raises:
        InputError: it is damaged or has another format version.
    """
    what, fix = "an index of shards", "run prepare again; finished shards are kept"
    data = read_json(path, what, fix)
    with reading(path, what, fix):
        check_version(path, data)
        try:
            return _INDEX.validate_python(data)
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise InputError(f"{path} is damaged ({where}: {first['msg']})", what, fix) from e
