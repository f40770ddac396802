"""The geometry, the detector's arithmetic and the left-right guard of the holistic estimator."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicmotion.pose import keypoints as kp
from mimicmotion.pose.estimators.holistic.estimator import Sides
from mimicmotion.pose.estimators.holistic.geometry import Picture, Roi, overlap, roi_around, roi_of_points
from mimicmotion.pose.estimators.holistic.layout import BODY_SOURCE, FACE_SOURCE, assemble, same_hand
from mimicmotion.pose.estimators.holistic.networks import (
    BodyPoints,
    PartPoints,
    anchor_centers,
    decode,
    hand_roi_from_points,
    refine_by_heatmap,
    sigmoid,
    suppress,
)

numbers = st.floats(-2000, 2000)
rois = st.builds(Roi, numbers, numbers, st.floats(1, 3000), st.floats(-math.pi, math.pi))
points = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=9).map(lambda p: np.array(p, float))


@given(roi=rois, xy=points)
def test_to_frame_undoes_from_frame(roi: Roi, xy: np.ndarray) -> None:
    np.testing.assert_allclose(roi.to_frame(roi.from_frame(xy)), xy, atol=0.01)


@given(roi=rois)
def test_overlap_of_a_region_with_itself_is_one(roi: Roi) -> None:
    assert overlap(roi, roi) == pytest.approx(1)
    assert overlap(roi, replace(roi, x=roi.x + 2 * roi.size)) == 0


@given(center=points, rim=points)
def test_roi_around_turns_its_rim_up(center: np.ndarray, rim: np.ndarray) -> None:
    if math.dist(center[0], rim[0]) < 1:
        return
    roi = roi_around(center[0], rim[0], 90.0)
    u, v = roi.from_frame(rim[:1])[0]
    assert u == pytest.approx(0.5, abs=1e-3)
    assert v == pytest.approx(0.0, abs=1e-3)  # a circle through the rim, seen from within: straight up at the edge


def test_roi_of_points_is_level_and_shifted_by_its_height() -> None:
    box = np.array([[10.0, 20.0], [50.0, 20.0], [50.0, 40.0], [10.0, 40.0]])
    assert roi_of_points(box, 0, 1) == Roi(30.0, 30.0, 40.0, 0.0)
    assert roi_of_points(box, 0, 1, shift_y=-0.1) == Roi(30.0, 28.0, 40.0, 0.0)


def test_crop_of_the_whole_keeps_a_picture_of_that_size() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    picture = Picture(image)
    np.testing.assert_array_equal(picture.crop(picture.whole, 64), image)


def test_crop_turns_and_fills_the_border() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[:20] = 255
    half_turn = Picture(image).crop(Roi(20, 20, 40, math.pi), 40)
    assert half_turn[5, 20, 0] == 0
    assert half_turn[35, 20, 0] == 255
    outside = Picture(image).crop(Roi(200, 200, 40), 8, border=cv2.BORDER_CONSTANT)
    assert (outside == 0).all()
    assert (Picture(image).crop(Roi(20, -200, 40), 8) == 255).all()


def test_large_frames_are_averaged_not_skipped() -> None:
    checks = np.zeros((4096, 4096, 3), np.uint8)
    checks[::2, ::2] = checks[1::2, 1::2] = 200
    picture = Picture(checks)
    assert np.ptp(picture.crop(picture.whole, 128)[4:-4, 4:-4].astype(int)) <= 2


@given(height=st.integers(1, 900), width=st.integers(1, 900))
def test_tiles_cover_the_frame(height: int, width: int) -> None:
    picture = Picture(np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (height, width, 3)))
    tiles = picture.tiles()
    assert len(tiles) <= 40
    for x, y in ((0.5, 0.5), (width - 0.5, height - 0.5), (width / 2, height / 3)):
        if tiles:
            assert sum(max(abs(t.x - x), abs(t.y - y)) <= t.size / 2 + 1e-6 for t in tiles) >= 2


def test_anchor_counts_and_order() -> None:
    anchors = anchor_centers(224, (8, 16, 32, 32, 32))
    assert anchors.shape == (2254, 2)
    np.testing.assert_allclose(anchors[:3] * 28, [[0.5, 0.5], [0.5, 0.5], [1.5, 0.5]])
    np.testing.assert_allclose(anchors[-1] * 7, [6.5, 6.5], rtol=1e-6)
    assert anchor_centers(128, (8, 16, 16, 16)).shape == (896, 2)


def test_decode_places_boxes_at_their_anchors() -> None:
    anchors = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    raw = np.array([[0, 0, 20, 20, 10, -10], [0, 0, 20, 20, 0, 0]], np.float32)
    (found,) = decode(raw, np.array([2.0, -5.0], np.float32), anchors, 100, threshold=0.5)
    np.testing.assert_allclose(found.points, [[0.35, 0.65]], atol=1e-6)
    assert found.score == pytest.approx(sigmoid(np.array(2.0)))
    assert decode(raw, np.array([-9.0, -9.0], np.float32), anchors, 100, threshold=0.5) == []


def test_suppression_averages_by_score_and_keeps_distant_boxes() -> None:
    boxes = np.array([[0, 0, 1, 1], [0.1, 0, 1.1, 1], [5, 5, 6, 6]], float)
    marks = np.array([[[0.0, 0]], [[1.0, 0]], [[5.0, 5]]])
    near, far = suppress(boxes, marks, np.array([0.9, 0.6, 0.5]))
    np.testing.assert_allclose(near.points, [[0.4, 0]])
    assert near.score == 0.9
    np.testing.assert_allclose(far.points, [[5, 5]])


def test_refinement_finds_the_peak_nearby_and_leaves_points_outside() -> None:
    heat = np.full((64, 64, 3), -20.0, np.float32)
    heat[30, 33, 0] = 6.0
    heat[10, 10, 1] = -1.0  # too weak to move anything
    start = np.array([[32.4, 31.2], [10.3, 10.6], [70.0, 5.0]]) / 64
    refined, peak = refine_by_heatmap(start, heat)
    np.testing.assert_allclose(refined[0] * 64, [33, 30], atol=1e-3)
    np.testing.assert_array_equal(refined[1:], start[1:])
    np.testing.assert_allclose(peak, [sigmoid(np.array(6.0)), sigmoid(np.array(-1.0)), 0], atol=1e-6)


def body_at(xy: np.ndarray, size: float = 100.0) -> BodyPoints:
    ones = np.ones(33, np.float32)
    return BodyPoints(xy.astype(np.float32), ones, ones, 1.0, Roi(50, 50, size))


def standing() -> np.ndarray:
    xy = np.tile([50.0, 20.0], (33, 1))
    for i in range(11, 33):
        xy[i] = (60 if i % 2 else 40, 10 + 2 * i)  # odd points are the person's left: on the right of the picture
    return xy


def swapped(xy: np.ndarray) -> np.ndarray:
    order = [0, 4, 5, 6, 1, 2, 3, 8, 7, 10, 9, *(i + 1 if i % 2 else i - 1 for i in range(11, 33))]
    return xy[order]


def test_sides_undo_a_short_mistake_and_trust_a_lasting_one() -> None:
    good, bad = standing(), swapped(standing())
    sides = Sides()
    out = [sides.corrected(body_at(xy)).xy for xy in [good] * 12 + [bad] * 8 + [good] * 5 + [bad] * 100]
    for xy in out[:25]:
        np.testing.assert_array_equal(xy, good)
    np.testing.assert_array_equal(out[-1], bad)


def test_sides_treat_arms_and_legs_separately() -> None:
    good = standing()
    legs_wrong = good.copy()
    legs_wrong[23:] = swapped(good)[23:]
    sides = Sides()
    out = [sides.corrected(body_at(xy)).xy for xy in [good, good, good, legs_wrong, legs_wrong, good]]
    for xy in out:
        np.testing.assert_array_equal(xy, good)


def test_assemble_maps_every_body_point() -> None:
    xy = np.arange(66, dtype=np.float32).reshape(33, 2) + 1
    out, confidence = assemble(body_at(xy), None, None, None, (200, 200))
    rest = [i for i in range(18) if i != kp.NECK]
    np.testing.assert_array_equal(out[rest], xy[BODY_SOURCE[rest]])
    np.testing.assert_array_equal(out[[kp.L_WRIST, kp.R_WRIST, kp.L_EAR, kp.R_EYE]], xy[[15, 16, 7, 5]])
    assert (np.delete(confidence[kp.BODY], [kp.NOSE, *range(kp.R_EYE, kp.L_EAR + 1)]) == 1).all()
    assert (confidence[kp.FACE.start :] == 0).all()
    assert np.isfinite(out).all()


def test_assemble_gives_a_hand_its_one_score() -> None:
    hand = PartPoints(np.full((21, 2), 7.0, np.float32), 0.8)
    out, confidence = assemble(body_at(standing()), hand, None, None, (200, 200))
    assert (out[kp.LEFT_HAND] == 7).all()
    np.testing.assert_array_equal(confidence[kp.LEFT_HAND], np.float32(0.8))
    assert (confidence[kp.RIGHT_HAND] == 0).all()
    unsure = replace(body_at(standing()), peak=np.full(33, 0.25, np.float32))
    np.testing.assert_array_equal(assemble(unsure, hand, None, None, (200, 200))[1][kp.LEFT_HAND], np.float32(0.4))


def test_face_table_is_symmetric() -> None:
    assert len(FACE_SOURCE) == 68
    assert len(set(FACE_SOURCE.tolist())) == 68


def test_same_hand() -> None:
    grid = np.stack(np.divmod(np.arange(21), 5), 1).astype(np.float32) * 10
    hand, near, far = (PartPoints(grid + shift, 1.0) for shift in (0, 5, 60))
    assert same_hand(hand, near)
    assert not same_hand(hand, far)
    assert not same_hand(hand, None)


def test_hand_region_holds_the_hand_upright() -> None:
    hand = np.zeros((21, 2))
    for finger in range(5):
        for joint in range(4):
            hand[1 + 4 * finger + joint] = ((finger - 2) * 8, -(joint + 2) * 12)
    turn = Roi(0, 0, 1, 0.7)
    roi = hand_roi_from_points(turn.to_frame(hand + 0.5) + 300)
    inside = roi.from_frame(turn.to_frame(hand + 0.5) + 300)
    assert (inside > 0).all()
    assert (inside < 1).all()
    assert inside[0, 1] > inside[9, 1]  # the wrist is below the knuckles
    assert roi.angle == pytest.approx(0.7, abs=0.05)


def figure(facing: float) -> np.ndarray:
    """33 points of a standing person with head: `facing` 1 shows the front, 0 the (left) side, -1 the back."""
    xy = np.zeros((33, 2), np.float32) + np.float32([100, 100])
    for left, right, wide, y in ((11, 12, 20, 60), (23, 24, 12, 120), (7, 8, 9, 40), (2, 5, 4, 38)):
        xy[left], xy[right] = (100 + wide * facing, y), (100 - wide * facing, y)
    xy[0] = 100, 42
    return xy


def mesh(xy: np.ndarray, shift: float = 0.0) -> PartPoints:
    """A face on the head of `figure`, moved to the side."""
    points = np.random.default_rng(0).uniform(-10, 10, (468, 2)) + xy[0]
    points[FACE_SOURCE[30]] = xy[0]
    points[FACE_SOURCE[36:42]], points[FACE_SOURCE[42:48]] = xy[5], xy[2]
    return PartPoints((points + np.array([shift, 0])).astype(np.float32), 1.0)


def test_the_back_of_the_head_shows_no_eyes() -> None:
    """The body network is as sure of them as from the front; no face is found from either side."""
    head = [kp.NOSE, kp.R_EYE, kp.L_EYE]
    front, back = (assemble(body_at(figure(f)), None, None, None, (200, 200))[1] for f in (1, -1))
    np.testing.assert_allclose(front[head], 1)
    assert (back[head] <= 0.1).all()
    assert (back[[kp.R_EAR, kp.L_EAR]] > 0.9).all()  # ears are seen from behind
    np.testing.assert_allclose(back[kp.R_SHOULDER], 1)


def test_a_face_that_is_found_is_seen() -> None:
    for facing in (1.0, 0.1):
        xy = figure(facing)
        confidence = assemble(body_at(xy), None, None, mesh(xy), (200, 200))[1]
        np.testing.assert_allclose(confidence[[kp.NOSE, kp.R_EYE, kp.L_EYE]], 1)
        np.testing.assert_allclose(confidence[kp.FACE], 1)


def test_the_far_ear_is_dim() -> None:
    xy = figure(0.0)
    xy[[7, 8]] = (112, 40)  # the nose points to the left of the picture, so the right side is the far one
    confidence = assemble(body_at(xy), None, None, mesh(xy), (200, 200))[1]
    assert confidence[kp.R_EAR] <= 0.2
    np.testing.assert_allclose(confidence[kp.L_EAR], 1)


def test_a_mesh_off_the_head_is_dim_although_it_is_sure() -> None:
    xy = figure(1.0)
    near, far = (assemble(body_at(xy), None, None, mesh(xy, s), (200, 200))[1][kp.FACE] for s in (2.0, 14.0))
    np.testing.assert_allclose(near, 1)
    np.testing.assert_allclose(far, 0)
