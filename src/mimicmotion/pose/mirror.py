"""Mirrored poses: the picture of a person in a mirror shows a right hand where the left one was."""

from __future__ import annotations

import dataclasses

import numpy as np

from mimicmotion.pose.keypoints import NUM_POINTS, PoseSequence

# right <-> left; pairs of the 68 face points go jaw, brows, nostrils, eyes, mouth
_BODY = [(2, 5), (3, 6), (4, 7), (8, 11), (9, 12), (10, 13), (14, 15), (16, 17)]
_FEET = [(18, 21), (19, 22), (20, 23)]
_FACE = [
    *((i, 16 - i) for i in range(8)),
    *((i, 43 - i) for i in range(17, 22)),
    *((31, 35), (32, 34)),
    *((36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)),
    *((48, 54), (49, 53), (50, 52), (55, 59), (56, 58)),
    *((60, 64), (61, 63), (65, 67)),
]
_HANDS = [(92 + i, 113 + i) for i in range(21)]


def _table() -> np.ndarray:
    table = np.arange(NUM_POINTS)
    for a, b in [*_BODY, *_FEET, *((24 + a, 24 + b) for a, b in _FACE), *_HANDS]:
        table[a], table[b] = b, a
    return table


MIRRORED = _table()
"""For each point the one that takes its place in a mirror."""


def mirror_poses(poses: PoseSequence) -> PoseSequence:
    """The poses of the mirrored frames: x becomes width - x, left and right points change places."""
    xy = poses.xy[:, MIRRORED].copy()
    xy[..., 0] = poses.size[1] - xy[..., 0]
    return dataclasses.replace(poses, xy=xy, confidence=poses.confidence[:, MIRRORED])
