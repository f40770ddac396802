"""Procedural motion: hand positions and shapes, random poses, curves through rhythmic key poses, and expressions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.runtime.extras import import_extra
from mimicmotion.synth import figure as fig

CubicHermiteSpline = import_extra("scipy.interpolate", "synth").CubicHermiteSpline
Rng = np.random.Generator
Params = Float64[ndarray, "n 54"]

# Wrist position (outward, up, forward) from the shoulder in arm lengths, its spread, forearm twist, its spread.
ARM_REGIONS: dict[str, tuple[tuple[float, float, float], float, float, float]] = {
    "hang": ((0.14, -0.97, 0.1), 0.05, -1.5, 0.3),
    "bent": ((0.18, -0.72, 0.42), 0.12, -1.6, 0.5),
    "hip": ((0.13, -0.6, 0.1), 0.05, -1.9, 0.3),
    "chest": ((-0.22, -0.35, 0.42), 0.12, -1.6, 0.6),
    "clasp": ((-0.3, -0.52, 0.42), 0.05, -1.6, 0.3),
    "low_front": ((-0.1, -0.8, 0.35), 0.1, -1.8, 0.5),
    "front": ((0.02, -0.02, 0.88), 0.12, -1.8, 0.8),
    "front_up": ((0.1, 0.45, 0.75), 0.14, -1.8, 0.8),
    "side": ((0.96, 0.0, 0.08), 0.1, -1.5, 0.9),
    "side_low": ((0.68, -0.65, 0.15), 0.12, -1.6, 0.7),
    "side_up": ((0.68, 0.66, 0.1), 0.12, -1.2, 0.8),
    "over": ((0.12, 0.95, 0.05), 0.1, -1.2, 0.8),
    "over_bent": ((-0.1, 0.62, 0.12), 0.1, -1.2, 0.6),
    "face": ((-0.16, 0.25, 0.36), 0.08, -2.0, 0.8),
    "ear": ((-0.02, 0.4, 0.1), 0.06, -1.4, 0.5),
    "up_bent": ((0.5, 0.34, 0.28), 0.12, -1.2, 0.7),
    "cross": ((-0.48, -0.12, 0.55), 0.1, -1.8, 0.5),
    "back": ((0.02, -0.74, -0.24), 0.06, -2.2, 0.4),
    "wide_bent": ((0.62, -0.2, 0.3), 0.14, -1.9, 0.7),
}
_TALKING = ("chest", "bent", "up_bent", "front", "face", "cross", "wide_bent", "front_up")  # hand regions of gestures
CALM = ("hang", "hang", "hang", "bent", "hip", "clasp", "low_front", "back")
HAND_SHAPES = {  # thumb, index, middle, ring, little, spread
    "relaxed": (0.35, 0.35, 0.42, 0.48, 0.5, 0.25),
    "open": (0.0, 0.02, 0.02, 0.03, 0.05, 1.0),
    "flat": (0.2, 0.05, 0.03, 0.05, 0.06, 0.1),
    "fist": (1.2, 1.35, 1.4, 1.4, 1.4, 0.0),
    "point": (1.0, 0.0, 1.35, 1.4, 1.4, 0.1),
    "victory": (1.1, 0.02, 0.02, 1.4, 1.4, 1.2),
    "thumb": (-0.2, 1.35, 1.4, 1.4, 1.4, 0.0),
    "pinch": (0.8, 0.75, 0.3, 0.25, 0.2, 0.5),
    "claw": (0.4, 0.7, 0.7, 0.7, 0.7, 0.8),
}


_MAX_GAZE = np.array([0.44, 0.3])  # eye rotation at full intensity, horizontal and vertical, radians

MOODS: dict[str, dict[str, float]] = {
    "calm": {},
    "smile": {"mouthSmileLeft": 0.7, "mouthSmileRight": 0.7, "cheekSquintLeft": 0.4, "cheekSquintRight": 0.4},
    "grin": {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9, "jawOpen": 0.22, "mouthUpperUpLeft": 0.4,
             "mouthUpperUpRight": 0.4, "cheekSquintLeft": 0.7, "cheekSquintRight": 0.7},
    "surprise": {"browInnerUp": 0.9, "browOuterUpLeft": 0.8, "browOuterUpRight": 0.8, "eyeWideLeft": 0.8,
                 "eyeWideRight": 0.8, "jawOpen": 0.3},
    "frown": {"browDownLeft": 0.8, "browDownRight": 0.8, "mouthFrownLeft": 0.5, "mouthFrownRight": 0.5},
    "doubt": {"browOuterUpLeft": 0.9, "browDownRight": 0.5, "mouthLeft": 0.4},
    "pout": {"mouthPucker": 0.7, "browInnerUp": 0.3},
    "squint": {"eyeSquintLeft": 0.8, "eyeSquintRight": 0.8, "noseSneerLeft": 0.3, "noseSneerRight": 0.3},
}  # fmt: skip


def neutral() -> Float64[ndarray, " 54"]:
    """Return the motion parameters of a person standing with the arms at the sides."""
    q = np.zeros(fig.NUM_PARAMS)
    for side in (0, 1):
        set_arm(q, side, "hang", None)
        q[fig.CURL[side] : fig.CURL[side] + 6] = HAND_SHAPES["relaxed"]
        q[fig.LEG[side] : fig.LEG[side] + 5] = (0.07, 0.0, 0.0, 0.0, 0.2)
    q[fig.MOUTH] = 1.0
    return q


def set_arm(q: ndarray, side: int, region: str, rng: Rng | None) -> None:
    """Move a hand to a random position in a region, or to its centre if `rng` is None."""
    centre, spread, twist, twist_spread = ARM_REGIONS[region]
    k = fig.ARM[side]
    noise = np.zeros(7) if rng is None else np.clip(rng.normal(size=7), -2, 2)
    q[k : k + 3] = np.array(centre) + spread * noise[:3]
    q[k + 3 : k + 7] = np.array([0.3, twist_spread, 0.3, 0.2]) * noise[3:]
    q[k + 4] = np.clip(twist + q[k + 4], -3.1, 0.3)


def set_hand(q: ndarray, side: int, shape: str, rng: Rng) -> None:
    """Set the fingers to one of `HAND_SHAPES`, with small random variations."""
    q[fig.CURL[side] : fig.CURL[side] + 6] = np.array(HAND_SHAPES[shape]) + rng.normal(size=6) * 0.06


def random_pose(rng: Rng, energy: float = 1.0, *, calm: bool = False) -> Float64[ndarray, " 54"]:
    """Sample a pose: hands in random regions, weight on either leg, trunk and head turned slightly."""
    q = neutral()
    names = CALM if calm else tuple(ARM_REGIONS)
    both = rng.random() < 0.35
    first = str(rng.choice(names))
    for side, region in ((0, first), (1, first if both else str(rng.choice(names)))):
        set_arm(q, side, region, rng)
        set_hand(q, side, str(rng.choice(list(HAND_SHAPES) if not calm else ["relaxed", "flat"])), rng)
    n = lambda scale: scale * energy * float(np.clip(rng.normal(), -2, 2))  # noqa: E731
    q[[fig.PITCH, fig.ROLL, fig.YAW]] = n(0.04), n(0.06), n(0.18)
    q[[fig.SPINE_PITCH, fig.SPINE_ROLL, fig.SPINE_TWIST]] = 0.04 + n(0.08), n(0.1), n(0.14)
    q[[fig.HEAD_PITCH, fig.HEAD_YAW, fig.HEAD_ROLL]] = n(0.1), n(0.22), n(0.1)
    q[list(fig.SHRUG)] = abs(n(0.4))
    wide = rng.uniform(0.0, 0.28) * energy
    for side in (0, 1):
        q[fig.LEG[side] : fig.LEG[side] + 5] = 0.03 + wide, 0.0, n(0.08), 0.0, 0.2 + n(0.12)
    if rng.random() < 0.25 * energy and not calm:  # one foot is on tiptoe or lifted
        side = int(rng.integers(2))
        ankle = 0.05 + rng.uniform(0, 0.5), rng.uniform(0.03, 0.45), rng.uniform(-0.35, 0.4)
        q[fig.LEG[side] : fig.LEG[side] + 4] = *ankle, -0.5
        q[0] = (1 - 2 * side) * -0.1
    else:
        q[0] = n(0.07)
    q[1] = -abs(n(0.06))
    return q


def _between(rng: Rng, t: ndarray, make: Callable[[], ndarray], low: float, high: float) -> Params:
    """Interpolate poses from `make` at a constant interval, which is sampled between `low` and `high` seconds."""
    beat = rng.uniform(low, high)
    count = int(np.ceil((t[-1] - t[0]) / beat)) + 3
    times = t[0] - rng.uniform(0, beat) + beat * np.arange(count)
    keys = np.stack([make() for _ in range(count)])
    slopes = np.zeros_like(keys)
    slopes[1:-1] = rng.uniform(0.2, 0.9) * (keys[2:] - keys[:-2]) / (2 * beat)  # 0 would stop at every pose, 1 at none
    return CubicHermiteSpline(times, keys, slopes)(t)


def _wave(t: ndarray, period: float, phase: float | ndarray = 0.0) -> ndarray:
    return np.sin(2 * np.pi * (t / period + phase))


def dance(rng: Rng, t: ndarray) -> Params:
    """Random poses on a beat, with bouncing and swaying hips."""
    q = _between(rng, t, lambda: random_pose(rng, 1.2), 0.4, 0.9)
    period = rng.uniform(0.45, 0.8)
    q[:, 1] -= 0.05 * rng.random() * (1 - _wave(t, period))
    q[:, fig.ROLL] += 0.1 * rng.random() * _wave(t, 2 * period)
    q[:, 0] += 0.08 * rng.random() * _wave(t, 2 * period)
    q[:, fig.TRAVEL[0]] += 0.05 * rng.random() * _wave(t, 6 * period, rng.random())
    return q


def sway(rng: Rng, t: ndarray) -> Params:
    """Slow movement between random poses, to cover many poses."""
    return _between(rng, t, lambda: random_pose(rng, 0.8), 1.0, 2.2)


def wave(rng: Rng, t: ndarray) -> Params:
    """Waving with one or both hands."""
    q = _between(rng, t, lambda: random_pose(rng, 0.4, calm=True), 2.0, 3.5)
    sides = [0, 1] if rng.random() < 0.25 else [int(rng.integers(2))]
    period, high = rng.uniform(0.5, 0.9), rng.uniform(0.25, 0.75)
    for s in sides:
        k = fig.ARM[s]
        beat = _wave(t, period, 0.5 * s)
        q[:, k] = rng.uniform(0.4, 0.65) + 0.16 * beat
        q[:, k + 1], q[:, k + 2] = high - 0.03 * beat**2, rng.uniform(0.15, 0.35)
        q[:, k + 3], q[:, k + 4], q[:, k + 5] = 0, rng.uniform(-1.4, -0.7), 0.0
        q[:, k + 6] = 0.3 * _wave(t, period, 0.5 * s - 0.12)
        q[:, fig.CURL[s] : fig.CURL[s] + 6] = HAND_SHAPES["open"]
    return q


def walk(rng: Rng, t: ndarray) -> Params:
    """Walking or marching in place."""
    q = np.tile(neutral(), (len(t), 1))
    period, lift, stride = rng.uniform(0.8, 1.3), rng.uniform(0.08, 0.32), rng.uniform(0.05, 0.2)
    start = rng.random()
    q[:, fig.YAW] = rng.uniform(-0.6, 0.6)
    swing = rng.uniform(0.1, 0.32)
    for s in (0, 1):
        phase = 2 * np.pi * (t / period + start + 0.5 * s)
        up = np.maximum(np.sin(phase), 0) ** 1.5
        q[:, fig.LEG[s]], q[:, fig.LEG[s] + 1] = 0.02, lift * up
        q[:, fig.LEG[s] + 2] = stride * -np.cos(phase) + 0.3 * lift * up
        q[:, fig.LEG[s] + 3] = -0.5 * np.maximum(np.sin(phase + 0.6), 0) * min(1.0, 4 * lift)
        bend = rng.uniform(0.0, 0.3)
        q[:, fig.ARM[s] + 1] = -0.95 + bend
        q[:, fig.ARM[s] + 2] = 0.1 + bend + swing * np.cos(phase)
    step = 2 * np.pi * (t / period + start)
    q[:, 0], q[:, 1] = -0.04 * np.sin(step), -0.015 * (1 + np.cos(2 * step))
    q[:, fig.ROLL], q[:, fig.SPINE_ROLL] = 0.03 * np.sin(step), -0.03 * np.sin(step)
    q[:, fig.SPINE_TWIST], q[:, fig.SPINE_PITCH] = 0.1 * np.cos(step), 0.06
    return q


def turn(rng: Rng, t: ndarray) -> Params:
    """Turning about the vertical axis, up to 60 degrees (rarely more) to either side."""
    q = _between(rng, t, lambda: random_pose(rng, 0.6, calm=rng.random() < 0.6), 1.2, 2.5)
    reach = 1.05 if rng.random() < 0.85 else 1.6
    yaw = _between(rng, t, lambda: np.array([rng.uniform(-reach, reach)]), 0.9, 1.8)[:, 0]
    q[:, fig.YAW] = yaw
    speed = np.abs(np.gradient(yaw, t)) if len(t) > 1 else np.zeros(len(t))
    for s in (0, 1):  # small steps while turning
        q[:, fig.LEG[s] + 1] += 0.06 * np.clip(speed, 0, 1) * np.maximum(_wave(t, 0.5, 0.5 * s), 0)
    q[:, fig.HEAD_YAW] -= 0.25 * yaw * rng.random()
    return q


def squat(rng: Rng, t: ndarray) -> Params:
    """Squats and deep bends with the arms in front, on the hips or overhead."""
    q = np.tile(random_pose(rng, 0.3), (len(t), 1))
    depth, period = rng.uniform(0.15, 0.5), rng.uniform(1.4, 2.6)
    low = 0.5 - 0.5 * np.cos(2 * np.pi * (t / period + rng.random()))
    wide = rng.uniform(0.1, 0.4)
    a, b = neutral(), neutral()
    region, end = str(rng.choice(["hang", "hip", "chest"])), str(rng.choice(["front", "hip", "side", "over", "clasp"]))
    for s in (0, 1):
        set_arm(a, s, region, None)
        set_arm(b, s, end, None)
        k = slice(fig.ARM[s], fig.ARM[s] + 7)
        q[:, k] = a[k] + (b[k] - a[k]) * low[:, None]
        q[:, fig.LEG[s] : fig.LEG[s] + 5] = (wide, 0, 0, 0, 0.2 + 0.8 * wide)
    q[:, 1], q[:, 2] = -depth * low, -0.3 * depth * low
    q[:, fig.SPINE_PITCH], q[:, fig.PITCH] = 0.3 * depth * low, 0.7 * depth * low
    q[:, fig.HEAD_PITCH] = -0.6 * depth * low
    return q


def legs(rng: Rng, t: ndarray) -> Params:
    """Leg raises to the front, side and back, and kicks."""
    period = rng.uniform(1.0, 2.0)
    first = int(rng.integers(2))
    q = _between(rng, t, lambda: random_pose(rng, 0.35), 1.2, 2.4)
    kinds = [((0.0, 0.5, 0.3), -0.5), ((0.75, 0.45, 0.05), 0.0), ((0.05, 0.35, -0.6), -0.6), ((0.05, 0.5, 0.75), 0.1)]
    target, toe = kinds[rng.integers(4)]
    size = rng.uniform(0.6, 1.05)
    for s in (0, 1):
        beat = np.maximum(_wave(t, 2 * period, 0.5 * (s ^ first)), 0) ** 0.8
        q[:, fig.LEG[s] : fig.LEG[s] + 3] = np.array([0.05, 0, 0]) + size * beat[:, None] * np.array(target)
        q[:, fig.LEG[s] + 3] = toe * beat
        q[:, 0] -= (1 - 2 * s) * 0.09 * beat
        q[:, fig.ROLL] += (1 - 2 * s) * 0.2 * target[0] * beat
        q[:, fig.SPINE_ROLL] -= (1 - 2 * s) * 0.12 * beat * rng.random()
    return q


def raise_arms(rng: Rng, t: ndarray) -> Params:
    """Raising and lowering the arms to the side or front, together or alternately."""
    q = np.tile(random_pose(rng, 0.4, calm=True), (len(t), 1))
    period, lag = rng.uniform(1.2, 2.6), float(rng.choice([0.0, 0.0, 0.5, 0.25]))
    low, high = rng.uniform(-1.5, -0.8), rng.uniform(0.3, 1.5)
    plane, reach = rng.uniform(-0.2, 1.3), rng.uniform(0.75, 1.0)
    twist = rng.uniform(-2.4, -0.4)
    for s in (0, 1):
        angle = low + (high - low) * (0.5 - 0.5 * np.cos(2 * np.pi * (t / period + lag * s)))
        flat = reach * np.cos(angle)
        k = fig.ARM[s]
        q[:, k], q[:, k + 1], q[:, k + 2] = flat * np.cos(plane), reach * np.sin(angle), flat * np.sin(plane)
        q[:, k + 4] = twist
        q[:, fig.CURL[s] : fig.CURL[s] + 6] = HAND_SHAPES[str(rng.choice(["flat", "open", "relaxed", "fist"]))]
    return q


def balance(rng: Rng, t: ndarray) -> Params:
    """Standing on one leg, with the trunk leaning away and the arms balancing."""
    side = int(rng.integers(2))
    sign = 1 - 2 * side  # the lifted leg's side

    def make() -> ndarray:
        q = neutral()
        lean = rng.uniform(0.0, 1.0)
        side_share = rng.uniform(-0.3, 1.0)  # 1 lifts the leg sideways, less lifts it backwards
        out, up = 0.1 + 0.6 * lean * max(side_share, 0), 0.1 + 0.4 * lean * rng.random()
        q[fig.LEG[side] : fig.LEG[side] + 4] = out, up, -0.5 * lean * (1 - side_share), -0.4
        q[0] = -sign * 0.11
        q[1] = -0.06 * rng.random()
        q[fig.ROLL], q[fig.SPINE_ROLL] = sign * 0.38 * lean * max(side_share, 0), sign * 0.3 * lean * rng.random()
        q[fig.PITCH], q[fig.SPINE_PITCH] = 0.4 * lean * (1 - side_share) * 0.7, 0.2 * rng.random()
        for s in (0, 1):
            set_arm(q, s, str(rng.choice(["side", "side", "side_up", "side_low", "front", "wide_bent", "over"])), rng)
            set_hand(q, s, str(rng.choice(["open", "flat", "relaxed"])), rng)
        q[fig.HEAD_ROLL] = -0.3 * q[fig.SPINE_ROLL]
        q[fig.HEAD_YAW], q[fig.HEAD_PITCH] = rng.normal() * 0.15, 0.2 * rng.random()
        return q

    q = _between(rng, t, make, 0.7, 1.6)
    q[:, fig.YAW] = rng.uniform(-0.4, 0.4)
    return q


def gesture(rng: Rng, t: ndarray) -> Params:
    """Talking with gestures in front of the body and hand signs."""

    def make() -> ndarray:
        q = random_pose(rng, 0.4, calm=True)
        for s in (0, 1):
            if rng.random() < 0.8:
                set_arm(q, s, str(rng.choice(_TALKING)), rng)
                q[fig.ARM[s] + 4] = rng.uniform(-3.0, -0.6)
            set_hand(q, s, str(rng.choice(list(HAND_SHAPES))), rng)
        q[fig.HEAD_YAW], q[fig.HEAD_PITCH], q[fig.HEAD_ROLL] = rng.normal(size=3) * (0.25, 0.12, 0.1)
        return q

    q = _between(rng, t, make, 0.45, 1.1)
    q[:, fig.MOUTH] = 1 + 0.8 * np.maximum(_wave(t, 0.37) * _wave(t, 0.9, rng.random()), 0)
    return q


def idle(rng: Rng, t: ndarray) -> Params:
    """Standing and shifting weight."""
    return _between(rng, t, lambda: random_pose(rng, 0.4, calm=True), 1.8, 3.5)


MOTIONS: dict[str, Callable[[Rng, ndarray], Params]] = {
    "dance": dance, "sway": sway, "wave": wave, "walk": walk, "turn": turn, "squat": squat, "legs": legs,
    "raise": raise_arms, "balance": balance, "gesture": gesture, "idle": idle,
}  # fmt: skip
_SHARE = {"dance": 3.0, "sway": 2.0, "gesture": 1.5, "raise": 1.5, "balance": 1.2, "idle": 0.5}


def choose_motion(rng: Rng) -> str:
    """Sample the name of a motion, with the relative frequencies in `_SHARE`."""
    weights = np.array([_SHARE.get(name, 1.0) for name in MOTIONS])
    return str(rng.choice(list(MOTIONS), p=weights / weights.sum()))


def motion_params(name: str, rng: Rng, t: Float64[ndarray, " n"]) -> Params:
    """Sample a motion's parameters at the times `t` (seconds), and add sway, breathing and blinks."""
    if name not in MOTIONS:
        raise InputError(f"motion={name!r}", f"one of {sorted(MOTIONS)}", "choose one of them, or None for any")
    q = MOTIONS[name](rng, t)
    phase = rng.random(8)
    q[:, fig.SPINE_PITCH] += 0.012 * _wave(t, 3.4, phase[0])
    q[:, fig.HEAD_YAW] += 0.06 * _wave(t, 2.9, phase[1])
    q[:, fig.HEAD_PITCH] += 0.04 * _wave(t, 2.3, phase[2])
    q[:, fig.HEAD_ROLL] += 0.03 * _wave(t, 3.7, phase[3])
    q[:, fig.PELVIS_OFFSET.start] += 0.012 * _wave(t, 4.1, phase[4])
    for s in (0, 1):
        q[:, fig.ARM[s] : fig.ARM[s] + 3] += 0.015 * _wave(t[:, None], 2.7, phase[5] + s + np.array([0.0, 0.3, 0.6]))
        q[:, fig.CURL[s] : fig.CURL[s] + 5] += 0.05 * _wave(t[:, None], 1.9, phase[6] + np.arange(5) * 0.1)
    q[:, fig.BLINK] = ((t / rng.uniform(2.2, 4.0) + phase[7]) % 1 < 0.05).astype(float)
    if name != "gesture" and rng.random() < 0.4:
        q[:, fig.MOUTH] = 1 + rng.uniform(0, 1.2) * np.maximum(_wave(t, rng.uniform(0.4, 1.5)), 0)
    return q


def face_actions(
    rng: np.random.Generator, q: Float64[ndarray, "n 54"], times: Float64[ndarray, " n"]
) -> list[dict[str, float]]:
    """Sample face actions for each frame: mouth and eyelids from the motion parameters, gaze, two alternating moods.

    Args:
        rng: random generator.
        q: motion parameters.
        times: times of the frames in seconds.
    """
    first, second = (MOODS[str(m)] for m in rng.choice(list(MOODS), 2))
    period, phase, size = rng.uniform(2, 6), rng.random(), rng.uniform(0.3, 1.0)
    share = 0.5 + 0.5 * np.sin(2 * np.pi * (times / period + phase))
    shape = 0.5 + 0.5 * np.sin(2 * np.pi * (times / rng.uniform(0.25, 0.7) + rng.random()))
    out = []
    for row, s, wide, (aside, down) in zip(q, share, shape, gaze(rng.spawn(1)[0], q, times) / _MAX_GAZE, strict=True):
        face: dict[str, float] = {}
        for mood, weight in ((first, s), (second, 1 - s)):
            for name, value in mood.items():
                face[name] = face.get(name, 0.0) + size * weight * value
        opening = max(float(row[fig.MOUTH]) - 1, 0.0)
        face["jawOpen"] = min(face.get("jawOpen", 0.0) + 0.45 * opening, 0.9)
        face["mouthFunnel"] = 0.5 * opening * wide
        blink = float(row[fig.BLINK])
        face["eyeBlinkLeft"] = face["eyeBlinkRight"] = blink
        for name in ("eyeWideLeft", "eyeWideRight", "eyeSquintLeft", "eyeSquintRight"):
            if name in face:
                face[name] *= 1 - blink
        for side, outward in (("Left", aside), ("Right", -aside)):
            face[f"eyeLookOut{side}"], face[f"eyeLookIn{side}"] = max(outward, 0.0), max(-outward, 0.0)
            face[f"eyeLookDown{side}"], face[f"eyeLookUp{side}"] = max(down * (1 - blink), 0.0), max(-down, 0.0)
        out.append(face)
    return out


def gaze(
    rng: np.random.Generator, q: Float64[ndarray, "n 54"], times: Float64[ndarray, " n"]
) -> Float64[ndarray, "n 2"]:
    """Sample gaze angles relative to the head in radians: to the person's left, and down.

    The eyes fixate a point in the world (half of the time the camera, if within range) for 0.3 to 1.8 s while the head
    moves, then jump to the next one.
    """
    head = q[:, [fig.YAW, fig.PITCH]] + q[:, [fig.SPINE_TWIST, fig.SPINE_PITCH]] + q[:, [fig.HEAD_YAW, fig.HEAD_PITCH]]
    ends = times[0] + np.cumsum(rng.uniform(0.3, 1.8, int((times[-1] - times[0]) / 0.3) + 1))
    _, first, rest = np.unique(np.searchsorted(ends, times), return_index=True, return_inverse=True)
    target = head[first] + rng.normal(size=(len(first), 2)) * (0.2, 0.1)
    to_camera = (np.abs(head[first]) < _MAX_GAZE).all(1) & (rng.random(len(first)) < 0.5)
    target[to_camera] = 0.0
    return np.clip(target[rest] - head, -_MAX_GAZE, _MAX_GAZE)
