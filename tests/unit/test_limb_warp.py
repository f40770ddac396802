from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicmotion.errors import InputError
from mimicmotion.evaluation.metrics.pixels import moving_region, psnr
from mimicmotion.pose.guidance.limb_warp import cut, limb_warp, moves
from mimicmotion.pose.guidance.limbs import (
    BACK_TO_FRONT,
    BONES,
    ENDS,
    HEAD,
    body_unit,
    bone_map,
    fit_affine,
    head_map,
    painting_order,
    part_map,
    rotation,
)
from mimicmotion.pose.keypoints import FACE, NECK, NOSE, NUM_POINTS, R_ELBOW, R_SHOULDER, R_WRIST, RIGHT_HAND
from mimicmotion.synth import SynthClip, render_clip

SIZE = (112, 64)


@pytest.fixture(scope="module")
def clip() -> SynthClip:
    return render_clip(10_000_002, 3, SIZE)


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


@given(st.integers(0, 1000), st.booleans())
def test_bones_land_on_bones(seed: int, mirrored: bool) -> None:
    rng = np.random.default_rng(seed)
    a, c = rng.uniform(0, 100, (2, 2))
    turn, length = rng.uniform(0, 7, 2), rng.uniform(20, 40)
    b = a + length * np.array([np.cos(turn[0]), np.sin(turn[0])])
    d = c + length * rng.uniform(0.5, 2) * np.array([np.cos(turn[1]), np.sin(turn[1])])
    m = bone_map(a, b, c, d, 50, mirrored=mirrored)
    np.testing.assert_allclose(apply(m, np.stack([a, b])), np.stack([c, d]), atol=1e-8)
    # the width is kept, and only a mirrored limb changes its sides
    stretch = np.hypot(*(d - c)) / length
    assert np.linalg.det(m[:, :2]) == pytest.approx(-stretch if mirrored else stretch)
    np.testing.assert_allclose(np.sort(np.linalg.svd(m[:, :2])[1]), np.sort([1, stretch]), atol=1e-8)


@given(st.integers(0, 1000))
def test_rotation_and_affine_fit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    u, v = rng.normal(size=(2, 2))
    r = rotation(u, v)
    np.testing.assert_allclose(r @ u / np.hypot(*u), v / np.hypot(*v), atol=1e-9)
    assert np.linalg.det(r) == pytest.approx(1)
    truth = np.column_stack([rng.normal(size=(2, 2)), rng.normal(size=2) * 10])
    p = rng.uniform(0, 50, (8, 2))
    np.testing.assert_allclose(fit_affine(p, apply(truth, p), np.eye(2), 1e-9), truth, atol=1e-5)
    line = np.stack([np.arange(5.0), np.zeros(5)], -1)  # says nothing about y: the prior does
    flat = fit_affine(line, line + 3, np.eye(2), 1.0)
    np.testing.assert_allclose(flat, [[1, 0, 3], [0, 1, 3]], atol=1e-9)


def test_nothing_moves_if_the_pose_stays(clip: SynthClip) -> None:
    xy = clip.reference_pose.xy[0].astype(float)
    sure = clip.reference_pose.confidence[0]
    for part in BACK_TO_FRONT:
        still = part_map(xy, xy, part, part, body_unit(xy), sure)
        np.testing.assert_allclose(still, [[1, 0, 0], [0, 1, 0]], atol=1e-6)
    still = limb_warp(clip.reference_frame, clip.reference_pose, clip.reference_pose)
    assert psnr(still, clip.reference_frame[None]) > 26  # edges are blended
    assert np.abs(still.astype(int) - clip.reference_frame).mean() < 4


@pytest.mark.whole
def test_the_warp_beats_the_still_picture_where_things_move() -> None:
    gains = []
    for seed in (10_000_001, 10_000_005, 10_000_011):
        c = render_clip(seed, 3, SIZE)
        mask = moving_region(c.frames, c.reference_frame)
        copied = np.repeat(c.reference_frame[None], 3, 0)
        for segmented in (True, False):
            warped = limb_warp(c.reference_frame, c.reference_pose, c.poses, segmented=segmented)
            assert warped.shape == c.frames.shape
            assert warped.dtype == np.uint8
            gains.append(psnr(warped, c.frames, mask) - psnr(copied, c.frames, mask))
    assert min(gains) > 1.5


def test_a_head_is_one_rigid_piece(clip: SynthClip) -> None:
    xy = clip.reference_pose.xy[0].astype(float)
    sure = np.full(NUM_POINTS, 0.9)
    spun = apply(np.column_stack([1.05 * np.array([[0.8, -0.6], [0.6, 0.8]]), [5, -3]]), xy)
    m = head_map(xy, spun, body_unit(xy), sure)
    np.testing.assert_allclose(apply(m, xy[HEAD]), spun[HEAD], atol=1e-6)
    moved = xy.copy()
    moved[NOSE] += 40  # one point that lies elsewhere does not shear it, nor makes it large
    m = head_map(xy, moved, body_unit(xy), sure)[:, :2]
    np.testing.assert_allclose(m @ m.T, np.eye(2) * np.linalg.det(m), atol=1e-9)
    assert 0.9 <= np.sqrt(np.linalg.det(m)) <= 1.1
    faceless = sure.copy()
    faceless[FACE] = 0
    moved = xy.copy()
    moved[FACE] += 1000  # of a face that was not found
    np.testing.assert_allclose(head_map(xy, moved, body_unit(xy), faceless), [[1, 0, 0], [0, 1, 0]], atol=1e-9)


def test_a_bowed_head_stays_on_its_neck(clip: SynthClip) -> None:
    """A turned head leaves no gap: the neck moves with both pieces. Checked by a colour that only the person has."""
    still = cut(clip.reference_frame, clip.reference_pose)
    xy = clip.reference_pose.xy[0].astype(float)
    turn = np.array([[0.9, -0.44], [0.44, 0.9]])
    head = np.r_[HEAD]
    bowed = xy.copy()
    bowed[head] = (xy[head] - xy[NECK]) @ turn.T + xy[NECK]
    laid = still.arrange(bowed, clip.reference_pose.confidence[0])
    line = (bowed[NECK] + np.linspace(0, 1, 20)[:, None] * (bowed[head].mean(0) - bowed[NECK])).astype(int)
    assert laid.outline[line[:, 1], line[:, 0]].min() > 0.9


def test_every_pixel_of_the_person_is_in_a_piece(clip: SynthClip) -> None:
    puppet = cut(clip.reference_frame, clip.reference_pose)
    laid = puppet.arrange(clip.reference_pose.xy[0], clip.reference_pose.confidence[0])
    assert laid.top.max() < len(BACK_TO_FRONT)
    assert ((laid.top >= 0) == (laid.outline > 0.02)).mean() > 0.99
    where = np.argwhere(laid.top == BACK_TO_FRONT.index("torso"))[:, ::-1].mean(0)
    np.testing.assert_allclose(apply(laid.maps[BACK_TO_FRONT.index("torso")], where[None])[0], where, atol=1e-3)
    mask = clip.truth.reference_mask > 127
    assert (laid.outline > 0.5)[mask].mean() > 0.9
    # colours go on beyond the outline, where the place shows others
    away = np.abs(puppet.colours[0].astype(int) - clip.reference_frame).max(-1)
    assert np.median(away[mask]) == 0
    assert (away[~mask] > 3).mean() > 0.7  # they are the border's, a mixture


def test_pieces_are_painted_where_they_are_and_nowhere_else(clip: SynthClip) -> None:
    """Whole layers, painted one over the other, give the same; some lie partly outside."""
    puppet = cut(clip.reference_frame, clip.reference_pose)
    xy, sure = clip.poses.xy[0] + np.array([20, 0], np.float32), clip.poses.confidence[0]
    laid, picture, top = puppet.arrange(xy, sure), puppet.background.copy(), np.full(SIZE, -1)
    for part, matrix in moves(puppet.xy, puppet.confidence, puppet.sources, puppet.unit, xy, sure, SIZE):
        layer = cv2.warpAffine(puppet.layers[part], matrix, SIZE[::-1])
        picture = picture * (1 - layer[..., 3:]) + layer[..., :3]
        top[layer[..., 3] > 0.5] = BACK_TO_FRONT.index(part)
        near = 1e-3 if cv2.__version__ >= "5" else 1 / 32  # OpenCV 4 interpolates at multiples of 1/32 px
        np.testing.assert_allclose(laid.opacity[BACK_TO_FRONT.index(part)], layer[..., 3], atol=near)
    assert np.abs(laid.picture - picture).max() < (1 if cv2.__version__ >= "5" else 255 / 32)  # rounded
    assert (laid.top == top)[top >= 0].mean() > 0.97  # a half-covered pixel may count for either


def test_it_is_the_same_every_time(clip: SynthClip) -> None:
    a, b = (limb_warp(clip.reference_frame, clip.reference_pose, clip.poses) for _ in range(2))
    assert (a == b).all()


def test_the_background_has_no_person_left(clip: SynthClip) -> None:
    background = cut(clip.reference_frame, clip.reference_pose).background
    xy = clip.reference_pose.xy[0]
    middle = (0.5 * (xy[1] + 0.5 * (xy[8] + xy[11]))).astype(int)
    shirt = clip.reference_frame[middle[1], middle[0]].astype(float)
    assert np.abs(background[middle[1], middle[0]] - shirt).max() > 25


def test_hidden_arms_go_behind_and_borrow_from_the_other_side(clip: SynthClip) -> None:
    confidence = np.full(NUM_POINTS, 0.9, np.float32)
    assert painting_order(confidence) == list(BACK_TO_FRONT)
    confidence[[R_SHOULDER, R_ELBOW, R_WRIST]] = 0.2
    confidence[RIGHT_HAND] = 0.2
    order = painting_order(confidence)
    assert sorted(order) == sorted(BACK_TO_FRONT)
    assert order.index("right forearm") < order.index("torso") < order.index("left forearm")
    hidden = dataclasses.replace(clip.reference_pose, confidence=confidence[None])
    sources = cut(clip.reference_frame, hidden).sources
    assert sources["right forearm"] == "left forearm"
    assert sources["right hand"] == "left hand"
    assert sources["left hand"] == "left hand"
    assert set(sources) == {"torso", "head", *BONES, *ENDS}


def test_bad_input(clip: SynthClip) -> None:
    with pytest.raises(InputError, match="float64"):
        limb_warp(clip.reference_frame / 255, clip.reference_pose, clip.poses)
    with pytest.raises(InputError, match="3 reference"):
        limb_warp(clip.reference_frame, clip.poses, clip.poses)
    with pytest.raises(InputError, match="0 driving"):
        limb_warp(clip.reference_frame, clip.reference_pose, clip.poses[:0])
    with pytest.raises(InputError, match="one size"):
        limb_warp(clip.reference_frame, clip.reference_pose.scaled((50, 50)), clip.poses)
