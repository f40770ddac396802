"""What was measured, kept by the content of the files and all that the number depends on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from mimicmotion.errors import MediaError, OutputError
from mimicmotion.runtime.files import atomic_path, sha256_file, writing
from mimicmotion.video.picture import PICTURE_SUFFIXES
from mimicmotion.weights.registry import cache_folder

logger = logging.getLogger(__name__)


def content_digest(path: Path) -> str:
    """sha256 of a file, or of the names and contents of the pictures of a folder.

    Raises:
        InputError: a file cannot be read.
        MediaError: the folder holds no pictures.
    """
    if path.is_file():
        return sha256_file(path)
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and not p.name.startswith("."))
    if not files:
        raise MediaError(f"{path} holds no pictures", "a folder of PNG or JPEG frames", "check the path")
    lines = "".join(f"{sha256_file(p)} {p.name}\n" for p in files)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


class ResultCache:
    """Numbers and features under a key of plain data; one file each, which appears only when complete.

    Args:
        folder: where; default is `cache_folder() / "evaluation"`.
        enabled: False neither reads nor writes.
    """

    def __init__(self, folder: Path | None = None, *, enabled: bool = True) -> None:
        self.folder = folder if folder is not None else cache_folder() / "evaluation"
        self.enabled = enabled
        self.hits = self.misses = 0

    def get(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """Stored numbers; None where there are none or the file is damaged."""
        found = self._read(key, ".json", lambda p: json.loads(p.read_text(encoding="utf-8"))["value"])
        return found if isinstance(found, dict) else None

    def put(self, key: Mapping[str, Any], value: Mapping[str, Any]) -> None:
        """Store numbers; NaN comes back as NaN."""
        text = json.dumps({"key": dict(key), "value": dict(value)}, default=str)
        self._write(key, ".json", lambda p: p.write_text(text, encoding="utf-8"))

    def get_array(self, key: Mapping[str, Any]) -> Float32[ndarray, "n d"] | None:
        """Stored features; None where there are none or the file is damaged."""
        return self._read(key, ".npy", lambda p: np.load(p, allow_pickle=False))

    def put_array(self, key: Mapping[str, Any], value: Float32[ndarray, "n d"]) -> None:
        """Store features."""
        self._write(key, ".npy", lambda p: np.save(p, value))

    def path(self, key: Mapping[str, Any], suffix: str) -> Path:
        """The file of a key."""
        name = hashlib.sha256(json.dumps(dict(key), sort_keys=True, default=str).encode()).hexdigest()
        return self.folder / name[:2] / (name + suffix)

    def _read(self, key: Mapping[str, Any], suffix: str, read: Any) -> Any:
        path = self.path(key, suffix)
        if self.enabled and path.exists():
            try:
                value = read(path)
            except (OSError, ValueError, KeyError, TypeError, EOFError) as e:
                logger.warning("the cached result %s is damaged and made anew: %s", path, e)
            else:
                self.hits += 1
                return value
        self.misses += 1
        return None

    def _write(self, key: Mapping[str, Any], suffix: str, write: Any) -> None:
        if not self.enabled:
            return
        path = self.path(key, suffix)
        try:
            with atomic_path(path) as part, writing(path):
                write(part)
        except OutputError as e:
            logger.warning("the result cannot be cached: %s", e.got)
