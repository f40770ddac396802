"""Atomic writes, early checks of paths, and checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mimicmotion.errors import ConfigError, InputError, MimicMotionError, OutputError

FAILED_WRITE = re.compile(r"inline_container|PytorchStreamWriter|file write failed|I/O error|No space left")
"""Matches the errors of torch.save and safetensors on a full disk, which are not OSErrors."""


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Check in advance that `path` can be written, without leaving any files, and return it.

    Missing parent folders are fine, because they are created before writing.

    Raises:
        OutputError: a parent of `path` is a file, a name is too long, or the nearest existing folder is not writable.
    """
    path = Path(path)
    folder, names = path.absolute().parent, [part_name(path)]
    try:
        while not folder.exists() and folder != folder.parent:
            folder, names = folder.parent, [*names, folder.name]
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        for name in names:  # lstat fails if a name is too long
            with contextlib.suppress(FileNotFoundError):
                os.lstat(folder / name)
        # other checks fail on read-only mounts or for root
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise output_error(path, e) from e
    return path


def check_not_inputs(inputs: Iterable[str | os.PathLike[str] | None], outputs: Iterable[Path]) -> None:
    """Check in advance that a job does not overwrite its inputs.

    Paths are compared by file identity, so symbolic links, hard links and names that differ in case count as the same
    file. A replaced folder must not contain an input either.

    Args:
        inputs: files and folders; those that do not exist (None, names on the hub) are ignored.
        outputs: files and folders that the job replaces.

    Raises:
        ConfigError: an output is or contains an input, or two outputs are the same.
    """
    read: dict[tuple[int, int], str] = {}
    for path in filter(None, inputs):
        real = Path(os.path.realpath(path))
        with contextlib.suppress(OSError):
            for folder in (real, *real.parents, Path(path).absolute().parent):
                read.setdefault(_identity(folder), str(path))
    written: dict[str, Path] = {}
    for path in outputs:
        if path.exists() and (source := read.get(_identity(path))) is not None:
            what = "is" if path.samefile(source) else "contains"
            raise ConfigError(f"{path} {what} the input {source}", "a different path", "choose another output")
        if written.setdefault(os.path.realpath(path), path) is not path:
            raise ConfigError(f"two outputs are {path}", "different paths", "choose another output")


def _identity(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def part_name(path: Path) -> str:
    """Return a random hidden name for an incomplete file, which `run_folder.LEFTOVER` matches."""
    return f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert errors in the block that writes `path`, such as a full disk, to an OutputError with a fix."""
    try:
        yield
    except MimicMotionError:
        raise
    except OSError as e:
        raise output_error(path, e) from e
    except Exception as e:
        if not FAILED_WRITE.search(str(e)):
            raise
        got = f"{path} cannot be written (is the disk full? {e})"
        raise OutputError(got, "a writable location with enough free space", "free some space") from e


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path next to `path`, renamed to `path` on success and removed on any error or Ctrl-C.

    Creates parent folders. An existing file is replaced only when the new one is complete. Errors raised in the
    block are not converted.

    Raises:
        OutputError: the folder cannot be created, or the file cannot be renamed.
    """
    path = Path(path)
    # in the same folder, so that the last step is a rename and not a copy
    part = path.with_name(part_name(path))
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        with writing(path):
            part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 file atomically and return `path`. Lone surrogates, as in undecodable file names, become "?".

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_path(path) as part, writing(path):
        part.write_text(text, encoding="utf-8", errors="replace", newline="")
    return path


def write_json(path: Path, data: Any) -> Path:
    """Write plain data as JSON and return `path`. NaN and infinity become null.

    Raises:
        OutputError: the file cannot be written.
    """
    return write_text(path, json.dumps(_plain(data), indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def output_error(path: Path, error: OSError) -> OutputError:
    """Return an OutputError with a fix for an error on writing `path`."""
    reason = error.strerror or str(error)
    fix = {
        errno.ENOSPC: "free some space or write to another disk",
        errno.EDQUOT: "free some space: the disk quota is used up",
        errno.EFBIG: "the file system does not support files of this size; write to another disk",
        errno.EROFS: "the file system is read-only; write elsewhere",
        errno.ENOTDIR: "a folder in this path is a file; choose another path",
        errno.ENAMETOOLONG: "choose a shorter name; names of other files are derived from it",
        errno.EISDIR: "this is a folder; name a file, for example out.mp4",
    }.get(error.errno or 0, "check the folder's permissions or write elsewhere")
    return OutputError(f"{path} cannot be written ({reason})", "a writable location with enough free space", fix)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the hexadecimal SHA-256 of a file, which is read in chunks.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise InputError(f"{path} cannot be read ({e.strerror})", "a readable file", "check the path") from e
