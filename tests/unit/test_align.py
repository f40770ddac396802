from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray

from mimicmotion.errors import ConfigError, PoseError
from mimicmotion.generate.inputs import describe_build
from mimicmotion.pose.align import STABLE, align, fit_alignment, part_scales, stretch
from mimicmotion.pose.files import load_poses
from mimicmotion.pose.keypoints import (
    L_ANKLE,
    L_HIP,
    L_KNEE,
    NUM_POINTS,
    R_ANKLE,
    R_HIP,
    R_KNEE,
    R_WRIST,
    PoseSequence,
)  # fmt: skip

SIZE = (192, 108)
CASES = Path(__file__).parents[1] / "data" / "alignment"
FIGURE = np.array(
    [50, 20, 50, 30, 40, 30, 34, 45, 30, 60, 60, 30, 66, 45, 75, 55, 44, 58, 43, 75, 42, 92, 56, 58, 57, 75, 58, 92,
     48, 18, 52, 18, 45, 19, 55, 19],
    dtype=np.float64,
).reshape(18, 2)  # fmt: skip


def dance(frames: int = 12, seed: int = 0, sway: float = 3.0) -> ndarray:
    """(frames, 134, 2): a figure whose joints all move a little about a fixed position."""
    random = np.random.default_rng(seed)
    xy = np.full((frames, NUM_POINTS, 2), 50.0)
    xy[:, :18] = FIGURE + random.uniform(-sway, sway, (frames, 18, 2))
    return xy


def poses(xy: ndarray, confidence: ndarray | float = 1.0, size: tuple[int, int] = SIZE) -> PoseSequence:
    full = np.broadcast_to(np.asarray(confidence, np.float32), xy.shape[:2]).copy()
    return PoseSequence(xy.astype(np.float32), full, size, 15.0, "test")


def still(frames: int) -> ndarray:
    return np.repeat(dance(1, sway=0), frames, axis=0)


@given(scale=st.floats(0.1, 8), x=st.floats(-300, 300), y=st.floats(-300, 300))
def test_a_known_similarity_is_found_exactly(scale: float, x: float, y: float) -> None:
    reference = still(1)
    driving = (still(7) - (x, y)) / scale
    fit = fit_alignment(poses(driving), poses(reference), SIZE)
    assert fit.scale == pytest.approx((scale, scale), rel=1e-4)
    aligned = fit.apply(poses(driving))
    np.testing.assert_allclose(aligned.xy[:, STABLE], reference[:, STABLE].repeat(7, 0), atol=1e-3)


def test_equal_poses_stay_where_they_are() -> None:
    xy = still(5)
    fit = fit_alignment(poses(xy), poses(xy[:1]), SIZE)
    assert fit.scale == pytest.approx((1, 1), abs=1e-9)
    assert fit.offset == pytest.approx((0, 0), abs=1e-6)


@given(seed=st.integers(0, 50), far=st.floats(-500, 500))
def test_points_of_low_confidence_do_not_pull(seed: int, far: float) -> None:
    """Joints below the threshold may be anywhere: the map is bit for bit the same."""
    driving, confidence = dance(10, seed), np.ones((10, NUM_POINTS))
    hidden = np.random.default_rng(seed).random(confidence.shape) < 0.3
    confidence[hidden] = 0.2
    moved = np.where(hidden[..., None], driving + far, driving)
    reference = poses(still(1) * 1.3)
    fits = [fit_alignment(poses(xy, confidence), reference, SIZE) for xy in (driving, moved)]
    assert fits[0] == fits[1]


def test_a_wrong_joint_hardly_pulls_even_if_confident() -> None:
    driving = np.concatenate([dance(20, sway=1)])
    wrong = driving.copy()
    wrong[:, R_KNEE] += (60, -40)
    wrong[3, :18] += 200
    reference = poses(still(1) * 1.5)
    clean, robust, plain = (
        fit_alignment(poses(xy), reference, SIZE, m)
        for xy, m in ((driving, "weighted"), (wrong, "weighted"), (wrong, "released"))
    )
    assert abs(robust.scale[0] / clean.scale[0] - 1) < 0.01
    assert np.abs(np.subtract(robust.offset, clean.offset)).max() < 2
    assert abs(plain.scale[0] / clean.scale[0] - 1) > 0.1


def test_doubtful_points_weigh_less_than_sure_ones() -> None:
    driving, confidence = still(10), np.full((10, NUM_POINTS), 0.9)
    driving[:, :18] += np.random.default_rng(1).uniform(-1, 1, (10, 18, 2))
    driving[5:, :18] += 6
    reference = poses(still(1))
    confidence[5:] = 0.9
    even = fit_alignment(poses(driving, confidence), reference, SIZE, "weighted").offset[0]
    confidence[5:] = 0.31
    assert fit_alignment(poses(driving, confidence), reference, SIZE, "weighted").offset[0] > even + 0.5


def test_walking_through_the_frame_does_not_change_the_size() -> None:
    """A linear fit through all frames mistakes the walk for height, so the released method shrinks the figure."""
    driving = still(31) + np.array([0, 40])
    driving[..., 1] += np.linspace(-55, 55, 31)[:, None]
    driving[..., 0] += np.linspace(-20, 20, 31)[:, None]
    reference = poses(still(1) + np.array([0, 40]))
    fit = fit_alignment(poses(driving), reference, SIZE)
    assert fit.scale[0] == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(fit.offset, 0, atol=1)
    assert fit_alignment(poses(driving), reference, SIZE, "released").scale[1] < 0.75


@pytest.mark.parametrize(("axis", "reach"), [(0, 30.0), (0, 200.0), (1, 55.0)])
def test_the_path_of_the_figure_stays_within_the_frame(axis: int, reach: float) -> None:
    """The picture's person stands near the edge; the driver walks through the frame."""
    driving, place = still(21), np.array([-25.0, -10.0])
    driving[..., axis] += np.linspace(-reach, reach, 21)[:, None]
    shown = align(poses(driving), poses(still(1) + place), SIZE).xy[:, STABLE, axis]
    low, high, end = shown.min(), shown.max(), SIZE[1 - axis]
    if high - low < end:
        assert low > -reach / 9  # the outermost frames may reach beyond
        assert high < end + reach / 9
    else:
        assert low + high == pytest.approx(end, abs=2)


def test_an_upper_body_picture_uses_the_joints_that_both_have() -> None:
    reference, confidence = still(1) * 2, np.ones((1, NUM_POINTS))
    legs = [R_HIP, R_KNEE, R_ANKLE, L_HIP, L_KNEE, L_ANKLE]
    confidence[:, legs], reference[:, legs] = 0.1, 0.0  # an estimator's guess at joints outside of the picture
    aligned = align(poses(still(6)), poses(reference, confidence), SIZE)
    np.testing.assert_allclose(aligned.xy[:, :8], (still(6) * 2)[:, :8], atol=0.05)


@pytest.mark.parametrize("method", ["weighted", "released", "none"])
def test_no_one_is_squashed_between_wide_and_tall(method: str) -> None:
    driving = poses(still(5) * 0.5 + (40, 0), size=(108, 192))
    fit = fit_alignment(driving, poses(still(1)), SIZE, method)  # type: ignore[arg-type]
    assert fit.scale[0] == pytest.approx(fit.scale[1])
    aligned = fit.apply(driving)
    assert aligned.size == SIZE
    np.testing.assert_array_equal(aligned.confidence, driving.confidence)


def test_none_fills_the_frame_and_keeps_its_middle() -> None:
    driving = poses(np.tile(np.float64([96, 54]), (2, NUM_POINTS, 1)), size=(108, 192))
    np.testing.assert_allclose(align(driving, poses(still(1)), SIZE, "none").xy, np.tile([54, 96], (2, NUM_POINTS, 1)))


def test_frames_without_a_person_do_not_count() -> None:
    driving, confidence = still(8), np.ones((8, NUM_POINTS))
    driving[::2], confidence[::2] = 0, 0
    for method in ("weighted", "released"):
        fit = fit_alignment(poses(driving, confidence), poses(still(1)), SIZE, method)  # type: ignore[arg-type]
        assert fit.scale == pytest.approx((1, 1), abs=1e-6)
        assert fit.offset == pytest.approx((0, 0), abs=1e-4)


def test_the_released_fit_leaves_out_frames_with_two_people() -> None:
    """In every second frame, the followed person sits, with someone beside them."""
    driving = still(8)
    driving[::2, :18, 1] = 60 + (driving[::2, :18, 1] - 60) / 2
    counted = dataclasses.replace(poses(driving), people=np.array([2, 1] * 4))
    alone = fit_alignment(poses(driving[1::2]), poses(still(1) * 1.5), SIZE, "released")
    assert fit_alignment(counted, poses(still(1) * 1.5), SIZE, "released") == alone
    assert alone.scale == pytest.approx((1.5, 1.5))
    assert fit_alignment(poses(driving), poses(still(1) * 1.5), SIZE, "released").scale[0] > 1.6
    always = dataclasses.replace(counted, people=np.full(8, 2))  # there the released code fails
    assert fit_alignment(always, poses(still(1)), SIZE, "released").scale[0] > 1


def test_one_joint_in_common_moves_but_does_not_scale(caplog: pytest.LogCaptureFixture) -> None:
    confidence = np.zeros((4, NUM_POINTS))
    confidence[:, 0] = 1
    with caplog.at_level(logging.WARNING):
        aligned = align(poses(still(4), confidence), poses(still(1) + 10), SIZE)
    np.testing.assert_allclose(aligned.xy[:, 0], (still(4) + 10)[:, 0], atol=1e-4)
    assert "the person is not resized" in caplog.text


@pytest.mark.parametrize("seen", [[2, 5], [0]])
def test_a_reference_of_one_height_gives_the_released_scale(seen: list[int]) -> None:
    """numpy's least squares splits one equation between its two unknowns: half to the scale, half to the offset."""
    confidence = np.zeros((1, NUM_POINTS))
    confidence[:, seen] = 1
    fit = fit_alignment(poses(still(4)), poses(still(1), confidence), SIZE, "released")
    assert fit.scale == pytest.approx((0.5, 0.5))
    np.testing.assert_allclose(fit.apply(poses(still(1))).xy[0, seen, 1], FIGURE[seen, 1])


@pytest.mark.parametrize("method", ["weighted", "released"])
def test_missing_people_are_named(method: str) -> None:
    someone, nobody = poses(still(3)), poses(still(3), 0.0)
    with pytest.raises(PoseError, match="reference picture"):
        align(someone, nobody, SIZE, method)  # type: ignore[arg-type]
    with pytest.raises(PoseError, match="the driving video shows no person"):
        align(nobody, someone, SIZE, method)  # type: ignore[arg-type]
    with pytest.raises(PoseError, match="reference pose has no frames"):
        align(someone, someone[:0], SIZE, method)  # type: ignore[arg-type]


def test_no_joint_in_common_is_an_error() -> None:
    only_wrist, rest = np.zeros((3, NUM_POINTS)), np.ones((1, NUM_POINTS))
    only_wrist[:, R_WRIST] = 1
    with pytest.raises(PoseError, match="no joint"):
        align(poses(still(3), only_wrist), poses(still(1), rest), SIZE)


@pytest.mark.parametrize("picture", ["sitting", "standing"])
@pytest.mark.parametrize("video", ["sitting", "standing"])
@pytest.mark.parametrize("method", ["weighted", "limbs"])
def test_the_size_does_not_depend_on_the_posture(picture: str, video: str, method: str) -> None:
    """The same person, 4/3 as large in the picture; thighs that point at the camera look short, but are not."""
    driving, reference = load_poses(CASES / f"{video}_driver.npz"), load_poses(CASES / f"{picture}_ref.npz")
    assert fit_alignment(driving, reference, reference.size, method).scale[0] == pytest.approx(4 / 3, rel=0.02)  # type: ignore[arg-type]


def test_foreshortening_is_not_shortness() -> None:
    """The trunk is bent towards the camera in half of the frames, and the shoulders are turned in a third."""
    driving = still(12)
    hips = driving[0, [R_HIP, L_HIP], 1].mean()
    driving[::2, :8, 1] = hips + 0.6 * (driving[::2, :8, 1] - hips)
    driving[::3, [2, 5], 0] = 50 + 0.4 * (driving[::3, [2, 5], 0] - 50)
    assert fit_alignment(poses(driving), poses(still(1) * 2), SIZE).scale[0] == pytest.approx(2, rel=0.02)


def test_shoulders_seen_from_the_side_do_not_indicate_the_size() -> None:
    reference = still(1)
    reference[:, [2, 5], 0] = 50 + 0.3 * (reference[:, [2, 5], 0] - 50)
    assert "shoulders" not in part_scales(poses(still(4)), poses(reference))
    assert fit_alignment(poses(still(4)), poses(reference), SIZE).scale[0] == pytest.approx(1, abs=1e-3)


OTHER = {"feet": 1.0, "trunk": 1.0, "shoulders": 1.3, "neck": 1.0, "head": 1.0, "arms": 1.4}


def test_limbs_get_the_lengths_of_the_picture() -> None:
    """The person in the picture has different shoulders and arms; the driver dances without foreshortened arms."""
    driving = dance(20, sway=0)
    turn = np.exp(1j * np.linspace(0, 1, 20))[:, None]  # radians
    for shoulder, arm in ((2, [3, 4]), (5, [6, 7])):
        away = driving[:, arm] - driving[:, [shoulder]]
        turned = (away[..., 0] + 1j * away[..., 1]) * turn
        driving[:, arm] = driving[:, [shoulder]] + np.stack([turned.real, turned.imag], -1)
    truth = stretch(poses(driving), OTHER)
    aligned = align(poses(driving), truth[:1], SIZE, "limbs")
    np.testing.assert_allclose(aligned.xy[:, :18], truth.xy[:, :18], atol=0.5)
    apart = np.abs(align(poses(driving), truth[:1], SIZE, "weighted").xy[:, 4] - truth.xy[:, 4]).max()
    assert apart > 8  # which the other way leaves


def test_stretched_bones_keep_their_direction() -> None:
    before = poses(dance(5))
    after = stretch(before, OTHER)
    for a, b, factor in ((1, 2, 1.3), (2, 3, 1.4), (3, 4, 1.4), (1, 0, 1.0), (9, 10, 1.0)):
        np.testing.assert_allclose(
            after.xy[:, b] - after.xy[:, a], factor * (before.xy[:, b] - before.xy[:, a]), atol=1e-3
        )
    np.testing.assert_array_equal(after.xy[:, 8:14], before.xy[:, 8:14])


def test_standing_feet_stay_on_the_ground_of_the_picture() -> None:
    """Legs half as long again: the body is higher, the feet stand where they stood, a jump is as much higher."""
    driving, reference = still(9), still(1)
    driving[4] -= (0, 10)
    legs, feet = [R_HIP, L_HIP, *range(8)], [R_ANKLE, L_ANKLE]
    reference[:, [R_KNEE, L_KNEE], 1] = 92 - 1.5 * 17
    reference[:, legs, 1] -= 1.5 * 34 - 34
    reference[:, 14:18, 1] -= 1.5 * 34 - 34
    reference += (0, 60)
    fit = fit_alignment(poses(driving), poses(reference), SIZE, "limbs")
    ankles = fit.apply(poses(driving)).xy[:, feet, 1]
    np.testing.assert_allclose(np.delete(ankles, 4, 0), 152, atol=0.5)
    assert fit.scale[0] == pytest.approx(1.5, rel=0.02)
    np.testing.assert_allclose(ankles[4], 152 - 15, atol=0.5)


def test_a_limb_that_is_not_seen_well_keeps_the_size_of_the_body() -> None:
    hidden, short = np.ones((1, NUM_POINTS)), still(1)
    hidden[:, [R_KNEE, L_KNEE, R_ANKLE, L_ANKLE]] = 0.1
    short[:, [R_KNEE, L_KNEE], 1] = 60  # thighs towards the camera
    for reference in (poses(still(1), hidden), poses(short)):
        fit = fit_alignment(poses(still(4)), reference, SIZE, "limbs")
        assert fit.scale[0] == pytest.approx(1, abs=0.01)
        assert fit.limbs["arms"] == pytest.approx(1, abs=0.01)


def test_hips_that_are_lost_for_a_moment_do_not_move_the_body() -> None:
    driving, confidence = still(7), np.ones((7, NUM_POINTS))
    lost = driving.copy()
    lost[3, [R_HIP, L_HIP]], confidence[3, [R_HIP, L_HIP]] = 0, 0
    factors = OTHER | {"trunk": 1.5}
    np.testing.assert_allclose(
        stretch(poses(lost, confidence), factors).xy[:, :8], stretch(poses(driving), factors).xy[:, :8], atol=1e-3
    )


def test_differently_built_bodies_are_named() -> None:
    reference = still(1)
    assert describe_build(part_scales(poses(still(3)), poses(reference))) == []
    reference[:, [2, 5], 0] = 50 + 1.3 * (reference[:, [2, 5], 0] - 50)
    (note,) = describe_build(part_scales(poses(still(3)), poses(reference)))
    assert "shoulders 1.30, trunk 1.00" in note
    assert "--align limbs" in note


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ConfigError, match="weighted"):
        align(poses(still(1)), poses(still(1)), SIZE, "best")  # type: ignore[arg-type]
