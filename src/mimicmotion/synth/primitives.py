"""A list of primitives, each fixed to a segment of the figure, and their way into pixel space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

Vec = Sequence[float] | ndarray
Colour = Sequence[float]  # red, green, blue in 0..1

# What of a primitive changes in time (see `Primitives.dynamic`).
WIDE, OPEN_MOUTH, CLOSED_EYE, INNER_MOUTH = 1, 2, 3, 4


class Primitives:
    """Collects primitives; coordinates are local to the segment, in body heights."""

    def __init__(self) -> None:
        self.segment: list[int] = []
        self.centre: list[Vec] = []
        self.rotation: list[ndarray] = []
        self.scale: list[Vec] = []
        self.shape: list[Vec] = []
        self.rows: list[list[float]] = []
        self.dynamic: list[int] = []

    def cone(self, segment: int, a: Vec, b: Vec, ra: float, rb: float, colour: Colour, **options: Any) -> None:
        """A round cone from `a` (radius `ra`) to `b`; `wide` and `deep` stretch it across its axis."""
        dx, dy, dz = b[0] - a[0], b[1] - a[1], b[2] - a[2]  # plain numbers: numpy is slow on single vectors
        length = math.sqrt(dx * dx + dy * dy + dz * dz)
        dx, dy, dz = dx / length, dy / length, dz / length
        fy, fz = (0.0, 1.0) if abs(dz) < 0.95 else (1.0, 0.0)
        along = dy * fy + dz * fz
        zx, zy, zz = -dx * along, fy - dy * along, fz - dz * along
        norm = math.sqrt(zx * zx + zy * zy + zz * zz)
        zx, zy, zz = zx / norm, zy / norm, zz / norm
        xx, xy, xz = dy * zz - dz * zy, dz * zx - dx * zz, dx * zy - dy * zx
        turn = np.array(((xx, dx, zx), (xy, dy, zy), (xz, dz, zz)))
        scale = (options.pop("wide", 1.0), 1.0, options.pop("deep", 1.0))
        self._add(segment, a, turn, scale, (length, ra, rb), colour, options)

    def ball(
        self, segment: int, centre: Vec, radii: Vec, colour: Colour, rotation: ndarray | None = None, **options: Any
    ) -> None:
        """An ellipsoid."""
        turn = np.eye(3) if rotation is None else rotation
        self._add(segment, centre, turn, radii, (0.0, 1.0, 1.0), colour, options)

    def _add(
        self,
        segment: int,
        centre: Vec,
        rotation: ndarray,
        scale: Vec,
        shape: Vec,
        colour: Colour,
        options: dict[str, Any],
    ) -> None:
        tint = options.pop("tint", (1.0, 1.0, 1.0))
        colour = [c * t for c, t in zip(colour, tint, strict=True)]
        get = options.pop
        row = [get("kind", 0), get("texture", 0), get("u_scale", 1), get("v_scale", 1), get("v_start", 0)]
        row += [get("gloss", 0), get("decal", -1), get("decal_x", 0), get("decal_y", 0)]
        row += [get("decal_w", 1), get("decal_h", 1), *get("clip", (0, 0, 0, 0)), *colour, get("group", 0)]
        place = np.concatenate([rotation * np.asarray(scale, float), np.reshape(centre, (3, 1))], 1)
        row += place.ravel().tolist()
        self.dynamic.append(int(get("dynamic", 0)))
        if options:
            raise TypeError(f"unknown options {sorted(options)}")
        self.segment.append(segment)
        self.centre.append(centre)
        self.rotation.append(rotation)
        self.scale.append(scale)
        self.shape.append(shape)
        self.rows.append([float(v) for v in row])

    @property
    def table(self) -> Float64[ndarray, "primitives 31"]:
        """The static columns that the renderer reads."""
        return np.array(self.rows)

    def in_pixels(
        self, rot: ndarray, pos: ndarray, to_pixels: ndarray, origin: ndarray, signals: dict[int, ndarray]
    ) -> tuple[ndarray, ndarray, ndarray, ndarray]:
        """Matrices of all primitives in all frames.

        Args:
            rot: (frames, segments, 3, 3) rotations of the segments, `pos` their positions.
            pos: (frames, segments, 3).
            to_pixels: (3, 3) world to pixel space (camera rotation, scale, y down).
            origin: (3,) pixel position of the world's origin.
            signals: per kind of dynamic primitive a value per frame.

        Returns:
            inverse, forward (frames, primitives, 3, 3), centre, shape (frames, primitives, 3).
        """
        segment = np.array(self.segment)
        scale = np.broadcast_to(np.array(self.scale, float), (len(rot), len(segment), 3)).copy()
        shape = np.broadcast_to(np.array(self.shape, float), (len(rot), len(segment), 3)).copy()
        dynamic = np.array(self.dynamic)
        for kind, value in signals.items():
            which = np.flatnonzero(dynamic == kind)
            if kind == CLOSED_EYE:
                shape[:, which, 1:] *= (value > 0.5)[:, None, None]
            elif kind in (OPEN_MOUTH, INNER_MOUTH):
                scale[:, which, 1] *= value[:, None]
            else:
                scale[:, which, 0] *= value[:, None]
                scale[:, which, 2] *= value[:, None]
        world = rot[:, segment] @ np.array(self.rotation)
        centre = pos[:, segment] + np.einsum("fpij,pj->fpi", rot[:, segment], np.array(self.centre))
        turn = to_pixels @ world
        unit = np.linalg.norm(to_pixels, axis=1)[0]  # to_pixels is a rotation (and flip) times this scale
        forward = turn * scale[:, :, None, :]
        inverse = np.swapaxes(turn, -1, -2) / (scale[..., None] * unit**2)
        return inverse, forward, centre @ to_pixels.T + origin, shape
