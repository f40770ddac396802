"""The camera: position, projection and motion."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray

MARGIN = 0.08  # margin of the background for camera motion, in frame heights


class View(NamedTuple):
    """A camera that looks along -z, tilted down by `pitch`; lengths in decimetres, the floor is y = 0."""

    eye: tuple[float, float, float]  # position
    pitch: float  # radians
    focal: float  # focal length in pixels
    centre: tuple[float, float]  # column and row of the principal point

    def project(self, points: Float64[ndarray, "*n 3"] | Float32[ndarray, "*n 3"]) -> Float64[ndarray, "*n 3"]:
        """Project points to column, row and nearness (inverse depth, at most 1 per decimetre)."""
        x, y, z = np.moveaxis(points - np.asarray(self.eye), -1, 0)
        s, c = np.sin(self.pitch), np.cos(self.pitch)
        far = np.maximum(-z * c - y * s, 1.0)
        up = y * c - z * s
        return np.stack([self.centre[0] + self.focal * x / far, self.centre[1] - self.focal * up / far, 1 / far], -1)

    def rays(self, columns: ndarray, rows: ndarray) -> Float64[ndarray, "*n 3"]:
        """Return the ray directions of pixels, scaled to length 1 along the optical axis."""
        x = (columns - self.centre[0]) / self.focal
        up = -(rows - self.centre[1]) / self.focal
        s, c = np.sin(self.pitch), np.cos(self.pitch)
        return np.stack(np.broadcast_arrays(x, up * c - s, -(up * s + c)), -1)

    def moved(self, shift: tuple[float, float]) -> View:
        """Return the same camera with its principal point moved by -`shift` pixels."""
        return self._replace(centre=(self.centre[0] - shift[0], self.centre[1] - shift[1]))


def choose_view(rng: np.random.Generator, size: tuple[int, int], height: float, framing: str) -> View:
    """Sample a camera for a person who stands at x = z = 0.

    Args:
        rng: random generator.
        size: (height, width) of the frame.
        height: height of the person in decimetres.
        framing: 'full' or 'upper'.
    """
    rows, columns = size
    if framing == "full":
        unit = rows * (0.6 + 0.3 * rng.random() ** 1.6)
        unit = min(unit, 1.6 * columns)  # keep the arms inside narrow frames
        bottom = rows - (rows - unit) * rng.uniform(0.15, 0.55)
    else:
        unit = min(rows * rng.uniform(1.15, 1.75), columns * rng.uniform(2.1, 2.9))
        bottom = rows * rng.uniform(0.06, 0.18) + unit
    focal = rows * rng.uniform(1.1, 2.4)
    far = focal * height / unit
    up = float(np.clip(rng.normal(0.62, 0.22), 0.12, 1.3)) * height
    pitch = float(np.arctan2(up - 0.55 * height, far) * rng.uniform(0.4, 1.0))
    shift = rng.normal(0, 0.035) if rng.random() < 0.85 else rng.uniform(-0.2, 0.2)
    view = View((0.0, up, far), pitch, focal, (columns * (0.5 + shift), 0.0))
    ends = view.project(np.array([[0.0, 0.0, 0.0], [0.0, height, 0.0]]))
    view = view._replace(focal=focal * unit / float(ends[0, 1] - ends[1, 1]))
    row = float(view.project(np.zeros(3))[1])
    return view.moved((0.0, row - bottom))


def move_camera(rng: np.random.Generator, n: int, height: int, fps: float) -> Float64[ndarray, "n 2"]:
    """Sample camera shifts in pixels within the background margin: slow drift with slight shake.

    Args:
        rng: random generator.
        n: number of frames.
        height: height of the frame in pixels.
        fps: frames per second.
    """
    t = np.arange(n)[:, None] / fps
    phase, period = rng.random((3, 2)), rng.uniform(1.0, 4.0, (3, 2)) * [[2.0], [1.0], [0.2]]
    size = np.array([0.6, 0.25, 0.1])[:, None] * rng.uniform(0.2, 1.0)
    waves = size[:, None] * np.sin(2 * np.pi * (t / period[:, None] + phase[:, None]))
    return waves.sum(0) * MARGIN * height
