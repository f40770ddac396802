"""Colour of the z-buffered figure: textures, light, soft shadows, and the ground behind it."""

from __future__ import annotations

import math

import numpy as np

from mimicmotion.synth.raster import (
    DECAL,
    DECAL_H,
    DECAL_W,
    DECAL_X,
    DECAL_Y,
    GLOSS,
    GROUP,
    KIND,
    PLACE,
    TEXTURE,
    TINT,
    U_SCALE,
    V_SCALE,
    V_START,
    njit,
)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _angle(x, z):
    """atan2(x, z) by an odd polynomial, within 3e-4: the textures need no more, and it is much faster."""
    a, b = abs(x), abs(z)
    t = min(a, b) / max(a, b, 1e-12)
    s = t * t
    r = ((-0.0464964749 * s + 0.15931422) * s - 0.327622764) * s * t + t
    if a > b:
        r = 0.5 * math.pi - r
    if z < 0.0:
        r = math.pi - r
    return -r if x < 0.0 else r


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
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


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
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


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
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


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _local(p, si, sj, depth, inverse, centre, factor):
    m = inverse[p]
    px, py = (sj + 0.5) / factor - centre[p, 0], (si + 0.5) / factor - centre[p, 1]
    pz = depth[si, sj] - centre[p, 2]
    x = m[0, 0] * px + m[0, 1] * py + m[0, 2] * pz
    y = m[1, 0] * px + m[1, 1] * py + m[1, 2] * pz
    return x, y, m[2, 0] * px + m[2, 1] * py + m[2, 2] * pz


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def shadow_steps(light, unit, factor):
    """Offsets (x, y in samples, z in pixels) towards the light where a shadow's cause is looked for, and its weight."""
    count = 3 if unit < 300 else 8
    steps = np.zeros((count, 4))
    for k in range(count):
        far = unit * 0.126 * ((k + 1.0) / count) ** 2
        steps[k, 0], steps[k, 1], steps[k, 2] = light[0] * far * factor, light[1] * far * factor, light[2] * far
        steps[k, 3] = 0.72 ** (3.0 / count)
    return steps


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
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


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
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


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _cover(ids, i, j, factor):
    """Covered samples of a pixel, whether one primitive (or nothing) has all of them, and the first sample's."""
    covered, single, first = 0, True, ids[i * factor, j * factor]
    for s in range(factor * factor):
        p = ids[i * factor + s // factor, j * factor + s % factor]
        covered += p >= 0
        single = single and p == first
    return covered, single, first


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _add_sample(
    total,
    colour,
    bright,
    same,
    p,
    si,
    sj,
    depth,
    ids,
    inverse,
    centre,
    shape,
    table,
    textures,
    light,
    steps,
    factor,
    unit,
):
    """Add a sample of primitive `p` to `total`; `bright` is the pixel's light, which holds for the `same` material."""
    gloss, shine = table[p, GLOSS], 0.0
    x, y, z = _local(p, si, sj, depth, inverse, centre, factor)
    _colour(table[p], x, y, z, textures, colour)
    if gloss > 0.0 or not same:
        ambient, direct, shine = _light(x, y, z, inverse[p], shape[p], table[p, KIND], gloss, light)
        if not same:
            bright = ambient + direct * _shadow(depth, ids, si, sj, steps, unit)
    for c in range(3):
        total[c] += min(colour[c] * bright * light[4 + c] + shine, 255.0)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def shade(out, ground, lit, group, depth, ids, inverse, centre, shape, table, textures, light, factor, unit):
    """Colour one frame over `ground`: textures at every sample, light per pixel except where materials meet.

    `light`: direction x, y, z, ambient, then the tint r, g, b. `unit`: pixels of one body height (for shadows).
    """
    colour, total = np.zeros(3), np.zeros(3)
    steps = shadow_steps(light, unit, factor)
    share = 1.0 / (factor * factor)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            covered, single, first = _cover(ids, i, j, factor)
            total[:] = 0.0
            # a pixel within one untextured primitive has one colour
            plain = covered > 0 and single and table[first, TEXTURE] == 0.0 and table[first, DECAL] < 0.0
            for s in range(0 if covered == 0 else (1 if plain else factor * factor)):
                si, sj = i * factor + s // factor, j * factor + s % factor
                p = ids[si, sj]
                if p >= 0:
                    same = table[p, GROUP] == group[i, j]
                    _add_sample(total, colour, lit[i, j], same, p, si, sj, depth, ids, inverse, centre, shape, table,
                                textures, light, steps, factor, unit)  # fmt: skip
            weight = share * covered if plain else share
            rest = 1.0 - covered * share
            for c in range(3):
                out[i, j, c] = int(total[c] * weight + rest * ground[i, j, c] + 0.5)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
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
