"""Ray hits of scaled round cones into a z-buffer, and the table of primitives that all the kernels read."""

from __future__ import annotations

import math

try:
    from numba import njit
except ImportError as e:  # numba is an extra: say which one
    from mimicmotion.errors import InputError

    raise InputError(
        "mimicmotion.synth needs numba, which is not installed",
        "numba >= 0.60",
        "pip install mimicmotion[train]",
    ) from e

ROUND, OPEN = 0, 1  # kinds of primitives
# Columns of the static table of primitives.
KIND, TEXTURE, U_SCALE, V_SCALE, V_START, GLOSS, DECAL, DECAL_X, DECAL_Y, DECAL_W, DECAL_H = range(11)
CLIP = 11  # plane a x + b y + c z + d >= 0 in the local space; all 0: no clipping
TINT = 15
GROUP = 18  # material; light is smoothed over touching parts of one material, 0 keeps its edges
PLACE = 19  # 3 x 4: local space to the segment's, where textures live
NUM_COLUMNS = 31
NOTHING = -1e9


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _hit(kind, h, r1, r2, ox, oy, oz, dx, dy, dz):
    """Largest t with o + t d on the primitive, or NOTHING."""
    if kind == 0 and h <= 0.0:
        a, b = dx * dx + dy * dy + dz * dz, ox * dx + oy * dy + oz * dz
        disc = b * b - a * (ox * ox + oy * oy + oz * oz - r1 * r1)
        return (math.sqrt(disc) - b) / a if disc >= 0.0 else NOTHING
    if kind == 0:
        k = (r1 - r2) / h
        inv = 1.0 / math.sqrt(max(1.0 - k * k, 1e-4))
        g0, g1 = r1 * inv, k * inv
        low, high = r1 * k, h + r2 * k
    else:
        g0, g1, low, high = r1, (r1 - r2) / h, 0.0, h
    rho = g0 - g1 * oy
    a = dx * dx + dz * dz - g1 * g1 * dy * dy
    b = ox * dx + oz * dz + rho * g1 * dy
    c = ox * ox + oz * oz - rho * rho
    disc = b * b - a * c
    if disc < 0.0 or abs(a) < 1e-12:  # the cone holds its spheres: what misses it misses them
        return NOTHING
    root = math.sqrt(disc)
    t1, t2 = (root - b) / a, (-root - b) / a
    if t2 > t1:
        t1, t2 = t2, t1
    y1, y2 = oy + t1 * dy, oy + t2 * dy
    if low <= y1 <= high and g0 - g1 * y1 >= 0.0:
        return t1
    best = t2 if low <= y2 <= high and g0 - g1 * y2 >= 0.0 else NOTHING
    if kind == 1:
        return best
    a = dx * dx + dy * dy + dz * dz
    for end in range(2):
        if a > 0.0 and ((end == 0 and y1 > high) or (end == 1 and y1 < low)) and g0 - g1 * y1 >= 0.0:
            continue
        py, r = (oy, r1) if end == 0 else (oy - h, r2)
        b = ox * dx + py * dy + oz * dz
        disc = b * b - a * (ox * ox + py * py + oz * oz - r * r)
        if disc >= 0.0:
            best = max(best, (math.sqrt(disc) - b) / a)
    return best


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def fill(depth, ids, inverse, forward, centre, shape, table, factor):
    """Fill the z-buffer `depth` and the primitive numbers `ids` of one frame; both are `factor` times oversampled."""
    rows, columns = depth.shape
    depth[:] = NOTHING
    ids[:] = -1
    for p in range(len(centre)):
        m, b, c = inverse[p], forward[p], centre[p]
        h, r1, r2 = shape[p, 0], shape[p, 1], shape[p, 2]
        if max(r1, r2) <= 0.0:
            continue
        kind = int(table[p, KIND])
        nx = math.sqrt(b[0, 0] ** 2 + b[0, 1] ** 2 + b[0, 2] ** 2)
        ny = math.sqrt(b[1, 0] ** 2 + b[1, 1] ** 2 + b[1, 2] ** 2)
        ex, ey = c[0] + h * b[0, 1], c[1] + h * b[1, 1]
        x0 = max(int((min(c[0] - r1 * nx, ex - r2 * nx)) * factor), 0)
        x1 = min(int((max(c[0] + r1 * nx, ex + r2 * nx)) * factor) + 1, columns)
        y0 = max(int((min(c[1] - r1 * ny, ey - r2 * ny)) * factor), 0)
        y1 = min(int((max(c[1] + r1 * ny, ey + r2 * ny)) * factor) + 1, rows)
        dx, dy, dz = m[0, 2], m[1, 2], m[2, 2]
        ca, cb, cc, cd = table[p, CLIP], table[p, CLIP + 1], table[p, CLIP + 2], table[p, CLIP + 3]
        clipped = ca != 0.0 or cb != 0.0 or cc != 0.0
        for i in range(y0, y1):
            py = (i + 0.5) / factor - c[1]
            for j in range(x0, x1):
                px = (j + 0.5) / factor - c[0]
                ox, oy, oz = m[0, 0] * px + m[0, 1] * py, m[1, 0] * px + m[1, 1] * py, m[2, 0] * px + m[2, 1] * py
                t = _hit(kind, h, r1, r2, ox, oy, oz, dx, dy, dz)
                z = t + c[2]
                if t <= NOTHING * 0.5 or z <= depth[i, j]:
                    continue
                if clipped and ca * (ox + t * dx) + cb * (oy + t * dy) + cc * (oz + t * dz) + cd < 0.0:
                    continue
                depth[i, j] = z
                ids[i, j] = p
