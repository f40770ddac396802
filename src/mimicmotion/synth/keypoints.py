"""The 134 keypoints of a posed body, their visibility, and simulated detector confidences."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from mimicmotion.pose.keypoints import FACE, LEFT_HAND, NUM_POINTS, RIGHT_HAND
from mimicmotion.synth.assets import Assets
from mimicmotion.synth.people import Figure
from mimicmotion.synth.rig import Pose

FACE_POINTS = Path(__file__).with_name("face_points.json")
_LIMBS = {  # bones whose heads are keypoints: OpenPose index on the right and on the left
    "upperarm01": (2, 5), "lowerarm01": (3, 6), "wrist": (4, 7), "upperleg01": (8, 11), "lowerleg01": (9, 12),
    "foot": (10, 13), "eye": (14, 15),
}  # fmt: skip
_HANDS = {"R": RIGHT_HAND.start, "L": LEFT_HAND.start}
_HEADS = {  # keypoint to bone
    **{points[k]: f"{bone}.{side}" for bone, points in _LIMBS.items() for k, side in enumerate("RL")},
    **{first: f"wrist.{side}" for side, first in _HANDS.items()},
    **{
        first + 1 + 4 * finger + joint: f"finger{finger + 1}-{joint + 1}.{side}"
        for side, first in _HANDS.items()
        for finger in range(5)
        for joint in range(3)
    },
}
_ENDS = {  # keypoint to bone whose end it is
    18: "toe1-2.L", 19: "toe5-3.L", 21: "toe1-2.R", 22: "toe5-3.R",
    **{f + 4 + 4 * finger: f"finger{finger + 1}-3.{s}" for s, f in _HANDS.items() for finger in range(5)},
}  # fmt: skip
_THICKNESS = {  # thickness of the body part at each point, decimetres; 0.4 for others
    1: 1.5, 2: 1.3, 5: 1.3, 3: 0.95, 6: 0.95, 4: 0.75, 7: 0.75, 8: 2.0, 11: 2.0, 9: 1.2, 12: 1.2, 10: 0.95, 13: 0.95,
    **dict.fromkeys(range(14, 18), 0.45), **dict.fromkeys(range(18, 24), 0.85),
    **dict.fromkeys(range(LEFT_HAND.start, RIGHT_HAND.stop), 0.3), LEFT_HAND.start: 0.7, RIGHT_HAND.start: 0.7,
}  # fmt: skip
_NOSE, _EAR, _HEEL = (0.0, 6.98, 1.75), (0.62, 7.12, 0.48), (2.2, -8.0, -0.42)  # positions on the base mesh, decimetres
_SHOULDER = np.array([0.0, 0.28, 0.0])  # from the joint to where estimators locate shoulders, decimetres


@functools.cache
def face_vertices() -> tuple[ndarray, ndarray]:
    """Return the vertices of the base mesh whose weighted means are the 68 face points, and their weights."""
    data = json.loads(FACE_POINTS.read_text(encoding="utf-8"))
    return np.array(data["vertices"]), np.array(data["weights"])


@functools.lru_cache(maxsize=2)
def _landmarks(assets: Assets) -> dict[str, int]:
    """Return the indices of the base mesh's vertices at nose, ears and heels."""
    body = np.unique(assets.faces("body")[0])
    nearest = lambda p: int(body[((assets.vertices[body] - np.array(p)) ** 2).sum(1).argmin()])  # noqa: E731
    mirror = np.array([-1.0, 1.0, 1.0])
    return {
        "nose": nearest(_NOSE), "ear.L": nearest(_EAR), "ear.R": nearest(mirror * _EAR), "heel.L": nearest(_HEEL),
        "heel.R": nearest(mirror * _HEEL),
    }  # fmt: skip


def keypoints(figure: Figure, pose: Pose, frame: int, vertices: ndarray) -> Float64[ndarray, "134 3"]:
    """Compute all keypoints in world coordinates; the neck is the midpoint of the shoulders, as in OpenPose.

    Args:
        figure: the person.
        pose: bones in all frames.
        frame: index of the frame.
        vertices: posed vertices of the figure's mesh in this frame.
    """
    body, out = figure.body, np.zeros((NUM_POINTS, 3))
    marks, rot = _landmarks(body.assets), pose.rot[frame]
    out[list(_HEADS)] = pose.head[frame, [body.index(bone) for bone in _HEADS.values()]]
    out[list(_ENDS)] = pose.tips[frame, [body.assets.tips.index(tip) for tip in _ENDS.values()]]
    for side, shoulder, heel in (("R", 2, 23), ("L", 5, 20)):
        out[shoulder] += rot[body.index(f"clavicle.{side}")] @ _SHOULDER * figure.height / 17
        foot = body.index(f"foot.{side}")
        out[heel] = rot[foot] @ body.vertices[marks[f"heel.{side}"]] + pose.shift[frame, foot]
    out[[0, 16, 17]] = vertices[figure.vertex_of[[marks["nose"], marks["ear.R"], marks["ear.L"]]]]
    out[1] = 0.5 * (out[2] + out[5])
    index, weight = face_vertices()
    out[FACE] = (vertices[figure.vertex_of[index]] * weight[..., None]).sum(1)
    return out


def hidden_points(
    seen: Float64[ndarray, "134 3"], nearness: ndarray, samples: int, height: float
) -> Bool[ndarray, " 134"]:
    """Return whether each point lies behind the visible surface by more than the thickness of its body part.

    Args:
        seen: column, row (pixels) and inverse depth of each point.
        nearness: depth buffer of inverse depths.
        samples: samples per pixel along each axis of the buffer.
        height: height of the person in decimetres.
    """
    rows, columns = nearness.shape
    x, y = np.floor(seen[:, :2] * samples).astype(np.int64).T
    inside = (x >= 0) & (y >= 0) & (x < columns) & (y < rows)
    surface = np.zeros(len(seen))
    surface[inside] = nearness[y[inside], x[inside]]
    thick = np.array([_THICKNESS.get(point, 0.4) for point in range(NUM_POINTS)]) * height / 17
    return (surface > 0) & (1 / seen[:, 2] - 1 / np.maximum(surface, 1e-9) > thick)


def confidences(
    rng: np.random.Generator,
    pixels: Float64[ndarray, "n 134 2"],
    hidden: Bool[ndarray, "n 134"],
    size: tuple[int, int],
    unit: float,
    fps: float,
) -> Float64[ndarray, "n 134"]:
    """Simulate detector confidences: 0.93 +- 0.05, lower for occluded or fast points, 0 outside the frame.

    Args:
        rng: random generator.
        pixels: positions in pixels.
        hidden: whether each point is occluded.
        size: (height, width) of the frame.
        unit: body height in pixels.
        fps: frames per second, to compute speed.
    """
    n = len(pixels)
    base = 0.93 + 0.05 * _slow_noise(rng, n)
    base *= np.where(hidden, np.clip(0.425 + 0.175 * _slow_noise(rng, n), 0.25, 0.6), 1.0)
    if n > 1:
        speed = np.sqrt((np.gradient(pixels, axis=0) ** 2).sum(-1)) / unit * fps  # body heights per second
        base *= 1 - 0.45 * np.clip((speed - 0.8) / 3.0, 0, 1)
    x, y = pixels[..., 0], pixels[..., 1]
    inside = (x >= 0) & (y >= 0) & (x < size[1]) & (y < size[0])
    return np.where(inside, np.clip(base, 0.02, 1.0), 0.0)


def _slow_noise(rng: np.random.Generator, n: int) -> Float64[ndarray, "n 134"]:
    """Sample noise with standard deviation of about 1 for each point and frame, mostly constant over the frames."""
    constant = np.clip(rng.normal(size=(1, NUM_POINTS)), -2, 2)
    return 0.8 * constant + 0.5 * np.clip(rng.normal(size=(n, NUM_POINTS)), -2, 2)
