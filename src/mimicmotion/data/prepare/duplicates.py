"""Find duplicate videos: the same pictures, possibly re-encoded or resized."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from mimicmotion.runtime.extras import import_extra

HASH_SIDE = 16
HASH_EVERY = 0.5
"""Seconds between two hashed frames."""
MAX_HASHES = 64
"""Maximum number of hashes per video; the first half minute identifies it."""
_COMPARED = 12
_LENGTH_TOLERANCE = 0.1


def picture_hash(frame: UInt8[ndarray, "height width 3"]) -> UInt8[ndarray, 32]:
    """Compute a perceptual hash (256 bits, packed) of a picture's coarse structure, which survives re-encoding.

    Raises:
        ConfigError: imagehash is not installed.
    """
    from PIL import Image

    return np.packbits(import_extra("imagehash", "train").phash(Image.fromarray(frame), hash_size=HASH_SIDE).hash)


Fingerprint = tuple[float, UInt8[ndarray, "moments 32"]]
"""Duration of a video in seconds, and the hash of one frame every `HASH_EVERY` seconds."""


def fingerprint_distance(a: Fingerprint, b: Fingerprint) -> float:
    """Return the fraction of differing bits of hashes throughout both videos; 1 if durations differ by over 10%.

    It is 0 for identical videos, and about 0.5 for unrelated ones.
    """
    (seconds_a, hashes_a), (seconds_b, hashes_b) = a, b
    if abs(seconds_a - seconds_b) > _LENGTH_TOLERANCE * max(seconds_a, seconds_b, 1e-6):
        return 1.0
    common = min(len(hashes_a), len(hashes_b))
    if not common:
        return 1.0
    moments = np.unique(np.linspace(0, common - 1, _COMPARED).round().astype(int))
    bits = np.unpackbits(np.bitwise_xor(hashes_a[moments], hashes_b[moments]), axis=1)
    return float(bits.mean())


def near_duplicates(prints: Sequence[Fingerprint], threshold: float) -> dict[int, tuple[int, float]]:
    """Find videos that look like an earlier one.

    Args:
        prints: fingerprints of all videos; of several duplicates, the first one is kept.
        threshold: fraction of differing bits below which two videos are duplicates; 0 finds none.

    Returns:
        For each duplicate, by its index: the index of the video that is kept, and the fraction of differing bits.
    """
    duplicates: dict[int, tuple[int, float]] = {}
    for i, print_ in enumerate(prints):
        earlier = ((k, fingerprint_distance(prints[k], print_)) for k in range(i) if k not in duplicates)
        if match := next((other for other in earlier if other[1] < threshold), None):
            duplicates[i] = match
    return duplicates
