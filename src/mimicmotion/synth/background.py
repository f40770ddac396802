"""Backgrounds: plain, gradient, texture, room, checker, outdoors; drawn once per person."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from mimicmotion.synth.appearance import Rgb, hsv

KINDS = ("plain", "gradient", "noise", "room", "room", "room", "checker", "outdoor")


def wall_colour(rng: np.random.Generator) -> Rgb:
    """Mostly light and pale."""
    return hsv(rng.random(), float(rng.uniform(0.0, 0.35) * rng.random()), float(rng.uniform(0.45, 0.97)))


def draw_background(
    rng: np.random.Generator, size: tuple[int, int], floor: float, kind: str | None = None
) -> Float32[ndarray, "height width 3"]:
    """A picture in 0..255.

    Args:
        rng: source of all choices.
        size: (height, width).
        floor: row where the floor meets the wall; beyond the picture: no floor is seen.
        kind: one of KINDS, by chance if None.
    """
    kind = kind or str(rng.choice(KINDS))
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float64) + 0.5
    a, b = np.array(wall_colour(rng)), np.array(hsv(rng.random(), rng.uniform(0, 0.6), rng.uniform(0.2, 0.85)))
    if kind == "plain":
        out = np.broadcast_to(a, (height, width, 3)).copy()
    elif kind == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        mix = 0.5 + 0.5 * ((x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle))
        out = a + (b - a) * np.clip(mix, 0, 1)[..., None]
    elif kind == "noise":
        out = a + (b - a) * cloud(rng, size, 4)[..., None] * 0.7
    elif kind == "checker":
        cell = height / rng.uniform(5, 12)
        mix = ((x // cell).astype(int) + (y // cell).astype(int)) % 2
        out = a + (0.5 * (b - a)) * mix[..., None]
    elif kind == "outdoor":
        out = _outdoor(rng, x, y, floor, size)
    else:
        out = _room(rng, x, y, floor, a, b, size)
    grain = 1 + 0.03 * (cloud(rng, size, 3)[..., None] - 0.5)
    fall = 1 - 0.18 * rng.random() * ((x / width - rng.uniform(0.2, 0.8)) ** 2 + (y / height - 0.3) ** 2)[..., None]
    return (np.clip(out * grain * fall, 0, 1) * 255).astype(np.float32)


def cloud(rng: np.random.Generator, size: tuple[int, int], octaves: int) -> ndarray:
    """Smooth noise of several octaves in 0..1."""
    out = np.zeros(size)
    for k in range(octaves):
        rows, columns = 3 * 2**k + 1, 2 * 2**k + 1
        grid = rng.random((rows + 1, columns + 1))
        u, v = np.linspace(0, rows - 1e-6, size[0]), np.linspace(0, columns - 1e-6, size[1])
        i, j = u.astype(int), v.astype(int)
        f, g = (u - i)[:, None], v - j
        upper, lower = grid[i], grid[i + 1]
        band = upper * (1 - f) + lower * f
        out += (band[:, j] * (1 - g) + band[:, j + 1] * g) / 2**k
    return out / (2 - 0.5 ** (octaves - 1))


def _edge(v: ndarray) -> ndarray:
    return np.clip(v + 0.5, 0, 1)


def _paint(out: ndarray, colour: ndarray, x0: float, x1: float, y0: float, y1: float) -> None:
    """A filled rectangle with one pixel of ramp."""
    top, left = max(int(y0) - 1, 0), max(int(x0) - 1, 0)
    part = out[top : max(int(y1) + 2, 0), left : max(int(x1) + 2, 0)]
    y, x = np.arange(part.shape[0]) + top + 0.5, np.arange(part.shape[1]) + left + 0.5
    cover = (_edge(y - y0) * _edge(y1 - y))[:, None] * (_edge(x - x0) * _edge(x1 - x))
    part += (colour - part) * cover[..., None]


def _room(
    rng: np.random.Generator, x: ndarray, y: ndarray, floor: float, wall: ndarray, other: ndarray, size: tuple[int, int]
) -> ndarray:
    height, width = size
    out = np.broadcast_to(wall, (height, width, 3)).copy()
    if rng.random() < 0.3:  # curtains or boards
        fold = 0.5 + 0.5 * np.sin(x / width * rng.uniform(30, 70) + 2 * np.sin(x / width * 5))
        out *= 1 - 0.18 * fold[..., None]
    for _ in range(rng.integers(0, 4)):  # pictures, windows, doors, shelves
        cx, cy = rng.uniform(0, width), rng.uniform(0.05, 0.75) * height
        w, h = rng.uniform(0.08, 0.3) * width, rng.uniform(0.06, 0.25) * height
        frame, inner = (
            np.array(hsv(rng.random(), 0.4, rng.uniform(0.15, 0.9))),
            np.array(hsv(rng.random(), 0.4, rng.uniform(0.3, 0.95))),
        )
        edge = 0.012 * height
        _paint(out, frame, cx - w - edge, cx + w + edge, cy - h - edge, cy + h + edge)
        _paint(out, inner, cx - w, cx + w, cy - h, cy + h)
        if rng.random() < 0.4:
            _paint(out, frame, cx - edge / 3, cx + edge / 3, cy - h, cy + h)
    if floor >= height:
        return out
    below = _edge(y - floor)[..., None]
    deep = np.clip((y - floor) / max(height - floor, 1), 0, 1)[..., None]
    ground = other * (0.8 + 0.25 * deep)
    if rng.random() < 0.5:  # boards or tiles that run to a vanishing point
        far = np.maximum(y - floor, 0) + 0.12 * height
        u = (x - width * 0.5) / far
        lines = np.abs((u * rng.uniform(1.5, 5)) % 1 - 0.5) < 0.03
        if rng.random() < 0.5:
            lines |= np.abs((height * rng.uniform(0.4, 0.8) / far) % 1 - 0.5) < 0.04
        ground = ground * (1 - 0.22 * lines[..., None])
    skirting = 0.018 * height * (rng.random() < 0.6)
    _paint(out, wall * 0.72, -9, width + 9, floor - skirting, floor)
    out += (ground - out) * below
    for _ in range(rng.integers(0, 3)):  # furniture
        cx, w, h = rng.choice([0.0, 1.0]) * width, rng.uniform(0.08, 0.28) * width, rng.uniform(0.1, 0.35) * height
        foot = floor + rng.uniform(0.0, 0.12) * height
        colour = np.array(hsv(rng.random(), rng.uniform(0.1, 0.6), rng.uniform(0.2, 0.85)))
        _paint(out, colour, cx - w, cx + w, foot - h, foot)
        _paint(out, colour * 1.18, cx - w, cx + w, foot - h, foot - h + 0.02 * height)
    return out


def _outdoor(rng: np.random.Generator, x: ndarray, y: ndarray, floor: float, size: tuple[int, int]) -> ndarray:
    height, width = size
    sky, low = (
        np.array(hsv(rng.uniform(0.53, 0.62), rng.uniform(0.2, 0.6), 0.9)),
        np.array(hsv(rng.uniform(0.0, 0.15), 0.12, 0.95)),
    )
    horizon = min(floor, 0.75 * height) - rng.uniform(0.0, 0.1) * height
    out = sky + (low - sky) * np.clip(y / horizon, 0, 1)[..., None]
    for k in range(rng.integers(1, 4)):  # hills or roofs
        hue, value = rng.uniform(0.22, 0.62), 0.75 - 0.14 * k
        ridge = horizon - height * (0.16 - 0.04 * k) * (
            0.5 + 0.5 * np.sin(x / width * rng.uniform(3, 9) + rng.uniform(0, 6))
        )
        if rng.random() < 0.4:
            steps = rng.random(12)
            ridge = horizon - height * 0.25 * steps[np.clip((x / width * 12).astype(int), 0, 11)]
        colour = np.array(hsv(hue, 0.3, value))
        out += (colour - out) * _edge(y - ridge)[..., None]
    grass = np.array(hsv(rng.uniform(0.08, 0.35), rng.uniform(0.15, 0.5), rng.uniform(0.35, 0.75)))
    ground = grass * (0.85 + 0.3 * cloud(rng, size, 5)[..., None])
    return out + (ground - out) * _edge(y - horizon)[..., None]
