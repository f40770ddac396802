"""Errors planted in exact poses, to test whether confidence-aware guidance protects against them (paper figure 8).

The wrong points get the confidences that a detector would give them, so that results can still be measured against the
exact poses. All errors are seeded and change only the given frames.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mimicmotion.errors import InputError
from mimicmotion.pose.keypoints import L_ELBOW, LEFT_HAND, R_ELBOW, RIGHT_HAND, PoseSequence
from mimicmotion.synth.noise import torso

PLANTED = ("duplicate_detection", "hand_on_wrong_hand", "occluded_elbow")
DOUBTFUL = (0.35, 0.5)
"""Confidence of planted points: low, but above the usual threshold."""
_ARMS = {"right": (R_ELBOW, RIGHT_HAND, LEFT_HAND), "left": (L_ELBOW, LEFT_HAND, RIGHT_HAND)}  # elbow, hand, other hand


def plant_error(
    poses: PoseSequence, kind: str, seed: int, *, side: str = "right", frames: Sequence[int] | None = None
) -> PoseSequence:
    """Return poses with one planted error.

    Args:
        poses: exact poses.
        kind: "duplicate_detection": the hand of `side` is detected on the other hand, slightly shifted.
            "hand_on_wrong_hand": the points of both hands are swapped. "occluded_elbow": the elbow of `side` is
            0.4 to 0.6 torso lengths from its true position, and the direction drifts slowly from frame to frame.
        seed: random seed.
        side: left or right, of the person.
        frames: indices of the frames to change; all if None.

    Raises:
        InputError: the kind is unknown.
    """
    if kind not in PLANTED:
        raise InputError(f"error {kind!r}", ", ".join(PLANTED), "choose one of these")
    rng, chosen = np.random.default_rng([seed, 5]), np.arange(len(poses)) if frames is None else np.array(frames, int)
    xy, confidence, (elbow, hand, other_hand) = poses.xy.copy(), poses.confidence.copy(), _ARMS[side]
    if kind == "duplicate_detection":
        xy[chosen, hand] = xy[chosen, other_hand] + (rng.normal(size=2) * 0.04 * torso(poses.xy)).astype(np.float32)
        what, parts = "duplicate detection", [hand]
    elif kind == "hand_on_wrong_hand":
        xy[chosen, RIGHT_HAND], xy[chosen, LEFT_HAND] = poses.xy[chosen, LEFT_HAND], poses.xy[chosen, RIGHT_HAND]
        what, parts = "hands swapped", [RIGHT_HAND, LEFT_HAND]
    else:
        angle = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.15, len(chosen)))
        offset = rng.uniform(0.4, 0.6) * torso(poses.xy) * np.stack([np.cos(angle), np.sin(angle)], -1)
        xy[chosen, elbow] += offset.astype(np.float32)
        what, parts = "occluded elbow", [slice(elbow, elbow + 1)]
    for part in parts:
        size = len(chosen), part.stop - part.start
        confidence[chosen, part] = rng.uniform(*DOUBTFUL, size).astype(np.float32)
    inside = np.all((xy >= 0) & (xy < [poses.size[1], poses.size[0]]), axis=-1)
    confidence = np.where(inside, confidence, np.float32(0))  # nothing is detected outside the frame
    return dataclasses.replace(poses, xy=xy, confidence=confidence, source=f"{poses.source} + {what}".strip(" +"))


def plant_errors(poses: PoseSequence, seed: int) -> PoseSequence:
    """Plant all three errors, each in a third of the frames, in an order and on a side chosen by the seed."""
    rng = np.random.default_rng([seed, 5])
    side = ("left", "right")[int(rng.integers(2))]
    for share, kind in zip(np.array_split(np.arange(len(poses)), 3), rng.permutation(3), strict=True):
        poses = plant_error(poses, PLANTED[kind], seed, side=side, frames=share.tolist())
    return poses
