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
GROUP = 18  # material; light is smoothed over touching parts of one material, 0 keeps its edges
PLACE = 19  # 3 x 4: local space to the segment's, where textures live
NUM_COLUMNS = 31
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
def _angle(x, z):
    """atan2(x, z) by an odd polynomial, within 3e-4: the textures need no more, and it is much faster."""
    a, b = abs(x), abs(z)
    t = min(a, b) / max(max(a, b), 1e-12)
    s = t * t
    r = ((-0.0464964749 * s + 0.15931422) * s - 0.327622764) * s * t + t
    if a > b:
        r = 0.5 * math.pi - r
    if z < 0.0:
        r = math.pi - r
    return -r if x < 0.0 else r


@njit(cache=True, nogil=True, fastmath=True)
def _colour(row, lx, ly, lz, textures, out):
    """Base colour at a local point of the primitive with this row of the table."""
    size = textures.shape[1]
    tex, decal = int(row[TEXTURE]), int(row[DECAL])
    for k in range(3):
        out[k] = 255.0 * row[TINT + k]
    if tex == 0 and decal < 0:
        return
    x = row[PLACE] * lx + row[PLACE + 1] * ly + row[PLACE + 2] * lz + row[PLACE + 3]
    y = row[PLACE + 4] * lx + row[PLACE + 5] * ly + row[PLACE + 6] * lz + row[PLACE + 7]
    z = row[PLACE + 8] * lx + row[PLACE + 9] * ly + row[PLACE + 10] * lz + row[PLACE + 11]
    if tex > 0:
        u = 0.5 + _angle(x, z) * (0.5 / math.pi) * row[U_SCALE]
        v = row[V_START] + y * row[V_SCALE]
        i = min(int((v - math.floor(v)) * size), size - 1)
        j = min(int((u - math.floor(u)) * size), size - 1)
        for k in range(3):
            out[k] = textures[tex, i, j, k] * row[TINT + k]
    if decal >= 0 and z > 0.0:
        u, v = (x - row[DECAL_X]) / row[DECAL_W], (y - row[DECAL_Y]) / row[DECAL_H]
        if 0.0 <= u < 1.0 and 0.0 <= v < 1.0:
            i, j = int((1.0 - v) * (size - 1)), int(u * size)
            r, g, b = textures[decal, i, j, 0], textures[decal, i, j, 1], textures[decal, i, j, 2]
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
                lit *= steps[k, 3]
    return lit


@njit(cache=True, nogil=True, fastmath=True)
def _local(p, si, sj, depth, inverse, centre, factor):
    m = inverse[p]
    px, py = (sj + 0.5) / factor - centre[p, 0], (si + 0.5) / factor - centre[p, 1]
    pz = depth[si, sj] - centre[p, 2]
    x = m[0, 0] * px + m[0, 1] * py + m[0, 2] * pz
    y = m[1, 0] * px + m[1, 1] * py + m[1, 2] * pz
    return x, y, m[2, 0] * px + m[2, 1] * py + m[2, 2] * pz


@njit(cache=True, nogil=True, fastmath=True)
def shadow_steps(light, unit, factor):
    """Offsets (x, y in samples, z in pixels) towards the light where a shadow's cause is looked for, and its weight."""
    count = 3 if unit < 300 else 8
    steps = np.zeros((count, 4))
    for k in range(count):
        far = unit * 0.126 * ((k + 1.0) / count) ** 2
        steps[k, 0], steps[k, 1], steps[k, 2] = light[0] * far * factor, light[1] * far * factor, light[2] * far
        steps[k, 3] = 0.72 ** (3.0 / count)
    return steps


@njit(cache=True, nogil=True, fastmath=True)
def lighting(lit, group, level, depth, ids, inverse, centre, shape, table, light, factor, unit):
    """Brightness per pixel of its first covered sample: `lit`; its material and depth: `group`, `level`."""
    steps = shadow_steps(light, unit, factor)
    for i in range(lit.shape[0]):
        for j in range(lit.shape[1]):
            group[i, j] = -1
            for s in range(factor * factor):
                si, sj = i * factor + s // factor, j * factor + s % factor
                p = ids[si, sj]
                if p >= 0:
                    x, y, z = _local(p, si, sj, depth, inverse, centre, factor)
                    ambient, direct, _ = _light(x, y, z, inverse[p], shape[p], table[p, KIND], 0.0, light)
                    lit[i, j] = ambient + direct * _shadow(depth, ids, si, sj, steps, unit)
                    group[i, j], level[i, j] = int(table[p, GROUP]), depth[si, sj]
                    break


@njit(cache=True, nogil=True, fastmath=True)
def smooth_light(out, lit, group, level, unit, along):
    """Average the light along one axis over touching surfaces of one material: limbs flow into the trunk."""
    radius = max(1, int(0.013 * unit + 0.5))
    height, width = lit.shape
    for i in range(height):
        for j in range(width):
            g = group[i, j]
            out[i, j] = lit[i, j]
            if g <= 0:
                continue
            total, count = lit[i, j], 1.0
            before, after = level[i, j], level[i, j]
            for k in range(1, radius + 1):  # as far as both sides go on: a one-sided mean would shift the light
                a, b, c, d = (i - k, j, i + k, j) if along == 0 else (i, j - k, i, j + k)
                if a < 0 or b < 0 or c >= height or d >= width or group[a, b] != g or group[c, d] != g:
                    break
                if abs(level[a, b] - before) > 0.03 * unit or abs(level[c, d] - after) > 0.03 * unit:
                    break
                before, after = level[a, b], level[c, d]
                total += lit[a, b] + lit[c, d]
                count += 2.0
            out[i, j] = total / count


@njit(cache=True, nogil=True, fastmath=True)
def shade(out, ground, lit, group, depth, ids, inverse, centre, shape, table, textures, light, factor, unit):
    """Colour one frame over `ground`: textures at every sample, light per pixel except where materials meet.

    `light`: direction x, y, z, ambient, then the tint r, g, b. `unit`: pixels of one body height (for shadows).
    """
    colour, total = np.zeros(3), np.zeros(3)
    steps = shadow_steps(light, unit, factor)
    share = 1.0 / (factor * factor)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            covered, single, first = 0, True, -2
            for s in range(factor * factor):
                p = ids[i * factor + s // factor, j * factor + s % factor]
                covered += p >= 0
                if first == -2:
                    first = p
                single = single and p == first
            total[:] = 0.0
            if covered:
                plain = single and table[first, TEXTURE] == 0.0 and table[first, DECAL] < 0.0
                for s in range(1 if plain else factor * factor):
                    si, sj = i * factor + s // factor, j * factor + s % factor
                    p = ids[si, sj]
                    if p < 0:
                        continue
                    gloss, bright, shine = table[p, GLOSS], lit[i, j], 0.0
                    other = table[p, GROUP] != group[i, j]
                    if other or gloss > 0.0 or not plain:
                        x, y, z = _local(p, si, sj, depth, inverse, centre, factor)
                        _colour(table[p], x, y, z, textures, colour)
                        if other or gloss > 0.0:
                            ambient, direct, shine = _light(x, y, z, inverse[p], shape[p], table[p, KIND], gloss, light)
                            if other:
                                bright = ambient + direct * _shadow(depth, ids, si, sj, steps, unit)
                    else:
                        _colour(table[p], 0.0, 0.0, 0.0, textures, colour)
                    for c in range(3):
                        total[c] += min(colour[c] * bright * light[4 + c] + shine, 255.0)
                if plain:
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
    x0, y0 = (
        min(max(x0, 0.0), background.shape[1] - width - 1.001),
        min(max(y0, 0.0), background.shape[0] - height - 1.001),
    )
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
                    lower = (
                        background[top + i + 1, left + j, c] * (one - fx)
                        + background[top + i + 1, left + j + 1, c] * fx
                    )
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
        table: (primitives, 31) what does not change: see the columns above.
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
    lit, level, rough = np.zeros(size), np.zeros(size), np.zeros(size)
    group = np.empty(size, np.int16)
    behind = np.full(points.shape[:2], -1.0)
    for f in range(len(inverse)):
        inv, mid, form = inverse[f], centre[f], shape[f]
        fill(depth, ids, inv, forward[f], mid, form, table, factor)
        place_ground(ground, background, blobs[f], shifts[f])
        lighting(rough, group, level, depth, ids, inv, mid, form, table, light, factor, unit)
        smooth_light(lit, rough, group, level, unit, 0)
        smooth_light(rough, lit, group, level, unit, 1)
        shade(frames[f], ground, rough, group, depth, ids, inv, mid, form, table, textures, light, factor, unit)
        at = np.floor(points[f, :, :2] * factor).astype(np.int64)
        inside = (at >= 0).all(-1) & (at[:, 1] < depth.shape[0]) & (at[:, 0] < depth.shape[1])
        behind[f, inside] = depth[at[inside, 1], at[inside, 0]] - points[f, inside, 2]
    return frames, behind
