"""What a person wears: garments, shoes and hair by chance, with their colours."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy import ndarray

from mimicmotion.synth import look
from mimicmotion.synth.assets import Assets
from mimicmotion.synth.body import Genes, Mesh
from mimicmotion.synth.clothes import Cut, Measures, Piece, fit, from_garment, from_tights, normals_of, shoe
from mimicmotion.synth.hair import HairStyle, garment_hair, hanging_hair, scalp_hair
from mimicmotion.synth.light import (
    BUMP,
    CLOTH,
    GLOSS,
    HAIR,
    KIND,
    LEATHER,
    NUM_COLUMNS,
    POWER,
    SHEEN,
    STRAND_U,
    STRAND_V,
    TEXTURE,
    TWO_SIDED,
)
from mimicmotion.synth.rig import Skeleton

Rng = np.random.Generator
LAST = 99.0  # a height above every head


@dataclass(slots=True)
class Palette:
    """Materials of one person as they are added: rows of the table and their textures.

    Attributes:
        size: side of a texture in texels.
        strands: cells of hair across one unit of u; more for large pictures.
        rows: of the table of materials.
        textures: one per material.
    """

    size: int
    strands: float
    rows: list[ndarray] = field(default_factory=list)
    textures: list[look.Texture] = field(default_factory=list)

    def add(self, kind: int, texture: look.Texture, **columns: float) -> int:
        """A new material; returns its number."""
        row = np.zeros(NUM_COLUMNS, np.float32)
        row[KIND], row[TEXTURE] = kind, len(self.textures)
        names = {"gloss": GLOSS, "power": POWER, "bump": BUMP, "two_sided": TWO_SIDED, "sheen": SHEEN,
                 "strand_u": STRAND_U, "strand_v": STRAND_V}  # fmt: skip
        for name, value in columns.items():
            row[names[name]] = value
        self.rows.append(row)
        self.textures.append(texture)
        return len(self.rows) - 1

    def cloth(self, rng: Rng, texture: look.Texture) -> int:
        """A material of cloth."""
        sheen, bump = float(rng.uniform(0, 0.5)), float(rng.uniform(0.6, 1.4))
        gloss = float(rng.choice([0.01, 0.03, 0.1], p=[0.6, 0.3, 0.1]))
        return self.add(CLOTH, texture, gloss=gloss, power=18, bump=bump, two_sided=1, sheen=sheen)

    def hair(self, texture: look.Texture, *, cards: bool) -> int:
        """A material of hair: strands along v for `cards`, small cells for layers over the scalp."""
        cells = (
            {"strand_u": 1.6 * self.strands, "strand_v": 1.0}
            if cards
            else {"strand_u": self.strands * 6, "strand_v": self.strands * 6}
        )
        return self.add(HAIR, texture, gloss=0.10, power=40, bump=0.0, two_sided=1, **cells)


@dataclass(frozen=True, slots=True)
class Outfit:
    """Everything that is laid over a body."""

    pieces: list[Piece]
    hair: list[Mesh]
    floor: float  # the lowest point of the shoes, decimetres in the rest pose


def dress(
    rng: Rng, assets: Assets, genes: Genes, skeleton: Skeleton, m: Measures, palette: Palette, hair_colour: ndarray
) -> Outfit:
    """Clothes, shoes and hair by chance, as they fit sex and age."""
    suits = [n for n in assets.garments if "suit" in n]
    own = [n for n in suits if n.startswith("clothes/female") == (genes.female > 0.5)]
    folds = 0.022 * look.noise("folds", 128) + 0.02 * look.noise("coarse", 128)
    if own and genes.age > 16 and rng.random() < 0.3:
        pieces = [_suit(rng, assets, m, palette, own[rng.integers(len(own))])]
    else:
        pieces = _garments(rng, assets, genes, m, palette, folds)
    shoes, floor = _shoes(rng, assets, m, palette)
    pieces += shoes
    return Outfit(pieces, _hair(rng, assets, genes, skeleton, m, palette, hair_colour), floor)


def _suit(rng: Rng, assets: Assets, m: Measures, palette: Palette, name: str) -> Piece:
    top, bottom = look.cloth_colour(rng), look.cloth_colour(rng)
    pattern = str(rng.choice(["plain", "plain", "stripes", "checks", "plaid", "print"]))
    materials = {
        "top": palette.cloth(rng, look.cloth_texture(rng, palette.size, top, pattern=pattern)),
        "bottom": palette.cloth(rng, look.cloth_texture(rng, palette.size, bottom, denim=rng.random() < 0.4)),
    }
    return from_garment(assets, m, assets.garments[name], materials)


def _garments(rng: Rng, assets: Assets, genes: Genes, m: Measures, palette: Palette, folds: ndarray) -> list[Piece]:
    """Trousers, shorts or skirt, a top, perhaps a jacket; what lies under another one ends where that begins."""
    female = genes.female > 0.5
    kinds = ["long", "short", "skirt", "leggings", "cropped"]
    kind = str(rng.choice(kinds, p=[0.52, 0.13, 0.15, 0.12, 0.08] if female else [0.7, 0.27, 0.0, 0.01, 0.02]))
    tucked = kind == "skirt" or rng.random() < 0.25
    if tucked:
        lower = _lower(rng, assets, m, palette, folds, kind, [])
        return lower + _tops(rng, assets, genes, m, palette, folds, lower[:1])
    upper = _tops(rng, assets, genes, m, palette, folds, [])
    return _lower(rng, assets, m, palette, folds, kind, upper) + upper


def _lower(
    rng: Rng, assets: Assets, m: Measures, palette: Palette, folds: ndarray, kind: str, over: list[Piece]
) -> list[Piece]:
    level = m.level
    leg = level["crotch"] - level["ankle"]
    denim = kind in ("long", "short") and rng.random() < 0.4
    colour = np.array([52, 72, 112]) * rng.uniform(0.4, 1.5) if denim else look.cloth_colour(rng)
    pattern = str(rng.choice(look.PATTERNS)) if not denim and rng.random() < 0.25 else "plain"
    tight = kind == "leggings" or rng.random() < 0.25
    texture = look.cloth_texture(
        rng, palette.size, colour, pattern=pattern, denim=denim, rough=1.5, folds=0.25 if tight else 1.0
    )
    material = palette.cloth(rng, texture)
    if kind == "skirt":
        cut = Cut(level["waist"] + 0.1, level["knee"] + leg * float(rng.choice([0.25, 0.1, -0.2, -0.4])))
        flare = float(rng.uniform(0.1, 0.8))
        skirt = from_tights(assets, m, cut, material, loose=0.12, flare=flare, folds=1.6 * folds, group="helper-skirt")
        if rng.random() < 0.7:
            return [skirt]
        black = palette.cloth(rng, look.cloth_texture(rng, palette.size, np.array(look.NEUTRAL[0]), folds=0.2))
        return [skirt, from_tights(assets, m, Cut(level["hip"] + 0.5, level["ankle"] + 0.1), black, loose=0.04)]
    hem = {
        "long": level["ankle"] + rng.uniform(-0.3, 0.25), "short": level["crotch"] - leg * rng.uniform(0.12, 0.48),
        "leggings": level["ankle"] + rng.uniform(0, 0.6), "cropped": level["knee"] - leg * rng.uniform(0.1, 0.3),
    }[kind]  # fmt: skip
    waist = level["waist"] + rng.uniform(-0.75, 0.1)
    loose, flare = (0.05, 0.0) if tight else (float(rng.uniform(0.1, 0.2)), float(rng.uniform(0.05, 0.35)))
    cut = Cut(waist, hem)
    return [from_tights(assets, m, cut, material, loose=loose, flare=flare, folds=None if tight else folds, over=over)]


def _tops(
    rng: Rng, assets: Assets, genes: Genes, m: Measures, palette: Palette, folds: ndarray, over: list[Piece]
) -> list[Piece]:
    """A top, tucked into what is `over` it if that is given, and perhaps an open jacket, cardigan or coat."""
    level, female = m.level, genes.female > 0.5
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
    texture = look.cloth_texture(
        rng, palette.size, look.cloth_colour(rng), pattern=pattern, front=front, folds=min(5 * loose, 1)
    )
    material = palette.cloth(rng, texture)
    jackets = []
    if rng.random() < 0.25:
        pattern = str(rng.choice(["plain", "plain", "checks", "plaid"]))
        shade = look.cloth_texture(rng, palette.size, look.cloth_colour(rng), pattern=pattern)
        long = float(m.wrist - rng.uniform(0.0, 0.4)) if rng.random() < 0.85 else 0.0
        cut = Cut(LAST, level["hip"] + rng.uniform(-1.2, 0.6), long, "v", float(rng.uniform(0.25, 0.9)))
        away, wide = loose + 0.2, flare + 0.08
        cloth = palette.cloth(rng, shade)
        jackets = [from_tights(assets, m, cut, cloth, loose=away, flare=wide, hang=0.5, folds=folds)]
    hang = float(rng.uniform(0.3, 1))
    cut = Cut(LAST, hem, reach, neck)
    top = from_tights(
        assets, m, cut, material, loose=loose, flare=flare, hang=hang, folds=folds, over=[*over, *jackets]
    )
    return [top, *jackets]


def _shoes(rng: Rng, assets: Assets, m: Measures, palette: Palette) -> tuple[list[Piece], float]:
    kind = rng.choice(["sneaker", "shoe", "boot", "slip", "bare"], p=[0.45, 0.2, 0.15, 0.12, 0.08])
    level = m.level
    if kind == "bare":
        return [], level["floor"]
    base, band = look.cloth_colour(rng), look.cloth_colour(rng)
    ready = [n for n in assets.garments if n.startswith("clothes/shoes")]
    if ready and rng.random() < 0.4:
        return _ready_shoes(rng, assets, m, palette, ready[rng.integers(len(ready))])
    white = np.array([232, 230, 224], np.float32)
    sole = white if kind == "sneaker" and rng.random() < 0.7 else np.array([28, 26, 25], np.float32)
    height = {
        "sneaker": rng.uniform(-0.15, 0.2),
        "shoe": rng.uniform(-0.2, 0.0),
        "boot": rng.uniform(0.5, 2.2),
        "slip": -0.35,
    }[kind]
    thickness = float(rng.uniform(0.12, 0.3)) if kind == "sneaker" else float(rng.uniform(0.06, 0.16))
    texture = look.leather_texture(rng, palette.size, base, sole, band, (thickness + 0.12) / 2)
    gloss = 0.02 if kind == "sneaker" else float(rng.uniform(0.03, 0.16))
    material = palette.add(LEATHER, texture, gloss=gloss, power=30, bump=0.5, two_sided=1)
    pointed = float(rng.uniform(0.0, 0.25))
    piece = shoe(assets, m, material, height=float(height), thick=0.1, sole=thickness, pointed=pointed)
    pieces = [piece]
    if kind in ("sneaker", "shoe") and rng.random() < 0.6:
        socks = palette.cloth(
            rng, look.cloth_texture(rng, palette.size, white if rng.random() < 0.5 else look.cloth_colour(rng))
        )
        top = level["ankle"] + rng.uniform(0.4, 1.6)
        pieces.append(from_tights(assets, m, Cut(top, level["floor"] - 1), socks, loose=0.035))
    return pieces, level["floor"] - thickness


def _ready_shoes(rng: Rng, assets: Assets, m: Measures, palette: Palette, name: str) -> tuple[list[Piece], float]:
    """Shoes of a further folder."""
    garment = assets.garments[name]
    placed, bone, weight = fit(assets, garment, m.vertices)
    floor = float(placed[:, 1].min())
    dark = np.array([28, 26, 25], np.float32)
    texture = look.leather_texture(rng, palette.size, look.cloth_colour(rng), dark, look.cloth_colour(rng), 0.1)
    material = palette.add(LEATHER, texture, gloss=float(rng.uniform(0.02, 0.14)), power=30, bump=0.5, two_sided=1)
    uv = np.stack([(placed[:, 2] + 1) / 4, np.clip((placed[:, 1] - floor) / 2, 0, 0.99)], -1)[garment.triangles]
    mesh = Mesh.of(placed, bone, weight, garment.triangles, uv, material)
    return [Piece(mesh, np.where(garment.hides, 9.0, -1.0))], min(floor, m.level["floor"])


def _hair(
    rng: Rng, assets: Assets, genes: Genes, skeleton: Skeleton, m: Measures, palette: Palette, colour: ndarray
) -> list[Mesh]:
    female = genes.female > 0.5
    african = genes.races[0] > 0.5
    curl = float(rng.uniform(0.6, 1.0) if african else rng.uniform(0.0, 0.5))
    if rng.random() < 0.08:
        return [_hat(rng, assets, m, palette), *_crop(assets, m, palette, rng, colour, curl)]
    styles = [n for n in assets.garments if n.startswith("hair/")]
    usual = ("bob", "long", "braid", "ponytail", "afro") if female else ("short", "afro")
    styles = [n for n in styles if n.removeprefix("hair/").startswith(usual) and ("afro" in n) <= african]
    if styles and rng.random() < 0.3:
        shell = palette.hair(look.hair_texture(rng, palette.size, colour, curl=curl), cards=False)
        cards = palette.hair(look.hair_texture(rng, palette.size, colour, curl=0.1), cards=True)
        under = scalp_hair(assets, m.vertices, HairStyle(0.06), shell)
        return [*under, garment_hair(assets, assets.garments[styles[rng.integers(len(styles))]], m.vertices, cards)]
    if not female and (rng.random() < 0.08 or (genes.age > 45 and rng.random() < 0.2)):
        return []
    recede = float(np.clip(rng.normal(0.1, 0.2), 0, 0.5)) * float(not female and genes.age > 30)
    if african and rng.random() < 0.45:
        style = HairStyle(float(rng.uniform(0.3, 1.3)), 0.9, 1.0, recede)
    elif female:
        hang, tail, bun = 0.0, 0.0, 0.0
        kind = rng.choice(["bob", "long", "tail", "bun", "short"], p=[0.22, 0.3, 0.22, 0.12, 0.14])
        if kind in ("bob", "long"):
            hang = float(rng.uniform(0.9, 1.6) if kind == "bob" else rng.uniform(1.8, 4.5))
        tail = float(rng.uniform(1.5, 4)) if kind == "tail" else 0.0
        bun = float(rng.uniform(0.3, 0.55)) if kind == "bun" else 0.0
        length = float(rng.uniform(0.12, 0.3)) if kind != "short" else float(rng.uniform(0.2, 0.5))
        style = HairStyle(length, float(rng.uniform(0.6, 1)), curl, 0.0, hang, bool(rng.random() < 0.4), tail, bun)
    else:
        style = HairStyle(float(rng.uniform(0.08, 0.55)), float(rng.uniform(0.2, 0.9)), curl, recede)
    shell = palette.hair(look.hair_texture(rng, palette.size, colour, curl=curl), cards=False)
    out = scalp_hair(assets, m.vertices, style, shell)
    if style.hang or style.tail or style.bun:
        cards = palette.hair(look.hair_texture(rng, palette.size, colour, curl=0.15), cards=True)
        out += hanging_hair(assets, skeleton, m, style, cards, rng)
    return out


def _crop(assets: Assets, m: Measures, palette: Palette, rng: Rng, colour: ndarray, curl: float) -> list[Mesh]:
    shell = palette.hair(look.hair_texture(rng, palette.size, colour, curl=curl), cards=False)
    return scalp_hair(assets, m.vertices, HairStyle(0.08), shell)


def _hat(rng: Rng, assets: Assets, m: Measures, palette: Palette) -> Mesh:
    """A knitted cap, or a hat of a further folder."""
    ready = [n for n in assets.garments if n.startswith("clothes/fedora")]
    if ready and rng.random() < 0.3:
        garment = assets.garments[ready[rng.integers(len(ready))]]
        placed, bone, weight = fit(assets, garment, m.vertices)
        material = palette.cloth(rng, look.cloth_texture(rng, palette.size, look.cloth_colour(rng), folds=0.1))
        uv = garment.uv[garment.triangle_uv]
        return Mesh.of(placed, bone, weight, garment.triangles, uv, material)
    pattern = str(rng.choice(["plain", "stripes", "dots"]))
    material = palette.cloth(
        rng, look.cloth_texture(rng, palette.size, look.cloth_colour(rng), pattern=pattern, rough=3)
    )
    triangles, _ = assets.faces("body")
    base = assets.vertices
    inside = base[:, 1] - (7.55 + 0.35 * np.clip((base[:, 2] - 0.3) / 1.2, -0.3, 1))
    use = (inside[triangles] > 0).any(1)
    normal = normals_of(m.vertices, triangles)
    placed = (
        m.vertices + normal * (0.22 + 0.1 * np.clip(inside, 0, 0.6) - 0.06 * np.clip(1 - inside / 0.2, 0, 1))[:, None]
    )
    uv = np.stack([placed[:, 0] / 4 + 0.5, placed[:, 1] / 3], -1)[triangles[use]]
    return Mesh.of(placed, assets.weight_bone, assets.weight, triangles[use], uv, material, inside)
