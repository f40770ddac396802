"""Light on what the depth buffer shows: skin, cloth, hair and eyes, with soft shadows; and shadows on the floor.

Colours are linear; 1 is a white sheet in full light.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from mimicmotion.synth.zbuffer import hash01, njit

SKIN, CLOTH, HAIR, EYE, LEATHER = range(5)
# Columns of the table of materials.
TEXTURE, KIND, GLOSS, POWER, BUMP, TWO_SIDED, STRAND_U, STRAND_V, SHEEN, EYE_X, EYE_Y, EYE_Z, IRIS_R, IRIS_G, IRIS_B = (
    range(15)
)
NUM_COLUMNS = 15
_TAPS = np.array([
    (-0.94, -0.40), (0.95, -0.77), (-0.09, -0.93), (0.34, 0.29), (-0.92, 0.46), (-0.82, -0.88), (-0.38, 0.28),
    (0.97, 0.76), (0.44, -0.97), (0.54, 0.0), (-0.26, -0.42), (0.2, 0.78),
], np.float32)  # fmt: skip
LINEAR = (((np.arange(256) / 255.0 + 0.055) / 1.055) ** 2.4).astype(np.float32)
LINEAR[:11] = np.arange(11) / 255.0 / 12.92


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy", inline="always")
def _lit(depth, x, y, z, radius, turn):
    """Share of taps around (x, y) of a shadow map that nothing nearer than z covers."""
    rows, columns = depth.shape
    c, s = math.cos(turn), math.sin(turn)
    seen = 0
    for k in range(12):
        a, b = _TAPS[k, 0] * radius, _TAPS[k, 1] * radius
        j = int(x + a * c - b * s)
        i = int(y + a * s + b * c)
        if i < 0 or j < 0 or i >= rows or j >= columns or depth[i, j] <= z:
            seen += 1
    return seen / 12.0


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def shade(  # noqa: PLR0912, PLR0915 - one kernel: the loops of a sample cannot be split without passing all of it
    out, cover, background, ids, bary, points, triangles, position, normal, rest, uv, shadow, fold, material, table,
    textures, eye, key, key_colour, sky, ground, key_map, key_matrix, key_radius, top_map, top_matrix, top_radius,
    factor,
):  # fmt: skip
    """Shade all samples of a frame and average them over each pixel.

    Args:
        out: (rows, columns, 3) float32, the picture.
        cover: (rows, columns) float32, the person's share of each pixel.
        background: (rows, columns, 3) float32.
        ids: (factor rows, factor columns) triangles, as `fill` leaves them.
        bary: their corners' shares.
        points: (n, 3) in the picture; the third number is the nearness.
        triangles: (faces, 3).
        position: (n, 3) in the world.
        normal: (n, 3).
        rest: (n, 3) in the rest pose, for the eyes.
        uv: (faces, 3, 2).
        shadow: (n,) ambient occlusion, 1 open.
        fold: (n,) how strong folds are.
        material: (faces,).
        table: (materials, 15), see the columns above.
        textures: (textures, size, size, 5) uint8: colour and the slope of small heights, 128 flat.
        eye: (3,) the camera's place.
        key: (3,) direction to the key light.
        key_colour: (3,) its strength on a surface that faces it.
        sky: (3,) ambient light from above.
        ground: (3,) ambient light from below.
        key_map: nearness of the nearest surface to the key light.
        key_matrix: (3, 4) world to column, row, nearness of the map.
        key_radius: of its blur in cells.
        top_map: the same for light from straight above, ...
        top_matrix: ... which only dims the ambient light.
        top_radius: of its blur in cells.
        factor: samples per pixel along each axis.
    """
    rows, columns, _ = out.shape
    size = textures.shape[1]
    inv_count = 1.0 / (factor * factor)
    for i in range(rows):
        for j in range(columns):
            red = green = blue = 0.0
            hits = 0
            for si in range(i * factor, i * factor + factor):
                for sj in range(j * factor, j * factor + factor):
                    t = ids[si, sj]
                    if t < 0:
                        continue
                    hits += 1
                    a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
                    # shares in the world from shares in the picture
                    w1, w2 = bary[si, sj, 0], bary[si, sj, 1]
                    w0 = (1.0 - w1 - w2) / points[a, 2]
                    w1, w2 = w1 / points[b, 2], w2 / points[c, 2]
                    total = 1.0 / (w0 + w1 + w2)
                    w0, w1, w2 = w0 * total, w1 * total, w2 * total
                    nx = w0 * normal[a, 0] + w1 * normal[b, 0] + w2 * normal[c, 0]
                    ny = w0 * normal[a, 1] + w1 * normal[b, 1] + w2 * normal[c, 1]
                    nz = w0 * normal[a, 2] + w1 * normal[b, 2] + w2 * normal[c, 2]
                    px = w0 * position[a, 0] + w1 * position[b, 0] + w2 * position[c, 0]
                    py = w0 * position[a, 1] + w1 * position[b, 1] + w2 * position[c, 1]
                    pz = w0 * position[a, 2] + w1 * position[b, 2] + w2 * position[c, 2]
                    vx, vy, vz = eye[0] - px, eye[1] - py, eye[2] - pz
                    norm = 1.0 / math.sqrt(vx * vx + vy * vy + vz * vz)
                    vx, vy, vz = vx * norm, vy * norm, vz * norm
                    m = material[t]
                    kind = int(table[m, KIND])
                    norm = 1.0 / (math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9)
                    if nx * vx + ny * vy + nz * vz < 0.0 and table[m, TWO_SIDED] > 0.0:
                        norm = -norm
                    nx, ny, nz = nx * norm, ny * norm, nz * norm
                    flat_x, flat_y, flat_z = nx, ny, nz
                    # texture, bilinear
                    u = w0 * uv[t, 0, 0] + w1 * uv[t, 1, 0] + w2 * uv[t, 2, 0]
                    v = w0 * uv[t, 0, 1] + w1 * uv[t, 1, 1] + w2 * uv[t, 2, 1]
                    x, y = u * size - 0.5, -v * size - 0.5
                    x0, y0 = math.floor(x), math.floor(y)
                    f, g = x - x0, y - y0
                    j0, i0 = int(x0) % size, int(y0) % size
                    j1, i1 = (j0 + 1) % size, (i0 + 1) % size
                    a0, a1, a2, a3 = (1 - f) * (1 - g), f * (1 - g), (1 - f) * g, f * g
                    tex = textures[int(table[m, TEXTURE])]
                    cr = (
                        a0 * LINEAR[tex[i0, j0, 0]]
                        + a1 * LINEAR[tex[i0, j1, 0]]
                        + a2 * LINEAR[tex[i1, j0, 0]]
                        + a3 * LINEAR[tex[i1, j1, 0]]
                    )
                    cg = (
                        a0 * LINEAR[tex[i0, j0, 1]]
                        + a1 * LINEAR[tex[i0, j1, 1]]
                        + a2 * LINEAR[tex[i1, j0, 1]]
                        + a3 * LINEAR[tex[i1, j1, 1]]
                    )
                    cb = (
                        a0 * LINEAR[tex[i0, j0, 2]]
                        + a1 * LINEAR[tex[i0, j1, 2]]
                        + a2 * LINEAR[tex[i1, j0, 2]]
                        + a3 * LINEAR[tex[i1, j1, 2]]
                    )
                    # tangents along u and v
                    e1x, e1y, e1z = (
                        position[b, 0] - position[a, 0],
                        position[b, 1] - position[a, 1],
                        position[b, 2] - position[a, 2],
                    )
                    e2x, e2y, e2z = (
                        position[c, 0] - position[a, 0],
                        position[c, 1] - position[a, 1],
                        position[c, 2] - position[a, 2],
                    )
                    du1, dv1 = uv[t, 1, 0] - uv[t, 0, 0], uv[t, 1, 1] - uv[t, 0, 1]
                    du2, dv2 = uv[t, 2, 0] - uv[t, 0, 0], uv[t, 2, 1] - uv[t, 0, 1]
                    sign = 1.0 if du1 * dv2 - du2 * dv1 >= 0.0 else -1.0
                    tx, ty, tz = (
                        (e1x * dv2 - e2x * dv1) * sign,
                        (e1y * dv2 - e2y * dv1) * sign,
                        (e1z * dv2 - e2z * dv1) * sign,
                    )
                    bx, by, bz = (
                        (e2x * du1 - e1x * du2) * sign,
                        (e2y * du1 - e1y * du2) * sign,
                        (e2z * du1 - e1z * du2) * sign,
                    )
                    tn = 1.0 / (math.sqrt(tx * tx + ty * ty + tz * tz) + 1e-12)
                    bn = 1.0 / (math.sqrt(bx * bx + by * by + bz * bz) + 1e-12)
                    bump = table[m, BUMP]
                    if bump > 0.0:
                        gx = (
                            a0 * tex[i0, j0, 3]
                            + a1 * tex[i0, j1, 3]
                            + a2 * tex[i1, j0, 3]
                            + a3 * tex[i1, j1, 3]
                            - 128.0
                        )
                        gy = (
                            a0 * tex[i0, j0, 4]
                            + a1 * tex[i0, j1, 4]
                            + a2 * tex[i1, j0, 4]
                            + a3 * tex[i1, j1, 4]
                            - 128.0
                        )
                        if kind == CLOTH:
                            bump *= w0 * fold[a] + w1 * fold[b] + w2 * fold[c]
                        gx, gy = gx * bump / 64.0 * tn, gy * bump / 64.0 * bn
                        nx, ny, nz = nx - gx * tx - gy * bx, ny - gx * ty - gy * by, nz - gx * tz - gy * bz
                        norm = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz)
                        nx, ny, nz = nx * norm, ny * norm, nz * norm
                    open_ = w0 * shadow[a] + w1 * shadow[b] + w2 * shadow[c]
                    # shadows
                    turn = 6.2832 * hash01(si, sj)
                    off = 0.12
                    qx, qy, qz = px + off * flat_x, py + off * flat_y, pz + off * flat_z
                    facing = flat_x * key[0] + flat_y * key[1] + flat_z * key[2]
                    direct = 0.0
                    if facing > -0.35:
                        direct = _lit(
                            key_map,
                            key_matrix[0, 0] * qx + key_matrix[0, 1] * qy + key_matrix[0, 2] * qz + key_matrix[0, 3],
                            key_matrix[1, 0] * qx + key_matrix[1, 1] * qy + key_matrix[1, 2] * qz + key_matrix[1, 3],
                            key_matrix[2, 0] * qx + key_matrix[2, 1] * qy + key_matrix[2, 2] * qz + key_matrix[2, 3],
                            key_radius, turn,
                        )  # fmt: skip
                    above = _lit(
                        top_map,
                        top_matrix[0, 0] * qx + top_matrix[0, 1] * qy + top_matrix[0, 2] * qz + top_matrix[0, 3],
                        top_matrix[1, 0] * qx + top_matrix[1, 1] * qy + top_matrix[1, 2] * qz + top_matrix[1, 3],
                        top_matrix[2, 0] * qx + top_matrix[2, 1] * qy + top_matrix[2, 2] * qz + top_matrix[2, 3] + 0.2,
                        top_radius, turn,
                    )  # fmt: skip
                    open_ *= 0.55 + 0.45 * above
                    up = 0.5 + 0.5 * ny
                    ar = (ground[0] + (sky[0] - ground[0]) * up) * open_
                    ag = (ground[1] + (sky[1] - ground[1]) * up) * open_
                    ab = (ground[2] + (sky[2] - ground[2]) * up) * open_
                    nl = nx * key[0] + ny * key[1] + nz * key[2]
                    nv = nx * vx + ny * vy + nz * vz
                    hx, hy, hz = key[0] + vx, key[1] + vy, key[2] + vz
                    norm = 1.0 / (math.sqrt(hx * hx + hy * hy + hz * hz) + 1e-9)
                    hx, hy, hz = hx * norm, hy * norm, hz * norm
                    nh = max(nx * hx + ny * hy + nz * hz, 0.0)
                    graze = (1.0 - min(max(nv, 0.0), 1.0)) ** 4
                    gloss, power = table[m, GLOSS], table[m, POWER]
                    spec = 0.0
                    if kind == SKIN:  # light spreads under the skin, red the farthest
                        dr = max((nl + 0.30) / 1.30, 0.0)
                        dg = max((nl + 0.12) / 1.12, 0.0)
                        db = max((nl + 0.06) / 1.06, 0.0)
                        spec = gloss * (nh**power * 2.0 + 0.35 * graze) * direct + 0.15 * gloss * graze * open_
                        dr, dg, db = dr * (0.12 + 0.88 * direct), dg * direct, db * direct
                    elif kind == HAIR:
                        down = -flat_y - 0.25 * flat_z  # strands run down and back along the surface
                        sx, sy, sz = -down * flat_x, -1.0 - down * flat_y, -0.25 - down * flat_z
                        norm = 1.0 / (math.sqrt(sx * sx + sy * sy + sz * sz) + 1e-6)
                        th = (sx * hx + sy * hy + sz * hz) * norm
                        shine = math.sqrt(max(1.0 - th * th, 0.0)) ** power
                        wrap = max((nl + 0.4) / 1.4, 0.0) * direct
                        vary = 0.65 + 0.7 * hash01(math.floor(u * table[m, STRAND_U]), m)
                        cr, cg, cb = cr * vary, cg * vary, cb * vary
                        dr = dg = db = wrap
                        spec = gloss * shine * direct * max(nl + 0.3, 0.0) * (0.4 + 1.2 * vary * vary)
                    elif kind == EYE:
                        rx = w0 * rest[a, 0] + w1 * rest[b, 0] + w2 * rest[c, 0] - table[m, EYE_X]
                        ry = w0 * rest[a, 1] + w1 * rest[b, 1] + w2 * rest[c, 1] - table[m, EYE_Y]
                        rz = w0 * rest[a, 2] + w1 * rest[b, 2] + w2 * rest[c, 2] - table[m, EYE_Z]
                        side = math.sqrt(rx * rx + ry * ry) / (math.sqrt(rx * rx + ry * ry + rz * rz) + 1e-9)
                        cr, cg, cb = 0.62, 0.58, 0.56
                        if rz > 0.0 and side < 0.52:
                            ring = 0.5 if side > 0.45 else 1.0
                            if side < 0.2:
                                ring = 0.03
                            cr, cg, cb = table[m, IRIS_R] * ring, table[m, IRIS_G] * ring, table[m, IRIS_B] * ring
                        dr = dg = db = max(nl * 0.8 + 0.2, 0.0) * direct
                        spec = gloss * nh**power * direct
                        ar, ag, ab = ar * 0.75, ag * 0.75, ab * 0.75
                    else:
                        dr = dg = db = max(nl, 0.0) * direct
                        spec = gloss * (nh**power + 0.5 * graze * open_) * (0.3 + 0.7 * direct)
                        sheen = table[m, SHEEN] * graze * open_
                        cr, cg, cb = cr * (1 + sheen), cg * (1 + sheen), cb * (1 + sheen)
                    red += cr * (ar + dr * key_colour[0]) + spec * key_colour[0]
                    green += cg * (ag + dg * key_colour[1]) + spec * key_colour[1]
                    blue += cb * (ab + db * key_colour[2]) + spec * key_colour[2]
            rest_share = 1.0 - hits * inv_count
            cover[i, j] = hits * inv_count
            out[i, j, 0] = red * inv_count + rest_share * background[i, j, 0]
            out[i, j, 1] = green * inv_count + rest_share * background[i, j, 1]
            out[i, j, 2] = blue * inv_count + rest_share * background[i, j, 2]


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def shade_floor(out, background, shadow, ambient, share, start, cell, eye, ray0, ray_x, ray_y, pitch_sin, pitch_cos):
    """The background with the person's shadows on the floor (the plane y = 0).

    Args:
        out: (rows, columns, 3).
        background: the same without the person.
        shadow: (cells, cells) how much of the key light is missing, by z and x.
        ambient: (cells, cells) how much of the ambient light is missing.
        share: of the key light in all the light on the floor.
        start: (2,) x and z of the first cell.
        cell: size of a cell.
        eye: (3,) the camera's place.
        ray0: (2,) column and row of the camera's axis.
        ray_x: 1 / focal length in pixels.
        ray_y: the same.
        pitch_sin: sine of how far the camera looks down.
        pitch_cos: its cosine.
    """
    rows, columns, _ = out.shape
    cells = shadow.shape[0]
    for i in range(rows):
        up = -(i + 0.5 - ray0[1]) * ray_y
        y = up * pitch_cos - pitch_sin
        forward = up * pitch_sin + pitch_cos
        for j in range(columns):
            dim = 1.0
            if y < -1e-4:
                far = -eye[1] / y
                fx = (eye[0] + (j + 0.5 - ray0[0]) * ray_x * far - start[0]) / cell - 0.5
                fz = (eye[2] - forward * far - start[1]) / cell - 0.5
                if 0.0 <= fx < cells - 1 and 0.0 <= fz < cells - 1:
                    a, b = int(fx), int(fz)
                    f, g = fx - a, fz - b
                    w0, w1, w2, w3 = (1 - f) * (1 - g), f * (1 - g), (1 - f) * g, f * g
                    s = w0 * shadow[b, a] + w1 * shadow[b, a + 1] + w2 * shadow[b + 1, a] + w3 * shadow[b + 1, a + 1]
                    o = (
                        w0 * ambient[b, a]
                        + w1 * ambient[b, a + 1]
                        + w2 * ambient[b + 1, a]
                        + w3 * ambient[b + 1, a + 1]
                    )
                    dim = share * (1.0 - s) + (1.0 - share) * (1.0 - o)
            for k in range(3):
                out[i, j, k] = background[i, j, k] * dim


def encode(picture: Float32[ndarray, "*n 3"]) -> Float32[ndarray, "*n 3"]:
    """Linear colours to 0..255: sRGB with a soft shoulder above 0.8."""
    x = np.maximum(picture, 0)
    x = np.where(x > 0.8, 0.8 + 0.25 * (1 - np.exp(-(x - 0.8) / 0.25)), x)
    x = np.minimum(x, 1)
    return (255 * np.where(x < 0.0031308, 12.92 * x, 1.055 * x ** np.float32(1 / 2.4) - 0.055)).astype(np.float32)
