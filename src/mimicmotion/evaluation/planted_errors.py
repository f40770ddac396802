"""Pose errors planted on exact poses: does confidence-aware guidance protect against them (paper figure 8)?

Each function returns the wrong poses, their points and confidences as a detector would give them; the exact poses stay
as they were, so results can be measured against the truth. All are seeded and change only the frames asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from mimicmotion.errors import ConfigError, InputError
from mimicmotion.pose.keypoints import L_ELBOW, LEFT_HAND, NECK, R_ELBOW, RIGHT_HAND, PoseSequence

DOUBTFUL = (0.35, 0.5)
"""Confidence of planted points: above the usual threshold, yet low."""
_ARMS = {"right": (R_ELBOW, RIGHT_HAND, LEFT_HAND), "left": (L_ELBOW, LEFT_HAND, RIGHT_HAND)}  # elbow, hand, other hand


def duplicate_detection(
    poses: PoseSequence, seed: int, *, side: str = "right", frames: Sequence[int] | None = None
) -> PoseSequence:
    """One hand is found a second time where the other hand is: both sets of points lie on the same hand.

    The hand of `side` leaves its place and lies, a little off, on the other hand, with a doubtful confidence.
    """
    rng, chosen = _start(poses, seed, side, frames)
    xy, (_, here, there) = poses.xy.copy(), _ARMS[side]
    xy[chosen, here] = xy[chosen, there] + (rng.normal(size=2) * 0.04 * _unit(poses)).astype(np.float32)
    return _doubted(poses, xy, rng, chosen, [here], "duplicate detection")


def hand_on_wrong_hand(poses: PoseSequence, seed: int, *, frames: Sequence[int] | None = None) -> PoseSequence:
    """Left and right hand are mistaken for one another: their points change places, both with doubtful confidence."""
    rng, chosen = _start(poses, seed, "right", frames)
    xy = poses.xy.copy()
    xy[chosen, RIGHT_HAND], xy[chosen, LEFT_HAND] = poses.xy[chosen, LEFT_HAND], poses.xy[chosen, RIGHT_HAND]
    return _doubted(poses, xy, rng, chosen, [RIGHT_HAND, LEFT_HAND], "hands swapped")


def occluded_elbow(
    poses: PoseSequence, seed: int, *, side: str = "right", frames: Sequence[int] | None = None
) -> PoseSequence:
    """An elbow that the detector can't see and guesses far off (0.4 to 0.6 torso lengths), above the usual threshold.

    The guess wanders slowly from frame to frame, as guesses do.
    """
    rng, chosen = _start(poses, seed, side, frames)
    xy, elbow = poses.xy.copy(), _ARMS[side][0]
    angle = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.15, len(chosen)))
    away = rng.uniform(0.4, 0.6) * _unit(poses) * np.stack([np.cos(angle), np.sin(angle)], -1)
    xy[chosen, elbow] += away.astype(np.float32)
    return _doubted(poses, xy, rng, chosen, [slice(elbow, elbow + 1)], "occluded elbow")


PLANTED: dict[str, Callable[[PoseSequence, int], PoseSequence]] = {
    "duplicate_detection": duplicate_detection,
    "hand_on_wrong_hand": hand_on_wrong_hand,
    "occluded_elbow": occluded_elbow,
}


def plant_errors(poses: PoseSequence, seed: int) -> PoseSequence:
    """All the errors in turn, each in its share of the frames, in an order and on a side that the seed decides.

    Raises:
        InputError: no frames, or a negative seed.
    """
    rng, _ = _start(poses, seed, "right", None)
    side = ("left", "right")[int(rng.integers(2))]
    order = rng.permutation(3)
    for share, kind in zip(np.array_split(np.arange(len(poses)), 3), order, strict=True):
        if kind == 0:
            poses = duplicate_detection(poses, seed, side=side, frames=share.tolist())
        elif kind == 1:
            poses = hand_on_wrong_hand(poses, seed, frames=share.tolist())
        else:
            poses = occluded_elbow(poses, seed, side=side, frames=share.tolist())
    return poses


def _start(
    poses: PoseSequence, seed: int, side: str, frames: Sequence[int] | None
) -> tuple[np.random.Generator, Int[ndarray, " chosen"]]:
    """The source of random numbers, and the numbers of the frames to change."""
    if side not in _ARMS:
        raise ConfigError(f"side={side!r}", "left or right", "choose one of these")
    if not len(poses) or seed < 0:
        raise InputError(f"{len(poses)} poses, seed={seed}", "at least one pose, seed >= 0", "correct the value")
    chosen = np.arange(len(poses)) if frames is None else np.array(frames, int)
    if not np.isin(chosen, np.arange(len(poses))).all():
        raise InputError(f"frames {frames} of {len(poses)}", "frames that are there", "correct the numbers")
    return np.random.default_rng([seed, 5]), chosen


def _unit(poses: PoseSequence) -> float:
    """Median length neck to hips in pixels."""
    hips = 0.5 * (poses.xy[:, 8] + poses.xy[:, 11])
    return max(float(np.median(np.hypot(*(hips - poses.xy[:, NECK]).T))), 1.0)


def _doubted(
    poses: PoseSequence,
    xy: Float[ndarray, "frames 134 2"],
    rng: np.random.Generator,
    chosen: Int[ndarray, " chosen"],
    parts: Sequence[slice],
    what: str,
) -> PoseSequence:
    """The poses with these positions, where some parts are doubtful in the chosen frames."""
    confidence = poses.confidence.copy()
    for part in parts:
        size = len(chosen), part.stop - part.start
        confidence[chosen, part] = rng.uniform(*DOUBTFUL, size).astype(np.float32)
    inside = np.all((xy >= 0) & (xy < [poses.size[1], poses.size[0]]), axis=-1)
    confidence = np.where(inside, confidence, np.float32(0))  # nothing is found outside of the frame
    return dataclasses.replace(poses, xy=xy, confidence=confidence, source=f"{poses.source} + {what}".strip(" +"))
