"""The index of a folder of shards: which records it holds and where their bytes lie; read from disk or made anew."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimicmotion.data.shards.archive import MEND, Member, read_spans, scan_tar
from mimicmotion.data.shards.frames import ENDINGS
from mimicmotion.errors import InputError, MediaError
from mimicmotion.runtime.files import atomic_path, sha256_file, writing

logger = logging.getLogger(__name__)

FORMAT, VERSION, INDEX = "mimicmotion.shards", 1, "index.json"
HEAD = "__shard__/head.json"
"""The first member of a shard says what it is. WebDataset passes over names of this form."""

Span = tuple[int, int]  # offset, size
_NAME = re.compile(r"(?P<split>.+)-(?P<number>\d+)\.tar")
_PICTURE = re.compile(r"(\d{5})\.(png|jpg)")
_NEEDED = ("json", "poses.npz")
_PREPARE = "make the shards with 'mimicmotion prepare'"


@dataclass(frozen=True, slots=True)
class RecordEntry:
    """Where a record lies: spans of its members, and of its frames if they are single pictures."""

    key: str
    video: str
    num_frames: int
    stills: int
    fps: float
    members: dict[str, Span]
    frames: list[Span]


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One tar file: its records, what it was made from (`head`), and its size and checksum."""

    file: str
    split: str
    bytes: int
    sha256: str
    head: dict[str, Any]
    records: list[RecordEntry] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Index:
    """All shards of a folder, by split."""

    size: tuple[int, int]
    store: str
    settings: dict[str, Any]
    splits: dict[str, list[ShardEntry]]

    def digest(self, split: str) -> str:
        """Identity of the data of a split: sha256 over the checksums of its shards."""
        sums = [s.sha256 for s in self.splits.get(split, ())]
        return hashlib.sha256(json.dumps([FORMAT, VERSION, sums]).encode()).hexdigest()


def canonical(data: Any) -> str:
    """The one JSON text of plain data: equal data, equal text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def shard_name(split: str, number: int) -> str:
    """train-00000.tar and so on."""
    return f"{split}-{number:05d}.tar"


def shard_files(folder: Path) -> list[Path]:
    """The shards of a folder, without those that are still being written under a temporary name."""
    return sorted(p for p in folder.glob("*.tar") if not p.name.startswith("."))


def scan_shard(path: Path) -> ShardEntry:
    """Read the headers and the metadata of a shard, check that no member is missing, and sum it.

    Raises:
        MediaError: the file is damaged or cut off, or a record lacks a member; names shard and record.
        InputError: the shard is of a newer format.
    """
    members = scan_tar(path)
    head = read_head(path, members)
    name = _NAME.fullmatch(path.name)
    if name is None:
        raise InputError(f"{path.name} as a shard", "a name such as train-00000.tar", "rename the file")
    groups: dict[str, dict[str, Member]] = {}
    for m in members:
        key, _, ending = m.name.partition(".")
        if m.name != HEAD:
            groups.setdefault(key, {})[ending] = m
    jsons = _read_jsons(path, groups)
    records = [_entry(path, key, found, jsons[key]) for key, found in groups.items()]
    sizes = {tuple(jsons[key]["size"]) for key in groups}
    if len(sizes) > 1:
        raise InputError(f"{path} holds frames of {_sizes(sizes)}", "one size", _PREPARE)
    head = {"size": list(*sizes), "store": _store(groups)} | head if groups else head
    return ShardEntry(
        path.name, str(head.get("split", name["split"])), path.stat().st_size, sha256_file(path), head, records
    )


def read_head(path: Path, members: Sequence[Member]) -> dict[str, Any]:
    """What a shard says about itself; empty for a tar of another tool.

    Raises:
        InputError: the shard is of another format version.
        MediaError: it is unreadable.
    """
    found = next((m for m in members if m.name == HEAD), None)
    if found is None:
        return {}
    try:
        head = json.loads(read_spans(path, [(found.offset, found.size)])[0])
        check_version(path, head)
    except (ValueError, AttributeError) as e:
        if isinstance(e, InputError):
            raise
        raise MediaError(f"{path}: {HEAD} is damaged ({e})", "JSON", MEND) from e
    return head


def check_version(where: Path | str, head: Mapping[str, Any]) -> None:
    """Raise InputError unless `head` names our format in a version that is understood."""
    if head.get("format") != FORMAT or head.get("version") != VERSION:
        got = f"{where} is {head.get('format')!r} version {head.get('version')!r}"
        raise InputError(got, f"{FORMAT!r} version {VERSION}", "update mimicmotion, or prepare the data again")


def make_index(shards: Iterable[ShardEntry], where: Path | str) -> Index:
    """Put shards together; they must agree in size, store and settings and repeat no key.

    Raises:
        InputError: they do not fit together, or there is no record.
    """
    splits: dict[str, list[ShardEntry]] = {}
    keys: set[str] = set()
    first: ShardEntry | None = None
    for shard in sorted(shards, key=lambda s: s.file):
        splits.setdefault(shard.split, []).append(shard)
        if not shard.records:
            continue
        first = first or shard
        for name in ("size", "store", "settings"):
            if shard.head.get(name) != first.head.get(name):
                got = (
                    f"{where}: {name} is {first.head.get(name)} in {first.file}, {shard.head.get(name)} in {shard.file}"
                )
                raise InputError(got, "shards made with the same settings", "keep them in folders of their own")
        for record in shard.records:
            if record.key in keys:
                raise InputError(f"{where}: record {record.key} is there twice", "each record once", _PREPARE)
            keys.add(record.key)
    if first is None:
        raise InputError(f"{where} holds no record", "shards with records", _PREPARE)
    height, width = first.head["size"]
    return Index((height, width), first.head["store"], first.head.get("settings", {}), splits)


def scan_folder(folder: Path) -> Index:
    """The index of the shards of a folder, made from the shards themselves.

    Raises:
        InputError: there is no shard, or no record in them, or they do not fit together.
        MediaError: a shard is damaged.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder", "a folder of shards", "check the path")
    files = shard_files(folder)
    if not files:
        raise InputError(f"{folder} holds no shards", "train-00000.tar and so on", _PREPARE)
    return make_index(map(scan_shard, files), folder)


def save_index(index: Index, folder: Path) -> Path:
    """Write `index` as FOLDER/index.json."""
    data = {
        "format": FORMAT,
        "version": VERSION,
        "size": index.size,
        "store": index.store,
        "settings": index.settings,
        "splits": {
            name: [
                {
                    "file": s.file,
                    "bytes": s.bytes,
                    "sha256": s.sha256,
                    "records": [
                        {n: getattr(r, n) for n in ("key", "video", "num_frames", "stills", "fps", "members", "frames")}
                        for r in s.records
                    ],
                }
                for s in shards
            ]
            for name, shards in sorted(index.splits.items())
        },
    }
    path = folder / INDEX
    with atomic_path(path) as part, writing(path):
        part.write_text(canonical(data) + "\n", encoding="utf-8")
    return path


def write_index(folder: Path | str) -> Index:
    """Make FOLDER/index.json from the shards that are there; every shard is read once.

    Raises:
        InputError: as `scan_folder`.
        OutputError: the index cannot be written.
    """
    index = scan_folder(Path(folder))
    save_index(index, Path(folder))
    return index


def load_index(path: Path) -> Index:
    """Read an index.

    Raises:
        InputError: it is damaged or of another format.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        check_version(path, data)
        head = {"size": data["size"], "store": data["store"], "settings": data["settings"]}
        splits = {
            name: [
                ShardEntry(s["file"], name, s["bytes"], s["sha256"], head, [_load_entry(r) for r in s["records"]])
                for s in shards
            ]
            for name, shards in data["splits"].items()
        }
        height, width = data["size"]
        return Index((height, width), data["store"], data["settings"], splits)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        fix = "delete the file: it is made anew from the shards"
        raise InputError(f"{path} is damaged ({type(e).__name__}: {e})", "an index of shards", fix) from e


def _load_entry(data: dict[str, Any]) -> RecordEntry:
    members = {k: (int(a), int(b)) for k, (a, b) in data["members"].items()}
    frames = [(int(a), int(b)) for a, b in data["frames"]]
    return RecordEntry(
        data["key"], data["video"], int(data["num_frames"]), int(data["stills"]), float(data["fps"]), members, frames
    )


def _read_jsons(path: Path, groups: Mapping[str, Mapping[str, Member]]) -> dict[str, dict[str, Any]]:
    spans = {}
    for key, found in groups.items():
        for ending in _NEEDED:
            if ending not in found:
                raise MediaError(f"{path}: record {key} has no member {key}.{ending}", "complete records", MEND)
        spans[key] = (found["json"].offset, found["json"].size)
    out = {}
    for key, text in zip(spans, read_spans(path, list(spans.values())), strict=True):
        try:
            out[key] = meta = json.loads(text)
            video, frames, _, (_, _) = meta["video"], int(meta["num_frames"]), float(meta["fps"]), meta["size"]
            if not isinstance(video, str) or not 0 <= int(meta.get("stills", 0)) <= frames:
                raise ValueError(f"video={video!r}, stills={meta.get('stills')}, num_frames={frames}")
        except (ValueError, KeyError, TypeError) as e:
            got = f"{path}: record {key}: {key}.json is wrong ({type(e).__name__}: {e})"
            raise MediaError(got, "video, num_frames, stills, fps, size", MEND) from e
    return out


def _entry(path: Path, key: str, found: Mapping[str, Member], meta: Mapping[str, Any]) -> RecordEntry:
    frames = int(meta["num_frames"])
    pictures = {int(m[1]): v for k, v in found.items() if (m := _PICTURE.fullmatch(k))}
    if "mp4" not in found:
        missing = next((i for i in range(frames) if i not in pictures), None)
        if missing is not None or len(pictures) > frames:
            got = f"{len(pictures)} frames" + ("" if missing is None else f", no frame {missing}")
            raise MediaError(f"{path}: record {key} has {got}", f"{frames} frames", MEND)
    return RecordEntry(
        key,
        meta["video"],
        frames,
        int(meta.get("stills", 0)),
        float(meta["fps"]),
        {k: (m.offset, m.size) for k, m in found.items() if not _PICTURE.fullmatch(k)},
        [(pictures[i].offset, pictures[i].size) for i in range(frames)] if "mp4" not in found else [],
    )


def _store(groups: Mapping[str, Mapping[str, Member]]) -> str:
    endings = {e.rpartition(".")[2] for found in groups.values() for e in found}
    return next(store for store, ending in ENDINGS.items() if ending in endings)


def _sizes(sizes: Iterable[Sequence[int]]) -> str:
    return ", ".join(sorted("x".join(map(str, s)) for s in sizes))
