"""Names of the arrays that many modules pass on."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, runtime_checkable

from jaxtyping import UInt8
from numpy import ndarray

Frame: TypeAlias = UInt8[ndarray, "height width 3"]
"""One picture, RGB."""
Frames: TypeAlias = UInt8[ndarray, "frames height width 3"]
"""Pictures of one size, RGB."""


@runtime_checkable
class PoseFrames(Protocol):
    """Drawn pose frames: an array (frames, height, width, 3) of uint8, or anything whose slices give one lazily."""

    def __len__(self) -> int:
        """Number of frames."""
        ...

    def __getitem__(self, index: slice, /) -> Any:
        """Frames of a slice, uint8 (frames, height, width, 3)."""
        ...
