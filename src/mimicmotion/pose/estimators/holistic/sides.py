"""Left and right that do not jump: undo single frames in which the body network mistakes a front for a back."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy import ndarray

from mimicmotion.pose.estimators.holistic.networks import BodyPoints

UPPER = ((11, 12), (13, 14), (15, 16))  # shoulders, elbows, wrists
LOWER = ((23, 24), (25, 26), (27, 28))  # hips, knees, ankles
WITH_UPPER = ((1, 4), (2, 5), (3, 6), (7, 8), (9, 10), (17, 18), (19, 20), (21, 22))  # head and fingers go along
WITH_LOWER = ((29, 30), (31, 32))
SWAP_COST = 0.01  # per frame, in sides of the person's region: so much is the network's own opinion worth


class Sides:
    """Keeps a person's left and right steady over time; arms and legs are judged apart.

    For each group two stories are kept up: the network is right now, or it has the sides swapped now. A story costs
    the way its points have jumped so far (in sides of the person's region) and `SWAP_COST` for each frame in which
    it contradicts the network; the cheaper one is told (Viterbi's algorithm without looking ahead). So a mistake of
    some frames is undone, a network that insists is believed, and where both sides meet its own opinion counts.
    """

    def __init__(self) -> None:
        self._last: BodyPoints | None = None
        self._costs = np.zeros((2, 2))  # arms, legs x network right, network swapped

    def steady(self, body: BodyPoints) -> BodyPoints:
        """The body with left and right as in the cheaper story."""
        order = np.arange(len(body.xy))
        for i, (pairs, others) in enumerate(((UPPER, WITH_UPPER), (LOWER, WITH_LOWER))):
            if self._last is not None:
                stay, swap = point_jumps(self._last, body, pairs)
                right, wrong = self._costs[i]
                self._costs[i] = min(right + stay, wrong + swap), min(wrong + stay, right + swap)
            self._costs[i] += 0.0, SWAP_COST
            self._costs[i] -= self._costs[i].min()
            if self._costs[i, 1] < self._costs[i, 0]:
                for a, b in pairs + others:
                    order[[a, b]] = b, a
        self._last = body
        return dataclasses.replace(body, xy=body.xy[order], visibility=body.visibility[order], peak=body.peak[order])


def point_jumps(before: BodyPoints, now: BodyPoints, pairs: tuple[tuple[int, int], ...]) -> tuple[float, float]:
    """How far points move between two frames, sides kept and sides swapped; weighted by visibility, in region sides."""
    left, right = np.array(pairs).T
    weight = np.minimum.reduce([p.visibility[side] for p in (before, now) for side in (left, right)])

    def gap(a: ndarray, b: ndarray) -> ndarray:
        return np.linalg.norm(before.xy[a] - now.xy[b], axis=1)

    stay, swap = gap(left, left) + gap(right, right), gap(left, right) + gap(right, left)
    scale = 2 * len(pairs) * max(now.next_roi.size, 1.0)
    return float((weight * stay).sum() / scale), float((weight * swap).sum() / scale)
