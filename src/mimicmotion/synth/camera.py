"""A camera that drifts, shakes and zooms before the still world of a clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.synth.scene import MARGIN


@dataclass(frozen=True, slots=True)
class Camera:
    """Where the camera looks in each frame; `zoom` is about the middle of the frame and at least 1."""

    pan: Float64[ndarray, "n 2"]  # pixels, before the zoom
    zoom: Float64[ndarray, " n"]

    @classmethod
    def still(cls, n: int) -> Camera:
        """One that does not move."""
        return cls(np.zeros((n, 2)), np.ones(n))


def move_camera(rng: np.random.Generator, n: int, height: int, fps: float, *, pan: bool, zoom: float) -> Camera:
    """A slow drift with a small shake inside of the background's margin, and a slow zoom in or out; then it is still.

    Args:
        rng: nothing is drawn for what does not move.
        n: frames in which it moves; one more follows, the reference.
        height: of the frame, pixels.
        fps: frames per second.
        pan: drift and shake.
        zoom: the largest enlargement beyond 1, e.g. 0.3.
    """
    camera = Camera.still(n + 1)
    if pan:
        camera.pan[:n] = _pan(rng, n, height, fps)
    if zoom:
        size, phase, period = zoom * rng.uniform(0.4, 1.0), rng.random(), rng.uniform(2.5, 6.0)
        camera.zoom[:n] += size * (0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(n) / fps / period + phase)))
    return camera


def _pan(rng: np.random.Generator, n: int, height: int, fps: float) -> Float64[ndarray, "n 2"]:
    t = np.arange(n)[:, None] / fps
    phase, period = rng.random((3, 2)), rng.uniform(1.0, 4.0, (3, 2))
    size = np.array([0.6, 0.25, 0.1])[:, None] * rng.uniform(0.2, 1.0)
    waves = (
        size[:, None] * np.sin(2 * np.pi * (t / (period[:, None] * [[[2.0]], [[1.0]], [[0.2]]]) + phase[:, None]))
    ).sum(0)
    return waves * MARGIN * height
