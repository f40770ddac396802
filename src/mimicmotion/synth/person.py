"""One person in one place: body, look, framing, light and background, all from one seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.synth.appearance import Look, random_look
from mimicmotion.synth.background import draw_background
from mimicmotion.synth.figure import FOOT, PELVIS, SIDE, Body, random_body, rot_x
from mimicmotion.synth.head import add_head
from mimicmotion.synth.parts import add_body
from mimicmotion.synth.primitives import Primitives

FRAMINGS = ("full", "upper")
MARGIN = 0.08  # of the frame's height: how far the background reaches beyond the frame, for a moving camera


@dataclass(frozen=True, slots=True)
class Person:
    """What stays the same in all clips of one person."""

    body: Body
    look: Look
    primitives: Primitives
    framing: str
    unit: float  # pixels of one body height
    to_pixels: Float64[ndarray, "3 3"]  # world to pixel space without the origin
    origin: Float64[ndarray, " 3"]  # where the world's origin (the floor under the figure) is seen
    light: Float64[ndarray, " 7"]  # direction in pixel space, ambient share, tint
    background: Float32[ndarray, "rows columns 3"]
    elevation: float  # angle of the camera above the horizon, radians


def make_person(seed: int, size: tuple[int, int], framing: str | None = None) -> Person:
    """The person, the place and the camera that `seed` stands for.

    Args:
        seed: any integer >= 0.
        size: (height, width) of the frames.
        framing: 'full', 'upper' or None for 65 % full.
    """
    if framing not in (None, *FRAMINGS):
        raise InputError(f"framing={framing!r}", f"one of {FRAMINGS} or None", "choose one of them")
    rng = np.random.default_rng([seed, 1])
    body = random_body(rng)
    look = random_look(rng, female=body.bust > 0, texture_size=128 if max(size) <= 400 else 512)
    prims = Primitives()
    add_head(prims, body, look)
    add_body(prims, body, look)
    by_chance = "full" if rng.random() < 0.65 else "upper"
    framing = framing or by_chance
    height, width = size
    elevation = float(np.clip(rng.normal(0.08, 0.1), -0.05, 0.35))
    if framing == "full":
        unit = height * (0.6 + 0.33 * rng.random() ** 1.6)
        unit = min(unit, 1.6 * width)  # a narrow frame still shows the arms
        bottom = (height - unit) * rng.uniform(0.12, 0.55)
        origin_y = height - bottom
    else:
        unit = min(height * rng.uniform(1.15, 1.75), width * rng.uniform(2.1, 2.9))
        origin_y = height * rng.uniform(0.05, 0.17) + unit
    shift = rng.normal(0, 0.035) if rng.random() < 0.85 else rng.uniform(-0.2, 0.2)
    origin = np.array([width * (0.5 + shift), origin_y, 0.0])
    to_pixels = unit * np.diag([1.0, -1.0, 1.0]) @ rot_x(elevation)
    sun = np.array([rng.uniform(-0.8, 0.8), -rng.uniform(0.25, 1.0), rng.uniform(0.6, 1.1)])
    tint = 1 + rng.uniform(-0.06, 0.06) * np.array([1.0, 0.0, -1.0])
    light = np.concatenate([sun / np.linalg.norm(sun), [rng.uniform(0.42, 0.62)], tint * rng.uniform(0.92, 1.06)])
    margin = int(MARGIN * height) + 1
    floor = origin_y - unit * rng.uniform(0.03, 0.16) + margin
    background = draw_background(rng, (height + 2 * margin, width + 2 * margin), floor)
    return Person(body, look, prims, framing, float(unit), to_pixels, origin, light, background, elevation)


def floor_shadows(person: Person, pos: Float64[ndarray, "n 48 3"]) -> Float64[ndarray, "n 3 5"]:
    """Soft dark ellipses under the feet and the pelvis: centre, radii, strength, in pixels."""
    blobs = np.empty((len(pos), 3, 5))
    flat = max(float(np.sin(person.elevation)), 0.16)
    for i, (segment, radius, dark) in enumerate(((PELVIS, 0.17, 0.3), (FOOT, 0.075, 0.4), (FOOT + SIDE, 0.075, 0.4))):
        at = pos[:, segment].copy()
        lift = at[:, 1] - (person.body.ankle if i else at[:, 1])
        at[:, 0] -= 0.03 * person.light[0]
        at[:, 1] = 0.0
        at[:, 2] += 0.03 if i else 0.0
        pixels = at @ person.to_pixels.T + person.origin
        blobs[:, i, :2] = pixels[:, :2]
        wide = radius * person.unit * (1 + 2 * lift)
        blobs[:, i, 2], blobs[:, i, 3] = wide, wide * flat * 1.3
        blobs[:, i, 4] = dark * np.clip(1 - 4 * lift, 0, 1)
    return blobs
