"""Files that appear under their name only when complete, checks of a path before long work, checksums, disk buffers."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import tempfile
import threading
import weakref
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

from mimicmotion.errors import ConfigError, InputError, MimicMotionError, OutputError

FAILED_WRITE = re.compile(r"inline_container|PytorchStreamWriter|file write failed|I/O error|No space left")
"""How torch.save and safetensors, whose writers raise no OSError, speak of a full disk."""


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Make sure, before long work, that `path` can be written later; leaves nothing behind.

    Missing parent folders are fine: they are created when writing begins.

    Raises:
        OutputError: a part of the path is a file, a name is too long, or the nearest existing folder cannot be written.
    """
    path = Path(path)
    folder, names = path.absolute().parent, [part_name(path)]
    try:
        while not folder.exists() and folder != folder.parent:
            folder, names = folder.parent, [*names, folder.name]
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        for name in names:  # looking for a name is enough to learn that it is too long
            with contextlib.suppress(FileNotFoundError):
                os.lstat(folder / name)
        # trying it is the only check that sees read-only mounts and holds for root too
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise output_error(path, e) from e
    return path


def check_not_inputs(inputs: Iterable[str | os.PathLike[str] | None], outputs: Iterable[Path]) -> None:
    """Make sure, before any work, that no file that a job reads is replaced by one that it writes.

    Names do not count but what they stand for: links, hard links and names that differ in case are the same file. A
    folder that is replaced must hold no input either.

    Args:
        inputs: files and folders; those that are not there (None, names on the hub) do not matter.
        outputs: files and folders that are replaced.

    Raises:
        ConfigError: one is an input, or two are the same.
    """
    read: dict[tuple[int, int], str] = {}
    for path in filter(None, inputs):
        real = Path(os.path.realpath(path))
        with contextlib.suppress(OSError):
            for place in (real, *real.parents, Path(path).absolute().parent):
                read.setdefault(_identity(place), str(path))
    written: dict[str, Path] = {}
    for path in outputs:
        if path.exists() and (source := read.get(_identity(path))) is not None:
            what = "is" if path.samefile(source) else "holds"
            raise ConfigError(f"{path} {what} the input {source}", "another place", "name another output")
        if written.setdefault(os.path.realpath(path), path) is not path:
            raise ConfigError(f"two outputs are {path}", "a place for each", "name another output")


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def part_name(path: Path) -> str:
    """A hidden name for what is not yet complete, see `run_folder.LEFTOVER`."""
    return f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write of the body, which writes `path`, into an OutputError that says what helps."""
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
        raise OutputError(got, "a writable place with enough room", "free some space") from e


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside `path`; on success it becomes `path`, on any error or Ctrl-C it is removed.

    Parent folders are created. What was under `path` before stays there until the new file is complete. Errors of
    the body pass unchanged.

    Raises:
        OutputError: the folder cannot be created or the file cannot get its name.
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


def output_error(path: Path, error: OSError) -> OutputError:
    """An OutputError that says what is wrong with writing `path` and what helps."""
    reason = error.strerror or str(error)
    fix = {
        errno.ENOSPC: "free some space or write to another disk",
        errno.EDQUOT: "free some space: the disk quota is used up",
        errno.EFBIG: "the file system does not take files of this size; write to another disk",
        errno.EROFS: "the file system is read-only; write elsewhere",
        errno.ENOTDIR: "a part of the path is a file, not a folder",
        errno.ENAMETOOLONG: "choose a shorter name: other files get names made of it",
        errno.EISDIR: "this is a folder; name a file, for example out.mp4",
    }.get(error.errno or 0, "check the folder's permissions or write elsewhere")
    return OutputError(f"{path} cannot be written ({reason})", "a writable place with enough room", fix)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hexadecimal sha256 of a file of any size, read in pieces.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise InputError(f"{path} cannot be read ({e.strerror})", "a readable file", "check the path") from e


class DiskBuffer:
    """Pieces of data that are needed again but would fill the memory: `buffer[i]` is the i-th piece that was added.

    They lie in a temporary file (of the folder that TMPDIR names), which vanishes with the object or the process. The
    system keeps what is read often in memory that it can take back.
    """

    def __init__(self) -> None:
        self._path = Path(tempfile.gettempdir())
        with writing(self._path):
            self._file = tempfile.TemporaryFile(prefix="mimicmotion-", buffering=0)  # noqa: SIM115 - lives with self
        weakref.finalize(self, self._file.close)
        self._ends = array("q", [0])
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, data: bytes | memoryview) -> None:
        """Add a piece.

        Raises:
            OutputError: the disk is full.
        """
        view = memoryview(data).cast("B")
        with self._lock, writing(self._path):
            self._file.seek(self._ends[-1])
            done = 0
            while done < len(view):
                done += self._file.write(view[done:])
            self._ends.append(self._ends[-1] + done)

    def __getitem__(self, index: int) -> bytes:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start, stop = self._ends[index], self._ends[index + 1]
        data = memoryview(bytearray(stop - start))
        with self._lock:
            self._file.seek(start)
            done = 0
            while done < len(data):  # a raw file may give less than asked for
                count = self._file.readinto(data[done:])
                if not count:
                    raise OutputError(f"a temporary file in {self._path} was cut off", "a sound disk", "check the disk")
                done += count
        return bytes(data)
