"""Shading of skin, cloth, hair and eyes with soft shadows, and shadows on the floor.

Colours are linear; 1 is white paper in full light. Nearness, larger for nearer points, is inverse
depth in pictures, and linear in shadow maps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from mimicmotion.synth.body import Mesh
from mimicmotion.synth.zbuffer import at_corners, blend, blend1, fill, hash01, in_world, inlined, kernel

SKIN, CLOTH, HAIR, EYE, LEATHER = range(5)
# Columns of the material table.
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


class Surface(NamedTuple):
    """A posed mesh with its materials."""

    mesh: Mesh  # in the rest pose
    points: ndarray  # (n, 3) column, row and nearness in the picture
    position: ndarray  # (n, 3) world positions
    normal: ndarray  # (n, 3) unit normals
    shadow: ndarray  # (n,) ambient occlusion, 1 if unoccluded
    fold: ndarray  # (n,) strength of folds
    table: ndarray  # (materials, 15), see the columns above
    textures: ndarray  # (textures, size, size, 5) uint8: colour, and slopes of the height map (128 if flat)


class ShadowMap(NamedTuple):
    """The depth map of a mesh as seen from a distant light."""

    depth: Float32[ndarray, "size size"]  # nearness of the nearest surface in decimetres, at least 1; 0 where empty
    matrix: Float32[ndarray, "3 4"]  # orthographic projection from world to column, row and nearness
    radius: float  # blur radius in texels

    def project(self, points: Float32[ndarray, "n 3"]) -> Float32[ndarray, "n 3"]:
        """Project world points to column, row and nearness."""
        return (points @ self.matrix[:, :3].T + self.matrix[:, 3]).astype(np.float32)


class Light(NamedTuple):
    """The lights of a scene."""

    key: ndarray  # (3,) direction to the key light
    colour: ndarray  # (3,) irradiance of a surface facing it
    sky: ndarray  # (3,) ambient light from above
    ground: ndarray  # (3,) ambient light from below
    key_map: ShadowMap
    top_map: ShadowMap  # for light from above, which only shadows the ambient light


def shadow_map(mesh: Mesh, vertices: Float32[ndarray, "n 3"], to: ndarray, size: int, blur: float = 0.0) -> ShadowMap:
    """Render a mesh, posed by `vertices`, as seen by a light in the direction `to`; `blur` is in decimetres."""
    z = to / np.linalg.norm(to)
    x = np.cross([0.0, 0.0, 1.0] if abs(z[2]) < 0.9 else [0.0, 1.0, 0.0], z)
    x /= np.linalg.norm(x)
    axes = np.stack([x, np.cross(z, x), z])
    along = vertices @ axes.T
    low, high = along.min(0), along.max(0)
    scale = (size - 2) / max(float((high - low)[:2].max()), 1e-6)
    scales = np.array([scale, scale, 1.0])
    matrix = np.concatenate([scales[:, None] * axes, (1 - scales * low)[:, None]], 1).astype(np.float32)
    out = ShadowMap(np.zeros((size, size), np.float32), matrix, blur * float(np.linalg.norm(matrix[0, :3])))
    fill(out.project(vertices), mesh.triangles, mesh.cut, out.depth)
    return out


@inlined
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@inlined
def _add(a, share, b):
    return a[0] + share * b[0], a[1] + share * b[1], a[2] + share * b[2]


@inlined
def _scaled(a, share):
    return a[0] * share, a[1] * share, a[2] * share


@inlined
def _norm(a):
    return math.sqrt(a[0] * a[0] + a[1] * a[1] + a[2] * a[2])


@inlined
def _lit(shadow, point, bias, angle):
    """Return the unoccluded fraction of the filter taps around a point in a shadow map."""
    depth, m, radius = shadow
    rows, columns = depth.shape
    x = m[0, 0] * point[0] + m[0, 1] * point[1] + m[0, 2] * point[2] + m[0, 3]
    y = m[1, 0] * point[0] + m[1, 1] * point[1] + m[1, 2] * point[2] + m[1, 3]
    z = m[2, 0] * point[0] + m[2, 1] * point[1] + m[2, 2] * point[2] + m[2, 3] + bias
    c, s = math.cos(angle), math.sin(angle)
    seen = 0
    for k in range(12):
        a, b = _TAPS[k, 0] * radius, _TAPS[k, 1] * radius
        j = int(x + a * c - b * s)
        i = int(y + a * s + b * c)
        if i < 0 or j < 0 or i >= rows or j >= columns or depth[i, j] <= z:
            seen += 1
    return seen / 12.0


@inlined
def _bilinear(texture, u, v):
    """Sample a texture bilinearly; return the linear colour, and the slopes across and down."""
    size = texture.shape[0]
    x, y = u * size - 0.5, -v * size - 0.5
    x0, y0 = math.floor(x), math.floor(y)
    f, g = x - x0, y - y0
    red = green = blue = across = down = 0.0
    for k in range(4):
        p = texture[(int(y0) + k // 2) % size, (int(x0) + k % 2) % size]
        w = (f if k % 2 else 1 - f) * (g if k // 2 else 1 - g)
        red += w * LINEAR[p[0]]
        green += w * LINEAR[p[1]]
        blue += w * LINEAR[p[2]]
        across += w * p[3]
        down += w * p[4]
    return (red, green, blue), across - 128.0, down - 128.0


@inlined
def _bumped(normal, across, down, position, corners, uv):
    """Perturb a normal by a bump map, given the slopes along the texture axes."""
    a, b, c = corners
    first = _add(position[b], -1.0, position[a])
    second = _add(position[c], -1.0, position[a])
    du1, dv1 = uv[1, 0] - uv[0, 0], uv[1, 1] - uv[0, 1]
    du2, dv2 = uv[2, 0] - uv[0, 0], uv[2, 1] - uv[0, 1]
    sign = 1.0 if du1 * dv2 - du2 * dv1 >= 0.0 else -1.0
    along_u = _add(_scaled(first, dv2 * sign), -dv1 * sign, second)
    along_v = _add(_scaled(second, du1 * sign), -du2 * sign, first)
    out = _add(normal, -across / (_norm(along_u) + 1e-12), along_u)
    out = _add(out, -down / (_norm(along_v) + 1e-12), along_v)
    return _scaled(out, 1.0 / _norm(out))


@inlined
def _hair(normal, half, lit, direct, u, table, m):
    """Shade hair: strands run down and back along the surface, vary in colour, and have an anisotropic highlight."""
    down = -normal[1] - 0.25 * normal[2]
    strand = -down * normal[0], -1.0 - down * normal[1], -0.25 - down * normal[2]
    along = _dot(strand, half) / (_norm(strand) + 1e-6)
    shine = math.sqrt(max(1.0 - along * along, 0.0)) ** table[m, POWER]
    vary = 0.65 + 0.7 * hash01(math.floor(u * table[m, STRAND_U]), m)
    spec = table[m, GLOSS] * shine * direct * max(lit + 0.3, 0.0) * (0.4 + 1.2 * vary * vary)
    return vary, max((lit + 0.4) / 1.4, 0.0) * direct, spec


@inlined
def _iris(x, y, z, table, m):
    """Return the colour of the eyeball at a point of the rest pose: sclera, iris with a dark ring, or pupil."""
    x, y, z = x - table[m, EYE_X], y - table[m, EYE_Y], z - table[m, EYE_Z]
    side = math.sqrt(x * x + y * y) / (math.sqrt(x * x + y * y + z * z) + 1e-9)
    if z <= 0.0 or side >= 0.52:
        return 0.62, 0.58, 0.56
    ring = 0.03 if side < 0.2 else 0.5 if side > 0.45 else 1.0
    return table[m, IRIS_R] * ring, table[m, IRIS_G] * ring, table[m, IRIS_B] * ring


@inlined
def _sample(surface, light, t, w1, w2, eye, turn):
    """Shade a sample, given its triangle, barycentric coordinates, camera position and rotation of the filter taps."""
    mesh, table = surface.mesh, surface.table
    corners = mesh.triangles[t, 0], mesh.triangles[t, 1], mesh.triangles[t, 2]
    w = in_world(surface.points, corners, w1, w2)
    position = blend(surface.position, corners, w)
    view = eye[0] - position[0], eye[1] - position[1], eye[2] - position[2]
    view = _scaled(view, 1.0 / _norm(view))
    m = mesh.material[t]
    kind = int(table[m, KIND])
    flat = blend(surface.normal, corners, w)
    flip = _dot(flat, view) < 0.0 and table[m, TWO_SIDED] > 0.0
    flat = _scaled(flat, (-1.0 if flip else 1.0) / (_norm(flat) + 1e-9))
    u, v = at_corners(mesh.uv[t], w)
    colour, across, down = _bilinear(surface.textures[int(table[m, TEXTURE])], u, v)
    bump, normal = table[m, BUMP] / 64.0, flat
    if bump > 0.0:
        if kind == CLOTH:
            bump *= blend1(surface.fold, corners, w)
        normal = _bumped(flat, across * bump, down * bump, surface.position, corners, mesh.uv[t])
    start = _add(position, 0.12, flat)
    direct = _lit(light.key_map, start, 0.0, turn) if _dot(flat, light.key) > -0.35 else 0.0
    open_ = blend1(surface.shadow, corners, w) * (0.55 + 0.45 * _lit(light.top_map, start, 0.2, turn))
    up = 0.5 + 0.5 * normal[1]
    ambient = _scaled(_add(light.ground, up, _add(light.sky, -1.0, light.ground)), open_)
    lit = _dot(normal, light.key)
    half = _add(view, 1.0, light.key)
    half = _scaled(half, 1.0 / (_norm(half) + 1e-9))
    mirror, power = max(_dot(normal, half), 0.0), table[m, POWER]
    graze = (1.0 - min(max(_dot(normal, view), 0.0), 1.0)) ** 4
    gloss = table[m, GLOSS]
    if kind == SKIN:  # subsurface scattering, strongest in red
        red = max((lit + 0.30) / 1.30, 0.0) * (0.12 + 0.88 * direct)
        green, blue = max((lit + 0.12) / 1.12, 0.0) * direct, max((lit + 0.06) / 1.06, 0.0) * direct
        spec = gloss * (mirror**power * 2.0 + 0.35 * graze) * direct + 0.15 * gloss * graze * open_
    elif kind == HAIR:
        vary, red, spec = _hair(flat, half, lit, direct, u, table, m)
        green = blue = red
        colour = _scaled(colour, vary)
    elif kind == EYE:
        x, y, z = blend(mesh.vertices, corners, w)
        colour = _iris(x, y, z, table, m)
        red = green = blue = max(lit * 0.8 + 0.2, 0.0) * direct
        spec = gloss * mirror**power * direct
        ambient = _scaled(ambient, 0.75)
    else:
        red = green = blue = max(lit, 0.0) * direct
        spec = gloss * (mirror**power + 0.5 * graze * open_) * (0.3 + 0.7 * direct)
        colour = _scaled(colour, 1.0 + table[m, SHEEN] * graze * open_)
    key = light.colour
    return (
        colour[0] * (ambient[0] + red * key[0]) + spec * key[0],
        colour[1] * (ambient[1] + green * key[1]) + spec * key[1],
        colour[2] * (ambient[2] + blue * key[2]) + spec * key[2],
    )


@kernel
def shade(out, cover, background, ids, bary, surface, light, eye, factor):
    """Shade all samples of a frame and average them over each pixel.

    Args:
        out: (rows, columns, 3) float32, output picture.
        cover: (rows, columns) float32, output coverage of each pixel by the person, 0..1.
        background: (rows, columns, 3) float32.
        ids: (factor * rows, factor * columns) triangle indices from `fill`.
        bary: barycentric coordinates in these triangles.
        surface: surface of the person.
        light: lights of the scene.
        eye: (3,) position of the camera.
        factor: samples per pixel along each axis.
    """
    rows, columns, _ = out.shape
    share = 1.0 / (factor * factor)
    for i in range(rows):
        for j in range(columns):
            total = 0.0, 0.0, 0.0
            hits = 0
            for si in range(i * factor, i * factor + factor):
                for sj in range(j * factor, j * factor + factor):
                    if ids[si, sj] >= 0:
                        hits += 1
                        turn = 6.2832 * hash01(si, sj)
                        w1, w2 = bary[si, sj, 0], bary[si, sj, 1]
                        total = _add(total, 1.0, _sample(surface, light, ids[si, sj], w1, w2, eye, turn))
            cover[i, j] = hits * share
            for k in range(3):
                out[i, j, k] = total[k] * share + (1.0 - hits * share) * background[i, j, k]


@kernel
def shade_floor(out, background, light, start, cell, view):
    """Darken the background where the person's shadow falls on the floor (the plane y = 0).

    Args:
        out: (rows, columns, 3) output picture.
        background: (rows, columns, 3) without shadows.
        light: (cells, cells) fraction of the light that reaches the floor, indexed by z and x.
        start: (2,) x and z of the first cell.
        cell: size of a cell, decimetres.
        view: the camera.
    """
    rows, columns, _ = out.shape
    last = light.shape[0] - 1
    eye, sine, cosine = view.eye, math.sin(view.pitch), math.cos(view.pitch)
    for i in range(rows):
        up = -(i + 0.5 - view.centre[1]) / view.focal
        y = up * cosine - sine
        far = -eye[1] / y if y < -1e-4 else -1.0
        z = (eye[2] - (up * sine + cosine) * far - start[1]) / cell - 0.5
        for j in range(columns):
            x = (eye[0] + (j + 0.5 - view.centre[0]) / view.focal * far - start[0]) / cell - 0.5
            dim = 1.0
            if far > 0.0 and 0.0 <= x < last and 0.0 <= z < last:
                a, b = int(x), int(z)
                f, g = x - a, z - b
                upper, lower = light[b], light[b + 1]
                dim = (1 - g) * ((1 - f) * upper[a] + f * upper[a + 1]) + g * ((1 - f) * lower[a] + f * lower[a + 1])
            for k in range(3):
                out[i, j, k] = background[i, j, k] * dim


def encode(picture: Float32[ndarray, "*n 3"]) -> Float32[ndarray, "*n 3"]:
    """Convert linear colours to sRGB in 0..255, with a soft shoulder above 0.8."""
    x = np.maximum(picture, 0)
    x = np.where(x > 0.8, 0.8 + 0.25 * (1 - np.exp(-(x - 0.8) / 0.25)), x)
    x = np.minimum(x, 1)
    return (255 * np.where(x < 0.0031308, 12.92 * x, 1.055 * x ** np.float32(1 / 2.4) - 0.055)).astype(np.float32)
