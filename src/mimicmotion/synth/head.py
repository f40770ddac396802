"""The head: skull, face, hair, hats and beards as primitives, and the 68 face points on it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.synth.appearance import HAIR, Look
from mimicmotion.synth.figure import HEAD, Body, rot_x, rot_y, rot_z
from mimicmotion.synth.primitives import CLOSED_EYE, INNER_MOUTH, OPEN_MOUTH, Primitives

ONES = (1.0, 1.0, 1.0)
# In head heights, from the head's pivot: chin at -0.08, crown at 0.92, z to the front.
_SKULL, _SKULL_RADII = np.array([0.0, 0.56, -0.02]), np.array([0.5, 0.36, 0.42])  # x radius in head widths
_JAW, _JAW_RADII = np.array([0.0, 0.26, 0.07]), np.array([0.4, 0.345, 0.32])
EYE_X, EYE_Y, _BROW_Y, _MOUTH_Y, NOSE_Y = 0.16, 0.43, 0.545, 0.14, 0.27


class HeadShape:
    """Where the surface of the face is."""

    def __init__(self, body: Body) -> None:
        self.height = body.head
        self.width = body.head_width
        self.x = self.width / 0.72  # stretches the face's features across

    def depth(self, x: float, y: float) -> float:
        """Z of the face's surface at (x, y), head heights."""
        best = 0.0
        for centre, radii in ((_SKULL, _SKULL_RADII), (_JAW, _JAW_RADII)):
            d = 1 - ((x - centre[0]) / (radii[0] * self.width)) ** 2 - ((y - centre[1]) / radii[1]) ** 2
            best = max(best, centre[2] + radii[2] * np.sqrt(max(d, 0.0)))
        return float(best)

    def half_width(self, y: float) -> float:
        """Half the width of the head's outline at the height `y`, head heights."""
        wide = 0.0
        for centre, radii in ((_SKULL, _SKULL_RADII), (_JAW, _JAW_RADII)):
            wide = max(wide, radii[0] * self.width * max(1 - ((y - centre[1]) / radii[1]) ** 2, 0.0) ** 0.5)
        return float(wide)

    def on_face(self, x: float, y: float, out: float = 0.0) -> tuple[float, float, float]:
        """The point of the face at (x, y) in body heights, `out` in front of the surface."""
        x *= self.x
        return x * self.height, y * self.height, (self.depth(x, y) + out) * self.height


def add_head(prims: Primitives, body: Body, look: Look) -> None:
    """All the primitives of the head."""
    shape, h, w = HeadShape(body), body.head, body.head_width
    skin = {"tint": look.skin, "group": 1}
    prims.ball(HEAD, _SKULL * h, (0.5 * w * h, 0.36 * h, 0.42 * h), ONES, **skin)
    prims.ball(HEAD, _JAW * h, (0.4 * w * h, 0.345 * h, 0.32 * h), ONES, **skin)
    _face(prims, shape, look)
    if look.beard:
        _beard(prims, shape, look)
    if look.hair_style != "bald":
        _hair(prims, shape, look)
    if look.hat:
        _hat(prims, shape, look)


def _face(prims: Primitives, shape: HeadShape, look: Look) -> None:
    h, skin = shape.height, {"tint": look.skin, "group": 1}
    brow = tuple(0.75 * c for c in look.hair) if sum(look.hair) < 2 else tuple(0.6 * c for c in look.hair)
    for s in (1, -1):
        x = s * EYE_X
        out = rot_y(s * 0.3)
        prims.ball(HEAD, shape.on_face(x, EYE_Y, -0.012), (0.082 * h, 0.05 * h, 0.03 * h), (0.96, 0.95, 0.93), out)
        prims.ball(HEAD, shape.on_face(x, EYE_Y, 0.002), (0.042 * h, 0.047 * h, 0.022 * h), look.iris, out, gloss=0.25)
        prims.ball(
            HEAD, shape.on_face(x, EYE_Y, 0.012), (0.02 * h, 0.023 * h, 0.014 * h), (0.03, 0.03, 0.03), out, gloss=0.6
        )
        lid = tuple(0.45 * c for c in look.skin)
        a, b = shape.on_face(x - 0.078, EYE_Y + 0.03, 0.006), shape.on_face(x + 0.078, EYE_Y + 0.03, 0.006)
        top = shape.on_face(x, EYE_Y + 0.052, 0.012)
        prims.cone(HEAD, a, top, 0.011 * h, 0.013 * h, lid)
        prims.cone(HEAD, top, b, 0.013 * h, 0.011 * h, lid)
        prims.ball(
            HEAD,
            shape.on_face(x, EYE_Y, 0.0),
            (0.088 * h, 0.058 * h, 0.034 * h),
            ONES,
            out,
            dynamic=CLOSED_EYE,
            **skin,
        )
        a, b = shape.on_face(s * 0.075, _BROW_Y + 0.004, 0.004), shape.on_face(s * 0.18, _BROW_Y + 0.022, 0.004)
        prims.cone(HEAD, a, b, 0.019 * h, 0.018 * h, brow)
        prims.cone(HEAD, b, shape.on_face(s * 0.255, _BROW_Y - 0.006, 0.0), 0.018 * h, 0.01 * h, brow)
        ear = (s * 0.505 * shape.width * h, 0.37 * h, -0.03 * h)
        prims.ball(HEAD, ear, (0.035 * h, 0.105 * h, 0.06 * h), ONES, tint=look.skin)
        prims.ball(
            HEAD, shape.on_face(s * 0.045, NOSE_Y - 0.012, 0.018), (0.035 * h, 0.03 * h, 0.035 * h), ONES, **skin
        )
        if look.glasses:
            prims.ball(HEAD, shape.on_face(s * 0.155, EYE_Y - 0.01, 0.03), (0.125 * h, 0.095 * h, 0.035 * h),
                       (0.06, 0.06, 0.08), rot_y(s * 0.25), gloss=0.5)  # fmt: skip
    prims.cone(
        HEAD,
        shape.on_face(0, EYE_Y + 0.02, -0.012),
        shape.on_face(0, NOSE_Y, 0.045),
        0.022 * h,
        0.042 * h,
        (1, 0.985, 0.98),
        tint=look.skin,
    )
    lips = (0.108 * h, 0.038 * h, 0.034 * h)
    prims.ball(HEAD, shape.on_face(0, _MOUTH_Y, -0.014), lips, look.lips, dynamic=OPEN_MOUTH)
    dark = tuple(0.45 * c for c in look.lips)
    prims.ball(HEAD, shape.on_face(0, _MOUTH_Y, -0.004), (0.088 * h, 0.045 * h, 0.03 * h), dark, dynamic=INNER_MOUTH)
    for s in (1, -1):  # the line between the lips, smiling a little
        middle, corner = shape.on_face(0, _MOUTH_Y - 0.006, 0.017), shape.on_face(s * 0.118, _MOUTH_Y + 0.014, 0.007)
        prims.cone(HEAD, middle, corner, 0.009 * h, 0.009 * h, dark)


def _beard(prims: Primitives, shape: HeadShape, look: Look) -> None:
    h, w, hair = shape.height, shape.width, {"texture": HAIR, "u_scale": 2}
    for s in (1, -1):
        prims.cone(
            HEAD,
            shape.on_face(0.01 * s, 0.2, 0.012),
            shape.on_face(0.11 * s, 0.16, 0.002),
            0.022 * h,
            0.016 * h,
            ONES,
            **hair,
        )
    if look.beard == "moustache":
        return
    radii = (0.43 * w * h, 0.37 * h, 0.335 * h)
    clip = (0.0, -1.0, 0.0, -0.36) if look.beard == "full" else (0.0, -1.0, 0.25, -0.95)
    prims.ball(HEAD, (_JAW - np.array([0, 0.012, 0])) * h, radii, ONES, clip=clip, **hair)


def _hair(prims: Primitives, shape: HeadShape, look: Look) -> None:
    h, w, style = shape.height, shape.width, look.hair_style
    hair = {"texture": HAIR, "u_scale": 4, "gloss": 0.06, "group": 4}
    grow = {"buzz": 1.025, "afro": 1.36, "short": 1.07, "side": 1.09}.get(style, 1.1)
    radii = (0.5 * w * h * grow, 0.375 * h * grow, 0.43 * h * grow)
    centre = _SKULL * h + h * np.array([0, 0.02 + 0.1 * (grow - 1), -0.03 - 0.08 * (grow - 1)])
    line = {"afro": 0.2, "fringe": 0.42, "bob": 0.42}.get(style, 0.3)
    prims.ball(HEAD, centre, radii, ONES, clip=(0.0, 0.75, -0.66, line), **hair)
    if style in ("fringe", "bob", "long") and (style != "long" or look.fit > 1.1):
        prims.ball(
            HEAD, (0, 0.66 * h, 0.03 * h), (0.475 * w * h, 0.27 * h, 0.40 * h), ONES, clip=(0, 1, 0, 0.12), **hair
        )
    if style == "side":
        prims.ball(HEAD, (0.1 * h, 0.79 * h, 0.16 * h), (0.3 * h, 0.13 * h, 0.2 * h), ONES, rot_z(-0.25), **hair)
    if style == "short":
        prims.ball(HEAD, (0, 0.84 * h, 0.13 * h), (0.27 * h, 0.11 * h, 0.2 * h), ONES, **hair)
    if style in ("long", "bob"):
        end = -0.62 if style == "long" else -0.02
        prims.cone(
            HEAD,
            (0, 0.5 * h, -0.15 * h),
            (0, (end + 0.1) * h, -0.22 * h),
            0.47 * w * h,
            0.42 * w * h,
            ONES,
            deep=0.62,
            **hair,
        )
        for s in (1, -1):
            a, b = (s * 0.5 * w * h, 0.58 * h, 0.02 * h), (s * 0.52 * w * h, (0.5 * end + 0.08) * h, 0.03 * h)
            prims.cone(HEAD, a, b, 0.095 * h, 0.085 * h, ONES, deep=1.3, wide=1.0, **hair)
    if style == "bun":
        prims.ball(HEAD, (0, 0.98 * h, -0.14 * h), (0.17 * h, 0.15 * h, 0.17 * h), ONES, **hair)
    if style == "ponytail":
        prims.ball(HEAD, (0, 0.75 * h, -0.5 * h), (0.12 * h, 0.12 * h, 0.12 * h), ONES, **hair)
        prims.cone(
            HEAD, (0.06 * h, 0.68 * h, -0.54 * h), (0.18 * h, -0.2 * h, -0.46 * h), 0.12 * h, 0.06 * h, ONES, **hair
        )


def _hat(prims: Primitives, shape: HeadShape, look: Look) -> None:
    h, w, colour = shape.height, shape.width, look.hat_colour
    grow = 1.14 if look.hair_style not in ("bald", "buzz") else 1.06
    radii = (0.5 * w * h * grow, 0.385 * h * grow, 0.43 * h * grow)
    centre = (0.0, 0.585 * h, -0.03 * h)
    shade = tuple(0.7 * c for c in colour)
    if look.hat == "band":
        prims.ball(HEAD, centre, [1.02 * r for r in radii], colour, clip=(0.0, 0.97, -0.2, -0.16))
        prims.ball(HEAD, centre, [1.04 * r for r in radii], ONES, clip=(0.0, 0.97, -0.2, -0.4), texture=HAIR, u_scale=4)
        return
    smooth = look.hat == "swim"
    prims.ball(
        HEAD, centre, radii, colour, clip=(0.0, 0.96, -0.28, 0.1 if smooth else -0.02), gloss=0.15 if smooth else 0.0
    )
    if look.hat == "cap":
        prims.ball(HEAD, (0, 0.7 * h, 0.42 * h), (0.3 * h, 0.035 * h, 0.26 * h), shade, rot_x(0.18))
    elif look.hat == "brim":
        prims.ball(HEAD, (0, 0.7 * h, -0.02 * h), (0.68 * h, 0.035 * h, 0.72 * h), shade)
    elif look.hat == "beanie":
        prims.ball(HEAD, centre, [1.05 * r for r in radii], shade, clip=(0.0, 0.97, -0.2, -0.1))
        prims.ball(HEAD, centre, [1.07 * r for r in radii], colour, clip=(0.0, 0.97, -0.2, -0.38))
        prims.ball(HEAD, (0, 1.06 * h, -0.04 * h), (0.1 * h, 0.09 * h, 0.1 * h), shade)


def face_points(body: Body, mouth: Float64[ndarray, " n"], blink: Float64[ndarray, " n"]) -> Float64[ndarray, "n 68 3"]:
    """The 68 iBUG points on the head (local to HEAD, body heights); `mouth` scales its height, `blink` closes eyes."""
    shape = HeadShape(body)
    points = np.empty((len(mouth), 68, 3))
    h = shape.height
    for i, theta in enumerate(np.linspace(-np.pi / 2, np.pi / 2, 17)):
        y = 0.4 - 0.475 * np.cos(theta) ** 0.8
        x = np.sign(theta) * min(0.36 * abs(np.sin(theta)), shape.half_width(y) / shape.x)
        z = -0.02 + 0.25 * np.cos(theta) ** 1.3
        points[:, i] = (x * shape.x * h, y * h, z * h)
    brow = [(0.255, -0.012), (0.215, 0.014), (0.17, 0.019), (0.12, 0.014), (0.075, 0.004)]
    for i, (x, y) in enumerate(brow):
        points[:, 17 + i] = shape.on_face(-x, _BROW_Y + y, 0.01)
        points[:, 26 - i] = shape.on_face(x, _BROW_Y + y, 0.01)
    for i, t in enumerate(np.linspace(0, 1, 4)):
        points[:, 27 + i] = shape.on_face(0, EYE_Y + t * (NOSE_Y + 0.005 - EYE_Y), 0.01 + 0.075 * t)
    for i, x in enumerate((-0.07, -0.036, 0.0, 0.036, 0.07)):
        points[:, 31 + i] = shape.on_face(x, NOSE_Y - 0.035 - 0.012 * (i == 2), 0.03)
    eye = [(-0.078, 0.0), (-0.028, 0.045), (0.028, 0.045), (0.078, 0.0), (0.028, -0.04), (-0.028, -0.04)]
    for i, (x, y) in enumerate(eye):
        for first, side in ((36, -1), (42, 1)):
            open_point = np.array(shape.on_face(side * EYE_X + x, EYE_Y + y, 0.01))
            points[:, first + i] = open_point
            points[:, first + i, 1] -= (blink > 0.5) * (y + 0.01) * h
    outer = [(-0.12, 0), (-0.075, 0.03), (-0.03, 0.043), (0, 0.038), (0.03, 0.043), (0.075, 0.03), (0.12, 0)]
    outer += [(0.075, -0.032), (0.03, -0.044), (0, -0.046), (-0.03, -0.044), (-0.075, -0.032)]
    inner = [
        (-0.1, 0),
        (-0.04, 0.012),
        (0, 0.015),
        (0.04, 0.012),
        (0.1, 0),
        (0.04, -0.013),
        (0, -0.016),
        (-0.04, -0.013),
    ]
    for i, (x, y) in enumerate(outer + inner):
        points[:, 48 + i] = shape.on_face(x, _MOUTH_Y, 0.012)
        points[:, 48 + i, 1] += y * mouth * h
    return points
