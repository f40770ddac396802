"""Random clothes, shoes and hair of a person."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy import ndarray

from mimicmotion.synth import light, look
from mimicmotion.synth.assets import Assets
from mimicmotion.synth.body import Genes, Mesh, Skin, normals_of
from mimicmotion.synth.clothes import Cut, Measures, Piece, fit, from_garment, from_tights, shoe
from mimicmotion.synth.hair import HairStyle, garment_hair, hanging_hair, scalp_hair
from mimicmotion.synth.look import Rng
from mimicmotion.synth.rig import Skeleton

LAST = 99.0  # a height above any head, decimetres
WHITE, DARK = np.array([232, 230, 224], np.float32), np.array([28, 26, 25], np.float32)
_FOLDS = 0.022, 0.02  # heights of cloth folds: long ridges and broad waves, decimetres


@dataclass(slots=True)
class Palette:
    """Materials of a person, collected as rows of the material table and textures."""

    size: int  # side of a texture in texels
    strands: float  # strands of hair per unit of u; more for large pictures
    rows: list[ndarray] = field(default_factory=list)  # rows of the material table
    textures: list[look.Texture] = field(default_factory=list)  # one per material

    def add(self, kind: int, texture: look.Texture, **columns: float) -> int:
        """Add a material and return its index; keywords are lower-case column names of the material table."""
        row = np.zeros(light.NUM_COLUMNS, np.float32)
        row[light.KIND], row[light.TEXTURE] = kind, len(self.textures)
        for name, value in columns.items():
            row[getattr(light, name.upper())] = value
        self.rows.append(row)
        self.textures.append(texture)
        return len(self.rows) - 1

    def cloth(self, rng: Rng, texture: look.Texture) -> int:
        """Add a cloth material and return its index."""
        sheen, bump = float(rng.uniform(0, 0.5)), float(rng.uniform(0.6, 1.4))
        gloss = float(rng.choice([0.01, 0.03, 0.1], p=[0.6, 0.3, 0.1]))
        return self.add(light.CLOTH, texture, gloss=gloss, power=18, bump=bump, two_sided=1, sheen=sheen)

    def hair(self, texture: look.Texture, *, cards: bool) -> int:
        """Add a hair material and return its index: strands along v for `cards`, small cells for scalp layers."""
        u, v = (1.6 * self.strands, 1.0) if cards else (6 * self.strands, 6 * self.strands)
        return self.add(light.HAIR, texture, gloss=0.10, power=40, two_sided=1, strand_u=u, strand_v=v)


@dataclass(frozen=True, slots=True, eq=False)
class Wardrobe:
    """Random clothes, shoes and hair that suit the sex and age of a body."""

    rng: Rng
    assets: Assets  # MakeHuman's data
    genes: Genes  # shape parameters of the body
    skeleton: Skeleton  # joints of the body
    m: Measures  # measurements of the body
    palette: Palette  # receives the materials

    @property
    def female(self) -> bool:
        """Whether the body wears women's clothes."""
        return self.genes.female > 0.5

    def cloth(self, colour: ndarray | None = None, **style: Any) -> int:
        """Add a cloth material, with a random colour if None; `style` as for `look.cloth_texture`."""
        colour = look.cloth_colour(self.rng) if colour is None else colour
        return self.palette.cloth(self.rng, look.cloth_texture(self.rng, self.palette.size, colour, **style))

    def leather(self, colours: tuple[ndarray, ndarray, ndarray], sole: float, gloss: tuple[float, float] | None) -> int:
        """Add a shoe material: colours of upper, sole and band; height of the sole; range of gloss, or None."""
        texture = look.leather_texture(self.rng, self.palette.size, *colours, sole)
        shine = 0.02 if gloss is None else float(self.rng.uniform(*gloss))
        return self.palette.add(light.LEATHER, texture, gloss=shine, power=30, bump=0.5, two_sided=1)

    def sew(self, cut: Cut, material: int, **shape: Any) -> Piece:
        """Make a garment; see `from_tights`."""
        return from_tights(self.assets, self.m, cut, material, **shape)

    def clothes(self) -> list[Piece]:
        """A suit of additional assets, or trousers, shorts or a skirt with a top and possibly a jacket."""
        rng = self.rng
        suits = [n for n in self.assets.garments if "suit" in n and n.startswith("clothes/female") == self.female]
        if suits and self.genes.age > 16 and rng.random() < 0.3:
            garment = self.assets.garments[suits[rng.integers(len(suits))]]
            top, bottom = look.cloth_colour(rng), look.cloth_colour(rng)
            pattern = str(rng.choice(["plain", "plain", "stripes", "checks", "plaid", "print"]))
            materials = {"top": self.cloth(top, pattern=pattern)}
            materials["bottom"] = self.cloth(bottom, denim=rng.random() < 0.4)
            return [from_garment(self.assets, self.m, garment, materials)]
        kinds = ["long", "short", "skirt", "leggings", "cropped"]
        shares = [0.52, 0.13, 0.15, 0.12, 0.08] if self.female else [0.7, 0.27, 0.0, 0.01, 0.02]
        kind = str(rng.choice(kinds, p=shares))
        if kind == "skirt" or rng.random() < 0.25:  # the top is tucked in
            lower = self.lower(kind, [])
            return lower + self.tops(lower[:1])
        upper = self.tops([])
        return self.lower(kind, upper) + upper

    def lower(self, kind: str, over: list[Piece]) -> list[Piece]:
        """Trousers, shorts, leggings or a skirt, which end where garments `over` them begin."""
        rng, level = self.rng, self.m.level
        leg = level["crotch"] - level["ankle"]
        denim = kind in ("long", "short") and rng.random() < 0.4
        colour = np.array([52, 72, 112]) * rng.uniform(0.4, 1.5) if denim else look.cloth_colour(rng)
        pattern = str(rng.choice(look.PATTERNS)) if not denim and rng.random() < 0.25 else "plain"
        tight = kind == "leggings" or rng.random() < 0.25
        material = self.cloth(colour, pattern=pattern, denim=denim, rough=1.5, folds=0.25 if tight else 1.0)
        if kind == "skirt":
            cut = Cut(level["waist"] + 0.1, level["knee"] + leg * float(rng.choice([0.25, 0.1, -0.2, -0.4])))
            flare, deep = float(rng.uniform(0.1, 0.8)), 1.6 * _folds()
            skirt = self.sew(cut, material, loose=0.12, flare=flare, folds=deep, group="helper-skirt")
            if rng.random() < 0.7:
                return [skirt]
            black = self.cloth(np.array(look.NEUTRAL[0]), folds=0.2)
            return [skirt, self.sew(Cut(level["hip"] + 0.5, level["ankle"] + 0.1), black, loose=0.04)]
        hem = {
            "long": level["ankle"] + rng.uniform(-0.3, 0.25), "short": level["crotch"] - leg * rng.uniform(0.12, 0.48),
            "leggings": level["ankle"] + rng.uniform(0, 0.6), "cropped": level["knee"] - leg * rng.uniform(0.1, 0.3),
        }[kind]  # fmt: skip
        cut = Cut(level["waist"] + rng.uniform(-0.75, 0.1), hem)
        if tight:
            return [self.sew(cut, material, loose=0.05, over=over)]
        loose, flare = float(rng.uniform(0.1, 0.2)), float(rng.uniform(0.05, 0.35))
        return [self.sew(cut, material, loose=loose, flare=flare, folds=_folds(), over=over)]

    def tops(self, over: list[Piece]) -> list[Piece]:
        """A top, tucked into garments `over` it, and possibly an open jacket, cardigan or coat."""
        rng, m, level, female = self.rng, self.m, self.m.level, self.female
        sleeves = [0.0, 0.55, 0.75, 1.3, 1.85]
        sleeve = float(rng.choice(sleeves, p=[0.12 if female else 0.05, 0.2, 0.25, 0.08, 0.35 if female else 0.42]))
        reach = m.elbow * min(sleeve, 1) + (m.wrist - m.elbow) * max(sleeve - 1, 0)
        necks = ["crew", "v", "boat" if sleeve == 0 and female else "crew", "high"]
        neck = str(rng.choice(necks, p=[0.6, 0.15, 0.15, 0.1]))
        hem = level["waist"] - 0.5 if over else level["hip"] + rng.uniform(-0.5, 0.5)
        if female and not over and rng.random() < 0.15:
            hem = level["waist"] + rng.uniform(0.0, 0.5)  # cropped
        front = str(rng.choice(["", "", "", "buttons", "zip"]))
        pattern = str(rng.choice(look.PATTERNS)) if rng.random() < 0.6 else "plain"
        loose, flare = float(rng.uniform(0.08, 0.24)), 0.0 if over else float(rng.uniform(0.0, 0.3))
        material = self.cloth(pattern=pattern, front=front, folds=min(5 * loose, 1))
        shape, jackets = {"loose": loose, "flare": flare, "folds": _folds()}, []
        if rng.random() < 0.25:
            pattern = str(rng.choice(["plain", "plain", "checks", "plaid"]))
            texture = look.cloth_texture(rng, self.palette.size, look.cloth_colour(rng), pattern=pattern)
            long = float(m.wrist - rng.uniform(0.0, 0.4)) if rng.random() < 0.85 else 0.0
            cut = Cut(LAST, level["hip"] + rng.uniform(-1.2, 0.6), long, "v", float(rng.uniform(0.25, 0.9)))
            wider = shape | {"loose": loose + 0.2, "flare": flare + 0.08}
            jackets = [self.sew(cut, self.palette.cloth(rng, texture), hang=0.5, **wider)]
        hang = float(rng.uniform(0.3, 1))
        return [self.sew(Cut(LAST, hem, reach, neck), material, hang=hang, over=[*over, *jackets], **shape), *jackets]

    def shoes(self) -> tuple[list[Piece], float]:
        """Shoes and socks, or bare feet, and their lowest point in the rest pose in decimetres."""
        rng, level, garments = self.rng, self.m.level, self.assets.garments
        kind = rng.choice(["sneaker", "shoe", "boot", "slip", "bare"], p=[0.45, 0.2, 0.15, 0.12, 0.08])
        if kind == "bare":
            return [], level["floor"]
        base, band = look.cloth_colour(rng), look.cloth_colour(rng)
        ready = [n for n in garments if n.startswith("clothes/shoes")]
        if ready and rng.random() < 0.4:
            garment = garments[ready[rng.integers(len(ready))]]
            skin = fit(self.assets, garment, self.m.vertices)
            _, y, z = skin.vertices.T
            floor = float(y.min())
            material = self.leather((look.cloth_colour(rng), DARK, look.cloth_colour(rng)), 0.1, (0.02, 0.14))
            uv = np.stack([(z + 1) / 4, np.clip((y - floor) / 2, 0, 0.99)], -1)
            mesh = Mesh.of(skin, garment.triangles, uv[garment.triangles], material)
            return [Piece(mesh, np.where(garment.hides, 9.0, -1.0))], min(floor, level["floor"])
        sneaker = kind == "sneaker"
        sole = WHITE if sneaker and rng.random() < 0.7 else DARK
        height = {
            "sneaker": rng.uniform(-0.15, 0.2), "shoe": rng.uniform(-0.2, 0.0), "boot": rng.uniform(0.5, 2.2),
            "slip": -0.35,
        }[kind]  # fmt: skip
        thick = float(rng.uniform(0.12, 0.3) if sneaker else rng.uniform(0.06, 0.16))
        material = self.leather((base, sole, band), (thick + 0.12) / 2, None if sneaker else (0.03, 0.16))
        pointed = float(rng.uniform(0.0, 0.25))
        pieces = [shoe(self.assets, self.m, material, height=float(height), thick=0.1, sole=thick, pointed=pointed)]
        if kind in ("sneaker", "shoe") and rng.random() < 0.6:
            socks = self.cloth(WHITE if rng.random() < 0.5 else None)
            pieces.append(self.sew(Cut(level["ankle"] + rng.uniform(0.4, 1.6), level["floor"] - 1), socks, loose=0.035))
        return pieces, level["floor"] - thick

    def hair(self, colour: ndarray) -> list[Mesh]:
        """Hair of the given colour, a cap or hat, or neither."""
        rng, assets, v, size = self.rng, self.assets, self.m.vertices, self.palette.size
        female, african = self.female, self.genes.races[0] > 0.5
        curl = float(rng.uniform(0.6, 1.0) if african else rng.uniform(0.0, 0.5))

        def grown(style: HairStyle) -> list[Mesh]:
            texture = look.hair_texture(rng, size, colour, curl=curl)
            return scalp_hair(assets, v, style, self.palette.hair(texture, cards=False))

        def cards(curled: float) -> int:
            return self.palette.hair(look.hair_texture(rng, size, colour, curl=curled), cards=True)

        if rng.random() < 0.08:
            return [self.hat(), *grown(HairStyle(0.08))]
        usual = ("bob", "long", "braid", "ponytail", "afro") if female else ("short", "afro")
        styles = [n for n in assets.garments if n.startswith(tuple(f"hair/{name}" for name in usual))]
        styles = [n for n in styles if ("afro" in n) <= african]
        if styles and rng.random() < 0.3:
            under, material = grown(HairStyle(0.06)), cards(0.1)
            return [*under, garment_hair(assets, assets.garments[styles[rng.integers(len(styles))]], v, material)]
        if not female and (rng.random() < 0.08 or (self.genes.age > 45 and rng.random() < 0.2)):
            return []
        style = self.style(curl, african=african)
        out = grown(style)
        if style.hang or style.tail or style.bun:
            out += hanging_hair(assets, self.skeleton, self.m, style, cards(0.15), rng)
        return out

    def style(self, curl: float, *, african: bool) -> HairStyle:
        """Sample a hairstyle."""
        rng, female = self.rng, self.female
        recede = float(np.clip(rng.normal(0.1, 0.2), 0, 0.5)) * float(not female and self.genes.age > 30)
        if african and rng.random() < 0.45:
            return HairStyle(float(rng.uniform(0.3, 1.3)), 0.9, 1.0, recede)
        if not female:
            return HairStyle(float(rng.uniform(0.08, 0.55)), float(rng.uniform(0.2, 0.9)), curl, recede)
        kind = rng.choice(["bob", "long", "tail", "bun", "short"], p=[0.22, 0.3, 0.22, 0.12, 0.14])
        ranges = {"bob": (0.9, 1.6), "long": (1.8, 4.5), "tail": (1.5, 4), "bun": (0.3, 0.55)}
        long = float(rng.uniform(*ranges[kind])) if kind in ranges else 0.0
        hang, tail, bun = (long * (kind in k) for k in (("bob", "long"), ("tail",), ("bun",)))
        length = float(rng.uniform(0.2, 0.5) if kind == "short" else rng.uniform(0.12, 0.3))
        return HairStyle(length, float(rng.uniform(0.6, 1)), curl, 0.0, hang, bool(rng.random() < 0.4), tail, bun)

    def hat(self) -> Mesh:
        """A knitted cap, or a hat of additional assets."""
        rng, assets, vertices = self.rng, self.assets, self.m.vertices
        ready = [n for n in assets.garments if n.startswith("clothes/fedora")]
        if ready and rng.random() < 0.3:
            garment = assets.garments[ready[rng.integers(len(ready))]]
            return garment_hair(assets, garment, vertices, self.cloth(folds=0.1))
        material = self.cloth(pattern=str(rng.choice(["plain", "stripes", "dots"])), rough=3)
        triangles, _ = assets.faces("body")
        base = assets.vertices
        inside = base[:, 1] - (7.55 + 0.35 * np.clip((base[:, 2] - 0.3) / 1.2, -0.3, 1))
        away = 0.22 + 0.1 * np.clip(inside, 0, 0.6) - 0.06 * np.clip(1 - inside / 0.2, 0, 1)
        placed = vertices + normals_of(vertices, triangles) * away[:, None]
        use = triangles[(inside[triangles] > 0).any(1)]
        uv = np.stack([placed[:, 0] / 4 + 0.5, placed[:, 1] / 3], -1)[use]
        return Mesh.of(Skin(placed, assets.weight_bone, assets.weight), use, uv, material, inside)


def _folds() -> ndarray:
    """Height map of cloth folds in decimetres."""
    return _FOLDS[0] * look.noise("folds", 128) + _FOLDS[1] * look.noise("coarse", 128)
