"""Key poses: hand positions, hand shapes, random whole-body poses, and curves through them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.synth import figure as fig

Rng = np.random.Generator

# Hand regions: wrist (outward, up, forward) from the shoulder in arm lengths, its spread, forearm twist, its spread.
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


def neutral() -> Float64[ndarray, " 54"]:
    """Standing with the arms at the sides."""
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
    """Set the fingers to one of HAND_SHAPES, with small random variations."""
    q[fig.CURL[side] : fig.CURL[side] + 6] = np.array(HAND_SHAPES[shape]) + rng.normal(size=6) * 0.06


def random_pose(rng: Rng, energy: float = 1.0, *, calm: bool = False) -> Float64[ndarray, " 54"]:
    """Sample a key pose: arms in any region, weight on either leg, trunk and head turned slightly."""
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
        q[fig.LEG[side] : fig.LEG[side] + 3] = (
            0.05 + rng.uniform(0, 0.5),
            rng.uniform(0.03, 0.45),
            rng.uniform(-0.35, 0.4),
        )
        q[fig.LEG[side] + 3] = -0.5
        q[0] = (1 - 2 * side) * -0.1
    else:
        q[0] = n(0.07)
    q[1] = -abs(n(0.06))
    return q


def interpolate_keys(times: ndarray, keys: ndarray, at: ndarray, ease: float = 0.6) -> ndarray:
    """Cubic Hermite curve through (times, keys); `ease` from 0 (stop at every key) to 1 (pass smoothly)."""
    t = np.clip(at, times[0], times[-1] - 1e-6)
    i = np.clip(np.searchsorted(times, t, side="right") - 1, 0, len(times) - 2)
    slope = np.zeros_like(keys)
    if len(keys) > 2:
        slope[1:-1] = ease * (keys[2:] - keys[:-2]) / (times[2:] - times[:-2])[:, None]
    dt = (times[i + 1] - times[i])[:, None]
    s = (t - times[i])[:, None] / dt
    h = 2 * s**3 - 3 * s**2 + 1
    return (
        h * keys[i] + (1 - h) * keys[i + 1] + (s**3 - 2 * s**2 + s) * dt * slope[i] + (s**3 - s**2) * dt * slope[i + 1]
    )
