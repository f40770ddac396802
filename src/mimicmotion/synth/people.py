"""A person with skin, clothes and hair, ready to be posed and rendered."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from mimicmotion.synth import look
from mimicmotion.synth.assets import Assets
from mimicmotion.synth.body import (
    Genes,
    Mesh,
    Skin,
    joint_positions,
    normals_of,
    random_genes,
    shape_vertices,
    skin,
)
from mimicmotion.synth.clothes import Measures, hidden
from mimicmotion.synth.light import EYE, EYE_X, EYE_Z, IRIS_B, IRIS_R, LEATHER, SKIN, shadow_map
from mimicmotion.synth.rig import Pose, Skeleton
from mimicmotion.synth.wardrobe import Palette, Rng, Wardrobe

# By long side of the frames in pixels: side of a texture in texels, and strands of hair across a texture.
FINENESS = ((100, 128, 40.0), (400, 512, 90.0), (1_000_000, 1024, 260.0))
DIRECTIONS, MAP_SIDE = 28, 160  # number of depth maps for ambient occlusion, and their side in texels
LASHES = ("helper-l-eyelashes-1", "helper-l-eyelashes-2", "helper-r-eyelashes-1", "helper-r-eyelashes-2")


@dataclass(frozen=True, eq=False)
class Figure:
    """A dressed body."""

    skeleton: Skeleton  # joints
    mesh: Mesh  # visible surface
    table: Float32[ndarray, "materials 15"]  # material table, see `mimicmotion.synth.light`
    textures: ndarray  # textures of the materials
    occlusion: Float32[ndarray, " n"]  # ambient occlusion of each vertex, 1 if unoccluded
    fold: Float32[ndarray, " n"]  # strength of cloth folds at each vertex
    vertex_of: ndarray  # vertex of the mesh for each vertex of the base mesh, -1 if hidden
    actions: dict[str, tuple[ndarray, ndarray]]  # face action to (vertex indices, displacements) of the mesh
    height: float  # from the soles to the crown, decimetres
    shaped: ndarray  # base mesh with the shape of this body

    def place(self, pose: Pose, frame: int, face: dict[str, float]) -> Float32[ndarray, "n 3"]:
        """Vertices in one frame, with the given face actions (0..1)."""
        rest = self.mesh.vertices
        moved = [(self.actions[name], w) for name, w in face.items() if w > 0.01 and name in self.actions]
        if moved:
            rest = rest.copy()
            for (index, delta), w in moved:
                rest[index] += np.float32(w) * delta
        out = np.empty_like(rest)
        skin(rest, self.mesh.bone, self.mesh.weight, pose.rot[frame], pose.shift[frame], out)
        return out


def make_figure(rng: Rng, assets: Assets, long_side: int) -> Figure:
    """Make a random person.

    Args:
        rng: random generator.
        assets: MakeHuman's data.
        long_side: long side of the frames in pixels, which determines the detail of textures and hair.
    """
    genes = random_genes(rng, assets)
    vertices = shape_vertices(assets, genes)
    triangles = assets.faces("body")[0]
    floor = float(vertices[triangles.ravel(), 1].min())
    skeleton = Skeleton.of(assets, joint_positions(assets, vertices), floor, (1.5, 1.2))
    m = Measures.of(assets, skeleton, vertices)
    trunk = (m.arm < 0.2) & (vertices[:, 1] > m.level["waist"]) & (vertices[:, 1] < m.level["armpit"])
    trunk &= np.isin(np.arange(len(vertices)), triangles)
    deep = float(vertices[trunk, 2].max() - skeleton.hip[2])
    skeleton = dataclasses.replace(skeleton, trunk=(float(np.abs(vertices[trunk, 0]).max()), deep))
    palette = Palette(*next((texels, strands) for most, texels, strands in FINENESS if long_side <= most))
    base = look.skin_colour(rng, genes.races)
    grey = float(np.clip((genes.age - 50) / 25, 0, 1)) * rng.random()
    dark = genes.races[2] < 0.5
    hair = np.array(look.HAIR_COLOURS[rng.integers(3 if dark else len(look.HAIR_COLOURS))], np.float32)
    hair = hair + (np.array([170, 168, 165]) - hair) * grey
    flesh_materials = _flesh_materials(rng, assets, genes, skeleton, palette, base, hair)
    wardrobe = Wardrobe(rng, assets, genes, skeleton, m, palette)
    clothes = wardrobe.clothes()
    shoes, floor = wardrobe.shoes()
    pieces = [*clothes, *shoes]
    skeleton = dataclasses.replace(skeleton, floor=floor)
    under = hidden(pieces, len(vertices))
    flesh, used = _flesh(assets, vertices, flesh_materials, under)
    mesh = Mesh.join([flesh, *(p.mesh for p in pieces), *wardrobe.hair(hair)])
    vertex_of = np.full(len(vertices), -1)
    vertex_of[used] = np.arange(len(used))
    actions = {}
    for name, (index, delta) in assets.targets.items():
        if name.startswith("face/"):
            seen = vertex_of[index] >= 0
            actions[name.removeprefix("face/")] = vertex_of[index[seen]], delta[seen]
    height = float(vertices[triangles.ravel(), 1].max()) - floor
    return Figure(
        skeleton=skeleton,
        mesh=mesh,
        table=np.stack(palette.rows),
        textures=np.stack(palette.textures),
        occlusion=ambient_occlusion(mesh.vertices, mesh.triangles, mesh.cut),
        fold=_fold(skeleton, mesh),
        vertex_of=vertex_of,
        actions=actions,
        height=height,
        shaped=vertices,
    )


def _flesh_materials(
    rng: Rng, assets: Assets, genes: Genes, skeleton: Skeleton, palette: Palette, base: ndarray, hair: ndarray
) -> dict[str, int]:
    female = genes.female > 0.5
    texture = look.skin_texture(rng, assets, palette.size, base, hair, female=female, age=genes.age)
    dark = np.full((palette.size, palette.size, 5), 128, np.uint8)
    dark[..., :3] = 38
    out = {"skin": palette.add(SKIN, texture, gloss=float(rng.uniform(0.05, 0.14)), power=22, bump=1.0)}
    brown = genes.races[2] < 0.5 or rng.random() < 0.4
    iris = look.IRISES[rng.integers(2) if brown else rng.integers(len(look.IRISES))]
    for side in "LR":
        number = palette.add(EYE, texture, gloss=1.2, power=220)
        palette.rows[number][EYE_X : EYE_Z + 1] = skeleton.head(f"eye.{side}")
        palette.rows[number][IRIS_R : IRIS_B + 1] = iris
        out[side] = number
    out["lash"] = palette.add(LEATHER, dark, gloss=0.0, power=1, two_sided=1)
    return out


def _flesh(assets: Assets, vertices: ndarray, materials: dict[str, int], under: ndarray) -> tuple[Mesh, ndarray]:
    """The visible parts of the body as one mesh, and the vertices of the base mesh that it uses."""
    parts = {
        "skin": ("body", "helper-upper-teeth", "helper-lower-teeth", "helper-tongue"),
        "L": ("helper-l-eye",), "R": ("helper-r-eye",), "lash": LASHES,
    }  # fmt: skip
    triangles, corners, material = [], [], []
    for name, groups in parts.items():
        t, c = assets.faces(*groups)
        seen = ~under[t].all(1) | (name != "skin")
        triangles.append(t[seen])
        corners.append(c[seen])
        material.append(np.full(int(seen.sum()), materials[name]))
    t, c = np.concatenate(triangles), np.concatenate(corners)
    mesh = Mesh.of(Skin(vertices, assets.weight_bone, assets.weight), t, assets.uv[c], 0)
    return dataclasses.replace(mesh, material=np.concatenate(material).astype(np.int32)), np.unique(t)


def _fold(skeleton: Skeleton, mesh: Mesh) -> Float32[ndarray, " n"]:
    """Strength of folds at each vertex; strongest at elbows, knees, armpits, waist and hems."""
    out = np.full(len(mesh.vertices), 0.22, np.float32)
    for name, radius, size in (
        ("lowerarm01", 1.2, 0.8), ("lowerleg01", 1.4, 0.5), ("upperarm01", 1.3, 0.5), ("upperleg01", 1.8, 0.6),
        ("foot", 1.4, 0.8), ("wrist", 0.9, 0.5),
    ):  # fmt: skip
        for side in "LR":
            away = ((mesh.vertices - skeleton.head(f"{name}.{side}")) ** 2).sum(1)
            out += size * np.exp(-away / radius**2)
    away = np.abs(mesh.vertices[:, 1] - skeleton.head("spine04")[1])
    return (out + 0.5 * np.exp(-((away / 0.8) ** 2))).astype(np.float32)


def ambient_occlusion(vertices: Float32[ndarray, "n 3"], triangles: ndarray, cut: ndarray) -> Float32[ndarray, " n"]:
    """Fraction of the hemisphere above each vertex that the mesh does not occlude."""
    normal = normals_of(vertices, triangles)
    total, open_ = np.zeros(len(vertices)), np.zeros(len(vertices))
    turn = np.pi * (3 - np.sqrt(5))
    start = vertices + 0.1 * normal
    for k in range(DIRECTIONS):
        up = 1 - 2 * (k + 0.5) / DIRECTIONS
        side = np.sqrt(1 - up**2)
        way = np.array([side * np.cos(turn * k), up, side * np.sin(turn * k)])
        view = shadow_map(vertices, triangles, cut, way, MAP_SIDE)
        seen = view.project(start)
        at = np.clip(seen[:, :2].astype(int), 0, MAP_SIDE - 1)
        weight = np.clip(normal @ way, 0, 1)
        total += weight
        open_ += weight * (view.depth[at[:, 1], at[:, 0]] <= seen[:, 2] + 0.06)
    share = open_ / np.maximum(total, 1e-6)
    return (0.25 + 0.75 * share).astype(np.float32)
