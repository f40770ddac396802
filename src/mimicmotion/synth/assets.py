"""Load MakeHuman's data (CC0) from a packed file: base mesh, shape targets, rig, skin weights, masks, clothes, hair."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.weights.registry import cache_folder

FORMAT = "mimicmotion-people-1"
VARIABLE = "MIMICMOTION_PEOPLE"


def default_path() -> Path:
    """Return the path of the packed file: $MIMICMOTION_PEOPLE, or people/makehuman.npz in the cache folder."""
    if path := os.environ.get(VARIABLE):
        return Path(path).expanduser()
    return cache_folder() / "people" / "makehuman.npz"


@dataclass(frozen=True, slots=True, eq=False)
class Garment:
    """Clothes, shoes or hair that fit any body, because each vertex is attached to three vertices of the body."""

    vertex: Int64[ndarray, "n 3"]  # the three vertices of the base mesh
    weight: Float32[ndarray, "n 3"]  # their weights
    offset: Float32[ndarray, "n 3"]  # offset from their weighted mean, in units of `scale`
    scale: Float32[ndarray, "axes 4"]  # rows (axis, vertex a, vertex b, d): the axis' unit is |a - b| / d
    triangles: Int32[ndarray, "faces 3"]  # vertex indices
    triangle_uv: Int32[ndarray, "faces 3"]  # indices into `uv`
    uv: Float32[ndarray, "texture 2"]  # texture coordinates, 0..1
    hides: Bool[ndarray, " vertices"]  # vertices of the base mesh that it hides


@dataclass(frozen=True, slots=True, eq=False)
class Assets:
    """MakeHuman's data; lengths in decimetres, x to the person's left, y up, z forward."""

    vertices: Float32[ndarray, "vertices 3"]  # the base mesh in its rest pose
    uv: Float32[ndarray, "texture 2"]  # texture coordinates, 0..1, v upwards
    quads: Int32[ndarray, "faces 4"]  # vertex indices of each face
    quad_uv: Int32[ndarray, "faces 4"]  # indices into `uv`
    quad_group: UInt8[ndarray, " faces"]  # index of the face's group in `groups`
    groups: tuple[str, ...]  # names of face groups: body, eyes, teeth, eyelashes, and helper meshes
    bones: tuple[str, ...]  # names of the bones
    parents: tuple[int, ...]  # index of each bone's parent, -1 for the root
    tips: tuple[str, ...]  # names of the bones whose ends are keypoints (fingers, toes)
    joints: tuple[ndarray, ...]  # vertices whose mean is a joint: heads of `bones`, then ends of `tips`
    weight_bone: UInt8[ndarray, "vertices 6"]  # up to six bones that each vertex follows
    weight: Float32[ndarray, "vertices 6"]  # their weights; rows sum to 1
    targets: dict[str, tuple[ndarray, ndarray]]  # shape targets: name to (vertex indices, displacements)
    masks: dict[str, UInt8[ndarray, "n n"]]  # name to a mask in texture space, 0..255
    surfaces: dict[str, UInt8[ndarray, "n n"]]  # name to a greyscale texture, 0..255
    garments: dict[str, Garment] = field(default_factory=dict)  # name to clothes or hair from the additional assets

    def bone(self, name: str) -> int:
        """Return the index of a bone."""
        return self.bones.index(name)

    def faces(self, *groups: str) -> tuple[Int32[ndarray, "n 3"], Int32[ndarray, "n 3"]]:
        """Return the triangles of the given groups, and the indices of their texture coordinates."""
        chosen = np.isin(self.quad_group, [self.groups.index(g) for g in groups])
        return split_quads(self.quads[chosen]), split_quads(self.quad_uv[chosen])


def split_quads(quads: Int32[ndarray, "faces 4"]) -> Int32[ndarray, "n 3"]:
    """Split each quad into two triangles."""
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def load_assets(path: Path | str | None = None) -> Assets:
    """Read the packed file. The result is cached.

    Args:
        path: the file; `default_path()` if None.

    Raises:
        InputError: the file is missing or damaged, or has another format version.
    """
    return _load(Path(path) if path is not None else default_path())


@functools.lru_cache(maxsize=2)
def _load(path: Path) -> Assets:
    fix = f"run python scripts/pack_makehuman.py (see docs/guide/synthetic-people.md), or set ${VARIABLE} to the file"
    if not path.is_file():
        raise InputError(f"{path} is missing", "MakeHuman's packed data", fix)
    try:
        with np.load(path) as stored:
            data = {name: stored[name] for name in stored.files}
        meta = json.loads(data.pop("meta").tobytes())
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as e:
        raise InputError(f"{path} cannot be read: {e}", "MakeHuman's packed data", fix) from e
    if meta.get("format") != FORMAT:
        raise InputError(f"{path} has the format {meta.get('format')!r}", FORMAT, fix)
    joints = np.split(data["joint_vertex"].astype(np.int64), data["joint_end"][:-1])
    weight = data["weight"].astype(np.float32)
    vertices = np.split(data["target_vertex"].astype(np.int64), data["target_end"][:-1])
    deltas = np.split(data["target_delta"], data["target_end"][:-1])
    step = np.float32(meta["step"])
    return Assets(
        vertices=data["vertices"],
        uv=data["uv"].astype(np.float32) / 65535,
        quads=data["quads"].astype(np.int32),
        quad_uv=data["quad_uv"].astype(np.int32),
        quad_group=data["quad_group"],
        groups=tuple(meta["groups"]),
        bones=tuple(meta["bones"]),
        parents=tuple(meta["parents"]),
        tips=tuple(meta["tips"]),
        joints=tuple(joints),
        weight_bone=data["weight_bone"],
        weight=weight / weight.sum(1, keepdims=True),
        targets={n: (v, d * step) for n, v, d in zip(meta["targets"], vertices, deltas, strict=True)},
        masks={n.removeprefix("mask_"): data[n] for n in sorted(data) if n.startswith("mask_")},
        surfaces={n.removeprefix("surface_"): data[n] for n in sorted(data) if n.startswith("surface_")},
        garments={n: _garment(data, n, len(data["vertices"])) for n in meta["garments"]},
    )


def _garment(data: dict[str, ndarray], name: str, count: int) -> Garment:
    part = {f.name: data[f"{name}/{f.name}"] for f in dataclasses.fields(Garment)}
    part |= {key: part[key].astype(np.int32) for key in ("triangles", "triangle_uv")}
    part["vertex"], part["uv"] = part["vertex"].astype(np.int64), part["uv"].astype(np.float32) / 65535
    part["hides"] = np.unpackbits(part["hides"], count=count).astype(bool)
    return Garment(**part)
