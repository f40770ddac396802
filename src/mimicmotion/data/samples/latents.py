"""Cached latents of records, encoded on first use."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from mimicmotion.errors import WeightsError
from mimicmotion.runtime.files import atomic_path, check_writable, writing

if TYPE_CHECKING:
    from mimicmotion.data.shards.shards import Shards

logger = logging.getLogger(__name__)

CHUNK = 16
"""Number of frames encoded at once."""
Encode = Callable[[UInt8[ndarray, "n H W 3"]], Float32[ndarray, "n c h w"]]


class LatentCache:
    """Cache of the latents (mode of the VAE's posterior, not scaled) of every frame of a set of shards.

    Each record has one float16 file, written atomically, so several processes can fill one folder. Paths contain the
    identities of the encoder and the shard, so latents are never mixed up, and those of unchanged shards are reused.

    Args:
        shards: the records.
        digest: identity of the encoder (for example the sha256 of its weights).
        encode: encodes RGB frames to latents.
        folder: folder of the cache.

    Raises:
        OutputError: the folder cannot be written.
    """

    def __init__(self, shards: Shards, digest: str, encode: Encode, folder: str | Path) -> None:
        self.shards, self.digest, self.encode = shards, digest, encode
        self.folder = Path(folder) / hashlib.sha256(digest.encode()).hexdigest()[:16]
        check_writable(self.folder / "latents.npy")

    def latents(self, record: int, frames: Sequence[int] | None = None) -> Float32[ndarray, "frames c h w"]:
        """Return the latents of the given frames of a record, in the given order; encode them if they are missing.

        Args:
            record: index in the shards.
            frames: indices of stored frames, including stills; None means all.

        Raises:
            WeightsError: the encoder returns NaN, or values too large for float16.
            OutputError: the folder cannot be written.
        """
        values = self._load(record)
        if values is None:
            values = self._encode(record)
        chosen = values if frames is None else values[np.asarray(frames, np.int64)]
        return chosen.astype(np.float32)

    def fill(self, records: Sequence[int] | None = None) -> Iterator[int]:
        """Encode the records that are missing, and yield the number of records done after each one.

        Call it before starting data loader workers if the encoder is on a GPU, which they cannot use.
        """
        for done, record in enumerate(range(len(self.shards)) if records is None else records, 1):
            if not self._path(record).exists():
                self._encode(record)
            yield done

    def _path(self, record: int) -> Path:
        return self.folder / self.shards.sums[record][:16] / f"{self.shards.keys[record]}.npy"

    def _load(self, record: int) -> ndarray | None:
        path = self._path(record)
        try:
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError) as e:
            logger.warning("%s cannot be read (%s); encoding it again", path, e)
            return None
        if values.ndim != 4 or len(values) != self.shards.num_frames[record] or values.dtype != np.float16:
            logger.warning("%s contains %s of shape %s; encoding it again", path, values.dtype, values.shape)
            return None
        return values

    def _encode(self, record: int) -> ndarray:
        key, count = self.shards.keys[record], self.shards.num_frames[record]
        source, parts = self.shards[record], []
        for start in range(0, count, CHUNK):
            frames = source.frames(range(start, min(start + CHUNK, count)))
            with np.errstate(over="ignore"):
                parts.append(np.asarray(self.encode(frames)).astype(np.float16))
        values = np.concatenate(parts)
        if not np.isfinite(values).all():
            raise WeightsError(
                f"the latents of {key} contain NaN or overflow float16", "values up to 65504", "encode in float32"
            )
        path = self._path(record)
        with atomic_path(path) as part, writing(path), part.open("wb") as file:
            np.save(file, values)
        return values
