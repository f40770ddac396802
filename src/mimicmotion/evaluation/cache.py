"""Cache of measurements, keyed by file contents, settings and versions."""

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

from mimicmotion.errors import InputError, OutputError
from mimicmotion.runtime.files import atomic_path, writing
from mimicmotion.runtime.reading import reading
from mimicmotion.weights.registry import cache_folder

logger = logging.getLogger(__name__)


class ResultCache:
    """Numbers and features in the user's cache folder, one file per key, written atomically.

    Args:
        enabled: whether to use the cache; if False, nothing is read or written.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self.folder = cache_folder() / "evaluation"
        self.enabled = enabled
        self.hits = self.misses = 0

    def get(self, key: Mapping[str, Any]) -> Any:
        """Return the cached numbers (dict) or features (array); None if there are none or the file is damaged."""
        for path in (self._path(key, ".json"), self._path(key, ".npy")):
            if self.enabled and path.exists():
                try:
                    with reading(path, "a cached result", "it is recomputed"):
                        if path.suffix == ".npy":
                            value = np.load(path, allow_pickle=False)
                        else:
                            value = dict(json.loads(path.read_text(encoding="utf-8"))["value"])
                except InputError as e:
                    logger.warning("%s; recomputing it", e.got)
                else:
                    self.hits += 1
                    return value
        self.misses += 1
        return None

    def put(self, key: Mapping[str, Any], value: Mapping[str, Any] | Float32[ndarray, "n d"]) -> None:
        """Store numbers or features, which may be NaN. If the file cannot be written, this is only logged."""
        if not self.enabled:
            return
        path = self._path(key, ".npy" if isinstance(value, ndarray) else ".json")
        try:
            with atomic_path(path) as part, writing(path):
                if isinstance(value, ndarray):
                    np.save(part, value)
                else:
                    text = json.dumps({"key": dict(key), "value": dict(value)}, default=str)
                    part.write_text(text, encoding="utf-8")
        except OutputError as e:
            logger.warning("a result cannot be cached: %s", e.got)

    def _path(self, key: Mapping[str, Any], suffix: str) -> Path:
        name = hashlib.sha256(json.dumps(dict(key), sort_keys=True, default=str).encode()).hexdigest()
        return self.folder / name[:2] / (name + suffix)
