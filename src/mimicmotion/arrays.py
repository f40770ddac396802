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
    """Drawn pose frames: a uint8 array (frames, height, width, 3), or a sequence whose slices are such arrays."""

    def __len__(self) -> int:
        """Number of frames."""
        ...

    def __getitem__(self, index: slice, /) -> Any:
        """Frames of a slice, uint8 (frames, height, width, 3)."""
        ...
