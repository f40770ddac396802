"""What a person looks like: skin, hair, clothes, and the textures of the clothes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

Rgb = tuple[float, float, float]

SKINS = ("#fbe0cf", "#f3cbb0", "#e8b795", "#d9a07a", "#bd8058", "#8f5a3a", "#6b4029", "#4c2d1e")
HAIRS = ("#17120f", "#2b1d15", "#4a2f1e", "#6b4426", "#8c5a2b", "#b98a4a", "#dcc07a", "#a33d1d", "#8d8a88", "#d9d4cc")
HAIR_STYLES = (
    "short",
    "short",
    "fringe",
    "side",
    "long",
    "long",
    "bob",
    "bob",
    "bun",
    "ponytail",
    "afro",
    "buzz",
    "bald",
)
HATS = ("cap", "beanie", "brim", "band", "swim")
TOPS = ("tee", "tee", "long", "long", "tank", "bare", "hoodie", "shirt")
BOTTOMS = ("trousers", "trousers", "trousers", "shorts", "shorts", "skirt", "long_skirt", "leggings")
PATTERNS = ("solid", "stripes", "columns", "checks", "dots", "gradient", "diagonal", "patches")
WHITE, TOP, BOTTOM, DECAL, HAIR = range(5)
SEE_THROUGH = (255, 0, 255)

# 5x7 letters and digits for prints, one number a row.
_GLYPHS = {
    "A": (14, 17, 17, 31, 17, 17, 17), "B": (30, 17, 17, 30, 17, 17, 30), "E": (31, 16, 16, 30, 16, 16, 31),
    "F": (31, 16, 16, 30, 16, 16, 16), "H": (17, 17, 17, 31, 17, 17, 17), "K": (17, 18, 20, 24, 20, 18, 17),
    "M": (17, 27, 21, 21, 17, 17, 17), "N": (17, 25, 21, 19, 17, 17, 17), "R": (30, 17, 17, 30, 20, 18, 17),
    "S": (15, 16, 16, 14, 1, 1, 30), "X": (17, 17, 10, 4, 10, 17, 17), "0": (14, 17, 19, 21, 25, 17, 14),
    "1": (4, 12, 4, 4, 4, 4, 14), "2": (14, 17, 1, 2, 4, 8, 31), "3": (30, 1, 1, 14, 1, 1, 30),
    "4": (2, 6, 10, 18, 31, 2, 2), "7": (31, 1, 2, 4, 8, 8, 8), "8": (14, 17, 17, 14, 17, 17, 14),
}  # fmt: skip


def rgb(code: str) -> Rgb:
    """'#rrggbb' to 0..1."""
    return int(code[1:3], 16) / 255, int(code[3:5], 16) / 255, int(code[5:7], 16) / 255


def hsv(h: float, s: float, v: float) -> Rgb:
    """Hue, saturation, value (0..1) to red, green, blue."""
    k = (np.array([5.0, 3.0, 1.0]) + 6 * h) % 6
    r, g, b = v - v * s * np.clip(np.minimum(k, 4 - k), 0, 1)
    return float(r), float(g), float(b)


def cloth_colour(rng: np.random.Generator) -> Rgb:
    """Greys, denim and muted colours more often than loud ones, as people wear."""
    kind = rng.random()
    if kind < 0.36:
        grey = rng.choice([0.1, 0.16, 0.3, 0.5, 0.75, 0.93]) + rng.uniform(-0.03, 0.03)
        return hsv(rng.random(), 0.06, float(grey))
    if kind < 0.55:
        return hsv(rng.uniform(0.57, 0.64), rng.uniform(0.35, 0.7), rng.uniform(0.25, 0.75))
    return hsv(rng.random(), rng.uniform(0.3, 0.8), rng.uniform(0.4, 0.92))


@dataclass(frozen=True, slots=True)
class Look:
    """Everything about a person that does not move."""

    skin: Rgb
    hair: Rgb
    lips: Rgb
    iris: Rgb
    hair_style: str
    hat: str  # '' or one of HATS
    hat_colour: Rgb
    beard: str  # '', 'full', 'chin', 'moustache'
    glasses: str  # '', 'sun'
    top: str
    bottom: str
    dress: bool  # top and skirt of one cloth
    fit: float  # looseness of the clothes, 1 = close
    sleeve: float  # share of the arm that is covered
    top_colour: Rgb
    bottom_colour: Rgb
    trim: Rgb  # collar, belt, soles
    shoes: Rgb
    shoe_kind: str  # 'shoe', 'boot', 'bare'
    socks: bool
    decal: bool
    plain: tuple[bool, bool]  # top, bottom without a pattern
    textures: UInt8[ndarray, "5 size size 3"]


def random_look(rng: np.random.Generator, *, female: bool, texture_size: int = 128) -> Look:
    """A random person; the same one for every size of the textures (a multiple of 64)."""
    n = texture_size
    skin = np.array(rgb(SKINS[rng.integers(len(SKINS))])) * rng.uniform(0.94, 1.04)
    skin = np.clip(skin, 0, 1)
    dark = skin.mean() < 0.5
    hair = rgb(HAIRS[rng.integers(4 if dark else len(HAIRS))])
    styles = HAIR_STYLES[2:11] if female else HAIR_STYLES[:4] + HAIR_STYLES[8:]
    top = TOPS[rng.integers(len(TOPS))]
    if female and top == "bare":
        top = "tank"
    bottom = BOTTOMS[rng.integers(len(BOTTOMS) if female else 5)]
    dress = female and bottom in ("skirt", "long_skirt") and rng.random() < 0.55
    a, b, trim = cloth_colour(rng), cloth_colour(rng), cloth_colour(rng)
    b = a if dress else b
    sleeve = {"tee": rng.uniform(0.22, 0.45), "tank": 0.0, "bare": 0.0}.get(top, 1.0)
    beard = "" if female or rng.random() < 0.65 else str(rng.choice(["full", "chin", "moustache"]))
    top_kind, bottom_kind = _pattern_kind(rng, 0.45), _pattern_kind(rng, 0.75)
    bottom_kind = top_kind if dress else bottom_kind
    look_top = _pattern(rng, n, top_kind, a, cloth_colour(rng))
    look_bottom = look_top if dress else _pattern(rng, n, bottom_kind, b, cloth_colour(rng))
    textures = np.stack([
        np.full((n, n, 3), 255, np.uint8), look_top, look_bottom,
        _decal(rng, n, a), _strands(rng, n, hair),
    ])  # fmt: skip
    return Look(
        skin=_rgb(skin),
        hair=hair,
        lips=_rgb(np.clip(skin * (0.95, 0.72, 0.7) + (rng.uniform(-0.02, 0.06), 0, 0), 0, 1)),
        iris=rgb(str(rng.choice(["#3b2414", "#2b1a10", "#5b7a94", "#4d6b3c"]))),
        hair_style=str(rng.choice(styles)),
        hat=str(rng.choice(HATS)) if rng.random() < 0.2 else "",
        hat_colour=cloth_colour(rng),
        beard=beard,
        glasses="sun" if rng.random() < 0.06 else "",
        top=top,
        bottom=bottom,
        dress=dress,
        fit=float(rng.uniform(1.03, 1.2)),
        sleeve=float(sleeve),
        top_colour=a,
        bottom_colour=b,
        trim=trim,
        shoes=cloth_colour(rng),
        shoe_kind=str(rng.choice(["shoe", "shoe", "shoe", "boot", "bare"])),
        socks=bool(rng.random() < 0.5),
        decal=bool(top in ("tee", "long", "hoodie") and rng.random() < 0.45),
        plain=(top_kind == "solid", bottom_kind == "solid"),
        textures=np.ascontiguousarray(textures),
    )


def _rgb(values: ndarray) -> Rgb:
    r, g, b = (float(v) for v in values)
    return r, g, b


def _pattern_kind(rng: np.random.Generator, plain: float) -> str:
    return "solid" if rng.random() < plain else str(rng.choice(PATTERNS[1:]))


def _pattern(rng: np.random.Generator, n: int, kind: str, a: Rgb, b: Rgb) -> UInt8[ndarray, "size size 3"]:
    """A tile of cloth that repeats in both directions."""
    y, x = np.mgrid[0:n, 0:n] / n
    k, duty = int(rng.integers(3, 8)), rng.uniform(0.3, 0.6)
    if kind == "stripes":
        mix = (y * k) % 1 < duty
    elif kind == "columns":
        mix = (x * 2 * k) % 1 < duty
    elif kind == "checks":
        mix = 0.5 * ((y * k) % 1 < duty) + 0.5 * ((x * k) % 1 < duty)
    elif kind == "dots":
        mix = ((x * k) % 1 - 0.5) ** 2 + ((y * k) % 1 - 0.5) ** 2 < 0.08
    elif kind == "gradient":
        mix = 0.5 - 0.5 * np.cos(2 * np.pi * y)
    elif kind == "diagonal":
        mix = ((x + y) * k) % 1 < duty
    elif kind == "patches":
        coarse = rng.integers(0, 3, (k + 4, k + 4)) / 2
        mix = coarse[(y * (k + 4)).astype(int), (x * (k + 4)).astype(int)]
    else:
        mix = np.zeros((n, n))
    mix = np.asarray(mix, float)[..., None]
    cloth = np.array(a) * (1 - mix) + np.array(b) * mix
    weave = 1 + 0.05 * _smooth_noise(rng, n, 8)[..., None]
    return (np.clip(cloth * weave, 0, 1) * 255).astype(np.uint8)


def _decal(rng: np.random.Generator, n: int, under: Rgb) -> UInt8[ndarray, "size size 3"]:
    """A print: letters, a ring, a disc, a star of rays or a bar; see-through elsewhere."""
    y, x = np.mgrid[0:n, 0:n] / n - 0.5
    colour = np.array(cloth_colour(rng))
    if np.abs(colour - under).sum() < 0.6:  # a print must be seen
        colour = np.ones(3) * 0.95 if sum(under) < 1.5 else np.ones(3) * 0.08
    r, angle = np.hypot(x, y), np.arctan2(y, x)
    kind = rng.integers(6)
    if kind <= 2:
        keys = [str(k) for k in rng.choice(sorted(_GLYPHS), int(rng.integers(1, 4)))]
        bits = [[[row >> (4 - c) & 1 for c in range(5)] + [0] for row in _GLYPHS[k]] for k in keys]
        word = np.concatenate([np.array(b) for b in bits], 1)[:, :-1]
        rows = np.clip(((y + 0.5) * 9 - 1).astype(int), -1, 7)
        columns = ((x + 0.5) * word.shape[1]).astype(int)
        mask = (rows >= 0) & (rows < 7) & (word[np.clip(rows, 0, 6), columns] > 0)
    elif kind == 3:
        mask = (r < 0.45) & (r > 0.27)
    elif kind == 4:
        mask = r < 0.3 + 0.14 * np.cos(5 * angle)
    else:
        mask = (np.abs(y) < 0.14) | (np.abs(y + 0.3) < 0.05)
    out = np.empty((n, n, 3), np.uint8)
    out[:] = SEE_THROUGH
    out[mask] = (colour * 255).astype(np.uint8)
    return out


def _smooth_noise(rng: np.random.Generator, n: int, cells: int) -> ndarray:
    """Periodic smooth noise in -1..1 (bilinear over `cells`)."""
    grid = rng.uniform(-1, 1, (cells, cells))
    at = np.arange(n) / n * cells
    i, f = at.astype(int), at % 1
    rows = grid[i % cells] * (1 - f)[:, None] + grid[(i + 1) % cells] * f[:, None]
    return rows[:, i % cells] * (1 - f) + rows[:, (i + 1) % cells] * f


def _strands(rng: np.random.Generator, n: int, hair: Rgb) -> UInt8[ndarray, "size size 3"]:
    shade = 1 + 0.16 * np.repeat(rng.uniform(-1, 1, 64), n // 64)[None, :, None]
    shade = np.broadcast_to(shade, (n, n, 1))
    return (np.clip(np.array(hair) * shade, 0, 1) * 255).astype(np.uint8)
