"""Tar files with random access: the position of each member, and reading single members."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path

from mimicmotion.errors import MediaError
from mimicmotion.runtime.reading import reading

REMAKE = "make or copy this shard again"
Span = tuple[int, int]
"""Offset and size in bytes."""
_END = 1024  # a complete tar ends with two zero blocks


def scan_tar(path: Path) -> dict[str, Span]:
    """The regular files of an uncompressed tar, in order: name -> position. Reads only the headers.

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
    """The bytes of some spans of a file.

    The file is opened in each call (about 20 microseconds), so processes and threads share no position, and large sets
    of shards do not need many open files.

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
