"""Duplicate videos: the same file, or the same pictures re-encoded or resized."""

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
    """Perceptual hash of a picture (256 bits, packed): coarse structure that survives re-encoding.

    Raises:
        ConfigError: imagehash is not installed.
    """
    from PIL import Image

    return np.packbits(import_extra("imagehash", "train").phash(Image.fromarray(frame), hash_size=HASH_SIDE).hash)


Fingerprint = tuple[float, UInt8[ndarray, "moments 32"]]
"""Duration of a video in seconds, and the hash of one frame every `HASH_EVERY` seconds."""


def fingerprint_distance(a: Fingerprint, b: Fingerprint) -> float:
    """Share of differing bits, averaged over moments spread over both videos; 1 if their lengths differ by over 10%.

    It is 0 for identical videos, and about 0.5 for unrelated ones.
    """
    (seconds, mine), (others, theirs) = a, b
    if abs(seconds - others) > _LENGTH_TOLERANCE * max(seconds, others, 1e-6):
        return 1.0
    common = min(len(mine), len(theirs))
    if not common:
        return 1.0
    moments = np.unique(np.linspace(0, common - 1, _COMPARED).round().astype(int))
    bits = np.unpackbits(np.bitwise_xor(mine[moments], theirs[moments]), axis=1)
    return float(bits.mean())


def near_duplicates(prints: Sequence[Fingerprint], threshold: float) -> dict[int, tuple[int, float]]:
    """Find videos that look like an earlier one.

    Args:
        prints: fingerprints of all videos; of several duplicates, the first one is kept.
        threshold: share of differing bits below which two videos are the same; 0 finds none.

    Returns:
        For each duplicate, by its index: the index of the video that is kept, and the share of differing bits.
    """
    found: dict[int, tuple[int, float]] = {}
    for i, mine in enumerate(prints):
        stay = ((k, fingerprint_distance(prints[k], mine)) for k in range(i) if k not in found)
        if same := next((other for other in stay if other[1] < threshold), None):
            found[i] = same
    return found
