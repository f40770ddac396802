"""Clothes and shoes for any body, cut from MakeHuman's helper meshes or fitted from its additional assets.

The border of a garment is the zero level set of a value per vertex (`Mesh.cut`), so it is clean even on a coarse mesh.
The body under a garment is removed, so skin never shows through.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from mimicmotion.runtime.extras import import_extra
from mimicmotion.synth.assets import Assets, Garment, split_quads
from mimicmotion.synth.body import Body, Mesh, Skin, normals_of

MARGIN = 0.35  # distance from the border of a garment within which the body under it is kept, decimetres
TILE = (16.0, 8.0)  # size of a texture in decimetres; front in the left half, back in the right half


class Sheet(NamedTuple):
    """A helper mesh, subdivided once; each vertex is the mean of four vertices of the base mesh."""

    base: ndarray  # (n, 4) vertices of the base mesh
    triangles: ndarray  # (faces, 3) vertex indices
    bone: ndarray  # (n, 6) bone indices
    weight: ndarray  # (n, 6) bone weights

    def interpolate(self, values: ndarray) -> ndarray:
        """Interpolate values from vertices of the base mesh to those of the sheet."""
        return values[self.base].mean(1)


@functools.lru_cache(maxsize=8)
def sheet(assets: Assets, group: str) -> Sheet:
    """Return the helper mesh of the tights or skirt, with every quad split into four."""
    quads = assets.quads[assets.quad_group == assets.groups.index(group)]
    used, corners = np.unique(quads, return_inverse=True)
    corners = corners.reshape(-1, 4)
    edges = np.sort(np.stack([corners, np.roll(corners, -1, 1)], -1), -1).reshape(-1, 2)
    unique, edge = np.unique(edges, axis=0, return_inverse=True)
    edge = edge.reshape(-1, 4) + len(used)
    centre = np.arange(len(quads)) + len(used) + len(unique)
    base = np.concatenate([np.repeat(used[:, None], 4, 1), np.tile(used[unique], (1, 2)), quads])
    parts = [np.stack([corners[:, k], edge[:, k], centre, edge[:, k - 1]], -1) for k in range(4)]
    bone, weight = mix_weights(assets.weight_bone[base], assets.weight[base] / 4)
    return Sheet(base, split_quads(np.concatenate(parts)), bone, weight)


def mix_weights(bone: ndarray, weight: ndarray) -> tuple[ndarray, ndarray]:
    """Merge the bones (n, k, 6) of k vertices each; return the six largest weights (n, 6), which sum to 1."""
    n = len(bone)
    dense = np.zeros((n, int(bone.max()) + 1), np.float32)
    np.add.at(dense, (np.arange(n)[:, None], bone.reshape(n, -1)), weight.reshape(n, -1))
    order = np.argsort(-dense, axis=1, kind="stable")[:, :6]
    top = np.take_along_axis(dense, order, 1)
    return order.astype(np.int32), top / np.maximum(top.sum(1, keepdims=True), 1e-9)


@dataclass(frozen=True, slots=True)
class Cut:
    """Borders of a garment, in decimetres."""

    top: float  # height of its upper border
    hem: float  # height of its lower border
    sleeve: float | None = None  # length of its sleeves; 0 for bare arms, None without shoulders
    neck: str = ""  # neckline of tops: crew, v, boat or high
    open: float = 0.0  # half the width of an open front; 0 if closed

    def inside(self, body: Body, v: ndarray, arm: ndarray, reach: ndarray) -> ndarray:
        """Compute the approximate signed distance (decimetres) of points from the border, positive inside the garment.

        Args:
            body: the body that wears it.
            v: points (n, 3).
            arm: total weight of the arm bones at each point.
            reach: distance of each point from the shoulder along the arm.
        """
        on_arm = arm > 0.5
        out = np.minimum(self.top - v[:, 1], v[:, 1] - self.hem)
        if self.neck:
            out = np.minimum(out, self._neckline(body.level, v))
        if self.open:
            out = np.minimum(out, np.where(v[:, 2] > 0, np.abs(v[:, 0]) - self.open, 9.0))
        if self.sleeve is None:
            return np.where(on_arm, -np.abs(out) - 0.1, out)
        if self.sleeve <= 0:
            return np.minimum(np.where(on_arm, 9.0, out), 2.5 * (0.45 - arm))
        if self.hem < body.level["armpit"]:  # the hem must not cut hanging arms
            out = np.where(arm > 0.05, np.maximum(out, 0.3), out)
        return np.where(on_arm, self.sleeve - reach, out)

    def _neckline(self, level: dict[str, float], v: ndarray) -> ndarray:
        front = np.clip(v[:, 2] / 1.2, -0.3, 1)
        high = {"high": 0.22, "crew": 0.1, "v": 0.1, "boat": -0.1}[self.neck]
        out = level["neck"] + high - (0.45 if self.neck != "high" else 0.0) * front - v[:, 1]
        if self.neck == "v":
            behind = 4 * np.clip(0.5 - v[:, 2], 0, 2)
            out = np.minimum(out, level["shoulder"] - 0.7 + 1.5 * np.abs(v[:, 0]) + behind - v[:, 1])
        if self.neck == "boat":
            out = np.minimum(out, level["shoulder"] + 0.35 - v[:, 1])
        return out


class Piece(NamedTuple):
    """A garment on a body."""

    mesh: Mesh
    inside: ndarray  # (n,) approximate distance of each vertex of the base mesh from its border, positive inside


def from_tights(
    body: Body, cut: Cut, material: int, *, loose: float, flare: float = 0.0, hang: float = 0.0,
    folds: ndarray | None = None, group: str = "helper-tights", over: Sequence[Piece] = (),
) -> Piece:  # fmt: skip
    """Cut a garment from one of the helper meshes.

    Args:
        body: the body that wears it.
        cut: borders of the garment.
        material: index of the material.
        loose: distance from the skin, decimetres.
        flare: additional distance at the hem, decimetres.
        hang: 0..1, how far it hangs straight down from the chest instead of following the belly.
        folds: (rows, columns) height map that displaces the surface, decimetres.
        group: "helper-tights" or "helper-skirt".
        over: garments worn over this one, under which it is cut away except near their borders.
    """
    s, level = sheet(body.assets, group), body.level
    v, arm, reach = (s.interpolate(values) for values in (body.vertices, body.arm, body.reach))
    uv = _flat(body, v, arm, reach)
    if group == "helper-skirt":
        arm = np.zeros_like(arm)
    inside = cut.inside(body, v, arm, reach)
    for piece in over:
        inside = np.minimum(inside, MARGIN - s.interpolate(piece.inside) - 0.05)
    normal = normals_of(v, s.triangles)
    start = cut.top if cut.sleeve is None else level["armpit"]
    span = max(start - cut.hem, 0.1)
    low = np.clip((start - v[:, 1]) / span, 0, 1) * (arm < 0.5)
    along = np.clip(reach / max(body.wrist, 0.1), 0, 1) * (arm >= 0.5)
    distance = loose + flare * low**1.3 + 0.5 * flare * along
    if cut.neck:
        distance = distance * np.clip(0.3 + 0.7 * (level["neck"] + 0.1 - v[:, 1]) / 0.9, 0.3, 1)
    if folds is not None:
        rows, columns = folds.shape
        i = np.mod(np.round(-uv[:, 1] / TILE[1] * rows).astype(int), rows)
        j = np.mod(np.round(uv[:, 0] / TILE[0] * columns).astype(int), columns)
        distance = distance + folds[i, j] * (0.4 + 0.6 * low + 0.8 * along)
    moved = v + normal * np.maximum(distance, 0.04)[:, None]
    if hang:
        below = (v[:, 1] < start) & (arm < 0.5)
        chest = (v[:, 1] > start - 0.6) & (v[:, 1] < start + 0.6) & (arm < 0.3)
        front = float(moved[chest, 2].max(initial=0)) if chest.any() else 0.0
        pull = below & (normal[:, 2] > 0.2)
        moved[pull, 2] += hang * np.clip(front - moved[pull, 2], 0, 0.8) * normal[pull, 2]
    mesh = _textured(Skin(moved, s.bone, s.weight), s.triangles, uv, normal, material, inside)
    return Piece(mesh, cut.inside(body, body.vertices, body.arm, body.reach))


def _flat(body: Body, v: ndarray, arm: ndarray, reach: ndarray) -> Float64[ndarray, "n 2"]:
    """Compute texture coordinates of cloth in decimetres: across, and along the trunk or sleeve."""
    down = v[:, 1] * (1 - arm) + (body.level["shoulder"] - reach) * arm
    across = v[:, 0] * (1 - arm) + np.sign(v[:, 0]) * (2.2 + v[:, 2]) * arm
    return np.stack([across, down - body.level["waist"]], -1)


def _textured(
    skin: Skin, triangles: ndarray, flat: ndarray, normal: ndarray, material: int | ndarray, cut: ndarray | None = None
) -> Mesh:
    """Make a mesh with texture coordinates for cloth; triangles entirely outside the cut are dropped."""
    if cut is not None:
        triangles = triangles[(cut[triangles] > 0).any(1)]
    uv = flat[triangles] / np.array(TILE) + np.array([0.25, 0.0])
    uv[normal[triangles, 2].mean(1) < -0.05, :, 0] += 0.5  # the back
    return Mesh.of(skin, triangles, uv, material, cut)


def shoe(body: Body, material: int, *, height: float, thick: float, sole: float, pointed: float) -> Piece:
    """Make a pair of shoes from the feet of the tights mesh, thickened and with a sole.

    Args:
        body: the body that wears them.
        material: index of the material.
        height: height of the shaft above the ankle, decimetres.
        thick: distance from the skin, decimetres.
        sole: height of the sole, decimetres.
        pointed: how far the toe extends forward.
    """
    s = sheet(body.assets, "helper-tights")
    v = s.interpolate(body.vertices)
    ankle, floor = body.level["ankle"], body.level["floor"]
    tilt = 0.25 * (v[:, 2] - v[:, 2].mean())  # the shaft is higher at the back
    inside = np.minimum(ankle + height - tilt * (height < 0.3) - v[:, 1], 9.0)
    normal = normals_of(v, s.triangles)
    up = (v[:, 1] - floor) / max(ankle - floor, 0.1)
    toe = np.clip((v[:, 2] - 0.6) / 1.4, 0, 1)
    moved = v + normal * (thick * (1 - 0.5 * np.clip(up - 0.8, 0, 1)))[:, None]
    low = up < 0.33
    moved[:, 2] += pointed * toe * np.clip(1.3 - up, 0, 1)
    moved[low, 1] = floor - sole + (moved[low, 1] - moved[low, 1].min()) * 0.35
    moved[low] += (normal * [1, 0, 1])[low] * (0.08 + 0.06 * (up < 0.2)[low])[:, None]
    keep = s.triangles[(inside[s.triangles] > 0).any(1)]
    height_in = (moved[:, 1] - (floor - sole)) / 2.0
    uv = np.stack([(v[:, 2] + 1.0) / 4.0, np.clip(height_in, 0, 0.99)], -1)[keep]
    mesh = Mesh.of(Skin(moved, s.bone, s.weight), keep, uv, material, inside)
    below = ankle + height - body.vertices[:, 1]
    return Piece(mesh, np.where(below > 0, below, -1.0))


def fit(body: Body, garment: Garment) -> Skin:
    """Fit a garment from the additional assets to a body."""
    vertices, assets, unit = body.vertices, body.assets, np.ones(3)
    for axis, a, b, distance in garment.scale:
        k = int(axis)
        unit[k] = abs(vertices[int(a), k] - vertices[int(b), k]) / float(distance)
    placed = (vertices[garment.vertex] * garment.weight[..., None]).sum(1) + garment.offset * unit
    share = np.maximum(garment.weight, 0)
    bone, weight = mix_weights(assets.weight_bone[garment.vertex], assets.weight[garment.vertex] * share[..., None])
    return Skin(placed, bone, weight)


def from_garment(body: Body, garment: Garment, top: int, bottom: int) -> Piece:
    """Fit a suit from the additional assets; each connected part becomes a top or trousers, depending on its height.

    Args:
        body: the body that wears it.
        garment: the suit.
        top: index of the material of tops.
        bottom: index of the material of trousers.
    """
    skin, triangles, level = fit(body, garment), garment.triangles, body.level
    placed = skin.vertices
    normal = normals_of(placed, triangles)
    share = np.maximum(garment.weight, 0)
    share = share / np.maximum(share.sum(1, keepdims=True), 1e-9)
    arm, reach = ((values[garment.vertex] * share).sum(1) for values in (body.arm, body.reach))
    sparse = import_extra("scipy.sparse", "synth")
    import_extra("scipy.sparse.csgraph", "synth")
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]]]).T
    joined = sparse.coo_array((np.ones(edges.shape[1]), edges), shape=(len(placed), len(placed)))
    _, part = sparse.csgraph.connected_components(joined, directed=False)
    trousers = np.zeros(len(placed), bool)
    for k in np.unique(part):
        y = placed[part == k, 1]
        shoes = y.max() < level["ankle"] + 1.5
        trousers[part == k] = y.max() < level["armpit"] and y.min() < level["crotch"] + 0.8 and not shoes
    raised = skin._replace(vertices=placed + 0.02 * normal)
    flat, lower = _flat(body, placed, arm, reach), trousers[triangles[:, 0]]
    parts = [
        _textured(raised, triangles[chosen], flat, normal, material)
        for chosen, material in ((~lower, top), (lower, bottom))
        if chosen.any()
    ]
    return Piece(Mesh.join(parts), np.where(garment.hides, 9.0, -1.0))


def hidden(pieces: Sequence[Piece]) -> Bool[ndarray, " n"]:
    """Return a mask of the vertices of the base mesh that clothes cover, except near their borders."""
    return np.any([piece.inside > MARGIN for piece in pieces], axis=0)
