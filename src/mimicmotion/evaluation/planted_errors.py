"""Pose errors planted on exact poses: does confidence-aware guidance protect against them (paper figure 8)?

Each function returns the wrong poses, their points and confidences as a detector would give them; the exact poses stay
as they were, so results can be measured against the truth. All are seeded and change only the frames asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from mimicmotion.errors import ConfigError, InputError
from mimicmotion.pose.keypoints import (
    L_ELBOW,
    L_SHOULDER,
    L_WRIST,
    LEFT_HAND,
    NECK,
    R_ELBOW,
    R_SHOULDER,
    R_WRIST,
    RIGHT_HAND,
    PoseSequence,
)

ARMS = {"right": (R_SHOULDER, R_ELBOW, R_WRIST, RIGHT_HAND), "left": (L_SHOULDER, L_ELBOW, L_WRIST, LEFT_HAND)}
DOUBTFUL = (0.35, 0.5)
"""Confidence of planted points: above the usual threshold, yet low."""


def duplicate_detection(
    poses: PoseSequence, seed: int, *, side: str = "right", frames: Sequence[int] | slice | None = None
) -> PoseSequence:
    """One hand is found a second time where the other hand is: both sets of points lie on the same hand.

    The hand of `side` leaves its place and lies, a little off, on the other hand, with a doubtful confidence.
    """
    rng, chosen = _start(poses, seed, side, frames)
    xy, confidence = poses.xy.copy(), poses.confidence.copy()
    here, there = ARMS[side][3], ARMS[_other(side)][3]
    xy[chosen, here] = xy[chosen, there] + (rng.normal(size=2) * 0.04 * _unit(poses)).astype(np.float32)
    confidence[chosen, here] = _doubt(rng, chosen, 21)
    return _wrong(poses, xy, confidence, "duplicate detection")


def hand_on_wrong_hand(poses: PoseSequence, seed: int, *, frames: Sequence[int] | slice | None = None) -> PoseSequence:
    """Left and right hand are mistaken for one another: their points change places, both with doubtful confidence."""
    rng, chosen = _start(poses, seed, "right", frames)
    xy, confidence = poses.xy.copy(), poses.confidence.copy()
    right, left = RIGHT_HAND, LEFT_HAND
    xy[chosen, right], xy[chosen, left] = poses.xy[chosen, left], poses.xy[chosen, right]
    for hand in (right, left):
        confidence[chosen, hand] = _doubt(rng, chosen, 21)
    return _wrong(poses, xy, confidence, "hands swapped")


def occluded_elbow(
    poses: PoseSequence, seed: int, *, side: str = "right", frames: Sequence[int] | slice | None = None
) -> PoseSequence:
    """An elbow that the detector can't see and guesses far off (0.4 to 0.6 torso lengths), above the usual threshold.

    The guess wanders slowly from frame to frame, as guesses do.
    """
    rng, chosen = _start(poses, seed, side, frames)
    xy, confidence = poses.xy.copy(), poses.confidence.copy()
    elbow, n = ARMS[side][1], int(chosen.sum())
    angle = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.15, n))
    away = rng.uniform(0.4, 0.6) * _unit(poses) * np.stack([np.cos(angle), np.sin(angle)], -1)
    xy[chosen, elbow] += away.astype(np.float32)
    confidence[chosen, elbow] = _doubt(rng, chosen, 1)[:, 0]
    return _wrong(poses, xy, confidence, "occluded elbow")


PLANTED: dict[str, Callable[[PoseSequence, int], PoseSequence]] = {
    "duplicate_detection": duplicate_detection,
    "hand_on_wrong_hand": hand_on_wrong_hand,
    "occluded_elbow": occluded_elbow,
}


def plant(name: str, poses: PoseSequence, seed: int) -> PoseSequence:
    """Plant the error of this name in all frames.

    Raises:
        ConfigError: there is no such error.
        InputError: no frames, or a negative seed.
    """
    if name not in PLANTED:
        raise ConfigError(f"planted error {name!r}", ", ".join(PLANTED), "choose one of these")
    return PLANTED[name](poses, seed)


def plant_errors(poses: PoseSequence, seed: int) -> PoseSequence:
    """All the errors in turn, each in its share of the frames, in an order and on a side that the seed decides.

    Raises:
        InputError: no frames, or a negative seed.
    """
    rng, _ = _start(poses, seed, "right", None)
    side = ("left", "right")[int(rng.integers(2))]
    order = rng.permutation(3)
    for share, kind in zip(np.array_split(np.arange(len(poses)), 3), order, strict=True):
        frames = share.tolist()
        if kind == 0:
            poses = duplicate_detection(poses, seed, side=side, frames=frames)
        elif kind == 1:
            poses = hand_on_wrong_hand(poses, seed, frames=frames)
        else:
            poses = occluded_elbow(poses, seed, side=side, frames=frames)
    return poses


def _start(
    poses: PoseSequence, seed: int, side: str, frames: Sequence[int] | slice | None
) -> tuple[np.random.Generator, Bool[ndarray, " frames"]]:
    if side not in ARMS:
        raise ConfigError(f"side={side!r}", "left or right", "choose one of these")
    if not len(poses) or seed < 0:
        raise InputError(f"{len(poses)} poses, seed={seed}", "at least one pose, seed >= 0", "correct the value")
    chosen = np.zeros(len(poses), bool)
    try:
        chosen[slice(None) if frames is None else frames if isinstance(frames, slice) else list(frames)] = True
    except IndexError as error:
        raise InputError(f"frames {frames} of {len(poses)}", "frames that are there", "correct the numbers") from error
    return np.random.default_rng([seed, 5]), chosen


def _doubt(rng: np.random.Generator, chosen: Bool[ndarray, " frames"], points: int) -> ndarray:
    return rng.uniform(*DOUBTFUL, (int(chosen.sum()), points)).astype(np.float32)


def _unit(poses: PoseSequence) -> float:
    """Median length neck to hips in pixels."""
    hips = 0.5 * (poses.xy[:, 8] + poses.xy[:, 11])
    return max(float(np.median(np.hypot(*(hips - poses.xy[:, NECK]).T))), 1.0)


def _other(side: str) -> str:
    return "left" if side == "right" else "right"


def _wrong(poses: PoseSequence, xy: ndarray, confidence: ndarray, what: str) -> PoseSequence:
    inside = np.all((xy >= 0) & (xy < [poses.size[1], poses.size[0]]), axis=-1)
    confidence = np.where(inside, confidence, np.float32(0))  # nothing is found outside of the frame
    return dataclasses.replace(poses, xy=xy, confidence=confidence, source=f"{poses.source} + {what}".strip(" +"))
