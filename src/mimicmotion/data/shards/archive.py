"""The tar files below the shards: where each member lies, and reading members without reading the rest."""

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
    """The plain files of an uncompressed tar, in order: name -> where its bytes lie; only the headers are read.

    Raises:
        MediaError: the file is missing, is no tar, or was cut off.
    """
    with (
        reading(path, "a complete tar file", REMAKE, MediaError),
        path.open("rb") as file,
        tarfile.open(fileobj=file, mode="r:") as tar,
    ):
        members = {t.name: (t.offset_data, t.size) for t in tar if t.isreg()}
        # tarfile takes a file that was cut between two members for complete
        file.seek(tar.offset)
        if len(end := file.read(_END)) < _END or any(end):
            raise tarfile.ReadError("no end mark")
    return members


def read_spans(path: Path, spans: Sequence[Span]) -> list[bytes]:
    """The bytes of some spans of a file.

    The file is opened for each call, once for all spans: so processes and threads share no position, a set of many
    shards needs no more open files than readers, and it costs some 20 microseconds.

    Raises:
        MediaError: the file is missing or shorter than that.
    """
    found = []
    with reading(path, "a readable tar file", REMAKE, MediaError), path.open("rb") as file:
        for offset, size in spans:
            file.seek(offset)
            found.append(file.read(size))
            if len(found[-1]) < size:
                raise MediaError(f"{path} ends before byte {offset + size}", "a complete tar file", REMAKE)
    return found
