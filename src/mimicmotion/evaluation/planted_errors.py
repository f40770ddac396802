"""Errors planted in exact poses, to test whether confidence-aware guidance protects against them (paper figure 8).

Each function returns new poses, with wrong points and the confidences that a detector would give them, so that results
can still be measured against the exact poses. All are seeded and change only the given frames.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from mimicmotion.pose.keypoints import L_ELBOW, LEFT_HAND, R_ELBOW, RIGHT_HAND, PoseSequence
from mimicmotion.synth.noise import torso

DOUBTFUL = (0.35, 0.5)
"""Confidence of planted points: low, but above the usual threshold."""
_ARMS = {"right": (R_ELBOW, RIGHT_HAND, LEFT_HAND), "left": (L_ELBOW, LEFT_HAND, RIGHT_HAND)}  # elbow, hand, other hand


def duplicate_detection(
    poses: PoseSequence, seed: int, *, side: str = "right", frames: Sequence[int] | None = None
) -> PoseSequence:
    """One hand is detected twice: the points of `side` lie on the other hand, slightly off, with low confidence."""
    rng, chosen = _start(poses, seed, frames)
    xy, (_, here, there) = poses.xy.copy(), _ARMS[side]
    xy[chosen, here] = xy[chosen, there] + (rng.normal(size=2) * 0.04 * torso(poses.xy)).astype(np.float32)
    return _doubted(poses, xy, rng, chosen, [here], "duplicate detection")


def hand_on_wrong_hand(poses: PoseSequence, seed: int, *, frames: Sequence[int] | None = None) -> PoseSequence:
    """Left and right hand are mistaken for each other: their points are swapped, both with low confidence."""
    rng, chosen = _start(poses, seed, frames)
    xy = poses.xy.copy()
    xy[chosen, RIGHT_HAND], xy[chosen, LEFT_HAND] = poses.xy[chosen, LEFT_HAND], poses.xy[chosen, RIGHT_HAND]
    return _doubted(poses, xy, rng, chosen, [RIGHT_HAND, LEFT_HAND], "hands swapped")


def occluded_elbow(
    poses: PoseSequence, seed: int, *, side: str = "right", frames: Sequence[int] | None = None
) -> PoseSequence:
    """A hidden elbow is guessed 0.4 to 0.6 torso lengths off, above the usual threshold.

    The guess drifts slowly from frame to frame.
    """
    rng, chosen = _start(poses, seed, frames)
    xy, elbow = poses.xy.copy(), _ARMS[side][0]
    angle = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.15, len(chosen)))
    away = rng.uniform(0.4, 0.6) * torso(poses.xy) * np.stack([np.cos(angle), np.sin(angle)], -1)
    xy[chosen, elbow] += away.astype(np.float32)
    return _doubted(poses, xy, rng, chosen, [slice(elbow, elbow + 1)], "occluded elbow")


PLANTED: dict[str, Callable[[PoseSequence, int], PoseSequence]] = {
    "duplicate_detection": duplicate_detection,
    "hand_on_wrong_hand": hand_on_wrong_hand,
    "occluded_elbow": occluded_elbow,
}


def plant_errors(poses: PoseSequence, seed: int) -> PoseSequence:
    """All three errors, each in a third of the frames, in an order and on a side chosen by the seed."""
    rng, _ = _start(poses, seed, None)
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
    poses: PoseSequence, seed: int, frames: Sequence[int] | None
) -> tuple[np.random.Generator, Int[ndarray, " chosen"]]:
    """The random generator, and the numbers of the frames to change."""
    return np.random.default_rng([seed, 5]), np.arange(len(poses)) if frames is None else np.array(frames, int)


def _doubted(
    poses: PoseSequence,
    xy: Float[ndarray, "frames 134 2"],
    rng: np.random.Generator,
    chosen: Int[ndarray, " chosen"],
    parts: Sequence[slice],
    what: str,
) -> PoseSequence:
    """The poses with these positions, and low confidence for some parts in the chosen frames."""
    confidence = poses.confidence.copy()
    for part in parts:
        size = len(chosen), part.stop - part.start
        confidence[chosen, part] = rng.uniform(*DOUBTFUL, size).astype(np.float32)
    inside = np.all((xy >= 0) & (xy < [poses.size[1], poses.size[0]]), axis=-1)
    confidence = np.where(inside, confidence, np.float32(0))  # nothing is detected outside the frame
    return dataclasses.replace(poses, xy=xy, confidence=confidence, source=f"{poses.source} + {what}".strip(" +"))
