"""Expressions: how strongly the actions of a face are at work over time."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.synth.figure import BLINK, MOUTH

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


def face_actions(
    rng: np.random.Generator, q: Float64[ndarray, "n 54"], times: Float64[ndarray, " n"]
) -> list[dict[str, float]]:
    """Actions of each frame: mouth and eyelids by the parameters of movement, and two moods that come and go.

    Args:
        rng: source of the moods.
        q: parameters of movement.
        times: of the frames, seconds.
    """
    first, second = (MOODS[str(m)] for m in rng.choice(list(MOODS), 2))
    period, phase, size = rng.uniform(2, 6), rng.random(), rng.uniform(0.3, 1.0)
    share = 0.5 + 0.5 * np.sin(2 * np.pi * (times / period + phase))
    shape = 0.5 + 0.5 * np.sin(2 * np.pi * (times / rng.uniform(0.25, 0.7) + rng.random()))
    out = []
    for row, s, wide in zip(q, share, shape, strict=True):
        face: dict[str, float] = {}
        for mood, weight in ((first, s), (second, 1 - s)):
            for name, value in mood.items():
                face[name] = face.get(name, 0.0) + size * weight * value
        opening = max(float(row[MOUTH]) - 1, 0.0)
        face["jawOpen"] = min(face.get("jawOpen", 0.0) + 0.45 * opening, 0.9)
        face["mouthFunnel"] = 0.5 * opening * wide
        blink = float(row[BLINK])
        face["eyeBlinkLeft"] = face["eyeBlinkRight"] = blink
        for name in ("eyeWideLeft", "eyeWideRight", "eyeSquintLeft", "eyeSquintRight"):
            if name in face:
                face[name] *= 1 - blink
        out.append(face)
    return out
