"""Make random people with skin, clothes, shoes and hair, ready to be posed and rendered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from mimicmotion.synth import light, look
from mimicmotion.synth.assets import Assets
from mimicmotion.synth.body import Body, Mesh, normals_of, random_genes, shape_vertices, skin
from mimicmotion.synth.clothes import Cut, Piece, fit, from_garment, from_tights, hidden, shoe
from mimicmotion.synth.hair import HairStyle, garment_hair, hanging_hair, scalp_hair
from mimicmotion.synth.look import Rng
from mimicmotion.synth.rig import Pose

# Maximum long side of the frames in pixels, side of a texture in texels, strands of hair across a texture.
FINENESS = ((100, 128, 40.0), (400, 512, 90.0), (1_000_000, 1024, 260.0))
DIRECTIONS, MAP_SIDE = 28, 160  # number of depth maps for ambient occlusion, and their side in texels
NO_TOP = 99.0  # a height above any head, decimetres
WHITE, DARK = np.array([232, 230, 224], np.float32), np.array([28, 26, 25], np.float32)
_FOLDS = 0.022, 0.02  # heights of cloth folds: long ridges and broad waves, decimetres
_FOLDED = (  # bone at whose head cloth folds, radius in decimetres, strength
    ("lowerarm01", 1.2, 0.8), ("lowerleg01", 1.4, 0.5), ("upperarm01", 1.3, 0.5), ("upperleg01", 1.8, 0.6),
    ("foot", 1.4, 0.8), ("wrist", 0.9, 0.5),
)  # fmt: skip
_FLESH = {  # part to groups of the base mesh
    "skin": ("body", "helper-upper-teeth", "helper-lower-teeth", "helper-tongue"),
    "L": ("helper-l-eye",), "R": ("helper-r-eye",),
    "lash": tuple(f"helper-{side}-eyelashes-{k}" for side in "lr" for k in (1, 2)),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Figure:
    """A person with clothes, shoes and hair, ready to be posed."""

    body: Body  # shape and joints
    mesh: Mesh  # visible surface
    table: Float32[ndarray, "materials 15"]  # material table, see `mimicmotion.synth.light`
    textures: ndarray  # textures of the materials
    occlusion: Float32[ndarray, " n"]  # ambient occlusion of each vertex, 1 if unoccluded
    fold: Float32[ndarray, " n"]  # strength of cloth folds at each vertex
    vertex_of: ndarray  # vertex of the mesh for each vertex of the base mesh, -1 if hidden
    actions: dict[str, tuple[ndarray, ndarray]]  # face action to (vertex indices, displacements) of the mesh
    height: float  # from the soles to the crown, decimetres

    def pose_vertices(self, pose: Pose, frame: int, face: dict[str, float]) -> Float32[ndarray, "n 3"]:
        """Compute the mesh's vertices in one frame of a pose, with the given face actions (0..1)."""
        rest = self.mesh.vertices.copy()
        for name, strength in face.items():
            if strength > 0.01 and name in self.actions:
                index, delta = self.actions[name]
                rest[index] += np.float32(strength) * delta
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
    return _Maker(rng, assets, long_side).figure()


class _Maker:
    """Makes a body with clothes, shoes and hair that suit its sex and age, and collects their materials."""

    def __init__(self, rng: Rng, assets: Assets, long_side: int) -> None:
        self.rng, self.assets = rng, assets
        self.size, self.strands = next((texels, strands) for most, texels, strands in FINENESS if long_side <= most)
        self.rows: list[ndarray] = []  # rows of the material table
        self.textures: list[look.Texture] = []  # one per material
        self.genes = random_genes(rng, assets)
        self.female = self.genes.female > 0.5
        self.body = Body(assets, shape_vertices(assets, self.genes))

    def figure(self) -> Figure:
        rng, body, genes = self.rng, self.body, self.genes
        base = look.skin_colour(rng, genes.races)
        grey = float(np.clip((genes.age - 50) / 25, 0, 1)) * rng.random()
        dark = genes.races[2] < 0.5
        hair = np.array(look.HAIR_COLOURS[rng.integers(3 if dark else len(look.HAIR_COLOURS))], np.float32)
        hair = hair + (np.array([170, 168, 165]) - hair) * grey
        materials = self.flesh_materials(base, hair)
        pieces = [*self.clothes(), *self.shoes()]
        flesh, vertex_of = self.flesh(materials, hidden(pieces))
        mesh = Mesh.join([flesh, *(p.mesh for p in pieces), *self.hair(hair)])
        actions = {}
        for name, (index, delta) in self.assets.targets.items():
            if name.startswith("face/"):
                seen = vertex_of[index] >= 0
                actions[name.removeprefix("face/")] = vertex_of[index[seen]], delta[seen]
        return Figure(
            body=body,
            mesh=mesh,
            table=np.stack(self.rows),
            textures=np.stack(self.textures),
            occlusion=ambient_occlusion(mesh),
            fold=_fold(body, mesh),
            vertex_of=vertex_of,
            actions=actions,
            height=body.level["crown"] - body.floor,
        )

    def material(self, kind: int, texture: look.Texture, **columns: float) -> int:
        """Add a material and return its index; keywords are lower-case column names of the material table."""
        row = np.zeros(light.NUM_COLUMNS, np.float32)
        row[light.KIND], row[light.TEXTURE] = kind, len(self.textures)
        for name, value in columns.items():
            row[getattr(light, name.upper())] = value
        self.rows.append(row)
        self.textures.append(texture)
        return len(self.rows) - 1

    def woven(self, colour: ndarray | None = None, **style: Any) -> look.Texture:
        """Make a cloth texture of a colour (random if None); `style` is passed to `look.cloth_texture`."""
        colour = look.cloth_colour(self.rng) if colour is None else colour
        return look.cloth_texture(self.rng, self.size, colour, **style)

    def cloth(self, texture: look.Texture) -> int:
        """Add a cloth material."""
        sheen, bump = self.rng.uniform(0, 0.5), self.rng.uniform(0.6, 1.4)
        gloss = float(self.rng.choice([0.01, 0.03, 0.1], p=[0.6, 0.3, 0.1]))
        return self.material(light.CLOTH, texture, gloss=gloss, power=18, bump=bump, two_sided=1, sheen=sheen)

    def leather(self, colours: tuple[ndarray, ndarray, ndarray], sole: float, gloss: tuple[float, float] | None) -> int:
        """Add a shoe material with colours of upper, sole and band, height of the sole, and a random gloss or None."""
        texture = look.leather_texture(self.rng, self.size, *colours, sole)
        shine = 0.02 if gloss is None else self.rng.uniform(*gloss)
        return self.material(light.LEATHER, texture, gloss=shine, power=30, bump=0.5, two_sided=1)

    def strand(self, colour: ndarray, curl: float, *, cards: bool) -> int:
        """Add a hair material: strands along v for hair cards, small cells for scalp layers."""
        texture = look.hair_texture(self.rng, self.size, colour, curl=curl)
        u, v = (1.6 * self.strands, 1.0) if cards else (6 * self.strands, 6 * self.strands)
        return self.material(light.HAIR, texture, gloss=0.10, power=40, two_sided=1, strand_u=u, strand_v=v)

    def flesh_materials(self, base: ndarray, hair: ndarray) -> dict[str, int]:
        """Add the materials of the parts in `_FLESH`."""
        rng, genes = self.rng, self.genes
        texture = look.skin_texture(rng, self.assets, self.size, base, hair, female=self.female, age=genes.age)
        out = {"skin": self.material(light.SKIN, texture, gloss=rng.uniform(0.05, 0.14), power=22, bump=1.0)}
        brown = genes.races[2] < 0.5 or rng.random() < 0.4
        iris = look.IRISES[rng.integers(2) if brown else rng.integers(len(look.IRISES))]
        for side in "LR":
            out[side] = self.material(light.EYE, texture, gloss=1.2, power=220)
            self.rows[-1][light.EYE_X : light.EYE_Z + 1] = self.body.head(f"eye.{side}")
            self.rows[-1][light.IRIS_R : light.IRIS_B + 1] = iris
        black = np.full((self.size, self.size, 5), 128, np.uint8)
        black[..., :3] = 38
        return out | {"lash": self.material(light.LEATHER, black, gloss=0.0, power=1, two_sided=1)}

    def flesh(self, materials: dict[str, int], covered: ndarray) -> tuple[Mesh, ndarray]:
        """Make the mesh of the uncovered body; also return the index in it of each base vertex, or -1."""
        triangles, corners, material = [], [], []
        for name, groups in _FLESH.items():
            t, c = self.assets.faces(*groups)
            seen = ~covered[t].all(1) | (name != "skin")
            triangles.append(t[seen])
            corners.append(c[seen])
            material.append(np.full(int(seen.sum()), materials[name]))
        t, c = np.concatenate(triangles), np.concatenate(corners)
        used, vertex_of = np.unique(t), np.full(len(covered), -1)
        vertex_of[used] = np.arange(len(used))
        return Mesh.of(self.body.skin(), t, self.assets.uv[c], np.concatenate(material)), vertex_of

    def clothes(self) -> list[Piece]:
        """Make a suit from the additional assets, or trousers, shorts or a skirt with a top and possibly a jacket."""
        rng = self.rng
        suits = [n for n in self.assets.garments if "suit" in n and n.startswith("clothes/female") == self.female]
        if suits and self.genes.age > 16 and rng.random() < 0.3:
            garment = self.assets.garments[suits[rng.integers(len(suits))]]
            upper, lower = look.cloth_colour(rng), look.cloth_colour(rng)
            pattern = str(rng.choice(["plain", "plain", "stripes", "checks", "plaid", "print"]))
            top = self.cloth(self.woven(upper, pattern=pattern))
            bottom = self.cloth(self.woven(lower, denim=rng.random() < 0.4))
            return [from_garment(self.body, garment, top, bottom)]
        kinds = ["long", "short", "skirt", "leggings", "cropped"]
        shares = [0.52, 0.13, 0.15, 0.12, 0.08] if self.female else [0.7, 0.27, 0.0, 0.01, 0.02]
        kind = str(rng.choice(kinds, p=shares))
        if kind == "skirt" or rng.random() < 0.25:  # the top is tucked in
            lower = self.lower(kind, [])
            return lower + self.tops(lower[:1])
        upper = self.tops([])
        return self.lower(kind, upper) + upper

    def lower(self, kind: str, over: list[Piece]) -> list[Piece]:
        """Make trousers, shorts, leggings or a skirt, cut away under the garments `over` them."""
        rng, body, level = self.rng, self.body, self.body.level
        leg = level["crotch"] - level["ankle"]
        denim = kind in ("long", "short") and rng.random() < 0.4
        colour = np.array([52, 72, 112]) * rng.uniform(0.4, 1.5) if denim else look.cloth_colour(rng)
        pattern = str(rng.choice(look.PATTERNS)) if not denim and rng.random() < 0.25 else "plain"
        tight = kind == "leggings" or rng.random() < 0.25
        texture = self.woven(colour, pattern=pattern, denim=denim, rough=1.5, folds=0.25 if tight else 1.0)
        material = self.cloth(texture)
        if kind == "skirt":
            cut = Cut(level["waist"] + 0.1, level["knee"] + leg * float(rng.choice([0.25, 0.1, -0.2, -0.4])))
            flare, deep = rng.uniform(0.1, 0.8), 1.6 * _folds()
            skirt = from_tights(body, cut, material, loose=0.12, flare=flare, folds=deep, group="helper-skirt")
            if rng.random() < 0.7:
                return [skirt]
            black = self.cloth(self.woven(np.array(look.NEUTRAL[0]), folds=0.2))
            return [skirt, from_tights(body, Cut(level["hip"] + 0.5, level["ankle"] + 0.1), black, loose=0.04)]
        hem = {
            "long": level["ankle"] + rng.uniform(-0.3, 0.25), "short": level["crotch"] - leg * rng.uniform(0.12, 0.48),
            "leggings": level["ankle"] + rng.uniform(0, 0.6), "cropped": level["knee"] - leg * rng.uniform(0.1, 0.3),
        }[kind]  # fmt: skip
        cut = Cut(level["waist"] + rng.uniform(-0.75, 0.1), hem)
        if tight:
            return [from_tights(body, cut, material, loose=0.05, over=over)]
        loose, flare = rng.uniform(0.1, 0.2), rng.uniform(0.05, 0.35)
        return [from_tights(body, cut, material, loose=loose, flare=flare, folds=_folds(), over=over)]

    def tops(self, over: list[Piece]) -> list[Piece]:
        """Make a top, tucked into garments `over` it, and possibly an open jacket, cardigan or coat."""
        rng, body, level, female = self.rng, self.body, self.body.level, self.female
        sleeves = [0.0, 0.55, 0.75, 1.3, 1.85]
        sleeve = float(rng.choice(sleeves, p=[0.12 if female else 0.05, 0.2, 0.25, 0.08, 0.35 if female else 0.42]))
        reach = body.elbow * min(sleeve, 1) + (body.wrist - body.elbow) * max(sleeve - 1, 0)
        necks = ["crew", "v", "boat" if sleeve == 0 and female else "crew", "high"]
        neck = str(rng.choice(necks, p=[0.6, 0.15, 0.15, 0.1]))
        hem = level["waist"] - 0.5 if over else level["hip"] + rng.uniform(-0.5, 0.5)
        if female and not over and rng.random() < 0.15:
            hem = level["waist"] + rng.uniform(0.0, 0.5)  # cropped
        front = str(rng.choice(["", "", "", "buttons", "zip"]))
        pattern = str(rng.choice(look.PATTERNS)) if rng.random() < 0.6 else "plain"
        loose, flare = rng.uniform(0.08, 0.24), 0.0 if over else rng.uniform(0.0, 0.3)
        material = self.cloth(self.woven(pattern=pattern, front=front, folds=min(5 * loose, 1)))
        jackets = []
        if rng.random() < 0.25:
            texture = self.woven(pattern=str(rng.choice(["plain", "plain", "checks", "plaid"])))
            long = float(body.wrist - rng.uniform(0.0, 0.4)) if rng.random() < 0.85 else 0.0
            cut = Cut(NO_TOP, level["hip"] + rng.uniform(-1.2, 0.6), long, "v", rng.uniform(0.25, 0.9))
            shape = {"loose": loose + 0.2, "flare": flare + 0.08, "hang": 0.5}
            jackets = [from_tights(body, cut, self.cloth(texture), folds=_folds(), **shape)]
        shape = {"loose": loose, "flare": flare, "hang": rng.uniform(0.3, 1)}
        cut, outer = Cut(NO_TOP, hem, reach, neck), [*over, *jackets]
        return [from_tights(body, cut, material, folds=_folds(), over=outer, **shape), *jackets]

    def shoes(self) -> list[Piece]:
        """Make shoes and socks, or nothing for bare feet; the soles become the floor of the body."""
        rng, body, level, garments = self.rng, self.body, self.body.level, self.assets.garments
        kind = rng.choice(["sneaker", "shoe", "boot", "slip", "bare"], p=[0.45, 0.2, 0.15, 0.12, 0.08])
        if kind == "bare":
            return []
        base, band = look.cloth_colour(rng), look.cloth_colour(rng)
        ready = [n for n in garments if n.startswith("clothes/shoes")]
        if ready and rng.random() < 0.4:
            garment = garments[ready[rng.integers(len(ready))]]
            fitted = fit(body, garment)
            _, y, z = fitted.vertices.T
            sole = float(y.min())
            material = self.leather((look.cloth_colour(rng), DARK, look.cloth_colour(rng)), 0.1, (0.02, 0.14))
            uv = np.stack([(z + 1) / 4, np.clip((y - sole) / 2, 0, 0.99)], -1)
            body.floor = min(sole, level["floor"])
            mesh = Mesh.of(fitted, garment.triangles, uv[garment.triangles], material)
            return [Piece(mesh, np.where(garment.hides, 9.0, -1.0))]
        sneaker = kind == "sneaker"
        sole = WHITE if sneaker and rng.random() < 0.7 else DARK
        height = {
            "sneaker": rng.uniform(-0.15, 0.2), "shoe": rng.uniform(-0.2, 0.0), "boot": rng.uniform(0.5, 2.2),
            "slip": -0.35,
        }[kind]  # fmt: skip
        thick = float(rng.uniform(0.12, 0.3) if sneaker else rng.uniform(0.06, 0.16))
        material = self.leather((base, sole, band), (thick + 0.12) / 2, None if sneaker else (0.03, 0.16))
        pointed = rng.uniform(0.0, 0.25)
        pieces = [shoe(body, material, height=float(height), thick=0.1, sole=thick, pointed=pointed)]
        if kind in ("sneaker", "shoe") and rng.random() < 0.6:
            socks = self.cloth(self.woven(WHITE if rng.random() < 0.5 else None))
            cut = Cut(level["ankle"] + rng.uniform(0.4, 1.6), level["floor"] - 1)
            pieces.append(from_tights(body, cut, socks, loose=0.035))
        body.floor = level["floor"] - thick
        return pieces

    def hair(self, colour: ndarray) -> list[Mesh]:
        """Make hair of the given colour, a cap or hat over short hair, or nothing."""
        rng, body, garments = self.rng, self.body, self.assets.garments
        female, african = self.female, self.genes.races[0] > 0.5
        curl = float(rng.uniform(0.6, 1.0) if african else rng.uniform(0.0, 0.5))

        def grown(style: HairStyle) -> list[Mesh]:
            return scalp_hair(body, style, self.strand(colour, curl, cards=False))

        if rng.random() < 0.08:
            return [self.hat(), *grown(HairStyle(0.08))]
        usual = ("bob", "long", "braid", "ponytail", "afro") if female else ("short", "afro")
        styles = [n for n in garments if n.startswith(tuple(f"hair/{name}" for name in usual))]
        styles = [n for n in styles if ("afro" in n) <= african]
        if styles and rng.random() < 0.3:
            under, material = grown(HairStyle(0.06)), self.strand(colour, 0.1, cards=True)
            return [*under, garment_hair(body, garments[styles[rng.integers(len(styles))]], material)]
        if not female and (rng.random() < 0.08 or (self.genes.age > 45 and rng.random() < 0.2)):
            return []
        style = self.style(curl, african=african)
        out = grown(style)
        if style.hang or style.tail or style.bun:
            out += hanging_hair(body, style, self.strand(colour, 0.15, cards=True), rng)
        return out

    def style(self, curl: float, *, african: bool) -> HairStyle:
        """Sample a hairstyle."""
        rng, female = self.rng, self.female
        recede = float(np.clip(rng.normal(0.1, 0.2), 0, 0.5)) * float(not female and self.genes.age > 30)
        if african and rng.random() < 0.45:
            return HairStyle(rng.uniform(0.3, 1.3), 0.9, 1.0, recede)
        if not female:
            return HairStyle(rng.uniform(0.08, 0.55), rng.uniform(0.2, 0.9), curl, recede)
        kind = rng.choice(["bob", "long", "tail", "bun", "short"], p=[0.22, 0.3, 0.22, 0.12, 0.14])
        ranges = {"bob": (0.9, 1.6), "long": (1.8, 4.5), "tail": (1.5, 4), "bun": (0.3, 0.55)}
        long = rng.uniform(*ranges[kind]) if kind in ranges else 0.0
        hang, tail, bun = (long * (kind in k) for k in (("bob", "long"), ("tail",), ("bun",)))
        length = float(rng.uniform(0.2, 0.5) if kind == "short" else rng.uniform(0.12, 0.3))
        return HairStyle(length, rng.uniform(0.6, 1), curl, 0.0, hang, bool(rng.random() < 0.4), tail, bun)

    def hat(self) -> Mesh:
        """Make a knitted cap, or a hat from the additional assets."""
        rng, assets, vertices = self.rng, self.assets, self.body.vertices
        ready = [n for n in assets.garments if n.startswith("clothes/fedora")]
        if ready and rng.random() < 0.3:
            garment = assets.garments[ready[rng.integers(len(ready))]]
            return garment_hair(self.body, garment, self.cloth(self.woven(folds=0.1)))
        material = self.cloth(self.woven(pattern=str(rng.choice(["plain", "stripes", "dots"])), rough=3))
        triangles, _ = assets.faces("body")
        base = assets.vertices
        inside = base[:, 1] - (7.55 + 0.35 * np.clip((base[:, 2] - 0.3) / 1.2, -0.3, 1))
        distance = 0.22 + 0.1 * np.clip(inside, 0, 0.6) - 0.06 * np.clip(1 - inside / 0.2, 0, 1)
        placed = vertices + normals_of(vertices, triangles) * distance[:, None]
        use = triangles[(inside[triangles] > 0).any(1)]
        uv = np.stack([placed[:, 0] / 4 + 0.5, placed[:, 1] / 3], -1)[use]
        return Mesh.of(self.body.skin(placed), use, uv, material, inside)


def _folds() -> ndarray:
    """Return a height map of cloth folds in decimetres."""
    return _FOLDS[0] * look.noise("folds", 128) + _FOLDS[1] * look.noise("coarse", 128)


def _fold(body: Body, mesh: Mesh) -> Float32[ndarray, " n"]:
    """Compute the strength of folds at each vertex, which is highest at joints and the waist."""
    out = np.full(len(mesh.vertices), 0.22, np.float32)
    for name, radius, strength in _FOLDED:
        for side in "LR":
            squared = ((mesh.vertices - body.head(f"{name}.{side}")) ** 2).sum(1)
            out += strength * np.exp(-squared / radius**2)
    waist = np.abs(mesh.vertices[:, 1] - body.head("spine04")[1])
    return (out + 0.5 * np.exp(-((waist / 0.8) ** 2))).astype(np.float32)


def ambient_occlusion(mesh: Mesh) -> Float32[ndarray, " n"]:
    """Compute the ambient occlusion of each vertex: 1 if unoccluded, 0.25 if its whole hemisphere is occluded."""
    vertices = mesh.vertices
    normal = normals_of(vertices, mesh.triangles)
    total, open_ = np.zeros(len(vertices)), np.zeros(len(vertices))
    turn = np.pi * (3 - np.sqrt(5))
    start = vertices + 0.1 * normal
    for k in range(DIRECTIONS):
        up = 1 - 2 * (k + 0.5) / DIRECTIONS
        side = np.sqrt(1 - up**2)
        direction = np.array([side * np.cos(turn * k), up, side * np.sin(turn * k)])
        view = light.shadow_map(mesh, vertices, direction, MAP_SIDE)
        seen = view.project(start)
        column, row = np.clip(seen[:, :2].astype(int), 0, MAP_SIDE - 1).T
        weight = np.clip(normal @ direction, 0, 1)
        total += weight
        open_ += weight * (view.depth[row, column] <= seen[:, 2] + 0.06)
    share = open_ / np.maximum(total, 1e-6)
    return (0.25 + 0.75 * share).astype(np.float32)
