"""Hair: layers of strands over the scalp, loose hair, ponytails and buns."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.synth.assets import Assets, Garment, split_quads
from mimicmotion.synth.body import Mesh, Skin, normals_of
from mimicmotion.synth.clothes import Measures, fit
from mimicmotion.synth.rig import Skeleton

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
    """Triangles of the scalp, their texture coordinates, and how far inside the hairline each vertex is."""
    triangles, corners = assets.faces("body")
    v = assets.vertices
    angle = np.degrees(np.arctan2(np.abs(v[:, 0]), v[:, 2] - _CENTRE[2]))
    inside = v[:, 1] - np.interp(angle, _ANGLES, _LINE)
    ear = np.zeros(len(v))
    mask, uv = assets.masks["ears"], assets.uv
    size = len(mask)
    at = np.clip((uv * size).astype(int), 0, size - 1)
    np.maximum.at(ear, triangles.ravel(), mask[size - 1 - at[corners.ravel(), 1], at[corners.ravel(), 0]] / 255.0)
    inside = np.minimum(inside, 0.15 - ear)
    use = (inside[triangles] > -0.1).any(1) & (v[triangles, 1].min(1) > 6.2)
    return triangles[use], corners[use], inside


def scalp_hair(assets: Assets, vertices: Float64[ndarray, "n 3"], style: HairStyle, material: int) -> list[Mesh]:
    """Layers over the scalp that become sparser outwards, so that they look like strands."""
    triangles, corners, inside = _scalp(assets)
    inside = inside - style.recede * np.clip((assets.vertices[:, 2] - 0.3) / 1.0, 0, 1)
    base = assets.faces("body")[0]
    normal = normals_of(vertices, base)
    top = np.clip((assets.vertices[:, 1] - 7.3) / 0.9, 0, 1)
    length = style.length * (style.sides + (1 - style.sides) * top) * np.clip(inside / 0.35 + 0.25, 0.15, 1)
    comb = np.array([0.0, -0.25, -0.45]) * (1 - style.curl)
    uv = assets.uv[corners]
    out = []
    layers = int(np.clip(5 + 14 * style.length, 6, 18))
    for k in range(layers):
        share = k / (layers - 1)
        away = normal + share * comb
        away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-9)
        placed = vertices + away * (0.03 + share * length)[:, None]
        density = 1.0 - 0.85 * share**1.5
        cut = np.minimum(inside / 0.12 + 0.35, 1.0 if k == 0 else density)
        skin = Skin(placed, assets.weight_bone, assets.weight)
        out.append(Mesh.of(skin, triangles, uv, material, cut, fray=0.95))
    return out


def hanging_hair(
    assets: Assets, skeleton: Skeleton, m: Measures, style: HairStyle, material: int, rng: np.random.Generator
) -> list[Mesh]:
    """Loose hair, ponytail and bun; their roots follow the head, and lower parts the chest."""
    v = m.vertices
    head = assets.faces("body")[0]
    skull = v[np.unique(head)]
    skull = skull[skull[:, 1] > skeleton.head("head")[1] + 0.2]
    crown = float(skull[:, 1].max())
    high = crown - skeleton.head("head")[1]
    level = crown - 0.45 * high
    ring = skull[np.abs(skull[:, 1] - level) < 0.25]
    wide = float(np.percentile(np.abs(ring[:, 0]), 85))
    back, front = float(ring[:, 2].min()), float(np.percentile(ring[:, 2], 90))
    out = []
    if style.hang:
        trunk = v[np.unique(assets.faces("helper-tights")[0])]
        out.append(_curtain(trunk, skeleton, m, style, material, rng, (crown, level, wide, back, front)))
    if style.tail:
        root = np.array([0.0, level + rng.uniform(-0.1, 0.7), back + 0.1])
        way = np.array([0.0, -1.0, -0.35])
        out.append(_tube(skeleton, root, way, style.tail, 0.32, material))
    if style.bun:
        root = np.array([0.0, level + rng.uniform(-0.2, 1.0), back + 0.05])
        out.append(_tube(skeleton, root, np.array([0.0, 0.3, -0.3]), 1.6 * style.bun, style.bun, material))
    return out


def _hung(skeleton: Skeleton, placed: ndarray) -> Skin:
    """Skin points that hang from the head; towards the shoulders, they increasingly follow the chest."""
    neck, shoulder = skeleton.head("head")[1], skeleton.head("upperarm01.L")[1]
    share = np.clip((neck - placed[:, 1]) / max(neck - shoulder, 0.1), 0, 1) * 0.75
    bone = np.zeros((len(placed), 6), np.int32)
    weight = np.zeros((len(placed), 6), np.float32)
    first = share < 0.5
    names = skeleton.index("head"), skeleton.index("spine01")
    bone[:, 0], bone[:, 1] = np.where(first, *names), np.where(first, *names[::-1])
    weight[:, 0], weight[:, 1] = np.where(first, 1 - share, share), np.where(first, share, 1 - share)
    return Skin(placed, bone, weight)


def _grid(
    skeleton: Skeleton, placed: ndarray, u: ndarray, v: ndarray, cut: ndarray, fray: float, material: int
) -> Mesh:
    """A mesh from a grid of points (rows, columns, 3), with texture coordinates u per column and v per row."""
    rows, columns, _ = placed.shape
    grid = np.arange(rows * columns).reshape(rows, columns)
    triangles = split_quads(np.stack([grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]], -1).reshape(-1, 4))
    uv = np.stack(np.meshgrid(u, v), -1).reshape(-1, 2)
    skin = _hung(skeleton, placed.reshape(-1, 3))
    return Mesh.of(skin, triangles, uv[triangles], material, cut.ravel(), fray)


def _curtain(
    trunk: ndarray, skeleton: Skeleton, m: Measures, style: HairStyle, material: int, rng: np.random.Generator,
    skull: tuple[float, float, float, float, float],
) -> Mesh:  # fmt: skip
    """Loose hair: a sheet around the head, from the crown down, open in front of the face."""
    crown, level, wide, back, front = skull
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
    chest = trunk[(trunk[:, 1] > m.level["armpit"]) & (np.abs(trunk[:, 0]) < 1.2)]
    shoulder = m.level["shoulder"] + 0.5
    near = np.clip((shoulder + 0.5 - y) / 0.6, 0, 1)[:, None]  # at the shoulders, hair falls behind or in front of them
    behind, before = float(chest[:, 2].min()) - 0.15, float(chest[:, 2].max()) + 0.1
    low, high = z * (1 - near) + near * behind, z * (1 - near) + near * before
    z = np.where(np.cos(angle) < 0.25, np.minimum(z, low), np.maximum(z, high))
    placed = np.stack([x, np.broadcast_to(y[:, None], x.shape), z], -1)
    u = np.linspace(0, 1, columns)
    # strands end at different heights and leave the face free
    cut = np.minimum((1 - down[:, None]) * 3.0, np.minimum(u, 1 - u) * 12 + 0.3)
    return _grid(skeleton, placed, u, down, cut, 0.9, material)


def _tube(skeleton: Skeleton, root: ndarray, way: ndarray, length: float, radius: float, material: int) -> Mesh:
    """A ponytail, or a bun if short, tapered towards its end."""
    rows, columns = 14, 17
    t = np.linspace(0, 1, rows)[:, None]
    angle = np.linspace(0, 2 * np.pi, columns)
    way = way / np.linalg.norm(way)
    bend = np.array([0.0, -0.35, 0.1]) * length
    middle = root + way * length * t + bend * t**2
    profile = radius * np.sqrt(np.clip(t * 6, 0, 1)) * np.sqrt(np.clip(1.02 - t**2, 0, 1))
    side, deep = np.array([1.0, 0.0, 0.0]), np.cross(way, np.array([1.0, 0.0, 0.0]))
    ring = np.cos(angle)[None, :, None] * side + np.sin(angle)[None, :, None] * deep
    placed = middle[:, None] + profile[..., None] * ring
    cut = np.minimum(1.0, np.broadcast_to((1 - t) * 4 + 0.1, (rows, columns)))
    return _grid(skeleton, placed, np.linspace(0, 0.4, columns), t[:, 0], cut, 0.5, material)


def garment_hair(assets: Assets, garment: Garment, vertices: Float64[ndarray, "n 3"], material: int) -> Mesh:
    """Hair or a hat of additional assets."""
    uv = garment.uv[garment.triangle_uv]
    return Mesh.of(fit(assets, garment, vertices), garment.triangles, uv, material)
