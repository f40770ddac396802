from __future__ import annotations

import numpy as np
import pytest

from mimicmotion.evaluation.planted_errors import (
    DOUBTFUL,
    PLANTED,
    plant_error,
    plant_errors,
)
from mimicmotion.pose.keypoints import LEFT_HAND, NUM_POINTS, R_ELBOW, RIGHT_HAND, VISIBLE, PoseSequence


def poses(frames: int = 6) -> PoseSequence:
    """Points spread over the frame, neck to hips 60 pixels."""
    rng = np.random.default_rng(0)
    xy = rng.uniform(80, 170, (1, NUM_POINTS, 2)).repeat(frames, 0).astype(np.float32)
    xy[:, 1], xy[:, 8], xy[:, 11] = (100, 60), (90, 120), (110, 120)
    return PoseSequence(xy, np.full((frames, NUM_POINTS), 0.95, np.float32), (256, 256), 15.0, "exact")


def changed(a: PoseSequence, b: PoseSequence) -> set[int]:
    moved = (a.xy != b.xy).any((0, 2)) | (a.confidence != b.confidence).any(0)
    return set(np.flatnonzero(moved).tolist())


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_errors_are_seeded_and_leave_the_truth_alone(name: str) -> None:
    exact = poses()
    before = exact.xy.copy()
    wrong = plant_error(exact, name, 3)
    assert (exact.xy == before).all()
    assert (wrong.xy == plant_error(exact, name, 3).xy).all()
    assert (wrong.confidence != plant_error(exact, name, 4).confidence).any()
    touched = sorted(changed(exact, wrong))
    doubtful = wrong.confidence[:, touched]
    assert touched
    assert doubtful.min() > VISIBLE  # a drawing with a threshold shows them in full
    assert doubtful.max() <= DOUBTFUL[1]
    assert wrong.source.startswith("exact + ")
    assert (wrong.size, wrong.fps) == (exact.size, exact.fps)


def test_duplicate_lies_on_the_other_hand() -> None:
    exact = poses()
    wrong = plant_error(exact, "duplicate_detection", 0)
    assert changed(exact, wrong) == set(range(RIGHT_HAND.start, RIGHT_HAND.stop))
    gap = np.hypot(*np.moveaxis(wrong.xy[:, RIGHT_HAND] - exact.xy[:, LEFT_HAND], -1, 0))
    assert gap.max() < 0.2 * 60
    assert changed(exact, plant_error(exact, "duplicate_detection", 0, side="left")) == set(
        range(LEFT_HAND.start, LEFT_HAND.stop)
    )


def test_hands_change_places() -> None:
    exact = poses()
    wrong = plant_error(exact, "hand_on_wrong_hand", 0, frames=[1, 2])
    assert (wrong.xy[1:3, RIGHT_HAND] == exact.xy[1:3, LEFT_HAND]).all()
    assert (wrong.xy[1:3, LEFT_HAND] == exact.xy[1:3, RIGHT_HAND]).all()
    rest = [0, 3, 4, 5]
    assert (wrong.xy[rest] == exact.xy[rest]).all()
    assert (wrong.confidence[rest] == exact.confidence[rest]).all()


def test_elbow_is_guessed_far_off() -> None:
    exact = poses()
    wrong = plant_error(exact, "occluded_elbow", 1, frames=[2, 3, 4])
    assert changed(exact, wrong) == {R_ELBOW}
    gap = np.hypot(*(wrong.xy - exact.xy)[:, R_ELBOW].T)
    assert (gap[[0, 1, 5]] == 0).all()
    assert (gap[2:5] > 0.4 * 60 - 1e-3).all()
    assert (gap[2:5] < 0.6 * 60 + 1e-3).all()


def test_all_errors_in_turn() -> None:
    exact = poses(9)
    elbows, shares = set(), []
    for seed in range(8):
        wrong = plant_errors(exact, seed)
        assert (wrong.xy == plant_errors(exact, seed).xy).all()
        arm = [R_ELBOW, 6, *range(LEFT_HAND.start, LEFT_HAND.stop), *range(RIGHT_HAND.start, RIGHT_HAND.stop)]
        assert changed(exact, wrong) <= set(arm)
        assert (wrong.xy != exact.xy).any((1, 2)).all()  # no frame is right
        elbow = np.flatnonzero((wrong.xy[:, [R_ELBOW, 6]] != exact.xy[:, [R_ELBOW, 6]]).any((1, 2)))
        assert len(elbow) == 3
        assert elbow[-1] - elbow[0] == 2
        elbows.add(int(elbow[0]))
        shares.append(sum(s in wrong.source for s in ("duplicate detection", "hands swapped", "occluded elbow")))
    assert shares == [3] * 8
    assert len(elbows) > 1  # the order is the seed's
    assert len(plant_errors(exact[:1], 0)) == 1


def test_nothing_is_found_outside_of_the_frame() -> None:
    exact = poses()
    exact.xy[:, LEFT_HAND] += 200
    wrong = plant_error(exact, "duplicate_detection", 0)
    outside = (wrong.xy[:, RIGHT_HAND] >= 256).any(-1)
    assert outside.any()
    assert (wrong.confidence[:, RIGHT_HAND][outside] == 0).all()
