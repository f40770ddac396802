"""Rasterisation of triangles into a depth buffer, with triangle index and barycentric coordinates per sample."""

from __future__ import annotations

import math
from typing import Any

from mimicmotion.runtime.extras import import_extra

njit = import_extra("numba", "synth").njit

_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "fastmath": True, "error_model": "numpy"}
_OPTIONS["_nrt"] = False  # kernels allocate nothing, and reference counting takes a third of the time
kernel, inlined = njit(**_OPTIONS), njit(**_OPTIONS, inline="always")


@inlined
def in_world(points, corners, w1, w2):
    """Convert barycentric coordinates in the picture to perspective-correct ones; column 2 of `points` is nearness."""
    a, b, c = corners
    w0 = (1.0 - w1 - w2) / points[a, 2]
    w1, w2 = w1 / points[b, 2], w2 / points[c, 2]
    total = 1.0 / (w0 + w1 + w2)
    return w0 * total, w1 * total, w2 * total


@inlined
def blend1(values, corners, w):
    """Interpolate scalars (n,) at barycentric coordinates `w`."""
    return w[0] * values[corners[0]] + w[1] * values[corners[1]] + w[2] * values[corners[2]]


@inlined
def blend(values, corners, w):
    """Interpolate vectors (n, 3) at barycentric coordinates `w`."""
    a, b, c = corners
    return (
        w[0] * values[a, 0] + w[1] * values[b, 0] + w[2] * values[c, 0],
        w[0] * values[a, 1] + w[1] * values[b, 1] + w[2] * values[c, 1],
        w[0] * values[a, 2] + w[1] * values[b, 2] + w[2] * values[c, 2],
    )


@inlined
def at_corners(uv, w):
    """Interpolate the texture coordinates (3, 2) of a triangle's corners at barycentric coordinates `w`."""
    return (w[0] * uv[0, 0] + w[1] * uv[1, 0] + w[2] * uv[2, 0], w[0] * uv[0, 1] + w[1] * uv[1, 1] + w[2] * uv[2, 1])


@njit(cache=True, nogil=True, inline="always")
def hash01(i, j):
    """Return a pseudorandom number in 0..1 for a pair of integers."""
    h = (i * 374761393 + j * 668265263) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFFFF) / 16777216.0


@kernel
def fill(
    points, triangles, cut, depth, ids=None, bary: Any = None, two_sided=None, fray=None, uv: Any = None,
    strands: Any = None,
):  # fmt: skip
    """Fill `depth` with the nearness of the nearest surface, and record which triangle it belongs to.

    Args:
        points: (n, 3) column, row and nearness (inverse depth in a perspective picture; larger is nearer).
        triangles: (faces, 3) vertex indices.
        cut: (n,) samples are dropped where this is below 0.
        depth: (rows, columns) float32, updated in place; 0 where empty.
        ids: (rows, columns) int32, triangle of each sample, updated in place; not recorded if None.
        bary: (rows, columns, 2) float32, weights of its vertices 1 and 2, updated in place; required with `ids`.
        two_sided: (faces,) whether back faces are visible; all are if None.
        fray: (n,) samples are also dropped where `cut` is below this times a random number in 0..1 per strand.
        uv: (faces, 3, 2) texture coordinates, which determine the strand; required with `fray`.
        strands: (faces, 2) strands per unit of u and v; required with `fray`.
    """
    rows, columns = depth.shape
    for t in range(len(triangles)):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        z0, z1, z2 = points[a, 2], points[b, 2], points[c, 2]
        ca, cb, cc = cut[a], cut[b], cut[c]
        if z0 <= 0.0 or z1 <= 0.0 or z2 <= 0.0 or (ca < 0.0 and cb < 0.0 and cc < 0.0):
            continue
        x0, y0, x1, y1, x2, y2 = points[a, 0], points[a, 1], points[b, 0], points[b, 1], points[c, 0], points[c, 1]
        left, right = max(math.ceil(min(x0, x1, x2) - 0.5), 0), min(math.floor(max(x0, x1, x2) + 0.5), columns)
        top, bottom = max(math.ceil(min(y0, y1, y2) - 0.5), 0), min(math.floor(max(y0, y1, y2) + 0.5), rows)
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)  # twice the area, positive for back faces
        if area == 0.0:
            continue
        if two_sided is not None and area > 0.0 and not two_sided[t]:
            continue
        cut_off, frayed = ca < 0.0 or cb < 0.0 or cc < 0.0, False
        if fray is not None:
            frayed = fray[a] > 0.0 or fray[b] > 0.0 or fray[c] > 0.0
        for i in range(top, bottom):
            for j in range(left, right):
                x, y, inv = j + 0.5 - x0, i + 0.5 - y0, 1.0 / area
                w1, w2 = (x * (y2 - y0) - (x2 - x0) * y) * inv, ((x1 - x0) * y - x * (y1 - y0)) * inv
                w = 1.0 - w1 - w2, w1, w2
                z = w[0] * z0 + w[1] * z1 + w[2] * z2
                if w[0] < 0.0 or w[1] < 0.0 or w[2] < 0.0 or z <= depth[i, j]:
                    continue
                if cut_off or frayed:
                    left_over = w[0] * ca + w[1] * cb + w[2] * cc
                    if fray is not None and frayed:
                        u, v = at_corners(uv[t], w)
                        cell = hash01(math.floor(u * strands[t, 0]), math.floor(v * strands[t, 1]))
                        left_over -= blend1(fray, (a, b, c), w) * cell
                    if left_over < 0.0:
                        continue
                depth[i, j] = z
                if ids is not None:
                    ids[i, j] = t
                    bary[i, j, 0], bary[i, j, 1] = w[1], w[2]
