"""What detectors do to poses: jitter, swapped sides, duplicate detections, false hands."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.pose.keypoints import (
    BODY,
    FACE,
    L_ELBOW,
    L_SHOULDER,
    L_WRIST,
    LEFT_HAND,
    NECK,
    NUM_POINTS,
    R_ELBOW,
    R_SHOULDER,
    R_WRIST,
    RIGHT_HAND,
    PoseSequence,
)

_ARMS = (np.array([R_SHOULDER, R_ELBOW, R_WRIST]), np.array([L_SHOULDER, L_ELBOW, L_WRIST]))
_LEGS = (np.array([8, 9, 10, 21, 22, 23]), np.array([11, 12, 13, 18, 19, 20]))
_HANDS = (np.arange(RIGHT_HAND.start, RIGHT_HAND.stop), np.arange(LEFT_HAND.start, LEFT_HAND.stop))


def perturb_poses(poses: PoseSequence, seed: int, strength: float = 1.0) -> PoseSequence:
    """The poses as a detector might have found them.

    Jitter that grows where the confidence is low and wanders in time; rare episodes of a few frames in which the
    arms, legs or hands are swapped, a hand is found at a wrong place, a hand jumps onto the other (a duplicate
    detection), or a limb is lost. Points of an episode get a low confidence, as detectors give them, but not always.

    Args:
        poses: exact poses; they are not changed.
        seed: any integer >= 0.
        strength: 0 changes nothing, 1 is an ordinary detector on ordinary video, 3 a bad one.

    Returns:
        Poses of the same shape; confidences stay in 0..1, and points outside of the frame keep 0.
    """
    if not 0 <= strength <= 10 or seed < 0:
        raise InputError(f"strength={strength!r}, seed={seed!r}", "0 <= strength <= 10, seed >= 0", "correct the value")
    if strength == 0 or len(poses) == 0:
        return poses
    rng = np.random.default_rng([seed, 4])
    xy, confidence = poses.xy.astype(np.float64), poses.confidence.astype(np.float64)
    unit = _scale(xy)
    for start, stop in _episodes(rng, len(poses), 0.012 * strength):
        _episode(rng, xy[start:stop], confidence[start:stop], unit)
    _jitter(rng, xy, confidence, unit, strength)
    confidence = np.where(poses.confidence > 0, np.clip(confidence, 0.02, 1.0), 0.0)
    return dataclasses.replace(
        poses,
        xy=xy.astype(np.float32),
        confidence=confidence.astype(np.float32),
        source=f"{poses.source} + noise {strength:g}".strip(),
    )


def _scale(xy: ndarray) -> float:
    """Median length neck to hips, the measure of the person's size in pixels."""
    hips = 0.5 * (xy[:, 8] + xy[:, 11])
    return max(float(np.median(np.sqrt(((hips - xy[:, NECK]) ** 2).sum(-1)))), 1.0)


def _jitter(rng: np.random.Generator, xy: ndarray, confidence: ndarray, unit: float, strength: float) -> None:
    """White noise and a slow wander; the face and a hand's points move together more than apart."""
    n = len(xy)
    share = np.full(NUM_POINTS, 0.012)
    share[FACE], share[LEFT_HAND], share[RIGHT_HAND] = 0.004, 0.01, 0.01
    spread = strength * unit * share[:, None] * (0.6 + 2.5 * (1 - confidence[..., None]) ** 2)
    wander = np.empty((n, NUM_POINTS, 2))
    state = rng.normal(size=(NUM_POINTS, 2))
    for i in range(n):
        state = 0.85 * state + 0.53 * rng.normal(size=(NUM_POINTS, 2))
        wander[i] = state
    whole = rng.normal(size=(n, 2, 2)) * strength * unit * 0.006
    xy += spread * (0.6 * wander + 0.4 * rng.normal(size=xy.shape))
    for k, hand in enumerate((LEFT_HAND, RIGHT_HAND)):
        xy[:, hand] += whole[:, k, None]
    confidence *= 1 - 0.04 * strength * np.abs(rng.normal(size=confidence.shape))


def _episodes(rng: np.random.Generator, n: int, rate: float) -> list[tuple[int, int]]:
    starts = np.flatnonzero(rng.random(n) < rate)
    return [(int(s), min(int(s) + int(rng.integers(1, 5)), n)) for s in starts]


def _episode(rng: np.random.Generator, xy: ndarray, confidence: ndarray, unit: float) -> None:
    """One fault, in place, over a few frames."""
    fault = rng.integers(5)
    certain = rng.uniform(0.25, 0.6) if rng.random() < 0.8 else rng.uniform(0.7, 0.95)
    side = int(rng.integers(2))
    if fault == 0:  # arms or legs swapped
        groups = _LEGS if rng.random() < 0.6 else _ARMS
        if groups is _ARMS:
            groups = tuple(np.concatenate([a, h]) for a, h in zip(_ARMS, _HANDS, strict=True))
        for values in (xy, confidence):
            values[:, groups[0]], values[:, groups[1]] = values[:, groups[1]].copy(), values[:, groups[0]].copy()
        for g in groups:
            confidence[:, g] *= certain
    elif fault == 1:  # a duplicate: one hand lies on the other
        here, there = _HANDS[side], _HANDS[1 - side]
        xy[:, here] = xy[:, there] + rng.normal(size=2) * 0.05 * unit
        confidence[:, here] *= certain
    elif fault == 2:  # a false hand somewhere near the body
        hand = _HANDS[side]
        centre = xy[:, hand].mean(1, keepdims=True)
        away = rng.normal(size=2) * 0.5 * unit
        xy[:, hand] = (xy[:, hand] - centre) * rng.uniform(0.5, 1.5) + centre + away
        confidence[:, hand] *= min(certain, 0.5)
    elif fault == 3:  # a wrist and its hand off the arm
        away = rng.normal(size=2) * 0.25 * unit
        points = np.concatenate([_ARMS[side][2:], _HANDS[side]])
        xy[:, points] += away
        confidence[:, points] *= certain
    else:  # a limb is lost
        points = (_ARMS, _LEGS)[int(rng.integers(2))][side][1:]
        confidence[:, points] *= rng.uniform(0.05, 0.35)
        xy[:, points] += rng.normal(size=(1, len(points), 2)) * 0.08 * unit
    confidence[:, BODY] = np.minimum(confidence[:, BODY], 1.0)
