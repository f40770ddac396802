"""Body shapes blended from MakeHuman's targets, their joints and measurements, and skinning."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray

from mimicmotion.synth.assets import Assets
from mimicmotion.synth.zbuffer import kernel

AGES = {"baby": 0.0, "child": 9.0, "young": 25.0, "old": 80.0}  # ages of MakeHuman's targets in years
RACES = ("african", "asian", "caucasian")
FACE_FOLDERS = ("head", "nose", "mouth", "chin", "cheek", "eyes", "forehead", "ears", "eyebrows", "neck")
ARM_BONES = ("upperarm", "lowerarm", "wrist", "metacarpal", "finger")
BODY_FOLDERS = ("torso", "hip", "stomach", "buttocks", "pelvis", "breast", "arms", "legs", "hands")


@dataclass(frozen=True, slots=True)
class Genes:
    """Shape parameters of a body."""

    female: float  # 0 male, 1 female
    age: float  # years, 4 to 80
    races: tuple[float, float, float]  # weights of `RACES`, which sum to 1
    muscle: float  # 0 to 1; 0.5 is the average
    weight: float  # 0 to 1; 0.5 is the average
    height: float  # -1 (short) to 1 (tall)
    details: dict[str, float] = field(default_factory=dict)  # weights of additional targets, by name


def random_genes(rng: np.random.Generator, assets: Assets) -> Genes:
    """Sample a body shape: 15% children and teenagers, 20% older than 55, with random faces and proportions."""
    female = float(np.clip(round(rng.random()) + rng.normal() * 0.08, 0, 1))
    kind = rng.random()
    age = rng.uniform(5, 17) if kind < 0.15 else rng.uniform(56, 78) if kind > 0.8 else rng.uniform(18, 55)
    races = rng.dirichlet([0.35] * 3)
    details: dict[str, float] = {}
    for folders, count, size in ((FACE_FOLDERS, 2, 0.5), (BODY_FOLDERS, 1, 0.3)):
        for folder in folders:
            names = [n for n in assets.targets if n.startswith(folder + "/") and "pregnant" not in n]
            for name in rng.choice(names, min(count, len(names)), replace=False) if names else []:
                for twin, share in _both_sides(str(name), assets, rng).items():
                    details[twin] = details.get(twin, 0.0) + share * size * float(rng.random())
    return Genes(
        female,
        float(age),
        (float(races[0]), float(races[1]), float(races[2])),
        float(np.clip(rng.normal(0.5, 0.2), 0, 1)),
        float(np.clip(rng.normal(0.5, 0.2) + 0.002 * (age - 30), 0, 1)),
        float(np.clip(rng.normal() * 0.4, -1, 1)),
        details,
    )


def _both_sides(name: str, assets: Assets, rng: np.random.Generator) -> dict[str, float]:
    """Return weights for a target (1) and, if it is one-sided, for its mirror image (0.85 to 1.15)."""
    folder, short = name.split("/", 1)
    if short[:2] not in ("l-", "r-"):
        return {name: 1.0}
    other = f"{folder}/{'r' if short[0] == 'l' else 'l'}-{short[2:]}"
    return {name: 1.0, **({other: float(rng.uniform(0.85, 1.15))} if other in assets.targets else {})}


def shape_weights(genes: Genes) -> dict[str, float]:
    """Compute the weight of each target, by name, from MakeHuman's macro parameters and the details."""
    out = dict(genes.details)
    sexes = {"female": genes.female, "male": 1 - genes.female}
    names, years = list(AGES), list(AGES.values())
    upper = min(max(int(np.searchsorted(years, genes.age)), 1), len(years) - 1)
    share = float(np.clip((genes.age - years[upper - 1]) / (years[upper] - years[upper - 1]), 0, 1))
    ages = {names[upper - 1]: 1 - share, names[upper]: share}
    muscles, weights = _levels(genes.muscle, "muscle"), _levels(genes.weight, "weight")
    level = "maxheight" if genes.height > 0 else "minheight"
    for sex, a in sexes.items():
        for age, b in ages.items():
            for race, c in zip(RACES, genes.races, strict=True):
                out[f"macrodetails/{race}-{sex}-{age}"] = a * b * c
            for muscle, d in muscles.items():
                for weight, e in weights.items():
                    out[f"macrodetails/universal-{sex}-{age}-{muscle}-{weight}"] = a * b * d * e
            out[f"macrodetails/height/{sex}-{age}-averagemuscle-averageweight-{level}"] = a * b * abs(genes.height)
    return {name: w for name, w in out.items() if w > 1e-3}


def _levels(value: float, name: str) -> dict[str, float]:
    if value < 0.5:
        return {f"min{name}": 1 - 2 * value, f"average{name}": 2 * value}
    return {f"average{name}": 2 - 2 * value, f"max{name}": 2 * value - 1}


def shape_vertices(assets: Assets, genes: Genes) -> Float64[ndarray, "vertices 3"]:
    """Compute the base mesh's vertices in the rest pose for a body shape; targets missing from the file are skipped."""
    vertices = assets.vertices.astype(np.float64)
    for name, strength in shape_weights(genes).items():
        if name in assets.targets:
            index, delta = assets.targets[name]
            vertices[index] += strength * delta
    return vertices


class Body:
    """A body in the rest pose; lengths in decimetres.

    Attributes:
        assets: MakeHuman's data.
        vertices: (n, 3) the base mesh with the shape of this body.
        heads: (bones, 3) heads of the bones.
        tips: (tips, 3) ends of fingers and toes.
        tip_bones: index of the bone of each tip.
        arm: (n,) total weight of the arm bones at each vertex, 0..1.
        reach: (n,) distance of each vertex from the shoulder along the arm.
        elbow: distance of the elbow from the shoulder along the arm.
        wrist: distance of the wrist from the shoulder along the arm.
        level: heights of the floor, ankle, knee, crotch, hip, waist, armpit, shoulder, neck and crown.
        floor: lowest point of the body or its shoes.
        trunk: half width and half depth of the trunk, which the wrists must not enter.
    """

    def __init__(self, assets: Assets, vertices: Float64[ndarray, "n 3"]) -> None:
        self.assets, self.vertices = assets, vertices
        joints = np.array([vertices[v].mean(0) for v in assets.joints])
        self.heads, self.tips = np.split(joints, [len(assets.bones)])
        toes = {"toe1-2": "toe2-1", "toe5-3": "toe2-1"}
        names = [tip.rsplit(".", 1) for tip in assets.tips]
        self.tip_bones = [self.index(f"{toes.get(name, name)}.{side}") for name, side in names]
        in_arm = np.array([name.startswith(ARM_BONES) for name in assets.bones])
        self.arm = (assets.weight * in_arm[assets.weight_bone]).sum(1).astype(np.float64)
        shoulder, elbow, wrist = (self.head(f"{b}.L") for b in ("upperarm01", "lowerarm01", "wrist"))
        upper, lower = elbow - shoulder, wrist - elbow
        self.elbow, along = float(np.linalg.norm(upper)), float(np.linalg.norm(lower))
        self.wrist = self.elbow + along
        mirrored = np.abs(vertices[:, :1]) * [1, 0, 0] + vertices * [0, 1, 1]
        first, second = (mirrored - shoulder) @ upper / self.elbow, (mirrored - elbow) @ lower / along
        self.reach = np.where(second > 0, self.elbow + second, np.minimum(first, self.elbow))
        skin = np.unique(assets.faces("body")[0])
        self.floor = float(vertices[skin, 1].min())

        def height(bone: str) -> float:
            return float(self.head(bone)[1])

        hip, knee, shoulder_height = (height(f"{b}.L") for b in ("upperleg01", "lowerleg01", "upperarm01"))
        self.level = {
            "floor": self.floor, "ankle": height("foot.L"), "knee": knee, "crotch": hip - 0.12 * (hip - knee),
            "hip": hip, "waist": height("spine04"), "armpit": shoulder_height - 0.9, "shoulder": shoulder_height,
            "neck": height("neck01"), "crown": float(vertices[skin, 1].max()),
        }  # fmt: skip
        y = vertices[skin, 1]
        torso = skin[(self.arm[skin] < 0.2) & (y > self.level["waist"]) & (y < self.level["armpit"])]
        self.trunk = float(np.abs(vertices[torso, 0]).max()), float(vertices[torso, 2].max() - self.hip[2])

    def index(self, bone: str) -> int:
        """Return the index of a bone."""
        return self.assets.bones.index(bone)

    def head(self, bone: str) -> Float64[ndarray, " 3"]:
        """Return the position of a bone's head (the end nearer its parent)."""
        return self.heads[self.index(bone)]

    def skin(self, vertices: Float64[ndarray, "n 3"] | None = None) -> Skin:
        """Return the base mesh as skinned points, at the given positions or else those of this body."""
        return Skin(self.vertices if vertices is None else vertices, self.assets.weight_bone, self.assets.weight)

    @property
    def hip(self) -> Float64[ndarray, " 3"]:
        """Midpoint of the hips."""
        return 0.5 * (self.head("upperleg01.L") + self.head("upperleg01.R"))

    @property
    def leg(self) -> float:
        """Length of a leg from hip to ankle, along the bones."""
        hip, knee, ankle = (self.head(f"{b}.L") for b in ("upperleg01", "lowerleg01", "foot"))
        return float(np.linalg.norm(knee - hip)) + float(np.linalg.norm(ankle - knee))

    @property
    def ankle(self) -> float:
        """Height of the ankle above the floor."""
        return float(self.head("foot.L")[1] - self.floor)


class Skin(NamedTuple):
    """Points skinned to bones."""

    vertices: Float64[ndarray, "n 3"]  # in the rest pose, decimetres
    bone: ndarray  # (n, 6) bone indices
    weight: ndarray  # (n, 6) bone weights


class Mesh(NamedTuple):
    """A triangle mesh skinned to the bones: flesh, a garment or hair."""

    vertices: Float32[ndarray, "n 3"]  # in the rest pose, decimetres
    bone: ndarray  # (n, 6) bone indices
    weight: Float32[ndarray, "n 6"]  # bone weights
    triangles: ndarray  # (faces, 3) vertex indices
    uv: Float32[ndarray, "faces 3 2"]  # texture coordinates of the vertices of each triangle
    material: ndarray  # (faces,) material index
    cut: Float32[ndarray, " n"]  # the surface is cut away where the interpolated value is below 0
    fray: Float32[ndarray, " n"]  # how much the edge frays into strands where `cut` is below 1

    @classmethod
    def of(
        cls, skin: Skin, triangles: ndarray, uv: ndarray, material: int | ndarray, cut: ndarray | None = None,
        fray: float = 0.0,
    ) -> Mesh:  # fmt: skip
        """Create a mesh with one material, or one per triangle; unused vertices are dropped."""
        used, corners = np.unique(triangles, return_inverse=True)
        cuts = np.ones(len(used)) if cut is None else cut[used]
        return cls(
            skin.vertices[used].astype(np.float32),
            skin.bone[used].astype(np.int32),
            skin.weight[used].astype(np.float32),
            corners.reshape(-1, 3).astype(np.int32),
            uv.astype(np.float32),
            np.full(len(triangles), material, np.int32),
            cuts.astype(np.float32),
            np.where(cuts < 1, fray, 0.0).astype(np.float32),
        )

    @classmethod
    def join(cls, parts: list[Mesh]) -> Mesh:
        """Concatenate parts into one mesh."""
        starts = np.cumsum([0, *(len(p.vertices) for p in parts[:-1])])
        moved = [p._replace(triangles=p.triangles + start) for p, start in zip(parts, starts, strict=True)]
        return cls(*map(np.concatenate, zip(*moved, strict=True)))


@kernel
def skin(vertices, bone, weight, rot, shift, out):
    """Linear blend skinning: write vertices moved by rot (bones, 3, 3) and shift (bones, 3) into `out`."""
    for i in range(len(vertices)):
        x, y, z = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        a = b = c = 0.0
        for k in range(weight.shape[1]):
            w = weight[i, k]
            if w <= 0.0:
                break
            j = bone[i, k]
            m = rot[j]
            a += w * (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + shift[j, 0])
            b += w * (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + shift[j, 1])
            c += w * (m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + shift[j, 2])
        out[i, 0], out[i, 1], out[i, 2] = a, b, c


@kernel
def _vertex_normals(vertices, triangles, out):
    out[:] = 0.0
    for t in range(len(triangles)):
        i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay, az = (vertices[j, 0] - vertices[i, 0], vertices[j, 1] - vertices[i, 1], vertices[j, 2] - vertices[i, 2])
        bx, by, bz = (vertices[k, 0] - vertices[i, 0], vertices[k, 1] - vertices[i, 1], vertices[k, 2] - vertices[i, 2])
        x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        for v in (i, j, k):
            out[v, 0] += x
            out[v, 1] += y
            out[v, 2] += z
    for i in range(len(out)):
        length = math.sqrt(out[i, 0] ** 2 + out[i, 1] ** 2 + out[i, 2] ** 2) + 1e-12
        out[i, 0] /= length
        out[i, 1] /= length
        out[i, 2] /= length


def normals_of(vertices: ndarray, triangles: ndarray) -> ndarray:
    """Compute unit vertex normals as area-weighted means of the normals of adjacent triangles."""
    out = np.empty_like(vertices)
    _vertex_normals(vertices, triangles, out)
    return out
