"""Poses over time: what smoothing removes, and what it keeps."""

from __future__ import annotations

import numpy as np
import pytest
from numpy import ndarray

from mimicmotion.pose.keypoints import (
    L_ELBOW,
    L_HIP,
    L_SHOULDER,
    L_WRIST,
    LEFT_HAND,
    NECK,
    NUM_POINTS,
    R_ELBOW,
    R_HIP,
    R_SHOULDER,
    R_WRIST,
    RIGHT_HAND,
    PoseSequence,
)
from mimicmotion.pose.smoothing import smooth_poses
from mimicmotion.synth.noise import perturb_poses

TORSO = 100.0


def sequence(xy: ndarray, confidence: ndarray | float = 0.9, fps: float = 15.0) -> PoseSequence:
    full = np.broadcast_to(np.asarray(confidence, np.float32), xy.shape[:2]).copy()
    return PoseSequence(xy.astype(np.float32), full, (512, 512), fps, "test")


def standing(frames: int) -> ndarray:
    """(frames, 134, 2): a still figure with arms out; torso length 100."""
    xy = np.full((frames, NUM_POINTS, 2), 250.0)
    places = {
        NECK: (250, 150), R_SHOULDER: (215, 150), L_SHOULDER: (285, 150), R_ELBOW: (190, 190), L_ELBOW: (310, 190),
        R_WRIST: (170, 230), L_WRIST: (330, 230), R_HIP: (230, 250), L_HIP: (270, 250),
    }  # fmt: skip
    for point, place in places.items():
        xy[:, point] = place
    xy[:, RIGHT_HAND], xy[:, LEFT_HAND] = (165, 240), (335, 240)
    return xy


def acceleration(xy: ndarray) -> ndarray:
    return np.hypot(*np.moveaxis(xy[2:] - 2 * xy[1:-1] + xy[:-2], -1, 0))


@pytest.mark.parametrize("fps", [15.0, 24.0, 30.0, 60.0])
def test_a_fast_wave_keeps_its_size_and_a_step_its_time(fps: float) -> None:
    t = np.arange(int(4 * fps)) / fps
    waving, stepping = standing(len(t)), standing(len(t))
    waving[:, R_WRIST, 0] += 40 * np.sin(2 * np.pi * 3 * t + 0.3)
    stepping[t >= 2, R_WRIST, 0] += 40
    wave = smooth_poses(sequence(waving, fps=fps)).xy[:, R_WRIST, 0] - 170
    basis = np.stack([np.sin(2 * np.pi * 3 * t), np.cos(2 * np.pi * 3 * t)], 1)
    assert np.hypot(*np.linalg.lstsq(basis, wave, rcond=None)[0]) >= 0.97 * 40
    step = smooth_poses(sequence(stepping, fps=fps)).xy[:, R_WRIST, 0]
    middle = np.interp(190, np.maximum.accumulate(step), np.arange(len(step)))
    assert abs(middle - np.interp(190, stepping[:, R_WRIST, 0], np.arange(len(step)))) <= 0.5


def test_jitter_of_a_detector_is_halved() -> None:
    """Acceleration of what the fitted noise adds, over all points that are found; the error must not grow."""
    t = np.arange(60) / 15
    moving = standing(60)
    for point, size, period in ((R_WRIST, 30, 0.8), (L_WRIST, 40, 1.3), (R_ELBOW, 15, 0.8), (NECK, 5, 1.0)):
        moving[:, point] += size * np.stack([np.sin(2 * np.pi * t / period), np.cos(2 * np.pi * t / period)], 1)
    truth = sequence(moving)
    jitter, error = [], []
    for seed in range(8):
        noisy = perturb_poses(truth, seed)
        seen = (noisy.confidence[2:] > 0) & (noisy.confidence[1:-1] > 0) & (noisy.confidence[:-2] > 0)
        off = [poses.xy.astype(float) - truth.xy for poses in (noisy, smooth_poses(noisy))]
        jitter.append([acceleration(x)[seen].mean() for x in off])
        error.append([np.hypot(*np.moveaxis(x, -1, 0))[noisy.confidence > 0].mean() for x in off])
    before, after = np.mean(jitter, 0)
    assert after <= 0.5 * before
    assert np.mean(error, 0)[1] <= np.mean(error, 0)[0]


def test_doubtful_points_are_smoothed_more() -> None:
    shaken = standing(40)
    shaken[:, R_WRIST] += np.random.default_rng(0).normal(0, 3, (40, 2))  # what a sure point has is taken out at once
    left = [
        acceleration(smooth_poses(sequence(shaken, c)).xy[:, R_WRIST].astype(float)).mean() for c in (0.9, 0.5, 0.31)
    ]
    assert left[0] > 1.3 * left[1] > 1.3 * left[2]


@pytest.mark.parametrize("run", [1, 2, 3])
def test_points_out_of_line_come_back_between_their_neighbours(run: int) -> None:
    moving = standing(30)
    moving[:, R_WRIST, 0] += 4 * np.arange(30)
    wrong, confidence = moving.copy(), np.full((30, NUM_POINTS), 0.9)
    wrong[12 : 12 + run, R_WRIST] += (70, -60)
    wrong[20, R_SHOULDER, 0] += 40  # a shoulder jumps in one frame, as when somebody turns
    confidence[12 : 12 + run, R_WRIST] = confidence[20, R_SHOULDER] = 0.45
    back = smooth_poses(sequence(wrong, confidence))
    # 1% of the torso: doubtful points also lean towards the surer ones beside them
    np.testing.assert_allclose(back.xy[:, [R_WRIST, R_SHOULDER]], moving[:, [R_WRIST, R_SHOULDER]], atol=1)
    np.testing.assert_allclose(back.confidence, confidence, atol=1e-6)


def test_in_slow_motion_smaller_jumps_are_out_of_line() -> None:
    wrong, confidence = standing(40), np.full((40, NUM_POINTS), 0.85)
    wrong[20, [R_HIP, L_HIP], 0] += (16, -16)  # a trunk that collapses in one frame of 27 ms
    confidence[20] = 0.5
    poses = sequence(wrong, confidence)
    slow, plain = (smooth_poses(poses, speed).xy[20, R_HIP, 0] - 230 for speed in (0.4, 1.0))
    assert abs(slow) < 1
    assert plain > 5  # at normal speed, hips can move so far


@pytest.mark.parametrize("speed", [0.01, 1.0, 100.0])
def test_movements_of_any_speed_stay(speed: float) -> None:
    t = np.arange(40) / 15
    moving = standing(40) + (20 * np.sin(2 * np.pi * 0.5 * t))[:, None, None]
    smoothed = smooth_poses(sequence(moving), speed).xy
    assert (
        np.abs(smoothed - moving).max() < 4
    )  # of 20: ten times slower than 3 Hz even in the slowest motion that counts


@pytest.mark.parametrize("frames", [slice(0, 3), slice(10, 11), slice(12, 19), slice(27, 30)])
def test_sides_that_are_swapped_for_a_while_are_corrected(frames: slice) -> None:
    right, wrong = standing(30), standing(30)
    right_side, left_side = [R_SHOULDER, R_ELBOW, R_WRIST, *range(RIGHT_HAND.start, RIGHT_HAND.stop)], [
        L_SHOULDER, L_ELBOW, L_WRIST, *range(LEFT_HAND.start, LEFT_HAND.stop),
    ]  # fmt: skip
    wrong[frames, right_side], wrong[frames, left_side] = right[frames, left_side], right[frames, right_side]
    np.testing.assert_allclose(smooth_poses(sequence(wrong)).xy, right, atol=0.01)


def test_lasting_sides_are_trusted() -> None:
    """A person turns: both sides meet and separate crossed, which is not a swap."""
    turning = standing(30)
    across = np.cos(np.linspace(0, np.pi, 30))
    for point in (R_SHOULDER, R_ELBOW, R_WRIST, L_SHOULDER, L_ELBOW, L_WRIST):
        turning[:, point, 0] = 250 + (turning[:, point, 0] - 250) * across
    found = smooth_poses(sequence(turning)).xy[:, R_WRIST, 0]
    np.testing.assert_allclose(found, turning[:, R_WRIST, 0], atol=1.5)


def test_what_was_not_found_stays_as_it_is() -> None:
    xy, confidence = standing(20), np.full((20, NUM_POINTS), 0.9)
    xy[8:11, LEFT_HAND], confidence[8:11, LEFT_HAND] = 0.0, 0.0
    found = smooth_poses(sequence(xy, confidence))
    np.testing.assert_array_equal(found.xy[8:11, LEFT_HAND], 0)
    np.testing.assert_array_equal(found.confidence, np.float32(confidence))
    np.testing.assert_allclose(found.xy[[7, 11], LEFT_HAND.start], standing(2)[:, LEFT_HAND.start], atol=0.01)


def test_a_point_that_is_hardly_ever_found_does_not_move_the_others() -> None:
    noisy = standing(30) + np.random.default_rng(0).normal(0, 0.5, (30, NUM_POINTS, 2))
    confidence = np.full((30, NUM_POINTS), 0.9)
    confidence[:, R_WRIST] = 0
    without = smooth_poses(sequence(noisy, confidence)).xy
    confidence[15:17, R_WRIST] = 0.9
    noisy[:15, R_WRIST], noisy[17:, R_WRIST] = 0, 0
    np.testing.assert_array_equal(
        np.delete(smooth_poses(sequence(noisy, confidence)).xy, R_WRIST, 1), np.delete(without, R_WRIST, 1)
    )


def test_short_clips_and_no_person() -> None:
    short = sequence(standing(2))
    assert smooth_poses(short) is short
    nobody = sequence(np.zeros((5, NUM_POINTS, 2)), 0.0)
    np.testing.assert_array_equal(smooth_poses(nobody).xy, 0)
