"""Hair: layers of strands over the scalp, loose hair, ponytails and buns."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from mimicmotion.synth.assets import Assets, Garment, split_quads
from mimicmotion.synth.body import Body, Mesh, Skin, normals_of
from mimicmotion.synth.clothes import fit

# Height of the hairline on the base mesh (decimetres) by angle from the front of the face (degrees).
_ANGLES = np.array([0, 25, 50, 68, 80, 95, 110, 130, 180])
_LINE = np.array([7.98, 7.95, 7.85, 7.55, 7.2, 7.45, 7.25, 6.75, 6.5])
_CENTRE = np.array([0.0, 7.4, 0.2])


@dataclass(frozen=True, slots=True)
class HairStyle:
    """A hairstyle."""

    length: float  # length of hair on top, decimetres; 0 for none
    sides: float = 0.7  # length at the sides relative to that on top
    curl: float = 0.2  # 0 (straight) to 1 (curly)
    recede: float = 0.0  # how far the hairline recedes, decimetres
    hang: float = 0.0  # length of loose hair at the sides and back, decimetres; 0 for none
    fringe: bool = False  # whether loose hair also covers the sides of the forehead
    tail: float = 0.0  # length of a ponytail, decimetres; 0 for none
    bun: float = 0.0  # radius of a bun, decimetres; 0 for none


@functools.lru_cache(maxsize=2)
def _scalp(assets: Assets) -> tuple[ndarray, ndarray, ndarray]:
    """Return the scalp's triangles, their texture coordinate indices, and how far vertices are inside the hairline."""
    triangles, corners = assets.faces("body")
    v = assets.vertices
    angle = np.degrees(np.arctan2(np.abs(v[:, 0]), v[:, 2] - _CENTRE[2]))
    inside = v[:, 1] - np.interp(angle, _ANGLES, _LINE)
    ear = np.zeros(len(v))
    mask, uv = assets.masks["ears"], assets.uv
    size = len(mask)
    texel = np.clip((uv * size).astype(int), 0, size - 1)[corners.ravel()]
    np.maximum.at(ear, triangles.ravel(), mask[size - 1 - texel[:, 1], texel[:, 0]] / 255.0)
    inside = np.minimum(inside, 0.15 - ear)
    use = (inside[triangles] > -0.1).any(1) & (v[triangles, 1].min(1) > 6.2)
    return triangles[use], corners[use], inside


def scalp_hair(body: Body, style: HairStyle, material: int) -> list[Mesh]:
    """Make short hair from layers over the scalp that become sparser outwards, so that they look like strands."""
    assets, vertices = body.assets, body.vertices
    triangles, corners, inside = _scalp(assets)
    inside = inside - style.recede * np.clip((assets.vertices[:, 2] - 0.3) / 1.0, 0, 1)
    normal = normals_of(vertices, assets.faces("body")[0])
    top = np.clip((assets.vertices[:, 1] - 7.3) / 0.9, 0, 1)
    length = style.length * (style.sides + (1 - style.sides) * top) * np.clip(inside / 0.35 + 0.25, 0.15, 1)
    comb = np.array([0.0, -0.25, -0.45]) * (1 - style.curl)
    uv = assets.uv[corners]
    out = []
    layers = int(np.clip(5 + 14 * style.length, 6, 18))
    for k in range(layers):
        share = k / (layers - 1)
        direction = normal + share * comb
        direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-9)
        placed = vertices + direction * (0.03 + share * length)[:, None]
        density = 1.0 - 0.85 * share**1.5
        cut = np.minimum(inside / 0.12 + 0.35, 1.0 if k == 0 else density)
        out.append(Mesh.of(body.skin(placed), triangles, uv, material, cut, fray=0.95))
    return out


def hanging_hair(body: Body, style: HairStyle, material: int, rng: np.random.Generator) -> list[Mesh]:
    """Make the loose hair, ponytail and bun of a style."""
    skull = body.vertices[np.unique(body.assets.faces("body")[0])]
    skull = skull[skull[:, 1] > body.head("head")[1] + 0.2]
    crown = body.level["crown"]
    level = crown - 0.45 * (crown - float(body.head("head")[1]))
    ring = skull[np.abs(skull[:, 1] - level) < 0.25]
    back = float(ring[:, 2].min())
    out = []
    if style.hang:
        out.append(_curtain(body, style, material, rng, level, ring))
    if style.tail:
        root = np.array([0.0, level + rng.uniform(-0.1, 0.7), back + 0.1])
        out.append(_tube(body, root, np.array([0.0, -1.0, -0.35]), style.tail, 0.32, material))
    if style.bun:
        root = np.array([0.0, level + rng.uniform(-0.2, 1.0), back + 0.05])
        out.append(_tube(body, root, np.array([0.0, 0.3, -0.3]), 1.6 * style.bun, style.bun, material))
    return out


def _grid(body: Body, placed: ndarray, u: ndarray, v: ndarray, cut: ndarray, fray: float, material: int) -> Mesh:
    """Make a mesh from a grid of points (rows, columns, 3), with texture coordinates u per column and v per row.

    It moves with the head and, towards the shoulders, increasingly with the chest.
    """
    rows, columns, _ = placed.shape
    grid = np.arange(rows * columns).reshape(rows, columns)
    triangles = split_quads(np.stack([grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]], -1).reshape(-1, 4))
    uv = np.stack(np.meshgrid(u, v), -1).reshape(-1, 2)
    placed = placed.reshape(-1, 3)
    neck, shoulder = body.head("head")[1], body.level["shoulder"]
    chest = np.clip((neck - placed[:, 1]) / max(neck - shoulder, 0.1), 0, 1) * 0.75
    weight = np.pad(np.stack([1 - chest, chest], 1).astype(np.float32), ((0, 0), (0, 4)))
    bone = np.zeros((len(placed), 6), np.int32)
    bone[:, :2] = body.index("head"), body.index("spine01")
    return Mesh.of(Skin(placed, bone, weight), triangles, uv[triangles], material, cut.ravel(), fray)


def _curtain(
    body: Body, style: HairStyle, material: int, rng: np.random.Generator, level: float, ring: ndarray
) -> Mesh:
    """Make loose hair: a sheet around the head, from the crown down, open in front of the face.

    Args:
        body: the person's body.
        style: the hairstyle.
        material: index of the material.
        rng: random generator.
        level: height at which the skull is widest.
        ring: vertices of the skull near this height.
    """
    crown = body.level["crown"]
    wide = float(np.percentile(np.abs(ring[:, 0]), 85))
    back, front = float(ring[:, 2].min()), float(np.percentile(ring[:, 2], 90))
    columns, rows = 49, 16
    opening = np.radians(42 if style.fringe else 62)
    angle = np.linspace(opening, 2 * np.pi - opening, columns)
    down = np.linspace(0, 1, rows)
    wave = 0.05 * np.sin(angle * rng.integers(8, 15) + rng.uniform(0, 6))
    total = crown - level + style.hang
    y = crown + 0.05 - total * down
    drop = np.clip((crown - y) / (crown - level), 0, 1)
    bulge = np.sqrt(np.clip(1 - (1 - drop) ** 2, 0, 1))[:, None]
    middle, deep = 0.5 * (back + front), 0.5 * (front - back)
    puff = 0.1 + 0.12 * style.length + wave + style.curl * 0.15
    below = np.clip(level - y, 0, None)[:, None]
    x = (wide + puff) * bulge * np.sin(angle) * (1 + 0.05 * below)
    z = middle - 0.05 * below + (deep + puff) * bulge * np.cos(angle)
    trunk = body.vertices[np.unique(body.assets.faces("helper-tights")[0])]
    chest = trunk[(trunk[:, 1] > body.level["armpit"]) & (np.abs(trunk[:, 0]) < 1.2)]
    shoulder = body.level["shoulder"] + 0.5
    near = np.clip((shoulder + 0.5 - y) / 0.6, 0, 1)[:, None]  # at the shoulders, hair falls behind or in front of them
    behind, before = float(chest[:, 2].min()) - 0.15, float(chest[:, 2].max()) + 0.1
    low, high = z * (1 - near) + near * behind, z * (1 - near) + near * before
    z = np.where(np.cos(angle) < 0.25, np.minimum(z, low), np.maximum(z, high))
    placed = np.stack([x, np.broadcast_to(y[:, None], x.shape), z], -1)
    u = np.linspace(0, 1, columns)
    # strands end at different heights and leave the face free
    cut = np.minimum((1 - down[:, None]) * 3.0, np.minimum(u, 1 - u) * 12 + 0.3)
    return _grid(body, placed, u, down, cut, 0.9, material)


def _tube(body: Body, root: ndarray, direction: ndarray, length: float, radius: float, material: int) -> Mesh:
    """Make a tapered tube of hair: a ponytail, or a bun if it is short."""
    rows, columns = 14, 17
    t = np.linspace(0, 1, rows)[:, None]
    angle = np.linspace(0, 2 * np.pi, columns)
    direction = direction / np.linalg.norm(direction)
    bend = np.array([0.0, -0.35, 0.1]) * length
    middle = root + direction * length * t + bend * t**2
    profile = radius * np.sqrt(np.clip(t * 6, 0, 1)) * np.sqrt(np.clip(1.02 - t**2, 0, 1))
    side, deep = np.array([1.0, 0.0, 0.0]), np.cross(direction, np.array([1.0, 0.0, 0.0]))
    ring = np.cos(angle)[None, :, None] * side + np.sin(angle)[None, :, None] * deep
    placed = middle[:, None] + profile[..., None] * ring
    cut = np.minimum(1.0, np.broadcast_to((1 - t) * 4 + 0.1, (rows, columns)))
    return _grid(body, placed, np.linspace(0, 0.4, columns), t[:, 0], cut, 0.5, material)


def garment_hair(body: Body, garment: Garment, material: int) -> Mesh:
    """Fit hair or a hat from the additional assets to a body."""
    return Mesh.of(fit(body, garment), garment.triangles, garment.uv[garment.triangle_uv], material)
