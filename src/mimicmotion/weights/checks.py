"""Check that weight files are complete and have the expected checksum."""

from __future__ import annotations

import contextlib
import os
import time
import zipfile
from pathlib import Path
from typing import Any

from mimicmotion.errors import OutputError, WeightsError
from mimicmotion.runtime import reading
from mimicmotion.runtime.files import sha256_file, write_json

SETTLED = 2.0
"""Minimum age in seconds of a file's last change for its checksum to be cached, since timestamps may be coarse."""
FOREIGN = {
    b"<!doctype html": "a web page in place of the file",
    b"<html": "a web page in place of the file",
    b"version https://git-lfs": "a Git LFS pointer in place of the file (`git lfs pull` fetches it)",
}
"""First bytes of common files that are not weights, and a description of each."""


def cache_folder() -> Path:
    """Return the folder of downloaded and converted weights: $MIMICMOTION_CACHE, or else in the user's cache folder."""
    if folder := os.environ.get("MIMICMOTION_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mimicmotion"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Raises:
        WeightsError: the file is missing, unreadable, or not a JSON object.
    """
    fix = "fetch or copy the model again"
    if not path.exists():
        raise WeightsError(f"{path} is missing", "a complete model folder", fix)
    data = reading.read_json(path, "a readable JSON file", fix, WeightsError)
    if not isinstance(data, dict):
        raise WeightsError(f"{path} contains {type(data).__name__}", "a JSON object", fix)
    return data


def check_format(path: Path, name: str | None = None) -> None:
    """Check from its container format that a file is complete and not something else, without reading tensors.

    Args:
        path: the file.
        name: final name of the file, if `path` is a temporary name during a download.

    Raises:
        WeightsError: the file is empty, a web page or a Git LFS pointer, or an incomplete .safetensors, .pth or .json
            file.
    """
    if problem := format_problem(path, name):
        fix = "the file is truncated or damaged: delete it and fetch or copy it again"
        kind = f"a complete {Path(name or path.name).suffix} file"
        raise WeightsError(f"{path} ({path.stat().st_size} bytes): {problem}", kind, fix)


def format_problem(path: Path, name: str | None = None) -> str | None:
    """Return a description of the problem that `check_format` reports; None if there is none."""
    with path.open("rb") as f:
        head = f.read(64)
    if not head:
        return "it is empty"
    text = head.lstrip().lower()
    if foreign := next((what for start, what in FOREIGN.items() if text.startswith(start)), None):
        return foreign
    try:
        _open(path, Path(name or path.name).suffix, zipped=head.startswith(b"PK"))
    except WeightsError as e:
        return e.got
    except Exception as e:  # a damaged file can raise anything
        return str(e)
    return None


def _open(path: Path, suffix: str, zipped: bool) -> None:
    if suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="np"):
            pass
    elif suffix == ".json":
        read_json(path)
    elif suffix in (".pth", ".pt", ".ckpt") and zipped and not zipfile.is_zipfile(path):
        raise ValueError("the end of the archive is missing")


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, cached as long as its size and modification time do not change."""
    stat = path.stat()
    stamp = [stat.st_size, stat.st_mtime_ns]
    cache = cache_folder() / "checksums-of-files.json"
    try:
        cached = read_json(cache)
    except WeightsError:  # missing or damaged: it is rebuilt
        cached = {}
    name = str(path.resolve())
    if isinstance(entry := cached.get(name), list) and entry[:2] == stamp:
        return entry[2]
    sha = sha256_file(path)
    if time.time() - stat.st_mtime > SETTLED:
        existing = {n: e for n, e in cached.items() if Path(n).exists()}
        with contextlib.suppress(OutputError):  # the cache is optional
            write_json(cache, existing | {name: [*stamp, sha]})
    return sha
