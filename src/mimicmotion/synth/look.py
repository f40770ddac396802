"""Textures of skin, hair, cloth and leather: colours and slopes of a height map."""

from __future__ import annotations

import colorsys
import functools

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from mimicmotion.synth.assets import Assets
from mimicmotion.synth.zbuffer import fill

Rng = np.random.Generator
Texture = UInt8[ndarray, "n n 5"]
PATTERNS = (
    "plain", "stripes", "pinstripes", "checks", "plaid", "dots", "fade", "print", "flowers", "camouflage", "yoke",
    "letters",
)  # fmt: skip
NEUTRAL = ((18, 18, 20), (38, 40, 44), (90, 92, 96), (150, 150, 150), (205, 203, 198), (238, 237, 233), (30, 38, 66),
           (44, 60, 96), (196, 178, 150), (120, 98, 74), (70, 52, 40), (84, 88, 62), (110, 28, 34))  # fmt: skip
HAIR_COLOURS = ((16, 13, 12), (34, 25, 20), (60, 42, 30), (92, 62, 40), (150, 112, 68), (190, 158, 110), (112, 54, 32))
SKINS = {  # light and dark ends, sRGB
    "african": ((142, 98, 74), (62, 40, 30)),
    "asian": ((232, 192, 160), (184, 138, 104)),
    "caucasian": ((240, 204, 184), (205, 158, 128)),
}
IRISES = ((0.045, 0.022, 0.010), (0.09, 0.045, 0.02), (0.06, 0.11, 0.19), (0.07, 0.11, 0.06), (0.12, 0.13, 0.13))


def hsv(h: float, s: float, v: float) -> Float32[ndarray, " 3"]:
    """Convert HSV to RGB in 0..255."""
    return np.array(colorsys.hsv_to_rgb(h % 1, s, v), np.float32) * 255


def cloth_colour(rng: Rng) -> Float32[ndarray, " 3"]:
    """Sample a colour for clothes: often black, white, grey, navy or brown."""
    if rng.random() < 0.55:
        base = np.array(NEUTRAL[rng.integers(len(NEUTRAL))], np.float32)
        return np.clip(base + rng.normal(size=3) * 6, 8, 245).astype(np.float32)
    return hsv(rng.random(), rng.uniform(0.3, 0.85), rng.uniform(0.3, 0.92))


@functools.lru_cache(maxsize=16)
def noise(kind: str, size: int) -> Float32[ndarray, "size size"]:
    """Generate periodic noise with zero mean and unit standard deviation.

    Args:
        kind: "white", "fine" (2 texels), "mid" (1/40 of the side), "coarse" (1/6) or "folds" (long curved ridges).
        size: side in texels.
    """
    rng = np.random.default_rng([("white", "fine", "mid", "coarse", "folds").index(kind), size])
    white = rng.standard_normal((size, size))
    if kind == "white":
        return white.astype(np.float32)
    if kind == "folds":
        bent, other = noise("coarse", size), np.roll(noise("coarse", size), (size // 3, size // 2), (0, 1))
        y, x = np.mgrid[0:size, 0:size] / size
        first = np.sin(2 * np.pi * (12 * x + 2 * y) + 5 * bent) * np.clip(0.6 + other, 0, 1.5)
        second = np.sin(2 * np.pi * (10 * x - 3 * y) + 5 * other) * np.clip(0.6 - other, 0, 1.5)
        out = first + second + 0.5 * noise("mid", size)
        return ((out - out.mean()) / out.std()).astype(np.float32)
    f = np.fft.fftfreq(size)[:, None] ** 2 + np.fft.rfftfreq(size) ** 2
    length = {"fine": 2.0, "mid": size / 40, "coarse": size / 6}[kind]
    spectrum = np.fft.rfft2(white) * np.exp(-f * (length * 2.2) ** 2)
    out = np.fft.irfft2(spectrum, (size, size))
    return ((out - out.mean()) / out.std()).astype(np.float32)


def _shifted(rng: Rng, kind: str, size: int) -> Float32[ndarray, "size size"]:
    return np.roll(noise(kind, size), (int(rng.integers(size)), int(rng.integers(size))), (0, 1))


def _pack(colour: ndarray, height: ndarray | None, scale: tuple[float, float]) -> Texture:
    """Pack colours and a height map into a texture; `scale` is texels per unit of length across and down."""
    size = len(colour)
    out = np.full((size, size, 5), 128, np.uint8)
    out[..., :3] = np.clip(colour, 0, 255)
    if height is not None:
        across = 0.5 * (np.roll(height, -1, 1) - np.roll(height, 1, 1)) * scale[0]
        down = 0.5 * (np.roll(height, -1, 0) - np.roll(height, 1, 0)) * scale[1]
        out[..., 3] = np.clip(128 + 64 * across, 0, 255)
        out[..., 4] = np.clip(128 - 64 * down, 0, 255)  # v points up
    return out


@functools.lru_cache(maxsize=4)
def texels(assets: Assets, size: int) -> tuple[Float32[ndarray, "size size 3"], ndarray]:
    """Return the base mesh position and the index in `groups` (-1 for none) of each texel of the body texture."""
    groups = ("body", "helper-l-eye", "helper-r-eye", "helper-upper-teeth", "helper-lower-teeth", "helper-tongue")
    position = np.zeros((size, size, 3), np.float32)
    group = np.full((size, size), -1, np.int8)
    for number, name in enumerate(groups):
        triangles, corners = assets.faces(name)
        uv = assets.uv[corners].reshape(-1, 2)
        points = np.stack([uv[:, 0] * size, (1 - uv[:, 1]) * size, np.ones(len(uv))], 1).astype(np.float32)
        own = np.arange(len(points), dtype=np.int32).reshape(-1, 3)
        depth, ids = np.zeros((size, size), np.float32), np.full((size, size), -1, np.int32)
        bary = np.zeros((size, size, 2), np.float32)
        fill(points, own, np.ones(len(points), np.float32), depth, ids, bary)
        hit = ids >= 0
        w = np.concatenate([1 - bary[hit].sum(1, keepdims=True), bary[hit]], 1)
        position[hit] = (assets.vertices[triangles[ids[hit]]] * w[..., None]).sum(1)
        group[hit] = number
    return position, group


def mix(a: ndarray, b: ndarray, share: ndarray | float) -> ndarray:
    """Interpolate linearly from `a` (share 0) to `b` (share 1)."""
    return a + (b - a) * share


def ink(colour: ndarray) -> tuple[float, ...]:
    """Convert a colour to the form that OpenCV's drawing functions take."""
    return tuple(map(float, colour))


def _spot(position: ndarray, centre: tuple[float, float, float], radius: float) -> ndarray:
    """Return a mask (0..1) of a soft spot on both sides of the body, given the positions of texels."""
    x, y, z = np.abs(position[..., 0]) - centre[0], position[..., 1] - centre[1], position[..., 2] - centre[2]
    return np.exp(-(x**2 + y**2 + z**2) / radius**2)


@functools.lru_cache(maxsize=4)
def _face_maps(assets: Assets, size: int) -> dict[str, Float32[ndarray, "size size"]]:
    """Return masks (0..1) of brows, beard, cheeks and other regions in the body texture."""
    position, group = texels(assets, size)
    x, y, z = np.abs(position[..., 0]), position[..., 1], position[..., 2]
    head = (group == 0) & (y > 5.8)
    along = np.clip((x - 0.13) / 0.5, 0, 1)
    line = 7.535 + 0.07 * np.sin(np.pi * np.clip(along * 0.85, 0, 1))
    thick = 0.045 - 0.022 * along
    brow = np.exp(-(((y - line) / thick) ** 2)) * np.clip((x - 0.12) / 0.06, 0, 1) * np.clip((0.64 - x) / 0.08, 0, 1)
    brow = brow * (z > 0.9) * head
    low = np.interp(x, [0.0, 0.2, 0.34, 0.6, 0.85], [6.56, 6.6, 6.82, 6.92, 7.1])
    jaw = np.clip((low - y) / 0.1, 0, 1) * np.clip((y - 6.1) / 0.25, 0, 1)
    beard = jaw * np.clip((z - 0.2) / 0.3, 0, 1) * head
    moustache = np.exp(-(((y - 6.83 + 0.25 * x) / 0.055) ** 2)) * np.clip((0.36 - x) / 0.06, 0, 1) * (z > 1.1) * head
    maps = {
        "brow": brow,
        "beard": np.maximum(beard, moustache),
        "cheek": _spot(position, (0.48, 6.98, 1.3), 0.3) * head,
        "nose": _spot(position, (0.0, 7.0, 1.75), 0.22) * head,
        "eye": _spot(position, (0.32, 7.28, 1.35), 0.25) * head,
        "knuckle": np.clip((x - 4.35) / 0.3, 0, 1) * (group == 0) * (y < 3),
        "knee": _spot(position, (1.6, -3.7, 0.8), 0.6),
        "elbow": _spot(position, (3.1, 3.5, -0.3), 0.5),
    }
    for name in ("lips", "eyelids", "fingernails", "toenails", "ears"):
        maps[name] = cv2.resize(assets.masks[name], (size, size), interpolation=cv2.INTER_LINEAR) / 255.0
    maps["teeth"] = ((group == 3) | (group == 4)).astype(float)
    maps["tongue"] = (group == 5).astype(float)
    return {name: m.astype(np.float32) for name, m in maps.items()}


def skin_colour(rng: Rng, races: tuple[float, float, float]) -> Float32[ndarray, " 3"]:
    """Sample a skin colour (sRGB, 0..255), given the weights of African, Asian and Caucasian."""
    share = rng.random()
    ends = [np.array(light) * share + np.array(dark) * (1 - share) for light, dark in SKINS.values()]
    mix = sum(np.log(e) * r for e, r in zip(ends, races, strict=True))
    return (np.exp(mix) * (1 + rng.normal(size=3) * 0.015)).astype(np.float32)


def skin_texture(
    rng: Rng, assets: Assets, size: int, base: ndarray, hair: ndarray, *, female: bool, age: float
) -> Texture:
    """Make a skin texture with brows, lips and nails, and possibly a beard, freckles or make-up."""
    maps = _face_maps(assets, size)
    one = lambda name: maps[name][..., None]  # noqa: E731
    tone = base / 255.0
    coarse, mid, fine = (_shifted(rng, k, size)[..., None] for k in ("coarse", "mid", "fine"))
    colour = tone * (1 + 0.02 * coarse + 0.02 * mid + 0.012 * fine)
    red = np.array([1.06, 0.86, 0.84]) ** rng.uniform(0.4, 1.6)
    places = {"cheek": 1.0, "nose": 1.0, "ears": 0.6, "knuckle": 0.7, "knee": 0.5, "elbow": 0.5}
    flush = np.clip(sum(share * one(name) for name, share in places.items()), 0, 1)
    colour = colour * (1 + (red - 1) * (0.5 * flush + 0.12 * np.clip(coarse, -1, 1)))
    if rng.random() < 0.3 * (tone.mean() > 0.5):
        spots = np.clip(_shifted(rng, "fine", size) - 1.6, 0, 1)[..., None] * (one("cheek") + one("nose"))
        colour = colour * (1 - 0.35 * np.clip(spots, 0, 1))
    colour = colour * (1 - (0.12 + 0.1 * rng.random()) * one("eye") * (0.5 + age / 80))
    colour = colour * (1 - 0.12 * one("eyelids"))
    lips, nails = tone * np.array([0.86, 0.6, 0.6]), np.minimum(tone * np.array([1.08, 0.98, 0.98]), 1)
    if female and rng.random() >= 0.6:
        lips = hsv(rng.uniform(-0.06, 0.02), 0.6, rng.uniform(0.35, 0.8)) / 255
    colour = mix(colour, lips, one("lips") * 0.85)
    if female and rng.random() < 0.3:
        nails = hsv(rng.random(), 0.6, 0.7) / 255
    colour = mix(colour, nails, np.maximum(one("fingernails"), one("toenails")) * 0.8)
    strands = np.clip(0.8 + 0.15 * _shifted(rng, "fine", size), 0, 1)[..., None]
    brow = np.clip(one("brow") * rng.uniform(0.6, 1.3), 0, 1) * strands * (0.65 if female else 0.85)
    colour = mix(colour, hair / 255.0 * 0.6, brow)
    if not female and age > 19:
        kind = rng.choice([0.0, 0.12, 0.3, 0.75], p=[0.4, 0.2, 0.2, 0.2])
        beard = np.clip(one("beard") * 1.3, 0, 1) * (1 - one("lips")) * np.clip(0.9 + 0.12 * fine, 0, 1.2)
        colour = mix(colour, hair / 255.0 * 0.8, np.clip(beard * kind * 1.1, 0, 0.8))
    colour = mix(colour, np.array([0.82, 0.78, 0.68]), one("teeth"))
    colour = mix(colour, np.array([0.6, 0.28, 0.27]), one("tongue"))
    rough = 0.003 + 0.006 * np.clip((age - 35) / 40, 0, 1)
    height = rough * (_shifted(rng, "mid", size) + 0.6 * _shifted(rng, "fine", size)) * 0.5
    return _pack(colour * 255, height, (0.35 * size / 10, 0.35 * size / 10))


def hair_texture(rng: Rng, size: int, base: ndarray, *, curl: float) -> Texture:
    """Make a hair texture, with strands along v."""
    rows = _shifted(rng, "white", size)[: int(3 + 30 * curl)]
    streak = cv2.resize(np.concatenate([rows, rows[:1]]), (size, size), interpolation=cv2.INTER_CUBIC)
    streak = streak / streak.std()
    shade = np.clip(1 + 0.28 * streak + 0.1 * _shifted(rng, "coarse", size), 0.3, 1.9)
    return _pack(base * shade[..., None], streak * 0.01, (size / 6.0, size / 20.0))


def leather_texture(rng: Rng, size: int, base: ndarray, sole: ndarray, band: ndarray, sole_height: float) -> Texture:
    """Make a shoe texture: sole, upper, laces and band; u runs from heel to toe, v from the floor to 2 decimetres."""
    colour = np.broadcast_to(base, (size, size, 3)).astype(np.float32).copy()
    row = lambda v: int(np.clip(1 - v, 0, 1) * size)  # noqa: E731
    if rng.random() < 0.5:
        points = np.array([(int(size * (0.25 + 0.1 * k)), row(0.2 + 0.16 * (k % 2))) for k in range(5)], np.int32)
        cv2.polylines(colour, [points], False, ink(band), max(size // 40, 1))
    if rng.random() < 0.5:
        cv2.rectangle(colour, (int(0.55 * size), row(0.6)), (int(0.72 * size), row(0.3)), ink(band), -1)
    colour[row(sole_height) :] = sole
    colour *= 1 + 0.05 * _shifted(rng, "mid", size)[..., None] + 0.03 * _shifted(rng, "fine", size)[..., None]
    return _pack(colour, 0.01 * _shifted(rng, "mid", size), (size / 4.0, size / 2.0))


def cloth_texture(
    rng: Rng, size: int, base: ndarray, *, pattern: str = "plain", denim: bool = False, front: str = "",
    rough: float = 1.0, folds: float = 1.0,
) -> Texture:  # fmt: skip
    """Make a cloth texture of 16 x 8 decimetres: front in the left half, back in the right half, waist at row 0.

    Args:
        rng: random generator.
        size: side in texels.
        base: base colour.
        pattern: one of `PATTERNS`.
        denim: whether it is washed-out denim.
        front: "buttons" or "zip" down the front; "" for neither.
        rough: strength of the weave.
        folds: strength of the folds.
    """
    other = cloth_colour(rng)
    colour = np.broadcast_to(base, (size, size, 3)).astype(np.float32).copy()
    _draw_pattern(rng, colour, base, other, pattern)
    middle, scale = size // 4, size / 16.0
    if front:
        cv2.line(colour, (middle, 0), (middle, size - 1), ink(base * 0.6), max(size // 256, 1))
        if front == "buttons":
            for y in np.arange(0, size, size / 9.0):
                cv2.circle(colour, (middle + 2, int(y)), max(round(0.1 * scale), 1), ink(other), -1)
        else:
            cv2.line(colour, (middle, 0), (middle, size - 1), (150.0, 150.0, 150.0), max(size // 200, 1))
    fine, mid = _shifted(rng, "fine", size), _shifted(rng, "mid", size)
    colour *= (1 + 0.03 * rough * fine + 0.035 * mid + 0.02 * _shifted(rng, "coarse", size))[..., None]
    if denim:
        x = np.arange(size) / scale
        thigh = np.sum([np.exp(-(((x - c) / 0.7) ** 2)) for c in (2.6, 5.4, 10.6, 13.4)], axis=0)
        colour += (np.array([170, 182, 200]) - colour) * (0.35 * rng.random() * thigh)[None, :, None]
        for c in (2.4, 5.6, 10.2, 13.8):
            left, right = int((c - 0.6) * scale), int((c + 0.6) * scale)
            cv2.rectangle(colour, (left, int(0.93 * size)), (right, size - 2), ink(base * 0.7), 1)
    height = 0.06 * folds * _shifted(rng, "folds", size) + 0.008 * mid + 0.0012 * rough * fine
    return _pack(colour, height, (size / 16.0, size / 8.0))


def _draw_pattern(rng: Rng, colour: ndarray, base: ndarray, other: ndarray, pattern: str) -> None:  # noqa: PLR0912
    size = len(colour)
    y, x = np.arange(size)[:, None], np.arange(size)[None, :]
    waves = lambda n, z, share: ((z * n / size) % 1 < share)[..., None]  # noqa: E731
    if pattern == "stripes":
        colour[:] = np.where(waves(int(rng.integers(6, 24)), y, rng.uniform(0.2, 0.6)), other, colour)
    elif pattern == "pinstripes":
        colour[:] = np.where(waves(int(rng.integers(40, 72)), x, 0.25), base + (other - base) * 0.5, colour)
    elif pattern in ("checks", "plaid"):
        n = int(rng.integers(8, 22))
        for count, along in ((2 * n, x), (n, y)):
            colour[:] = mix(colour, other, 0.5 * waves(count, along, 0.4))
            if pattern == "plaid":
                thin = waves(count, along + size // 9, 0.08)
                colour[:] = mix(colour, hsv(rng.random(), 0.6, 0.8), 0.6 * thin)
    elif pattern == "dots":
        n = int(rng.integers(12, 28))
        a, b = (x * 2 * n / size) % 1 - 0.5, (y * n / size) % 1 - 0.5
        colour[a**2 + b**2 < rng.uniform(0.03, 0.1)] = other
    elif pattern == "fade":
        colour[:] = mix(colour, other, (0.5 - 0.5 * np.cos(2 * np.pi * (y / size)))[..., None])
    elif pattern == "camouflage":
        for k in range(3):
            tint = base * rng.uniform(0.5, 1.3) + 12 * k
            colour[_shifted(rng, "mid", size) + 0.5 * _shifted(rng, "coarse", size) > 0.7] = np.clip(tint, 0, 255)
    elif pattern == "flowers":
        for _ in range(130):
            x, y = rng.integers(0, size, 2)
            tint = ink(hsv(rng.random() * 0.25 + (other[0] / 255.0), 0.6, rng.uniform(0.5, 0.95)))
            r = int(rng.integers(2, max(size // 48, 3)))
            for k in range(5):
                turn = 2 * np.pi * k / 5
                petal = int(x + 0.5 * r * np.cos(turn)), int(y + r * np.sin(turn))
                cv2.ellipse(colour, petal, (max(r // 3, 1), max(2 * r // 3, 1)), np.degrees(turn), 0, 360, tint, -1)
    elif pattern == "yoke":
        colour[int(size * rng.uniform(0.45, 0.62)) : int(0.98 * size) if rng.random() < 0.3 else None] = base
        colour[: int(size * rng.uniform(0.5, 0.6))] = other
    elif pattern in ("print", "letters"):
        middle, row = size // 4, int(size * (1 - rng.uniform(2.6, 3.4) / 8))
        wide = int(size / 16 * rng.uniform(0.7, 1.3))
        _print(rng, colour, (middle, row), wide, other, letters=pattern == "letters")


def _print(rng: Rng, colour: ndarray, centre: tuple[int, int], wide: int, tint: ndarray, *, letters: bool) -> None:
    """Draw a picture or a word on the chest; texels are twice as wide as they are high."""
    x, y = centre
    if letters:
        word = "".join(chr(65 + int(c)) for c in rng.integers(0, 26, int(rng.integers(2, 6))))
        (across, high), _ = cv2.getTextSize(word, cv2.FONT_HERSHEY_DUPLEX, 2.0, 5)
        canvas = np.zeros((high + 20, across + 20), np.uint8)
        cv2.putText(canvas, word, (10, high + 10), cv2.FONT_HERSHEY_DUPLEX, 2.0, 255, 5)
        canvas = cv2.resize(canvas, (2 * wide, max(2 * wide * high // across, 2)), interpolation=cv2.INTER_AREA) > 90
        rows, columns = np.nonzero(canvas)
        if len(rows):
            rows = np.clip(y + (rows - rows.mean()) * 2, 0, len(colour) - 1).astype(int)
            columns = np.clip(x + columns - columns.mean(), 0, len(colour) - 1).astype(int)
            colour[rows, columns] = colour[np.clip(rows + 1, 0, len(colour) - 1), columns] = tint
        return
    for k in range(int(rng.integers(1, 5))):
        kind, r = rng.integers(3), wide * rng.uniform(0.4, 1.0) / (k + 1)
        tone = ink(tint if k % 2 == 0 else cloth_colour(rng))
        if kind == 0:
            cv2.ellipse(colour, (x, y), (int(r), int(2 * r)), 0, 0, 360, tone, -1)
        elif kind == 1:
            cv2.rectangle(colour, (x - int(r), y - int(1.4 * r)), (x + int(r), y + int(1.4 * r)), tone, -1)
        else:
            turn = np.linspace(0, 2 * np.pi, 11)[:-1] - np.pi / 2
            arm = r * np.where(np.arange(10) % 2 == 0, 1.0, 0.45)
            star = np.stack([x + arm * np.cos(turn), y + 2 * arm * np.sin(turn)], -1).astype(np.int32)
            cv2.fillPoly(colour, [star], tone)
