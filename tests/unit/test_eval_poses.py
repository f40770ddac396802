from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray

from mimicmotion.errors import InputError, PoseError
from mimicmotion.evaluation.metrics.poses import (
    Fidelity,
    box_sides,
    find_patches,
    patch_errors,
    pooled,
    pose_fidelity,
    redetect,
    torso_length,
)
from mimicmotion.pose.keypoints import FACE, LEFT_HAND, NUM_POINTS, RIGHT_HAND, PoseSequence
from static_pose import StaticPose


def poses(frames: int = 4, seed: int = 0) -> PoseSequence:
    """Neck to hips 50 pixels in a frame of 160 x 120; all points certain."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(30, 90, (frames, NUM_POINTS, 2)).astype(np.float32)
    xy[:, 1], xy[:, 8], xy[:, 11] = (60, 40), (50, 90), (70, 90)
    return PoseSequence(xy, np.full((frames, NUM_POINTS), 0.9, np.float32), (160, 120), 15.0)


def moved(truth: PoseSequence, by: tuple[float, float], points: slice | list[int] = slice(None)) -> PoseSequence:
    xy = truth.xy.copy()
    xy[:, points] += np.array(by, np.float32)
    return dataclasses.replace(truth, xy=xy)


def test_torso_length() -> None:
    truth = poses()
    assert torso_length(truth) == 50
    bent = dataclasses.replace(truth, xy=truth.xy.copy())
    bent.xy[0, [8, 11], 1] = 45  # one foreshortened frame does not matter
    assert torso_length(bent) == 50
    truth.confidence[:, 8] = 0
    truth.xy[:, 2], truth.xy[:, 5] = (40, 40), (80, 40)
    assert torso_length(truth) == pytest.approx(1.2 * 40)
    truth.confidence[:, 2] = 0
    with pytest.raises(PoseError, match="no torso"):
        torso_length(truth)


def test_known_distances() -> None:
    truth = poses()
    same = pose_fidelity(truth, truth)
    assert list(same) == ["body", "left_hand", "right_hand", "face"]
    assert same["body"] == Fidelity(0.0, 1.0, 0.0, 4 * 18)
    assert same["face"].points == 4 * 68
    off = pose_fidelity(moved(truth, (3, 4)), truth)  # 5 pixels: exactly 0.1 torso lengths
    assert off["left_hand"].error == pytest.approx(0.1)
    assert pose_fidelity(moved(truth, (3, 3.9)), truth)["left_hand"].pck == 1
    assert pose_fidelity(moved(truth, (3, 4.1)), truth)["left_hand"].pck == 0
    one = pose_fidelity(moved(truth, (0, 10), RIGHT_HAND), truth)
    assert one["right_hand"].error == pytest.approx(0.2)
    assert one["left_hand"].error == one["face"].error == 0


def test_a_tenth_of_the_box() -> None:
    truth = poses(3, 6)
    truth.confidence[1, 0:18] = 0.4  # nothing of the body is visible: no box
    truth.confidence[2, 3:18] = 0.4  # three points
    sides = box_sides(truth)
    whole, three = truth.xy[0, 0:18].astype(float), truth.xy[2, 0:3].astype(float)
    assert sides[0] == pytest.approx(max(np.ptp(whole[:, 0]), np.ptp(whole[:, 1])))
    assert math.isnan(sides[1])
    assert sides[2] == pytest.approx(max(np.ptp(three[:, 0]), np.ptp(three[:, 1])))
    found = dataclasses.replace(truth, xy=truth.xy.copy())
    found.xy[0, 0:9, 0] += 0.0999 * sides[0]
    found.xy[0, 9:18, 0] += 0.1001 * sides[0]
    result = pose_fidelity(found, truth, unit="box")["body"]
    assert result.points == 18 + 3, "hidden points and frames without a box are left out"
    assert result.pck == pytest.approx((9 + 3) / 21)
    assert result.error == pytest.approx(0.1 * 18 / 21, rel=1e-3)
    one_place = dataclasses.replace(truth, xy=np.full_like(truth.xy, 7))
    assert np.isnan(box_sides(one_place)).all()


def test_parts_against_a_naive_loop() -> None:
    truth, found = poses(5, 1), poses(5, 2)
    rng = np.random.default_rng(3)
    truth.confidence[:] = rng.uniform(0, 1, truth.confidence.shape)
    truth.confidence[:, [1, 8, 11]] = 0.9
    found.confidence[:] = rng.uniform(0, 1, found.confidence.shape)
    found.xy[:] = truth.xy + rng.uniform(-10, 10, truth.xy.shape)
    result = pose_fidelity(found, truth)["face"]
    assert 0.05 < result.pck < 0.95
    visible = hits = lost = 0
    errors = []
    for f in range(5):
        for p in range(FACE.start, FACE.stop):
            if truth.confidence[f, p] < 0.6:
                continue
            visible += 1
            if found.confidence[f, p] < 0.3:
                lost += 1
                continue
            d = math.dist(found.xy[f, p], truth.xy[f, p]) / 50
            errors.append(d)
            hits += d <= 0.1
    assert result.points == visible
    assert result.pck == pytest.approx(hits / visible)
    assert result.missing == pytest.approx(lost / visible)
    assert result.error == pytest.approx(np.mean(errors))


@given(st.floats(0.2, 5.0))
def test_size_of_the_frames_does_not_matter(scale: float) -> None:
    truth, found = poses(3, 4), poses(3, 5)
    size = (round(160 * scale), round(120 * scale))
    a = pose_fidelity(found, truth)["body"]
    b = pose_fidelity(found.scaled(size), truth)["body"]  # another size is scaled back
    assert b.error == pytest.approx(a.error, rel=1e-4)


def test_hidden_points_do_not_count_and_lost_ones_are_wrong() -> None:
    truth = poses(2)
    truth.confidence[:, LEFT_HAND] = 0.5
    found = moved(truth, (0, 0))
    found = dataclasses.replace(found, confidence=truth.confidence.copy())
    found.confidence[0, RIGHT_HAND] = 0
    found.confidence[:, FACE] = 0
    result = pose_fidelity(found, truth)
    assert result["left_hand"].points == 0
    assert math.isnan(result["left_hand"].pck)
    assert result["right_hand"] == Fidelity(0.0, 0.5, 0.5, 42)
    assert (result["face"].pck, result["face"].missing) == (0.0, 1.0)
    assert math.isnan(result["face"].error)


def test_pooling_weighs_points() -> None:
    nan = float("nan")
    a, b = Fidelity(0.1, 0.8, 0.0, 10), Fidelity(0.4, 0.2, 0.5, 30)
    nothing, lost = Fidelity(nan, nan, nan, 0), Fidelity(nan, 0.0, 1.0, 10)
    total = pooled([{"body": a}, {"body": b}, {"body": nothing}, {"body": lost}])["body"]
    assert total.points == 50
    assert total.pck == pytest.approx((8 + 6) / 50)
    assert total.missing == pytest.approx((15 + 10) / 50)
    assert total.error == pytest.approx((0.1 * 10 + 0.4 * 15) / 25)  # found points only
    assert math.isnan(pooled([{"body": nothing}])["body"].pck)
    assert pooled([]) == {}


class Sizes(StaticPose):
    """Remembers the size of the frames it was given."""

    def estimate_stream(self, frames):
        for frame in frames:
            self.seen = frame.shape
            yield from super().estimate_stream([frame])


def test_redetection_enlarges_small_frames_and_answers_in_their_pixels() -> None:
    truth = poses(1)
    estimator = Sizes(truth)
    frames = np.zeros((3, 64, 48, 3), np.uint8)
    found = redetect(frames, estimator)
    assert estimator.seen[:2] == (171, 128)
    assert (found.size, len(found)) == ((64, 48), 3)
    np.testing.assert_allclose(found.xy[0], truth.xy[0] * 0.4, rtol=1e-3)
    redetect(np.zeros((1, 300, 200, 3), np.uint8), estimator)
    assert estimator.seen[:2] == (300, 200)


def picture(seed: int = 0) -> ndarray:
    noise = np.random.default_rng(seed).uniform(0, 255, (160, 120, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return np.clip((smooth - 127) * 6 + 127, 0, 255).astype(np.uint8)


def test_patches_find_the_true_shift() -> None:
    truth = poses(2)
    target = np.stack([picture(0), picture(1)])
    found = find_patches(target, target, truth)
    np.testing.assert_array_equal(found.xy, truth.xy)
    assert found.confidence.min() > 0.99
    shifted = np.roll(target, (6, -9), (1, 2))  # 6 down, 9 to the left
    found = find_patches(shifted, target, truth)
    inner = ((truth.xy > 25) & (truth.xy < [95, 135])).all(-1)
    np.testing.assert_allclose((found.xy - truth.xy)[inner], np.broadcast_to([-9, 6], (int(inner.sum()), 2)), atol=1e-3)
    darker = (shifted * 0.5 + 20).astype(np.uint8)  # correlation does not mind light
    np.testing.assert_array_equal(find_patches(darker, target, truth).xy[inner], found.xy[inner])


def test_patches_of_another_picture_are_not_found() -> None:
    truth = poses(2)
    target, other = np.stack([picture(0), picture(1)]), np.stack([picture(2), picture(3)])
    chance = pose_fidelity(find_patches(other, target, truth), truth)["face"]
    assert chance.pck < 0.15
    assert chance.missing > 0.3
    blank = pose_fidelity(find_patches(np.full_like(target, 128), target, truth), truth)["face"]
    assert blank.missing == 1
    truth.confidence[:, FACE] = 0.2
    assert (find_patches(target, target, truth).confidence[:, FACE] == 0).all()  # not looked for


def test_patch_errors_in_two_numbers() -> None:
    truth = poses(2)
    truth.xy[:] = np.clip(truth.xy, 40, 90)
    target = np.stack([picture(0), picture(1)])
    same = patch_errors(target, target, truth)
    assert (same["body_error"], same["hand_error"]) == (0.0, 0.0)
    shifted = patch_errors(np.roll(target, 5, 2), target, truth)
    assert shifted["hand_error"] == pytest.approx(0.1, abs=1e-6)
    assert shifted["body_error"] == pytest.approx(0.1, abs=1e-6)
    blank = patch_errors(np.full_like(target, 128), target, truth)
    assert (blank["body_error"], blank["hand_error"]) == pytest.approx(
        (0.4, 0.4)
    )  # nothing there is not better than something wrong
    truth.confidence[:, [*range(LEFT_HAND.start, LEFT_HAND.stop), *range(RIGHT_HAND.start, RIGHT_HAND.stop)]] = 0.1
    assert math.isnan(patch_errors(target, target, truth)["hand_error"])


def test_bad_input() -> None:
    truth = poses(2)
    with pytest.raises(PoseError, match="2 found and 1 true"):
        pose_fidelity(truth, truth[:1])
    with pytest.raises(PoseError, match="at least 1"):
        pose_fidelity(truth[:0], truth[:0])
    frames = np.zeros((2, 160, 120, 3), np.uint8)
    with pytest.raises(InputError, match="same shape"):
        find_patches(frames, frames[:1], truth)
    with pytest.raises(InputError, match="a pose for each frame"):
        find_patches(frames, frames, truth[:1])
    with pytest.raises(InputError, match="in its pixels"):
        find_patches(frames, frames, truth.scaled((80, 60)))
