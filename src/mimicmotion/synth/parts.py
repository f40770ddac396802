"""Body and clothes as primitives on the figure's segments."""

from __future__ import annotations

from mimicmotion.synth.appearance import BOTTOM, DECAL, SKIN, TOP, Look
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


def _cloth(look: Look, name: str, height: float, along: float = 1.0) -> dict[str, float]:
    """Texture options of a part of the clothes that starts at `height`; `along` -1 where its axis points down."""
    texture = TOP if name == "top" else BOTTOM
    return {"texture": texture, "u_scale": 3, "v_scale": _TILE * along, "v_start": _TILE * height}


def _trunk(prims: Primitives, body: Body, look: Look) -> None:
    g, w, c = body.girth, body.waistline, body.chest
    fit = 1.0 if look.top == "bare" else 0.94 + 0.06 * look.fit + (0.06 if look.top == "hoodie" else 0)
    skin = {"texture": SKIN}
    top = skin if look.top == "bare" else _cloth(look, "top", 0.6)
    low = dict(top) if look.dress else _cloth(look, "bottom", 0.5)
    hips = 0.3 * body.hip_width + 0.7 * 0.054
    prims.cone(
        PELVIS, (0, -0.008, 0), (0, 0.04, 0), 0.076 * g * hips / 0.054, 0.074 * g, ONES, deep=0.8, wide=1.18, **low
    )
    waist = 0.07 * g * w * fit
    prims.cone(ABDOMEN, (0, -0.015, 0.004), (0, 0.075, 0), 1.05 * waist, waist, ONES, deep=0.86, wide=1.12, **top)
    if look.top != "bare" and not look.dress and look.top not in ("tank", "shirt"):  # a hem over the hips
        hem = _cloth(look, "top", 0.5)
        prims.cone(
            PELVIS, (0, 0.004, 0), (0, 0.05, 0), 0.078 * g * fit, 0.072 * g * fit, ONES, deep=0.84, wide=1.19, **hem
        )
    elif look.bottom in ("trousers", "shorts", "skirt"):
        prims.cone(PELVIS, (0, 0.047, 0), (0, 0.052, 0), 0.0725 * g, 0.0725 * g, look.trim, deep=0.84, wide=1.2)
    ribs = 0.073 * g * fit
    print_size = 0.082
    decal = {"decal": DECAL, "decal_x": -0.5 * print_size, "decal_y": 0.03 if body.bust else 0.05,
             "decal_w": print_size, "decal_h": 0.9 * print_size} if look.decal else {}  # fmt: skip
    prims.cone(
        CHEST,
        (0, -0.01, 0),
        (0, 0.62 * c, 0.004),
        waist * 1.02,
        ribs * 1.08,
        ONES,
        deep=0.84,
        wide=1.14,
        **top,
        **decal,
    )
    upper = {**top, "v_start": _TILE * (0.6 + 0.62 * c)} if look.top != "bare" else dict(top)
    width = body.shoulder_width / 0.108
    prims.cone(CHEST, (0, 0.6 * c, 0.004), (0, 0.86 * c, -0.004), ribs * 1.08, 0.052 * g * fit, ONES, deep=0.84,
               wide=1.2 * width, **upper)  # fmt: skip
    for s in (1, -1):
        slope = dict(upper)
        if look.top == "tank":
            slope = {"texture": SKIN}
        prims.cone(CHEST, (0.018 * s, c + 0.006, -0.01), (s * 0.88 * body.shoulder_width, c - 0.014, -0.004),
                   0.03 * g, 0.036 * g * fit, ONES, deep=1.15, **slope)  # fmt: skip
        if look.top == "tank":
            prims.cone(CHEST, (s * 0.052, 0.8 * c, 0.03), (s * 0.046, c + 0.012, 0.0), 0.024 * g, 0.028, ONES, **upper)
        if body.bust:
            r = 0.03 + 0.011 * body.bust
            prims.ball(CHEST, (s * 0.04, 0.6 * c, 0.046 * g), (1.12 * r, r, 0.9 * r), ONES, **upper)
        elif not look.decal:
            prims.ball(CHEST, (s * 0.043, 0.69 * c, 0.035 * g), (0.044, 0.034, 0.03), ONES, **upper)
    neck = 0.0285 * (0.5 + 0.5 * g) * (1 if body.bust else 1.12)
    prims.cone(NECK, (0, -0.02, -0.004), (0, body.neck + 0.012, 0), neck * 1.12, neck, ONES, **skin)
    if look.top in ("hoodie", "shirt", "long"):
        thick = {"hoodie": 0.02, "shirt": 0.009, "long": 0.008}[look.top]
        colour = look.trim if look.top == "long" else look.top_colour
        prims.cone(NECK, (0, -0.012, -0.008), (0, 0.004, -0.002), neck * 1.2 + thick, neck * 1.05 + thick, colour)
    if look.top in ("shirt", "hoodie"):  # buttons or a zip
        prims.cone(CHEST, (0, 0.0, 0.066 * g), (0, 0.75 * c, 0.066 * g), 0.004, 0.004, look.trim)


def _arm(prims: Primitives, body: Body, look: Look, side: int) -> None:
    upper, lower = UPPER_ARM + side * SIDE, FOREARM + side * SIDE
    m = body.girth * body.muscle
    la, lf = body.upper_arm, body.forearm
    skin = {"texture": SKIN}
    prims.ball(upper, (0, -0.012, 0), (0.037 * m, 0.043 * m, 0.039 * m), ONES, **skin)
    prims.cone(upper, (0, -0.02, 0), (0, -la, 0), 0.033 * m, 0.0255 * m, ONES, **skin)
    prims.cone(lower, (0, 0, 0), (0, -0.35 * lf, 0), 0.0255 * m, 0.0265 * m, ONES, **skin)
    prims.cone(lower, (0, -0.3 * lf, 0), (0, -lf, 0), 0.0268 * m, 0.0175 * m, ONES, **skin)
    if look.sleeve <= 0:
        return
    f = look.fit * (1.12 if look.top == "hoodie" else 1.0)
    cloth = _cloth(look, "top", 0.85, -1)
    reach = min(1.0, look.sleeve * 2) * la
    prims.ball(upper, (0, -0.01, 0), (0.039 * m * f, 0.044 * m * f, 0.04 * m * f), ONES, **cloth)
    prims.cone(
        upper, (0, -0.012, 0), (0, -reach, 0), 0.0355 * m * f, (0.034 if reach < la else 0.0285) * m * f, ONES, **cloth
    )
    if look.sleeve >= 1:
        cloth = _cloth(look, "top", 0.85 - la, -1)
        prims.cone(lower, (0, 0, 0), (0, -0.93 * lf, 0), 0.0285 * m * f, 0.0215 * m * f, ONES, **cloth)
        cuff = look.trim if look.top == "hoodie" else look.top_colour
        prims.cone(lower, (0, -0.9 * lf, 0), (0, -0.97 * lf, 0), 0.0225 * m * f, 0.0215 * m * f, cuff)


def _hand(prims: Primitives, body: Body, look: Look, side: int) -> None:
    hand, h = HAND + side * SIDE, body.hand
    s = 1 - 2 * side
    skin = {"texture": SKIN}
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
    m, s = body.girth * (0.5 + 0.5 * body.muscle), 1 - 2 * side
    lt, ls = body.thigh, body.shank
    skin = {"texture": SKIN}
    prims.cone(thigh, (0.004 * s, 0.005, -0.004), (0, -lt, 0), 0.0585 * m, 0.0365 * m, ONES, **skin)
    prims.cone(shank, (0, 0, 0), (0, -0.3 * ls, -0.007), 0.0362 * m, 0.0365 * m, ONES, **skin)
    prims.cone(shank, (0, -0.28 * ls, -0.007), (0, -ls, 0), 0.0365 * m, 0.0215 * m, ONES, **skin)
    f = 0.97 + (look.fit - 1) * 0.9 if look.bottom != "leggings" else 1.02
    upper = _cloth(look, "bottom", 0.5, -1)
    if look.bottom in ("trousers", "leggings"):
        prims.cone(thigh, (0.004 * s, 0.005, -0.004), (0, -lt, 0), 0.062 * m * f, 0.041 * m * f, ONES, **upper)
        lower = _cloth(look, "bottom", 0.5 - lt, -1)
        end = (0.026 if look.bottom == "leggings" else 0.034) * m * f
        prims.cone(shank, (0, 0, 0), (0, -0.35 * ls, -0.006), 0.041 * m * f, 0.039 * m * f, ONES, **lower)
        prims.cone(shank, (0, -0.33 * ls, -0.006), (0, -0.95 * ls, 0), 0.0395 * m * f, end, ONES, **lower)
    elif look.bottom == "shorts":
        prims.cone(thigh, (0.004 * s, 0.005, -0.004), (0, -0.72 * lt, 0), 0.063 * m * f, 0.052 * m * f, ONES, **upper)
    if look.socks and look.shoe_kind == "shoe":
        prims.cone(shank, (0, -0.72 * ls, -0.002), (0, -ls, 0), 0.0285 * m, 0.024 * m, look.trim)


def _foot(prims: Primitives, body: Body, look: Look, side: int) -> None:
    foot, length, a, s = FOOT + side * SIDE, body.foot, body.ankle, 1 - 2 * side
    if look.shoe_kind == "bare":
        prims.cone(foot, (0, -0.008, -0.006), (0, -a + 0.018, -0.02), 0.022, 0.02, ONES, texture=SKIN)
        prims.cone(
            foot,
            (0, -a + 0.022, 0.0),
            (0.004 * s, -a + 0.011, 0.8 * length),
            0.022,
            0.011,
            ONES,
            wide=1.35,
            texture=SKIN,
        )
        for k in range(5):
            x, z = (-0.016 + 0.009 * k) * s, length * (0.97 - 0.045 * k)
            r = 0.0085 if k == 0 else 0.006
            prims.cone(foot, (0.8 * x, -a + 0.01, z - 0.02), (x + 0.003 * s, -a + 0.006, z), r, r, ONES, texture=SKIN)
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
    options = _cloth(look, "top" if look.dress else "bottom", 0.55, -1)
    prims.cone(SKIRT, (0, 0.0, 0), (0, -length, 0), 0.078 * g, flare * g, ONES, kind=1, deep=0.8, wide=1.1, dynamic=WIDE,
               **{**options, "u_scale": 4})  # fmt: skip
