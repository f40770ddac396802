"""A camera that drifts and shakes before the still world of a clip."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.synth.scene import MARGIN


def move_camera(rng: np.random.Generator, n: int, height: int, fps: float) -> Float64[ndarray, "n 2"]:
    """Shifts of the camera in pixels: a slow drift with a small shake inside of the background's margin.

    Args:
        rng: source of all choices.
        n: frames.
        height: of the frame, pixels.
        fps: frames per second.
    """
    t = np.arange(n)[:, None] / fps
    phase, period = rng.random((3, 2)), rng.uniform(1.0, 4.0, (3, 2))
    size = np.array([0.6, 0.25, 0.1])[:, None] * rng.uniform(0.2, 1.0)
    waves = (
        size[:, None] * np.sin(2 * np.pi * (t / (period[:, None] * [[[2.0]], [[1.0]], [[0.2]]]) + phase[:, None]))
    ).sum(0)
    return waves * MARGIN * height
