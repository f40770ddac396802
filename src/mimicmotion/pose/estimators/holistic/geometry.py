"""Rotated square regions of a frame: cropping them for a network, and mapping points back to the frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray

SUBPIXELS = 32
MAX_REDUCTION = 8.0  # beyond this, halve the frame (by area) first, since bilinear sampling skips pixels


@dataclass(frozen=True, slots=True)
class Roi:
    """A square region of a frame.

    Attributes:
        x: horizontal position of the centre in pixels.
        y: vertical position of the centre in pixels.
        size: length of a side in pixels.
        angle: rotation in radians, clockwise as seen on the screen (y points down).
    """

    x: float
    y: float
    size: float
    angle: float = 0.0

    def to_frame(self, points: Float[ndarray, "points 2"]) -> Float32[ndarray, "points 2"]:
        """Map points from fractions (0..1) of the region to pixels of the frame."""
        cos, sin = math.cos(self.angle) * self.size, math.sin(self.angle) * self.size
        rotation = np.array([[cos, sin], [-sin, cos]])  # row vectors: p @ rotation
        return ((points - 0.5) @ rotation + (self.x, self.y)).astype(np.float32)

    def from_frame(self, points: Float[ndarray, "points 2"]) -> Float[ndarray, "points 2"]:
        """Map points from pixels of the frame to fractions (0..1) of the region."""
        cos, sin = math.cos(self.angle) / self.size, math.sin(self.angle) / self.size
        return (points - np.array([self.x, self.y])) @ np.array([[cos, -sin], [sin, cos]]) + 0.5

    def moved(self, scale: float, shift_y: float = 0.0) -> Roi:
        """Return the region shifted along its own vertical axis by `shift_y` times its size, then scaled."""
        dx, dy = -math.sin(self.angle) * shift_y * self.size, math.cos(self.angle) * shift_y * self.size
        return Roi(self.x + dx, self.y + dy, self.size * scale, self.angle)

    @property
    def usable(self) -> bool:
        """Whether all values are finite and the side is at least one pixel."""
        return all(map(math.isfinite, (self.x, self.y, self.size, self.angle))) and self.size >= 1.0


def upright_angle(start: ndarray, end: ndarray, target_degrees: float) -> float:
    """Return the rotation (-pi..pi radians) that turns start -> end to `target_degrees` (counter-clockwise)."""
    dx, dy = float(end[0] - start[0]), float(end[1] - start[1])
    angle = math.radians(target_degrees) - math.atan2(-dy, dx)
    return math.remainder(angle, 2 * math.pi)


def roi_around(center: ndarray, rim: ndarray, target_degrees: float) -> Roi:
    """Return the region whose inscribed circle passes through `rim`, with center -> rim turned to `target_degrees`."""
    size = 2 * math.dist(center, rim)
    return Roi(float(center[0]), float(center[1]), size, upright_angle(center, rim, target_degrees))


def roi_of_points(points: Float[ndarray, "points 2"], start: int, end: int, shift_y: float = 0.0) -> Roi:
    """Return the square around the points' bounding box, turned so that points[start] -> points[end] is horizontal.

    `shift_y` moves it along its own vertical axis, in units of the height of the bounding box.
    """
    low, high = points.min(0), points.max(0)
    x, y = (low + high) / 2
    size, angle = float((high - low).max()), upright_angle(points[start], points[end], 0.0)
    relative = float(high[1] - low[1]) / max(size, 1e-9)
    return Roi(float(x), float(y), size, angle).moved(1.0, shift_y * relative)


def overlap(a: Roi, b: Roi) -> float:
    """Compute the intersection over union of two regions, ignoring their rotation."""
    half = (a.size + b.size) / 2
    width = min(a.size, b.size, max(0.0, half - abs(a.x - b.x)))
    height = min(a.size, b.size, max(0.0, half - abs(a.y - b.y)))
    common = width * height
    return common / max(a.size**2 + b.size**2 - common, 1e-9)


class Picture:
    """An RGB frame with a lazily computed image pyramid, which avoids aliasing when large frames are downsampled."""

    def __init__(self, rgb: UInt8[ndarray, "height width 3"]) -> None:
        self._levels = [np.ascontiguousarray(rgb)]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self._levels[0].shape[:2]
        return height, width

    @cached_property
    def whole(self) -> Roi:
        """The smallest square that contains the frame."""
        height, width = self.size
        return Roi(width / 2, height / 2, float(max(height, width)))

    def tiles(self) -> list[Roi]:
        """Return overlapping squares that cover the frame at two sizes: its short side, and 0.6 times that.

        The list is empty if the frame is too small or too elongated to show a person.
        """
        height, width = self.size
        tiles: list[Roi] = []
        if min(height, width) < 32 or max(height, width) > 4 * min(height, width):
            return tiles
        for side in (min(height, width), 0.6 * min(height, width)):
            rows, columns = (max(1, math.ceil(length / side * 1.4 - 0.4)) for length in (height, width))
            for y in np.linspace(side / 2, height - side / 2, rows):
                tiles += [Roi(float(x), float(y), side) for x in np.linspace(side / 2, width - side / 2, columns)]
        return tiles

    def _level(self, level: int) -> UInt8[ndarray, "height width 3"]:
        while len(self._levels) <= level:
            last = self._levels[-1]
            half = (max(1, last.shape[1] // 2), max(1, last.shape[0] // 2))
            self._levels.append(cv2.resize(last, half, interpolation=cv2.INTER_AREA))
        return self._levels[level]

    def crop(self, roi: Roi, pixels: int, *, border: int = cv2.BORDER_REPLICATE) -> UInt8[ndarray, "pixels pixels 3"]:
        """Resample the region bilinearly to pixels x pixels; `border` is OpenCV's border mode outside the frame."""
        level = max(0, math.ceil(math.log2(roi.size / pixels / MAX_REDUCTION))) if roi.size > 0 else 0
        image = self._level(level)
        height, width = self.size
        scale = np.array([image.shape[1] / width, image.shape[0] / height])
        # Like MediaPipe with OpenCV 4: the region's corners are pinned to the pixel indices 0 and `pixels` (no
        # half-pixel shift), positions are rounded to 1/32 pixel. OpenCV 5 no longer rounds, so do it here.
        corners = roi.to_frame(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])).astype(np.float64) * scale
        start, (right, down) = corners[0] * SUBPIXELS, (corners[1:] - corners[0]) * (SUBPIXELS / pixels)
        steps = np.arange(pixels)
        maps = []
        for axis in (0, 1):  # in float32 and in place: ten times as fast as the plain expression
            rows, columns = start[axis] + steps * down[axis], steps * right[axis]
            grid = np.add.outer(rows.astype(np.float32), columns.astype(np.float32))
            np.rint(grid, out=grid)
            maps.append(np.multiply(grid, np.float32(1 / SUBPIXELS), out=grid))
        return cv2.remap(image, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=border)
