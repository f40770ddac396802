"""Folders of resumable runs: atomic and durable writes, locks, clean-up, and comparison of settings.

A file or folder is written under a hidden name, flushed to disk, and then renamed. `clear_leftovers` removes hidden
files left by killed processes.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import weakref
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from mimicmotion.errors import ConfigError, OutputError
from mimicmotion.runtime.files import atomic_path, writing

LEFTOVER = re.compile(r"\.(.+?)(\.[0-9a-f]{8})?\.(part|old)(\.[^.]+)?")
"""Matches hidden names of `atomic_folder` and `files.atomic_path`; the groups are name, random number, kind, suffix."""


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk, so that a power failure leaves no partial files."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def durable_file(path: Path) -> Iterator[Path]:
    """Like `files.atomic_path`, but flush the file to disk before it is renamed."""
    with atomic_path(path) as part:
        yield part
        with writing(path):
            sync(part)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str], pattern: str = "*") -> Iterator[Path]:
    """Yield a hidden folder next to `path`, renamed to `path` on success and removed on any error or Ctrl-C.

    Creates parent folders. An existing folder is replaced only when the new one is complete and on disk, and only if it
    contains nothing but files that match `pattern`. Errors raised in the block are not converted.

    Raises:
        OutputError: the folder cannot be written, or `path` contains other files.
    """
    path = Path(path)
    part, old = (path.with_name(f".{path.name}.{secrets.token_hex(4)}.{kind}") for kind in ("part", "old"))
    check_replaceable_folder(path, pattern)
    with writing(path):
        part.mkdir(parents=True)
    try:
        yield part
        with writing(path):
            for parent, _, names in os.walk(part):
                for name in (*names, "."):
                    sync(Path(parent, name))
            if path.exists():
                path.replace(old)
            part.replace(path)
            sync(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        elif old.exists():  # the new folder could not be renamed
            old.replace(path)


def check_replaceable_folder(path: Path, pattern: str) -> None:
    """Raise OutputError if `path` is a file, or a folder with files that do not match `pattern` and would be lost."""
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file", "a new or empty folder", "choose another name")
    if path.is_dir():
        other = next((p.name for p in sorted(path.iterdir()) if not p.match(pattern)), None)
        if other is not None:
            raise OutputError(f"{path} already contains {other}", "a new or empty folder", "choose another folder")


def clear_leftovers(folder: Path, names: Container[str] | None = None) -> None:
    """Delete partial files of killed processes, and restore a folder whose replacement was interrupted.

    Args:
        folder: folder to clean up; no other process may be writing to it.
        names: names of the files and folders to clean up; None means all.
    """
    for leftover in folder.iterdir() if folder.is_dir() else ():
        match = LEFTOVER.fullmatch(leftover.name)
        if match is None or (names is not None and f"{match[1]}{match[4] or ''}" not in names):
            continue
        with contextlib.suppress(OSError):
            if match[3] == "old" and not (folder / match[1]).exists():
                leftover.replace(folder / match[1])
            elif leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()


class FolderLock:
    """An exclusive lock on a folder, against other processes and other jobs of this process.

    The lock is held until `release`, or until this process ends, even if its workers outlive it. It has no effect on
    systems and file systems without locks.

    Args:
        path: the lock file; its folder must exist.

    Raises:
        ConfigError: the folder is already locked.
        OutputError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        with writing(path):
            self._file = path.open("ab")
        try:
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            self._file.close()
            fix = "wait until it ends, or use another folder"
            raise ConfigError(f"{path.parent} is in use by another process", "one process at a time", fix) from e
        except (ImportError, OSError):
            pass
        _LOCKS.add(self)

    def release(self) -> None:
        """Release the lock."""
        self._file.close()


_LOCKS: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _close_copies() -> None:
    """Close the copies of the parent's locks in a forked process."""
    for lock in _LOCKS:
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_copies)


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten {"a": {"b": 1}} to {"a.b": 1}."""
    out: dict[str, Any] = {}
    for key, value in data.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return out


def differences(old: Mapping[str, Any], new: Mapping[str, Any], name: str = "{}") -> list[str]:
    """List the differences between settings or checksums, sorted by name, as in "optim.lr was 0.01, is 0.02".

    Args:
        old: settings of the earlier run, nested or flat.
        new: settings of this run, nested or flat.
        name: format of the keys, such as "setting {}".
    """
    a, b = flat(old), flat(new)
    changed = [key for key in sorted({*a, *b}) if a.get(key) != b.get(key)]
    return [f"{name.format(key)} was {_shown(a.get(key))}, is {_shown(b.get(key))}" for key in changed]


def _shown(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        return f"sha256 {value[:12]}..."
    return "missing" if value is None else repr(value)
