"""Names of the arrays that many modules hand on."""

from __future__ import annotations

from typing import TypeAlias

from jaxtyping import UInt8
from numpy import ndarray

Frame: TypeAlias = UInt8[ndarray, "height width 3"]
"""One picture, RGB."""
Frames: TypeAlias = UInt8[ndarray, "frames height width 3"]
"""Pictures of one size, RGB."""
