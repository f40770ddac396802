"""Facial expressions: intensities of face actions over time."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.synth import figure as fig

_FARTHEST = np.array([0.44, 0.3])  # eye rotation at full intensity, horizontal and vertical, radians

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
    """Face actions per frame: mouth and eyelids from the motion parameters, gaze, and two alternating moods.

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
    for row, s, wide, (aside, down) in zip(q, share, shape, gaze(rng.spawn(1)[0], q, times) / _FARTHEST, strict=True):
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
    """Gaze relative to the head, in radians: to the person's left, and down.

    The eyes fixate a point in the world (half of the time the camera, if within range) for 0.3 to 1.8 s while the head
    moves, then jump to the next one.
    """
    head = q[:, [fig.YAW, fig.PITCH]] + q[:, [fig.SPINE_TWIST, fig.SPINE_PITCH]] + q[:, [fig.HEAD_YAW, fig.HEAD_PITCH]]
    ends = times[0] + np.cumsum(rng.uniform(0.3, 1.8, int((times[-1] - times[0]) / 0.3) + 1))
    _, first, rest = np.unique(np.searchsorted(ends, times), return_index=True, return_inverse=True)
    place = head[first] + rng.normal(size=(len(first), 2)) * (0.2, 0.1)
    to_camera = (np.abs(head[first]) < _FARTHEST).all(1) & (rng.random(len(first)) < 0.5)
    place[to_camera] = 0.0
    return np.clip(place[rest] - head, -_FARTHEST, _FARTHEST)
