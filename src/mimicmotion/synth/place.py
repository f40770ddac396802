"""Backgrounds: rooms, studios and outdoor scenes in perspective, with textures, objects, lighting and blur."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from mimicmotion.synth.assets import Assets
from mimicmotion.synth.light import LINEAR
from mimicmotion.synth.look import Rng, hsv, ink, mix, noise
from mimicmotion.synth.view import View

Range = tuple[float, float]
Corners = list[tuple[float, float, float]]  # world positions
KINDS = ("room", "room", "room", "street", "park", "studio")
FLOORS = ("planks", "tiles", "carpet", "concrete", "parquet", "rug")
WALLS = ("paint", "paint", "brick", "paper", "panels", "concrete", "curtain")


@dataclass(frozen=True, slots=True)
class Place:
    """A background picture and its lighting."""

    picture: Float32[ndarray, "rows columns 3"]  # linear colours, with a margin around the frame
    margin: int  # width of the margin in pixels
    key: Float32[ndarray, " 3"]  # direction to the key light
    key_colour: Float32[ndarray, " 3"]  # its intensity
    sky: Float32[ndarray, " 3"]  # ambient light from above
    ground: Float32[ndarray, " 3"]  # ambient light from below
    softness: float  # blur of key-light shadows per distance from the occluder


def make_place(
    rng: Rng, assets: Assets, view: View, size: tuple[int, int], margin: int, kind: str | None = None
) -> Place:
    """Paint a random background, and sample its lighting.

    Args:
        rng: random generator.
        assets: MakeHuman's data, for its surface textures.
        view: the camera.
        size: (height, width) of the frame.
        margin: width in pixels of the margin on each side.
        kind: one of `KINDS`; random if None.
    """
    kind = kind or str(rng.choice(KINDS))
    factor = 2
    rows, columns = (factor * (n + 2 * margin) for n in size)
    middle = factor * (view.centre[0] + margin), factor * (view.centre[1] + margin)
    enlarged = View(view.eye, view.pitch, view.focal * factor, middle)
    outside = kind in ("street", "park")
    side = rng.choice([-1.0, 1.0])
    key = np.array([side * rng.uniform(0.15, 1.0), rng.uniform(0.7, 1.6), rng.uniform(0.3, 1.1)])
    key /= np.linalg.norm(key)
    warm = rng.uniform(-0.06, 0.1)
    tint = np.array([1 + warm, 1.0, 1 - warm])
    contrast = rng.uniform(0.25, 0.95) if outside else rng.uniform(0.25, 0.7)
    exposure = rng.uniform(0.8, 1.15)
    light = exposure * 1.15 * contrast * tint
    sky = exposure * (1.08 - 0.72 * contrast) * (np.array([0.94, 1.0, 1.08]) if outside else 2 - tint)
    painter = _Painter(rng, assets, enlarged, (rows, columns), key)
    getattr(painter, kind)()
    picture = painter.finish(float(rng.choice([0.0, 0.6, 1.5, 3.0], p=[0.3, 0.35, 0.25, 0.1])) * min(size) / 190)
    picture = cv2.resize(picture, (columns // factor, rows // factor), interpolation=cv2.INTER_AREA)
    picture = np.clip(picture * exposure * tint.astype(np.float32), 0.002, 1.4)
    floor = picture[-max(rows // 8, 1) :].mean((0, 1))
    ground = sky * (0.25 + 0.5 * floor)
    softness = float(rng.uniform(0.03, 0.1) if outside else rng.uniform(0.1, 0.35))
    f = lambda a: a.astype(np.float32)  # noqa: E731
    return Place(picture.astype(np.float32), margin, f(key), f(light), f(sky), f(ground), softness)


def _rgb(red: float, green: float, blue: float) -> Float32[ndarray, " 3"]:
    return np.array([red, green, blue], np.float32)


def _linear(colour: ndarray) -> ndarray:
    return LINEAR[np.clip(colour, 0, 255).astype(int)]


def _lookup(bank: Float32[ndarray, "n n"], u: ndarray, v: ndarray) -> ndarray:
    """Sample a texture at coordinates with period 1."""
    x, y = (np.mod(a * len(bank), len(bank)).astype(np.float32) for a in (u, v))
    return cv2.remap(bank, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def _from_middle(u: ndarray) -> ndarray:
    """Return the distance (0..0.5) of coordinates from the centre of their unit cell."""
    return np.abs(np.mod(u, 1) - 0.5)


def _by_cell(column: ndarray, row: ndarray) -> ndarray:
    """Return a pseudorandom number in 0..1 for each pair of integers."""
    return np.mod(np.sin(column * 12.9898 + row * 78.233) * 43758.5, 1)


def _mix(a: ndarray, b: ndarray, share: ndarray) -> ndarray:
    """Interpolate colours linearly from `a` (share 0) to `b` (share 1) at each pixel."""
    return mix(a, b, share[..., None])


class _Painter:
    """Paints a background from back to front."""

    def __init__(self, rng: Rng, assets: Assets, view: View, size: tuple[int, int], key: ndarray) -> None:
        self.rng, self.assets, self.view, self.size, self.key = rng, assets, view, size, key
        rows, columns = size
        self.rays = view.rays(np.arange(columns)[None, :] + 0.5, np.arange(rows)[:, None] + 0.5).astype(np.float32)
        self.picture = np.zeros((*size, 3), np.float32)
        self.far = np.full(size, 300.0, np.float32)  # depth along the optical axis

    def colour(self, low: float, high: float, saturation: float) -> ndarray:
        """Sample a linear colour with a value between low and high."""
        hue = self.rng.normal(0.1, 0.05) if self.rng.random() < 0.5 else self.rng.random()  # often a warm hue
        return _linear(hsv(hue, saturation * self.rng.random() ** 1.5, self.rng.uniform(low, high)))

    def tint(self, hue: Range, saturation: Range, value: Range) -> ndarray:
        """Sample a linear colour within the given ranges."""
        return _linear(hsv(*(self.rng.uniform(*ends) for ends in (hue, saturation, value))))

    def sample(self, kind: str, u: ndarray, v: ndarray) -> ndarray:
        """Sample noise at texture coordinates with period 1."""
        return _lookup(noise(kind, 256), u, v)

    def surface(self, kind: str, u: ndarray, v: ndarray, far: ndarray) -> ndarray:
        """Sample a photographic texture (0..1) of period 1, blurred in the distance; grey if the assets lack it."""
        bank = self.assets.surfaces.get(kind, np.full((8, 8), 127.5, np.float32))
        bank = bank.astype(np.float32)
        share = np.clip((far - 40) / 80, 0, 1)
        fine, coarse = _lookup(bank, u, v), _lookup(cv2.GaussianBlur(bank, (0, 0), 4), u, v)
        return (fine * (1 - share) + coarse * share) / 255.0

    def floor_at(self) -> tuple[ndarray, ndarray, ndarray, ndarray]:
        """Return a mask of the pixels that show the floor, and their world x, world z and depth."""
        y = self.rays[..., 1]
        hit = y < -1e-3
        far = np.where(hit, -self.view.eye[1] / np.where(hit, y, -1), 1e6)
        return hit, self.rays[..., 0] * far + self.view.eye[0], self.rays[..., 2] * far + self.view.eye[2], far

    def room(self) -> None:
        """Paint a room with doors, windows, pictures and furniture."""
        rng, rays, eye = self.rng, self.rays, self.view.eye
        back = -rng.uniform(6, 35)
        sides = -rng.uniform(14, 45), rng.uniform(14, 45)
        ceiling = max(rng.uniform(24, 32), eye[1] + 4)
        self.far = (back - eye[2]) / rays[..., 2]
        x, y = eye[0] + rays[..., 0] * self.far, eye[1] + rays[..., 1] * self.far  # on the plane of the back wall
        along, aside = x, np.zeros(self.size, bool)
        for side in sides:
            across = rays[..., 0] * np.sign(side)
            far = np.where(across > 1e-3, (side - eye[0]) * np.sign(side) / np.maximum(across, 1e-3), 1e6)
            nearer = far < self.far
            aside, self.far = aside | nearer, np.where(nearer, far, self.far)
            along = np.where(nearer, eye[2] + rays[..., 2] * far, along)
        high = eye[1] + rays[..., 1] * self.far
        self.picture = self._wall(along, high) * np.where(aside, 0.82, 1.0)[..., None].astype(np.float32)
        hit, fx, fz, far = self.floor_at()
        ground = self._floor(str(rng.choice(FLOORS)), fx, fz, far)
        lamp_x, lamp_y = rng.uniform(-20, 20), rng.uniform(10, 26)
        glow = 0.75 + 0.45 * np.exp(-((x - lamp_x) ** 2 + (y - lamp_y) ** 2) / rng.uniform(12, 30) ** 2)
        glow = np.where(aside, 0.72 + 0.2 * np.exp(-((high - lamp_y) ** 2) / 400), glow)
        on_floor = hit & (far < self.far)
        self._wall_things(back, sides)
        crease = 1 - 0.45 * np.exp(-np.maximum(high, 0) / 1.6) - 0.3 * np.exp(-np.maximum(ceiling - high, 0) / 2.5)
        crease *= 1 - 0.3 * np.exp(-np.minimum(np.abs(x - sides[0]), np.abs(x - sides[1])) / 3)
        self.picture *= (glow * crease)[..., None]
        self.picture[high > ceiling] = _rgb(0.75, 0.74, 0.72) * 0.8
        skirting = (high < rng.uniform(0.6, 1.2)) & ~on_floor & (rng.random() < 0.7)
        self.picture[skirting] = self.picture[skirting] * 0.6 + 0.15
        near = np.minimum.reduce([fz - back, fx - sides[0], sides[1] - fx])
        shade = 0.75 + 0.3 * np.exp(-(fx**2 + fz**2) / 1500) - 0.4 * np.exp(-np.maximum(near, 0) / 2)
        self.picture = np.where(on_floor[..., None], ground * shade[..., None], self.picture)
        self.far = np.where(on_floor, far, self.far)
        for _ in range(int(rng.integers(1, 6))):
            self._furniture(back, sides)

    def _wall(self, u: ndarray, v: ndarray) -> ndarray:
        """Return the colours of walls at positions along (u) and up (v) them in decimetres, at the depth `self.far`."""
        rng, far = self.rng, self.far
        kind, base = str(rng.choice(WALLS)), self.colour(0.5, 0.97, 0.4)
        other, scale, phase = self.colour(0.3, 0.95, 0.5), rng.uniform(0.7, 1.5), rng.random(2)
        brick = rng.uniform(0.4, 0.9)
        rough = 1 + 0.03 * self.sample("coarse", u / 60 + phase[0], v / 60 + phase[1])
        rough = rough + 0.015 * self.sample("fine", u / 20, v / 20)
        out = base * rough[..., None]
        if kind == "brick":
            row = np.floor(v / (0.75 * scale))
            across = u / (2.4 * scale) + 0.5 * np.mod(row, 2)
            joint = np.maximum(_from_middle(across) - 0.47, _from_middle(v / (0.75 * scale)) - 0.42)
            clear = np.clip(60 / far, 0.2, 1)
            out = out * (0.75 + brick * 0.4 * (_by_cell(np.floor(across), row) - 0.5) * clear)[..., None]
            return _mix(out, other * 0.5 + 0.25, 0.6 * np.clip(joint * 30, 0, 1) * clear)
        if kind == "concrete":
            return out * (0.75 + 0.5 * self.surface("gravel", u / (14 * scale), v / (14 * scale), far))[..., None]
        if kind == "paper":
            lines = np.clip(4 * _from_middle(u / (3 * scale)) - 0.8, 0, 1) * np.clip(60 / far, 0, 1)
            return _mix(out, other, 0.3 * lines)
        if kind == "panels":
            return out * (1 - 0.35 * np.clip(12 * (_from_middle(u / (6 * scale)) - 0.44), 0, 1))[..., None]
        if kind == "curtain":
            wave = 0.5 + 0.5 * np.sin(2 * np.pi * (u / (2.2 * scale) + 0.25 * np.sin(u / 7)))
            return other * (0.55 + 0.5 * wave)[..., None] * rough[..., None]
        return out

    def _floor(self, kind: str, x: ndarray, z: ndarray, far: ndarray) -> ndarray:
        """Return the colours of a floor of one of the kinds in `FLOORS`."""
        rng = self.rng
        wood = self.tint((0.05, 0.11), (0.25, 0.65), (0.25, 0.8))
        base = self.colour(0.3, 0.85, 0.35)
        other = base * rng.uniform(0.5, 0.9)
        scale, turn = rng.uniform(0.8, 1.6), rng.random() < 0.5
        rug_x, rug_z, middle = rng.uniform(9, 16), rng.uniform(5, 10), rng.uniform(-4, 4)
        u, v = (z, x) if turn else (x, z)
        clear = np.clip(70 / far, 0.15, 1)
        rough = 1 + 0.06 * self.sample("coarse", u / 50, v / 50)
        rough = rough + 0.05 * clear * self.sample("fine", u / 14, v / 14)
        if kind == "tiles":
            u, v = u / (3.5 * scale), v / (3.5 * scale)
            gap = np.clip(20 * (np.maximum(_from_middle(u), _from_middle(v)) - 0.47), 0, 1) * clear
            check = np.mod(np.floor(u) + np.floor(v), 2) * (scale > 1.2)
            return _mix(base, other, check) * ((1 - 0.4 * gap) * rough)[..., None]
        if kind == "concrete":
            return base * (rough * (0.85 + 0.3 * self.surface("gravel", u / 9, v / 9, far)))[..., None]
        if kind == "carpet":
            return base * (rough * (1 + 0.12 * clear * self.sample("white", u / 10, v / 10)))[..., None]
        row = np.floor(u / (1.3 * scale))
        shade = _by_cell(row, np.floor(v / (9 * scale) + 0.37 * row))
        grain = self.sample("mid", u / 6 + row * 0.37, v / 60)
        gap = np.clip(14 * (_from_middle(u / (1.3 * scale)) - 0.45), 0, 1) * clear
        out = wood * ((0.8 + 0.35 * shade) * (1 + 0.08 * grain) * (1 - 0.45 * gap) * rough)[..., None]
        if kind == "rug":
            aside, along = np.abs(x - middle), np.abs(z)
            border = (aside > rug_x - 1) | (along > rug_z - 1)
            weave = np.where(border, 0.6, 1.0) * (1 + 0.1 * self.sample("mid", x / 8, z / 8))
            out = np.where(((aside < rug_x) & (along < rug_z))[..., None], base * weave[..., None], out)
        return out

    def _quad(self, picture: ndarray, corners: Corners, colour: tuple[float, ...]) -> ndarray:
        """Draw a quadrilateral given in world coordinates, and return its projected corners."""
        seen = self.view.project(np.array(corners))
        if (seen[:, 2] <= 0.5).all():
            cv2.fillConvexPoly(picture, np.round(seen[:, :2] * 16).astype(np.int32), colour, cv2.LINE_AA, 4)
        return seen

    def _on_wall(self, back: float, x: float, y: float, w: float, h: float, colour: ndarray) -> None:
        corners = [(x - w, y - h, back), (x + w, y - h, back), (x + w, y + h, back), (x - w, y + h, back)]
        self._quad(self.picture, corners, ink(colour))

    def _wall_things(self, back: float, sides: tuple[float, float]) -> None:
        rng = self.rng
        for _ in range(int(rng.integers(1, 8))):
            kind = rng.choice(["picture", "window", "door", "shelf", "poster", "switch"])
            x = rng.uniform(sides[0] + 3, sides[1] - 3)
            frame, inner = self.colour(0.1, 0.95, 0.4), self.colour(0.2, 0.9, 0.8)
            if kind == "door":
                w, h = 4.5, 10.2
                self._on_wall(back, x, h, w + 0.6, h + 0.6, frame * 0.8)
                self._on_wall(back, x, h, w, h, frame)
                for low in (5.5, 14.5):
                    self._on_wall(back, x, low, w * 0.65, 3.4, frame * 0.86)
                self._on_wall(back, x + w * 0.8, 10, 0.35, 0.25, _rgb(0.5, 0.45, 0.35))
            elif kind == "window":
                w, h, y = rng.uniform(4, 9), rng.uniform(5, 7), rng.uniform(13, 16)
                self._on_wall(back, x, y, w + 0.7, h + 0.7, _rgb(0.8, 0.8, 0.78))
                self._on_wall(back, x, y, w, h, _rgb(0.95, 1.05, 1.2) * rng.uniform(0.7, 1.2))
                self._on_wall(back, x, y - h * 0.6, w, h * 0.4, _rgb(0.35, 0.5, 0.3) * rng.uniform(0.5, 1.2))
                self._on_wall(back, x, y, 0.25, h, _rgb(0.75, 0.75, 0.73))
            elif kind == "shelf":
                y, w = rng.uniform(9, 20), rng.uniform(3, 8)
                left = x - w
                while left < x + w:
                    wide, high = rng.uniform(0.15, 0.5), rng.uniform(1.2, 2.4)
                    book = self.colour(0.15, 0.85, 0.8)
                    self._on_wall(back, left + wide, y + high / 2 + 0.2, wide * 0.94, high / 2, book)
                    left += 2 * wide
                self._on_wall(back, x, y, w + 0.3, 0.2, frame)
            elif kind == "switch":
                self._on_wall(back, x, 11, 0.4, 0.4, _rgb(0.8, 0.8, 0.78))
            else:
                w, h, y = rng.uniform(1.5, 5), rng.uniform(1.5, 4.5), rng.uniform(12, 19)
                edge = 0.35 if kind == "picture" else 0.0
                self._on_wall(back, x, y, w + edge, h + edge, frame)
                self._on_wall(back, x, y, w, h, inner)
                for _ in range(int(rng.integers(2, 9))):
                    (a, b), wide, high = rng.uniform(-0.7, 0.7, 2), rng.uniform(0.05, 0.28), rng.uniform(0.05, 0.28)
                    self._on_wall(back, x + a * w, y + b * h, w * wide, h * high, self.colour(0.1, 0.95, 0.8))

    def _box(self, x0: float, x1: float, y0: float, y1: float, z0: float, z1: float, colour: ndarray) -> None:
        """Draw an upright box with a soft shadow on the floor."""
        left, right, ahead, mask = x0 - 1.2, x1 + 1.2, z1 + 1.2, np.zeros(self.size, np.float32)
        floor = [(left, 0.0, z0), (right, 0.0, z0), (right, 0.0, ahead), (left, 0.0, ahead)]
        near = self._quad(mask, floor, (1.0,))[:, 2].max()
        if near > 0.2:
            return
        blur = float(np.clip(self.view.focal * near * 0.8, 1, 40))
        self.picture *= (1 - 0.55 * cv2.GaussianBlur(mask, (0, 0), blur))[..., None]
        (eye_x, eye_y, _), (key_x, key_y, key_z) = self.view.eye, self.key
        front = [(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)]
        faces = [(front, 0.4 * max(key_z, 0))]
        for x, outside, light in ((x1, eye_x > x1, key_x), (x0, eye_x < x0, -key_x)):
            if outside:
                faces.append(([(x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)], 0.4 * max(light, 0)))
        if eye_y >= y1:
            faces.append(([(x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)], 0.5 * key_y))
        for corners, light in faces:
            self._quad(self.picture, corners, ink(colour * (0.55 + light)))

    def _furniture(self, back: float, sides: tuple[float, float]) -> None:
        rng = self.rng
        kind = rng.choice(["cupboard", "sofa", "table", "plant", "box", "lamp"])
        x = float(rng.choice([rng.uniform(sides[0] + 4, -7), rng.uniform(7, sides[1] - 4)]))
        z = back + rng.uniform(1, max(min(-back - 5, 16), 2))
        wood = self.tint((0.04, 0.12), (0.1, 0.6), (0.2, 0.9))
        if kind == "cupboard":
            w, h = rng.uniform(3, 6), rng.uniform(7, 19)
            self._box(x - w, x + w, 0, h, back, back + 4, wood)
            for k in (-1, 1):
                self._on_wall(back + 4.02, x + k * w / 2, h / 2, w * 0.46, h * 0.46, wood * 0.9)
        elif kind == "sofa":
            tint = self.colour(0.15, 0.8, 0.7)
            w = rng.uniform(7, 11)
            self._box(x - w, x + w, 0, 8, z - 4, z, tint * 0.9)
            self._box(x - w, x + w, 0, 4.2, z, z + 4, tint)
            for k in (-1, 1):
                self._box(x + k * w - 1.2, x + k * w + 1.2, 0, 5.8, z - 4, z + 4, tint * 0.95)
        elif kind == "table":
            w, h = rng.uniform(4, 8), rng.uniform(4, 7.4)
            for a in (-1, 1):
                for b in (0, 1):
                    self._box(x + a * w - 0.3, x + a * w + 0.3, 0, h, z + 4 * b, z + 4 * b + 0.6, wood * 0.8)
            self._box(x - w - 0.5, x + w + 0.5, h, h + 0.4, z - 0.5, z + 5, wood)
            for _ in range(int(rng.integers(0, 4))):
                left = x + rng.uniform(-0.7, 0.7) * w
                wide, high = rng.uniform(0.5, 2), rng.uniform(0.8, 3)
                self._box(left, left + wide, h + 0.4, h + high, z + 2, z + 3, self.colour(0.1, 0.9, 0.8))
        elif kind == "plant":
            self._box(x - 1.4, x + 1.4, 0, 2.8, z - 1.4, z + 1.4, self.colour(0.3, 0.9, 0.5))
            radius, tint = rng.uniform(2.5, 5), hsv(rng.uniform(0.22, 0.4), 0.6, rng.uniform(0.25, 0.6))
            self._leaves(x, 8, z, radius, _linear(tint))
        elif kind == "lamp":
            self._box(x - 0.15, x + 0.15, 0, 14, z, z + 0.3, _rgb(0.1, 0.1, 0.1))
            self._box(x - 1.8, x + 1.8, 13, 16, z - 1.8, z + 1.8, _rgb(1.3, 1.15, 0.85))
        else:
            w, h = rng.uniform(1.5, 4), rng.uniform(1.5, 6)
            self._box(x - w, x + w, 0, h, z - w, z + w, self.colour(0.15, 0.85, 0.6))

    def _leaves(self, x: float, y: float, z: float, radius: float, tint: ndarray) -> None:
        """Draw a round clump of leaves, lit from above."""
        rng = self.rng
        column, row, nearness = self.view.project(np.array([x, y, z]))
        scale = self.view.focal * nearness
        if nearness > 0.3:
            return
        count = int(np.clip(8 * radius * scale, 40, 420))
        for k in range(count):
            a, r = rng.uniform(0, 2 * np.pi), radius * np.sqrt(rng.random())
            up = np.sin(a) * r
            middle = int((column + np.cos(a) * r * scale) * 16), int((row - up * scale) * 16)
            size = max(radius * scale * rng.uniform(0.03, 0.08), 0.7)
            shade = (0.45 + 0.45 * (0.5 + 0.5 * up / radius) + 0.25 * rng.random()) * (0.6 + 0.4 * k / count)
            axes = int(size * 16), int(size * 16 * rng.uniform(0.3, 0.8))
            turn, tone = rng.uniform(0, 180), ink(tint * shade)
            cv2.ellipse(self.picture, middle, axes, turn, 0, 360, tone, -1, cv2.LINE_AA, 4)

    def _sky(self) -> None:
        rng = self.rng
        up = np.clip(self.rays[..., 1] * 2.2, 0, 1)
        top = self.tint((0.55, 0.61), (0.1, 0.65), (0.65, 0.95))
        low = _linear(hsv(rng.uniform(0.5, 0.62), 0.08, 0.97))
        self.picture = _mix(low, top, up)
        depth = 1 / np.maximum(self.rays[..., 1] + 0.15, 0.05)
        x = self.rays[..., 0] * depth
        cloud = self.sample("coarse", x / 6 + rng.random(), depth / 6) + 0.5 * self.sample("mid", x / 3, depth / 3)
        cover = np.clip(cloud * 0.6 - rng.uniform(-0.6, 0.8), 0, 1) * np.clip(up * 5, 0, 1)
        self.picture += (1.0 - self.picture) * (0.8 * cover)[..., None]

    def _ground(self, kinds: tuple[str, ...]) -> None:
        rng = self.rng
        kind = str(rng.choice(kinds))
        hit, x, z, far = self.floor_at()
        tint = {
            "grass": hsv(rng.uniform(0.2, 0.3), rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.65)),
            "gravel": hsv(rng.uniform(0.05, 0.12), rng.uniform(0.05, 0.25), rng.uniform(0.45, 0.8)),
            "asphalt": hsv(0.6, 0.04, rng.uniform(0.28, 0.5)),
            "paving": hsv(0.08, rng.uniform(0.03, 0.15), rng.uniform(0.5, 0.8)),
        }[kind]
        base = _linear(tint)
        grain = self.surface("grass" if kind == "grass" else "gravel", x / 12, z / 12, far)
        strength = {"grass": 1.1, "gravel": 0.8, "asphalt": 0.35, "paving": 0.2}[kind]
        shade = (1 - 0.5 * strength + strength * grain) * (1 + 0.1 * self.sample("coarse", x / 150, z / 150))
        if kind == "paving":
            gap = np.maximum(_from_middle(x / 5), _from_middle(z / 5 + 0.5 * np.mod(np.floor(x / 5), 2)))
            shade = shade * (1 - 0.3 * np.clip(25 * (gap - 0.47), 0, 1) * np.clip(70 / far, 0, 1))
        haze = np.clip((far - 150) / 900, 0, 0.6)
        ground = _mix(base * shade[..., None] * 1.1, self.picture[0].mean(0) * 0.8, haze)
        self.picture = np.where(hit[..., None], ground, self.picture)
        self.far = np.where(hit, np.minimum(far, 400), 400.0).astype(np.float32)

    def street(self) -> None:
        """Paint a street with houses behind a pavement."""
        rng = self.rng
        self._sky()
        self._ground(("asphalt", "paving", "gravel"))
        back = -rng.uniform(20, 90)
        x = -150.0
        while x < 150:
            wide, high = rng.uniform(25, 70), rng.uniform(35, 120)
            wall = self.colour(0.35, 0.9, 0.45) * rng.uniform(0.6, 1)
            self._on_wall(back, x + wide / 2, high / 2, wide / 2, high / 2, wall)
            step = rng.uniform(8, 14)
            glass = _rgb(0.16, 0.2, 0.25) * rng.uniform(0.5, 2)
            for a in np.arange(x + step * 0.6, x + wide - 2, step):
                for b in np.arange(16, high - 4, rng.uniform(12, 16)):
                    self._on_wall(back, a, b, step * 0.3, 4.2, wall * 1.15)
                    self._on_wall(back, a, b, step * 0.26, 3.8, glass * rng.uniform(0.7, 1.5))
                if rng.random() < 0.6:
                    door = self.colour(0.05, 0.6, 0.5) if rng.random() < 0.5 else glass
                    self._on_wall(back, a, 6, step * 0.38, 6, door)
            x += wide
        for _ in range(int(rng.integers(0, 4))):
            x, z = rng.choice([-1.0, 1.0]) * rng.uniform(9, 40), back + rng.uniform(2, 10)
            if rng.random() < 0.5:
                self._box(x - 0.6, x + 0.6, 0, 20, z, z + 1, _rgb(0.08, 0.06, 0.05))
                self._leaves(x, 26, z, rng.uniform(7, 12), _linear(hsv(rng.uniform(0.2, 0.35), 0.5, 0.5)))
            else:
                tint = self.colour(0.1, 0.9, 0.8)
                self._box(x - 9, x + 9, 2, 8, z, z + 8, tint)
                self._box(x - 5, x + 5, 8, 13, z + 1, z + 7, tint * 0.5)
        hit, _, z, _ = self.floor_at()
        near = np.where(hit & (z > back), np.exp(-np.maximum(z - back, 0) / 6), 0)
        self.picture *= (1 - 0.4 * near)[..., None].astype(np.float32)

    def park(self) -> None:
        """Paint a lawn or path with trees and hedges."""
        rng = self.rng
        self._sky()
        self._ground(("grass", "grass", "gravel", "paving"))
        for _ in range(int(rng.integers(5, 16))):
            z = -rng.uniform(40, 260)
            x = rng.uniform(-0.9, 0.9) * (60 - z)
            tint = self.tint((0.18, 0.38), (0.3, 0.6), (0.25, 0.55))
            radius = rng.uniform(12, 30)
            if rng.random() < 0.6:
                self._box(x - 1, x + 1, 0, 25, z, z + 1, _rgb(0.07, 0.05, 0.04))
                self._leaves(x, 20 + radius, z, radius, tint)
            else:
                for k in range(4):
                    self._leaves(x + 9 * k, 7, z, 9, tint)

    def studio(self) -> None:
        """Paint a single-coloured paper backdrop with a soft spotlight."""
        rng = self.rng
        base = self.colour(0.25, 0.98, 0.6)
        hit, _, z, far = self.floor_at()
        y = np.clip(self.rays[..., 1] * 2, -1, 1)
        spot = np.exp(-((self.rays[..., 0] - rng.uniform(-0.2, 0.2)) ** 2 + (y - 0.2) ** 2) / rng.uniform(0.3, 1.5))
        self.picture[:] = base * (0.65 + 0.4 * spot)[..., None]
        self.far[:] = np.where(hit & (z > -20), np.minimum(far, 400), 60)

    def finish(self, blur: float) -> Float32[ndarray, "rows columns 3"]:
        """Blur what is nearer or farther than the person, add vignetting, and return the picture."""
        rng = self.rng
        picture = np.clip(self.picture, 0, 1.6).astype(np.float32)
        if blur > 0:
            focus = self.view.eye[2]  # the person's distance
            defocus = np.clip(np.abs(1 / np.maximum(self.far, 1) - 1 / focus) * focus * 1.6, 0, 1).astype(np.float32)
            defocus = cv2.GaussianBlur(defocus, (0, 0), 2)[..., None]
            soft = cv2.GaussianBlur(picture, (0, 0), 2 * blur)
            half = cv2.GaussianBlur(picture, (0, 0), blur)
            low = picture + (half - picture) * np.minimum(2 * defocus, 1)
            picture = low + (soft - low) * np.clip(2 * defocus - 1, 0, 1)
        rows, columns = self.size
        x = np.arange(columns) / columns - rng.uniform(0.3, 0.7)
        y = np.arange(rows)[:, None] / rows - rng.uniform(0.2, 0.6)
        return picture * (1.05 - rng.uniform(0, 0.3) * (x**2 + y**2))[..., None].astype(np.float32)
