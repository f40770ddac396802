"""Writing shards: one after the other as records come, or many at once by a plan that can be gone on with.

Each shard gets its name when it is complete, the index comes last. What a shard was made from stands in it, so that an
interrupted preparation keeps what is done; the same records in the same settings give the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimicmotion.data.shards.archive import scan_tar
from mimicmotion.data.shards.frames import check_store
from mimicmotion.data.shards.index import (
    INDEX,
    ShardEntry,
    canonical,
    make_index,
    read_head,
    save_index,
    scan_shard,
    shard_files,
    shard_name,
)
from mimicmotion.data.shards.open_shard import OpenShard, RecordData, ShardSettings, open_shard
from mimicmotion.errors import InputError, MediaError, OutputError
from mimicmotion.runtime.files import check_writable, writing
from mimicmotion.runtime.workers import run_parallel

logger = logging.getLogger(__name__)


class ShardWriter:
    """Writes records as they come, and begins a new shard when one is full; makes the index at the end.

    For small sets and for tests. Long preparations use `write_shards`, which can be gone on with.
    """

    def __init__(
        self, folder: Path | str, shared: ShardSettings, *, max_records: int = 1000, max_bytes: int = 500_000_000
    ) -> None:
        """Begin a set of shards in `folder`, which must hold none yet.

        Raises:
            OutputError: the folder cannot be written or holds shards.
            ConfigError: the store is unknown or cannot hold frames of this size.
        """
        self.folder, self._shared = Path(folder), shared
        self._max = max_records, max_bytes
        self._open: dict[str, tuple[contextlib.ExitStack, OpenShard]] = {}
        self._numbers: dict[str, int] = {}
        check_store(shared.store, shared.size)
        check_writable(self.folder / INDEX)
        if shard_files(self.folder):
            raise OutputError(f"{folder} holds shards", "a new or empty folder", "choose another folder")

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        for split in list(self._open):
            if error is None:
                self._finish(split)
            else:
                self._open.pop(split)[0].__exit__(kind, error, trace)
        if error is None and self._numbers:
            self.write_index()

    def add(self, record: RecordData, split: str = "train") -> None:
        """Write one record into the open shard of `split`.

        Raises:
            InputError: a field does not fit.
            OutputError: the disk does not take it.
        """
        if split not in self._open:
            number = self._numbers.get(split, -1) + 1
            self._numbers[split] = number
            stack = contextlib.ExitStack()
            shard = stack.enter_context(open_shard(self.folder / shard_name(split, number), self._shared, split))
            self._open[split] = stack, shard
        shard = self._open[split][1]
        with writing(self.folder / split):
            shard.add(record)
        if len(shard) >= self._max[0] or shard.tell() >= self._max[1]:
            self._finish(split)

    def write_index(self) -> Path:
        """Write the index of all finished shards."""
        return save_index(make_index(map(scan_shard, shard_files(self.folder)), self.folder), self.folder)

    def _finish(self, split: str) -> None:
        self._open.pop(split)[0].close()


@dataclass(frozen=True)
class ShardPlan:
    """What one shard is to be made from.

    Attributes:
        split: train or val.
        number: of the shard within its split, from 0.
        items: what `make_records` gets, one after the other: plain data, paths or dataclasses of such.
    """

    split: str
    number: int
    items: tuple[Any, ...]

    @property
    def name(self) -> str:
        """File name of the shard."""
        return shard_name(self.split, self.number)

    def digest(self) -> str:
        """Identity of the items."""
        return hashlib.sha256(canonical([_plain(i) for i in self.items]).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ShardProgress:
    """One report of `write_shards`: items finished (those of kept shards counted), items in all, shards finished."""

    done: int
    total: int
    shards: int


@dataclass(frozen=True, slots=True)
class ShardsWritten:
    """What `write_shards` made; `kept` of the shards were there before."""

    folder: Path
    shards: int
    kept: int
    records: dict[str, int]
    frames: int
    bytes: int


def plan_shards(items: Sequence[Any], per_shard: int, split: str = "train") -> list[ShardPlan]:
    """Items in order, `per_shard` to a shard: which item is in which shard depends on nothing else."""
    starts = range(0, len(items), per_shard)
    return [ShardPlan(split, n, tuple(items[s : s + per_shard])) for n, s in enumerate(starts)]


def write_shards(
    folder: Path | str,
    plan: Sequence[ShardPlan],
    make_records: Callable[[Any], Iterable[RecordData]],
    shared: ShardSettings,
    *,
    processes: int = 1,
) -> Generator[ShardProgress, None, ShardsWritten]:
    """Write the shards of a plan, each by one process from beginning to end, and then the index.

    Shards that are there already, complete and made from the same items in the same settings, are kept; the result
    does not depend on `processes`, nor on how often it was interrupted.

    Args:
        folder: where they go.
        plan: the shards.
        make_records: item to its records (none is fine); must always give the same. With several processes it must
            be picklable: a function of a module, or `functools.partial` of one.
        shared: size, store and settings.
        processes: how many work at once; 1 is this process.

    Yields:
        A report after each item.

    Raises:
        InputError: nothing is planned, no item gave a record, or records do not fit.
        OutputError: the folder cannot be written, or holds shards of other settings or beyond the plan.
        ConfigError: the store is unknown or cannot hold frames of this size.
    """
    folder = Path(folder)
    check_store(shared.store, shared.size)
    check_writable(folder / INDEX)
    if not any(p.items for p in plan):
        raise InputError("nothing to write", "at least one item", "check the source of the data")
    kept = {p.name: e for p, e in zip(plan, _existing(folder, plan, shared), strict=True) if e is not None}
    todo = [p for p in plan if p.name not in kept]
    if todo:  # what the index says would not be true from here on
        (folder / INDEX).unlink(missing_ok=True)
    _remove_parts(folder, plan)
    total, done, entries = (
        sum(len(p.items) for p in plan),
        sum(len(p.items) for p in plan if p.name in kept),
        kept.copy(),
    )
    yield ShardProgress(done, total, len(entries))
    work = functools.partial(_write_shard, folder, make_records, shared)
    with contextlib.closing(run_parallel(work, todo, processes)) as reports:
        for result in reports:
            if isinstance(result, ShardEntry):
                entries[result.file] = result
            else:
                done += result
            yield ShardProgress(done, total, len(entries))
    index = make_index(entries.values(), folder)
    save_index(index, folder)
    shards = [s for some in index.splits.values() for s in some]
    return ShardsWritten(
        folder,
        len(shards),
        len(kept),
        {name: sum(len(s.records) for s in some) for name, some in index.splits.items()},
        sum(r.num_frames for s in shards for r in s.records),
        sum(s.bytes for s in shards),
    )


def _write_shard(
    folder: Path,
    make_records: Callable[[Any], Iterable[RecordData]],
    shared: ShardSettings,
    plan: ShardPlan,
) -> Generator[int, None, ShardEntry]:
    """Yields 1 after each item, and 0 after each record so that it can be stopped there."""
    with open_shard(folder / plan.name, shared, plan.split, plan.digest()) as shard:
        for item in plan.items:
            for record in make_records(item):
                shard.add(record)
                yield 0
            yield 1
    return scan_shard(folder / plan.name)


def _existing(folder: Path, plan: Sequence[ShardPlan], shared: ShardSettings) -> Iterator[ShardEntry | None]:
    """Per planned shard what is there of it."""
    names = {p.name for p in plan}
    beyond = next((p.name for p in shard_files(folder) if p.name not in names), None)
    if beyond is not None:
        got = f"{folder} holds {beyond}, which is not part of this set"
        raise OutputError(got, "a new folder, or one with a part of the same set", "choose another folder")
    for p in plan:
        path, wanted = folder / p.name, shared.head(p.split, p.digest())
        if not path.exists():
            yield None
            continue
        try:
            head = read_head(path, scan_tar(path)[:1])
        except MediaError as e:
            logger.warning("%s: written again", e.got)
            yield None
            continue
        want = canonical({k: v for k, v in wanted.items() if k != "plan"})
        if canonical({k: v for k, v in head.items() if k != "plan"}) != want:
            got = f"{path} was made with {head.get('settings')}, size {head.get('size')}, store {head.get('store')}"
            raise OutputError(got, want, "choose another folder, or delete this one")
        if head["plan"] != wanted["plan"]:
            logger.info("%s holds other items than planned: written again", path)
            yield None
        else:
            yield scan_shard(path)


def _remove_parts(folder: Path, plan: Sequence[ShardPlan]) -> None:
    """Delete what a killed writer left under temporary names."""
    for split in {p.split for p in plan}:
        for part in folder.glob(f".{split}-*.part.tar"):
            with contextlib.suppress(OSError):
                part.unlink()


def _plain(item: Any) -> Any:
    """Plain data of an item of a plan."""
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return {f.name: _plain(getattr(item, f.name)) for f in dataclasses.fields(item)}
    if isinstance(item, Mapping):
        return {str(k): _plain(v) for k, v in item.items()}
    if isinstance(item, (list, tuple)):
        return [_plain(v) for v in item]
    if isinstance(item, Path):
        return item.as_posix()
    if item is None or isinstance(item, (str, int, float)):
        return item
    raise InputError(f"an item of a plan holds {type(item).__name__}", "plain data, paths, dataclasses", "convert it")
