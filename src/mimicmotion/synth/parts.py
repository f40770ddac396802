"""Body and clothes as primitives on the figure's segments."""

from __future__ import annotations

from typing import Any

from mimicmotion.synth.appearance import BOTTOM, DECAL, TOP, Look
from mimicmotion.synth.figure import (
    ABDOMEN,
    CHEST,
    FINGERS,
    FOOT,
    FOREARM,
    HAND,
    NECK,
    PELVIS,
    SHANK,
    SIDE,
    SKIRT,
    THIGH,
    UPPER_ARM,
    Body,
    finger_lengths,
)
from mimicmotion.synth.primitives import WIDE, Primitives

ONES = (1.0, 1.0, 1.0)
_TILE = 3.2  # tiles of cloth per body height, along the body


def add_body(prims: Primitives, body: Body, look: Look) -> None:
    """Trunk, limbs and hands with their clothes (everything below the head)."""
    _trunk(prims, body, look)
    for side in (0, 1):
        _arm(prims, body, look, side)
        _hand(prims, body, look, side)
        _leg(prims, body, look, side)
        _foot(prims, body, look, side)
    if look.bottom in ("skirt", "long_skirt"):
        _skirt(prims, body, look)


def _skin(look: Look) -> dict[str, Any]:
    return {"tint": look.skin, "group": 1}


def _cloth(look: Look, name: str, height: float, around: float = 1.6) -> dict[str, Any]:
    """Texture options of clothes on a segment whose origin is at `height`; `around`: tiles about the segment."""
    texture = TOP if name == "top" else BOTTOM
    group = 2 if name == "top" else 3
    if look.plain[name != "top"]:
        return {"tint": look.top_colour if name == "top" else look.bottom_colour, "group": group}
    return {"texture": texture, "u_scale": around, "v_scale": _TILE, "v_start": _TILE * height, "group": group}


def _trunk(prims: Primitives, body: Body, look: Look) -> None:
    g, w, c = body.girth, body.waistline, body.chest
    loose = 1.0 if look.top == "bare" else 0.96 + 0.3 * (look.fit - 1) + (0.05 if look.top == "hoodie" else 0)
    cloth = lambda height: _skin(look) if look.top == "bare" else _cloth(look, "top", height)  # noqa: E731
    low = _cloth(look, "top" if look.dress else "bottom", 0.5)
    hips = g * (0.6 + 0.4 * body.hip_width / 0.054)
    prims.cone(PELVIS, (0, 0.012, 0), (0, 0.045, 0), 0.0745 * hips, 0.068 * hips, ONES, deep=0.86, wide=1.26,
               clip=(0, -1, 0, 0.046), **low)  # fmt: skip
    for s in (1, -1):
        prims.ball(PELVIS, (s * 0.048 * hips, 0.006, -0.012), (0.05 * hips, 0.062 * hips, 0.053 * g), ONES, **low)
    waist = 0.066 * g * w * loose
    prims.cone(
        ABDOMEN, (0, 0.036, 0.002), (0, 0.075, 0), waist * 1.02, waist, ONES, deep=0.85, wide=1.14, **cloth(0.53)
    )
    if look.top in ("tee", "long", "hoodie") and not look.dress:  # the hem hangs over the hips
        hem = {"kind": 1, "deep": 0.88, "wide": 1.27, **cloth(0.5)}
        prims.cone(PELVIS, (0, -0.03, 0), (0, 0.052, 0), 0.089 * hips * loose, 0.076 * hips * loose, ONES, **hem)
        prims.cone(PELVIS, (0, 0.05, 0), (0, 0.1, 0), 0.0763 * hips * loose, 0.97 * waist, ONES, **hem)
    elif not look.dress and look.bottom != "leggings":  # a belt
        prims.cone(
            PELVIS, (0, 0.05, 0), (0, 0.061, 0), 0.071 * hips, 0.069 * hips, look.trim, kind=1, deep=0.87, wide=1.26
        )
    top = cloth(0.575)
    if look.decal:
        top |= {"decal": DECAL, "decal_x": -0.045, "decal_y": 0.4 * c, "decal_w": 0.09, "decal_h": 0.08}
    ribs = 0.077 * g * loose
    prims.cone(CHEST, (0, 0, 0), (0, 0.64 * c, 0.004), waist, ribs, ONES, deep=0.82, wide=1.14, **top)
    width = 1.17 * body.shoulder_width / 0.108
    prims.cone(
        CHEST, (0, 0.62 * c, 0.004), (0, 0.86 * c, -0.004), ribs, 0.05 * g * loose, ONES, deep=0.83, wide=width, **top
    )
    for s in (1, -1):
        slope = _skin(look) if look.top == "tank" else top
        a, b = (0.018 * s, c + 0.004, -0.01), (s * 0.9 * body.shoulder_width, c - 0.014, -0.004)
        prims.cone(CHEST, a, b, 0.028 * g, 0.031 * g * loose, ONES, deep=1.15, **slope)
        if look.top == "tank":
            prims.cone(CHEST, (s * 0.05, 0.75 * c, 0.045), (s * 0.048, c + 0.012, 0.008), 0.017, 0.013, ONES, **top)
            prims.cone(CHEST, (s * 0.048, c + 0.012, 0.008), (s * 0.05, 0.8 * c, -0.05), 0.013, 0.017, ONES, **top)
        if body.bust:
            r = 0.027 + 0.01 * body.bust
            prims.ball(CHEST, (s * 0.037, 0.61 * c, 0.041 * g), (1.2 * r, 1.15 * r, 0.9 * r), ONES, **top)
        elif look.top == "bare":
            prims.ball(CHEST, (s * 0.042, 0.72 * c, 0.03 * g), (0.047, 0.034, 0.0355), ONES, **top)
    _neck(prims, body, look)


def _neck(prims: Primitives, body: Body, look: Look) -> None:
    neck = 0.0275 * (0.5 + 0.5 * body.girth) * (1 if body.bust else 1.12)
    prims.cone(NECK, (0, -0.02, -0.004), (0, body.neck + 0.012, 0), neck * 1.12, neck, ONES, **_skin(look))
    thick = {"hoodie": 0.018, "shirt": 0.007, "long": 0.006, "tee": 0.005}.get(look.top, 0.0)
    if thick:
        colour = look.trim if look.top in ("long", "tee") else look.top_colour
        height = -0.014 if look.top == "tee" else -0.004
        prims.cone(
            NECK, (0, height - 0.006, -0.008), (0, height, -0.004), neck * 1.2 + thick, neck * 1.1 + thick, colour
        )
    if look.top == "shirt" and not body.bust:  # a row of buttons
        for k in range(5):
            at = (0.14 + 0.13 * k) * body.chest
            prims.ball(
                CHEST,
                (0, at, (0.057 + 0.035 * at) * body.girth * (0.98 + 0.3 * (look.fit - 1))),
                (0.004,) * 3,
                look.trim,
            )


def _arm(prims: Primitives, body: Body, look: Look, side: int) -> None:
    upper, lower = UPPER_ARM + side * SIDE, FOREARM + side * SIDE
    m = body.girth * body.muscle
    la, lf = body.upper_arm, body.forearm
    skin = _skin(look)
    prims.ball(upper, (0, -0.012, 0), (0.0315 * m, 0.037 * m, 0.033 * m), ONES, **skin)
    prims.cone(upper, (0, -0.02, 0), (0, -la, 0), 0.029 * m, 0.0235 * m, ONES, **skin)
    prims.cone(lower, (0, 0, 0), (0, -0.35 * lf, 0), 0.0238 * m, 0.0248 * m, ONES, **skin)
    prims.cone(lower, (0, -0.3 * lf, 0), (0, -lf, 0), 0.025 * m, 0.016 * m, ONES, **skin)
    if look.sleeve <= 0:
        return
    f = look.fit * (1.12 if look.top == "hoodie" else 1.0)
    cloth = _cloth(look, "top", 0.85, 0.6)
    reach = min(1.0, look.sleeve * 2) * la
    prims.ball(upper, (0, -0.01, 0), (0.033 * m * f, 0.037 * m * f, 0.0345 * m * f), ONES, **cloth)
    prims.cone(
        upper, (0, -0.012, 0), (0, -reach, 0), 0.031 * m * f, (0.0315 if reach < la else 0.026) * m * f, ONES, **cloth
    )
    if look.sleeve >= 1:
        cloth = _cloth(look, "top", 0.85 - la, 0.6)
        prims.cone(lower, (0, 0, 0), (0, -0.93 * lf, 0), 0.0277 * m * f, 0.0205 * m * f, ONES, **cloth)
        cuff = look.trim if look.top == "hoodie" else look.top_colour
        prims.cone(lower, (0, -0.9 * lf, 0), (0, -0.97 * lf, 0), 0.0208 * m * f, 0.02 * m * f, cuff)


def _hand(prims: Primitives, body: Body, look: Look, side: int) -> None:
    hand, h = HAND + side * SIDE, body.hand
    s = 1 - 2 * side
    skin = _skin(look)
    prims.cone(hand, (0, -0.02 * h, 0), (0, -0.12 * h, 0), 0.145 * h, 0.16 * h, ONES, deep=0.8, **skin)
    prims.cone(
        hand, (0.01 * h * s, -0.2 * h, 0), (0, -0.46 * h, 0), 0.19 * h, 0.2 * h, ONES, deep=0.46, wide=1.08, **skin
    )
    prims.ball(hand, (0.14 * h * s, -0.24 * h, 0.05 * h), (0.1 * h, 0.16 * h, 0.085 * h), ONES, **skin)
    lengths = finger_lengths(body)
    for f in range(5):
        thick = (0.085, 0.072, 0.074, 0.07, 0.062)[f] * h
        for j in range(3):
            a, b = thick * (1 - 0.1 * j), thick * (0.9 - 0.1 * j)
            tint = tuple(1 - 0.02 * (f % 2) for _ in range(3))
            prims.cone(FINGERS + side * 15 + 3 * f + j, (0, 0, 0), (0, -lengths[f, j], 0), a, b, tint, **skin)


def _leg(prims: Primitives, body: Body, look: Look, side: int) -> None:
    thigh, shank = THIGH + side * SIDE, SHANK + side * SIDE
    m = body.girth * (0.5 + 0.5 * body.muscle)
    lt, ls = body.thigh, body.shank
    skin = _skin(look)
    prims.cone(thigh, (0, -0.012, -0.003), (0, -lt, 0), 0.049 * m, 0.0335 * m, ONES, **skin)
    prims.cone(shank, (0, 0, 0), (0, -0.3 * ls, -0.007), 0.033 * m, 0.034 * m, ONES, **skin)
    prims.cone(shank, (0, -0.28 * ls, -0.007), (0, -ls, 0), 0.034 * m, 0.02 * m, ONES, **skin)
    f = 0.97 + (look.fit - 1) * 0.9 if look.bottom != "leggings" else 1.02
    upper = _cloth(look, "bottom", 0.5, 1.0)
    if look.bottom in ("trousers", "leggings"):
        prims.cone(thigh, (0, -0.012, -0.003), (0, -lt, 0), 0.051 * m * f, 0.0375 * m * f, ONES, **upper)
        lower = _cloth(look, "bottom", 0.5 - lt, 0.8)
        end = (0.026 if look.bottom == "leggings" else 0.034) * m * f
        prims.cone(shank, (0, 0, 0), (0, -0.35 * ls, -0.006), 0.0375 * m * f, 0.037 * m * f, ONES, **lower)
        prims.cone(shank, (0, -0.33 * ls, -0.006), (0, -0.95 * ls, 0), 0.0372 * m * f, end, ONES, **lower)
    elif look.bottom == "shorts":
        prims.cone(thigh, (0, -0.012, -0.003), (0, -0.72 * lt, 0), 0.052 * m * f, 0.049 * m * f, ONES, **upper)
    if look.socks and look.shoe_kind == "shoe":
        prims.cone(shank, (0, -0.72 * ls, -0.002), (0, -ls, 0), 0.0285 * m, 0.024 * m, look.trim)


def _foot(prims: Primitives, body: Body, look: Look, side: int) -> None:
    foot, length, a, s = FOOT + side * SIDE, body.foot, body.ankle, 1 - 2 * side
    if look.shoe_kind == "bare":
        prims.cone(foot, (0, -0.008, -0.006), (0, -a + 0.018, -0.02), 0.022, 0.02, ONES, **_skin(look))
        prims.cone(
            foot,
            (0, -a + 0.022, 0.0),
            (0.004 * s, -a + 0.011, 0.8 * length),
            0.022,
            0.011,
            ONES,
            wide=1.35,
            **_skin(look),
        )
        for k in range(5):
            x, z = (-0.016 + 0.009 * k) * s, length * (0.97 - 0.045 * k)
            r = 0.0085 if k == 0 else 0.006
            prims.cone(foot, (0.8 * x, -a + 0.01, z - 0.02), (x + 0.003 * s, -a + 0.006, z), r, r, ONES, **_skin(look))
        return
    prims.cone(foot, (0, -0.012, -0.008), (0, -a + 0.02, -0.012), 0.025, 0.025, look.shoes, gloss=0.1)
    prims.cone(
        foot,
        (0, -a + 0.026, 0.004),
        (0.004 * s, -a + 0.018, length - 0.02),
        0.0265,
        0.018,
        look.shoes,
        wide=1.2,
        gloss=0.12,
    )
    sole = look.trim if look.shoe_kind == "shoe" else tuple(0.4 * c for c in look.shoes)
    prims.cone(foot, (0, -a + 0.009, -0.016), (0.004 * s, -a + 0.009, length - 0.018), 0.027, 0.026, sole, deep=0.33)
    if look.shoe_kind == "boot":
        shank, ls = SHANK + side * SIDE, body.shank
        prims.cone(shank, (0, -0.62 * ls, -0.004), (0, -ls, 0), 0.038, 0.03, look.shoes, gloss=0.12)


def _skirt(prims: Primitives, body: Body, look: Look) -> None:
    length = (0.2 if look.bottom == "skirt" else 0.36) * (1 + 0.15 * (look.fit - 1.1))
    g = body.girth
    flare = 0.145 if look.bottom == "skirt" else 0.155
    options = _cloth(look, "top" if look.dress else "bottom", 0.55, 3.0)
    prims.cone(SKIRT, (0, 0.0, 0), (0, -length, 0), 0.078 * g, flare * g, ONES, kind=1, deep=0.8, wide=1.1,
               dynamic=WIDE, **options)  # fmt: skip
