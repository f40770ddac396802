"""The renderer: orthographic ray hits of scaled round cones into a z-buffer, then textures, light and soft shadows.

Every primitive is a round cone (two spheres and the cone between them) or an open cone (a skirt) in a local space of
its own; a matrix per frame takes pixel space there, so one intersection serves ellipsoids, limbs and clothes.
Pixel space: x right, y down, z towards the viewer, all in pixels of the output.
"""

from __future__ import annotations

import math

import numpy as np
from numpy import ndarray

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
NUM_COLUMNS = 18
NOTHING = -1e9


@njit(cache=True, nogil=True, fastmath=True)
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


@njit(cache=True, nogil=True, fastmath=True)
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


@njit(cache=True, nogil=True, fastmath=True)
def _colour(p, x, y, z, table, textures, out):
    """Base colour at a local point of primitive `p`."""
    size = textures.shape[1]
    tex = int(table[p, TEXTURE])
    if tex == 0:
        for k in range(3):
            out[k] = 255.0 * table[p, TINT + k]
    else:
        u = (0.5 + math.atan2(x, z) * (0.5 / math.pi)) * table[p, U_SCALE]
        v = table[p, V_START] + y * table[p, V_SCALE]
        row = min(int((v - math.floor(v)) * size), size - 1)
        column = min(int((u - math.floor(u)) * size), size - 1)
        for k in range(3):
            out[k] = textures[tex, row, column, k] * table[p, TINT + k]
    decal = int(table[p, DECAL])
    if decal >= 0 and z > 0.0:
        u = (x - table[p, DECAL_X]) / table[p, DECAL_W]
        v = (y - table[p, DECAL_Y]) / table[p, DECAL_H]
        if 0.0 <= u < 1.0 and 0.0 <= v < 1.0:
            row, column = int((1.0 - v) * (size - 1)), int(u * size)
            r, g, b = textures[decal, row, column, 0], textures[decal, row, column, 1], textures[decal, row, column, 2]
            if not (r == 255 and g == 0 and b == 255):  # the colour that stands for "see-through" in decals
                out[0], out[1], out[2] = r, g, b


@njit(cache=True, nogil=True, fastmath=True)
def _light(x, y, z, m, shape, kind, gloss, light):
    """Brightness (ambient and direct apart) and highlight of the surface at a local point."""
    h, r1, r2 = shape[0], shape[1], shape[2]
    ny = y
    if h > 0.0:
        k = (r1 - r2) / h
        if kind == 1.0 or r1 * k < y < h + r2 * k:
            ny = k * math.sqrt(x * x + z * z) / math.sqrt(max(1.0 - k * k, 1e-4))
        elif y >= h + r2 * k:
            ny = y - h
    wx = m[0, 0] * x + m[1, 0] * ny + m[2, 0] * z
    wy = m[0, 1] * x + m[1, 1] * ny + m[2, 1] * z
    wz = m[0, 2] * x + m[1, 2] * ny + m[2, 2] * z
    norm = 1.0 / math.sqrt(wx * wx + wy * wy + wz * wz + 1e-20)
    if wz < 0.0:  # the inside of a skirt
        norm = -0.55 * norm
    wx, wy, wz = wx * norm, wy * norm, wz * norm
    lambert = wx * light[0] + wy * light[1] + wz * light[2]
    direct = 1.25 * (1.0 - light[3]) * max(0.35 * lambert + 0.65 * max(lambert, 0.0), 0.0)
    shine = 0.0
    if gloss > 0.0:
        half = max(wx * 0.5 * light[0] + wy * 0.5 * light[1] + wz * 0.5 * (light[2] + 1.0), 0.0)
        half *= half
        half *= half
        half *= half
        shine = 255.0 * gloss * half * half * half
    return light[3] * (0.8 + 0.2 * wz - 0.1 * wy), direct, shine


@njit(cache=True, nogil=True, fastmath=True)
def _shadow(depth, ids, si, sj, steps, unit):
    """Share of the direct light that something nearer, on the way to the light, leaves."""
    lit = 1.0
    for k in range(len(steps)):
        ti, tj = si + int(steps[k, 1]), sj + int(steps[k, 0])
        if 0 <= ti < depth.shape[0] and 0 <= tj < depth.shape[1] and ids[ti, tj] >= 0:
            rise = depth[ti, tj] - depth[si, sj] - steps[k, 2]
            if 0.02 * unit < rise < 0.4 * unit:
                lit *= 0.72
    return lit


@njit(cache=True, nogil=True, fastmath=True)
def shade(out, ground, depth, ids, inverse, centre, shape, table, textures, light, factor, unit):
    """Colour one frame over `ground`; a pixel within one primitive is lit once, its texture sampled at each sample.

    `light`: direction x, y, z, ambient, then the tint r, g, b. `unit`: pixels of one body height (for shadows).
    """
    colour, total = np.zeros(3), np.zeros(3)
    steps = np.zeros((3, 3))
    for k in range(3):
        far = unit * 0.014 * (k + 1) * (k + 1)
        steps[k, 0], steps[k, 1], steps[k, 2] = light[0] * far * factor, light[1] * far * factor, light[2] * far
    share = 1.0 / (factor * factor)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            covered, first, same = 0, ids[i * factor, j * factor], True
            for si in range(i * factor, (i + 1) * factor):
                for sj in range(j * factor, (j + 1) * factor):
                    covered += ids[si, sj] >= 0
                    same = same and ids[si, sj] == first
            total[:] = 0.0
            ambient, direct, shine, shadow, lit = 0.0, 0.0, 0.0, 1.0, False
            for si in range(i * factor, (i + 1) * factor):
                for sj in range(j * factor, (j + 1) * factor):
                    p = ids[si, sj]
                    if p < 0 or (same and lit and table[p, TEXTURE] == 0.0 and table[p, DECAL] < 0.0):
                        continue
                    m = inverse[p]
                    px, py = (sj + 0.5) / factor - centre[p, 0], (si + 0.5) / factor - centre[p, 1]
                    pz = depth[si, sj] - centre[p, 2]
                    x = m[0, 0] * px + m[0, 1] * py + m[0, 2] * pz
                    y = m[1, 0] * px + m[1, 1] * py + m[1, 2] * pz
                    z = m[2, 0] * px + m[2, 1] * py + m[2, 2] * pz
                    _colour(p, x, y, z, table, textures, colour)
                    if not (same and lit):
                        ambient, direct, shine = _light(x, y, z, m, shape[p], table[p, KIND], table[p, GLOSS], light)
                        shadow = _shadow(depth, ids, si, sj, steps, unit)
                        lit = True
                    bright = ambient + direct * shadow
                    for c in range(3):
                        total[c] += min(colour[c] * bright * light[4 + c] + shine, 255.0)
            if same and lit and table[first, TEXTURE] == 0.0 and table[first, DECAL] < 0.0:
                for c in range(3):
                    total[c] *= covered
            rest = 1.0 - covered * share
            for c in range(3):
                out[i, j, c] = int(total[c] * share + rest * ground[i, j, c] + 0.5)


@njit(cache=True, nogil=True, fastmath=True)
def place_ground(out, background, blobs, shift):
    """The background through a shifted camera, darkened by shadow blobs.

    `blobs`: rows of centre x, y, radii x, y and strength, in output pixels.
    """
    height, width = out.shape[0], out.shape[1]
    x0 = 0.5 * (background.shape[1] - width) + shift[0]
    y0 = 0.5 * (background.shape[0] - height) + shift[1]
    x0, y0 = min(max(x0, 0.0), background.shape[1] - width - 1.001), min(max(y0, 0.0), background.shape[0] - height - 1.001)
    left, top = int(x0), int(y0)
    fx, fy = np.float32(x0 - left), np.float32(y0 - top)
    if fx == 0 and fy == 0:
        out[:] = background[top : top + height, left : left + width]
    else:
        one = np.float32(1.0)
        for i in range(height):
            for j in range(width):
                for c in range(3):
                    upper = background[top + i, left + j, c] * (one - fx) + background[top + i, left + j + 1, c] * fx
                    lower = background[top + i + 1, left + j, c] * (one - fx) + background[top + i + 1, left + j + 1, c] * fx
                    out[i, j, c] = upper * (one - fy) + lower * fy
    for k in range(len(blobs)):
        cx, cy, rx, ry = blobs[k, 0], blobs[k, 1], blobs[k, 2], blobs[k, 3]
        for i in range(max(int(cy - ry), 0), min(int(cy + ry) + 1, height)):
            for j in range(max(int(cx - rx), 0), min(int(cx + rx) + 1, width)):
                a, b = (j + 0.5 - cx) / rx, (i + 0.5 - cy) / ry
                d = 1.0 - a * a - b * b
                if d > 0.0:
                    for c in range(3):
                        out[i, j, c] *= np.float32(1.0 - blobs[k, 4] * d)


def render(
    inverse: ndarray,
    forward: ndarray,
    centre: ndarray,
    shape: ndarray,
    table: ndarray,
    textures: ndarray,
    light: ndarray,
    background: ndarray,
    blobs: ndarray,
    shifts: ndarray,
    size: tuple[int, int],
    factor: int,
    unit: float,
    points: ndarray,
) -> tuple[ndarray, ndarray]:
    """Render all the frames of a clip.

    Args:
        inverse: (frames, primitives, 3, 3) pixel space to local space; `forward` its inverse.
        forward: (frames, primitives, 3, 3).
        centre: (frames, primitives, 3) origin of each primitive in pixels.
        shape: (frames, primitives, 3) height and the two radii in local units; radius 0 leaves a primitive out.
        table: (primitives, 18) what does not change: see the columns above.
        textures: (textures, n, n, 3) uint8.
        light: direction, ambient share, tint (7 numbers).
        background: (rows, columns, 3) float32 picture, at least as large as the frame.
        blobs: (frames, k, 5) floor shadows.
        shifts: (frames, 2) shift of the camera over the background, pixels.
        size: (height, width) of the output.
        factor: supersampling.
        unit: pixels of one body height.
        points: (frames, k, 3) pixel positions to be tested against the z-buffer.

    Returns:
        uint8 frames and, for every point, how far behind the visible surface it lies in pixels (negative: in front,
        or nothing there, or outside of the frame).
    """
    frames = np.empty((len(inverse), *size, 3), np.uint8)
    depth = np.empty((size[0] * factor, size[1] * factor))
    ids = np.empty(depth.shape, np.int16)
    ground = np.empty((*size, 3), np.float32)
    behind = np.full(points.shape[:2], -1.0)
    for f in range(len(inverse)):
        fill(depth, ids, inverse[f], forward[f], centre[f], shape[f], table, factor)
        place_ground(ground, background, blobs[f], shifts[f])
        shade(frames[f], ground, depth, ids, inverse[f], centre[f], shape[f], table, textures, light, factor, unit)
        at = np.floor(points[f, :, :2] * factor).astype(np.int64)
        inside = (at >= 0).all(-1) & (at[:, 1] < depth.shape[0]) & (at[:, 0] < depth.shape[1])
        behind[f, inside] = depth[at[inside, 1], at[inside, 0]] - points[f, inside, 2]
    return frames, behind
