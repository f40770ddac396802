"""Array types shared by all modules."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, runtime_checkable

from jaxtyping import UInt8
from numpy import ndarray

Frame: TypeAlias = UInt8[ndarray, "height width 3"]
"""An RGB picture."""
Frames: TypeAlias = UInt8[ndarray, "frames height width 3"]
"""RGB pictures of one size."""


@runtime_checkable
class PoseFrames(Protocol):
    """Drawn poses: a uint8 array (frames, height, width, 3), or a lazy sequence that returns such arrays for slices."""

    def __len__(self) -> int:
        """Return the number of frames."""
        ...

    def __getitem__(self, index: slice, /) -> Any:
        """Return a slice as a uint8 array (frames, height, width, 3)."""
        ...
