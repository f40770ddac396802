"""The truth: 134 keypoints of the figure in pixels, and the confidence that a detector would have."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.pose.keypoints import FACE, LEFT_HAND, NUM_POINTS, RIGHT_HAND
from mimicmotion.synth.figure import (
    FINGERS,
    FOOT,
    FOREARM,
    HAND,
    HEAD,
    SHANK,
    SIDE,
    THIGH,
    UPPER_ARM,
    Body,
    finger_lengths,
)
from mimicmotion.synth.head import EYE_X, EYE_Y, NOSE_Y, HeadShape, face_points


def keypoints(
    body: Body, rot: ndarray, pos: ndarray, mouth: Float64[ndarray, " n"], blink: Float64[ndarray, " n"]
) -> Float64[ndarray, "n 134 3"]:
    """World positions of all the points; neck = middle of the shoulders, as OpenPose defines it."""
    n = len(rot)
    out = np.zeros((n, NUM_POINTS, 3))
    for first, side in ((5, 0), (2, 1)):  # 5.. left arm, 2.. right arm
        for i, segment in enumerate((UPPER_ARM, FOREARM, HAND)):
            out[:, first + i] = pos[:, segment + side * SIDE]
        for i, segment in enumerate((THIGH, SHANK, FOOT)):
            out[:, first + 6 + i] = pos[:, segment + side * SIDE]
    out[:, 1] = 0.5 * (out[:, 2] + out[:, 5])
    shape, h = HeadShape(body), body.head
    ear = 0.47 * shape.width * h
    local = np.array([
        shape.on_face(0, NOSE_Y, 0.085), shape.on_face(-EYE_X, EYE_Y, 0.01), shape.on_face(EYE_X, EYE_Y, 0.01),
        (-ear, 0.37 * h, -0.01 * h), (ear, 0.37 * h, -0.01 * h),
    ])  # fmt: skip
    out[:, [0, 14, 15, 16, 17]] = _attach(rot, pos, HEAD, local[None])
    out[:, FACE] = _attach(rot, pos, HEAD, face_points(body, mouth, blink))
    length, a = body.foot, body.ankle
    for first, side in ((18, 0), (21, 1)):
        s = 1 - 2 * side
        feet = [(-0.014 * s, 0.012 - a, length), (0.026 * s, 0.01 - a, 0.82 * length), (0, 0.014 - a, -0.036)]
        out[:, first : first + 3] = _attach(rot, pos, FOOT + side * SIDE, np.array([feet]))
    lengths = finger_lengths(body)
    for hand, side in ((LEFT_HAND, 0), (RIGHT_HAND, 1)):
        out[:, hand.start] = pos[:, HAND + side * SIDE]
        for f in range(5):
            base = FINGERS + side * 15 + 3 * f
            out[:, hand.start + 1 + 4 * f : hand.start + 4 + 4 * f] = pos[:, base : base + 3]
            tip = np.array([[(0.0, -lengths[f, 2], 0.0)]])
            out[:, hand.start + 4 + 4 * f] = _attach(rot, pos, base + 2, tip)[:, 0]
    return out


def _attach(rot: ndarray, pos: ndarray, segment: int, local: ndarray) -> ndarray:
    local = np.broadcast_to(local, (len(rot), *local.shape[1:]))
    return pos[:, segment, None] + np.einsum("fij,fpj->fpi", rot[:, segment], local)


def depth_tolerance(body: Body) -> Float64[ndarray, " 134"]:
    """How far (body heights) a point may lie under the surface and still count as visible: its own part and clothes."""
    out = np.full(NUM_POINTS, 0.02)
    out[[2, 5]] = 0.07  # shoulders
    out[1] = 0.09
    out[[3, 6]] = 0.055
    out[[4, 7]] = 0.04
    out[[8, 11]] = 0.115
    out[[9, 12]] = 0.07
    out[[10, 13]] = 0.05
    out[0] = 0.02
    out[[14, 15, 16, 17]] = 0.025
    out[18:24] = 0.035
    out[FACE] = 0.022
    out[92:134] = 0.16 * body.hand
    out[[92, 113]] = 0.04
    return out * (0.5 + 0.5 * max(body.girth, 1.0))


def confidences(
    rng: np.random.Generator,
    pixels: Float64[ndarray, "n 134 3"],
    hidden: ndarray,
    size: tuple[int, int],
    unit: float,
    fps: float,
) -> Float64[ndarray, "n 134"]:
    """Confidence as a detector's: 0.93 +- 0.05, lower where hidden or fast, 0 outside of the frame.

    Args:
        rng: source of the spread.
        pixels: positions in the frame.
        hidden: (n, 134) bool, the z-buffer covers the point.
        size: (height, width) of the frame.
        unit: pixels of one body height.
        fps: frames per second, for the speed.
    """
    n = len(pixels)
    base = 0.93 + 0.05 * _slow_noise(rng, n)
    base *= np.where(hidden, np.clip(0.425 + 0.175 * _slow_noise(rng, n), 0.25, 0.6), 1.0)
    if n > 1:
        speed = np.sqrt((np.gradient(pixels[..., :2], axis=0) ** 2).sum(-1)) / unit * fps  # body heights per second
        base *= 1 - 0.45 * np.clip((speed - 0.8) / 3.0, 0, 1)
    x, y = pixels[..., 0], pixels[..., 1]
    inside = (x >= 0) & (y >= 0) & (x < size[1]) & (y < size[0])
    return np.where(inside, np.clip(base, 0.02, 1.0), 0.0)


def _slow_noise(rng: np.random.Generator, n: int) -> ndarray:
    """Noise of unit spread per point that changes a little from frame to frame."""
    still = np.clip(rng.normal(size=(1, NUM_POINTS)), -2, 2)
    return 0.8 * still + 0.5 * np.clip(rng.normal(size=(n, NUM_POINTS)), -2, 2)
