from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray

from mimicmotion.errors import PoseError
from mimicmotion.pose.guidance.skeleton import BODY_COLOURS, PoseDrawer, draw_pose
from mimicmotion.pose.keypoints import FACE, LEFT_HAND, NUM_POINTS, R_ELBOW, RIGHT_HAND


def person(size: tuple[int, int], confidence: float = 1.0) -> tuple[ndarray, ndarray]:
    """A standing figure with hands and an oval face, filling most of the frame."""
    body = [
        (50, 20),
        (50, 30),
        (40, 30),
        (34, 45),
        (30, 60),
        (60, 30),
        (66, 45),
        (75, 55),
        (44, 58),
        (43, 75),
        (42, 92),
    ]
    body += [(56, 58), (57, 75), (58, 92), (48, 18), (52, 18), (45, 19), (55, 19)]
    xy = np.zeros((NUM_POINTS, 2))
    xy[:18], xy[18:24] = body, (50, 95)
    turn = np.linspace(0, 2 * np.pi, 68)
    xy[FACE] = np.stack([50 + 4 * np.sin(turn), 19 + 5 * np.cos(turn)], -1)
    fan = np.array([[(0, 0)] + [(np.sin(f / 3) * k, np.cos(f / 3) * k) for f in range(5) for k in range(1, 5)]])[0]
    xy[LEFT_HAND], xy[RIGHT_HAND] = fan + np.array((75, 55)), fan * (-1, 1) + (30, 60)
    return xy * np.array(size[::-1]) / 100, np.full(NUM_POINTS, confidence)


def test_released_style_is_unchanged(golden: Callable[..., None]) -> None:
    xy, confidence = person((160, 96))
    ramp = np.linspace(0.2, 1, NUM_POINTS)
    golden("draw_released", atol=1, full=draw_pose(xy, confidence, (160, 96)), ramp=draw_pose(xy, ramp, (160, 96)))


def test_direct_style_is_unchanged(golden: Callable[..., None]) -> None:
    xy, confidence = person((112, 64))
    golden("draw_direct", atol=1, full=draw_pose(xy, confidence, (112, 64), canvas_short_side=None))


def whole_canvas(drawer: PoseDrawer, xy: ndarray, confidence: ndarray) -> ndarray:
    """The same picture without the shortcut: the whole canvas is cleared and sampled."""
    slow = PoseDrawer(drawer.size, canvas_short_side=2160 if drawer.released else None)
    slow._bounds = lambda people, scores: (0, slow.canvas_size[0], 0, slow.canvas_size[1])  # type: ignore[method-assign]
    return slow.draw(xy, confidence)


@pytest.mark.parametrize("size", [(128, 72), (100, 64), (97, 61), (64, 64), (72, 130)])
@pytest.mark.parametrize("short_side", [2160, None])
def test_only_the_person_is_sampled_with_the_same_pixels(size: tuple[int, int], short_side: int | None) -> None:
    drawer = PoseDrawer(size, canvas_short_side=short_side)
    for zoom, move in ((1.0, (0, 0)), (0.3, (20.3, 31.7)), (2.0, (-30, -10)), (0.2, (0, 0))):
        xy, confidence = person(size)
        xy = xy * zoom + move
        np.testing.assert_array_equal(drawer.draw(xy, confidence), whole_canvas(drawer, xy, confidence))


def test_a_drawer_forgets_the_last_picture() -> None:
    size = (128, 72)
    xy, confidence = person(size)
    drawer = PoseDrawer(size)
    drawer.draw(xy + 15, confidence)
    np.testing.assert_array_equal(drawer.draw(xy, confidence), draw_pose(xy, confidence, size))
    assert not drawer.draw(xy, np.zeros(NUM_POINTS)).any()
    assert not drawer.draw(np.zeros((0, NUM_POINTS, 2)), np.zeros((0, NUM_POINTS))).any()


def test_brightness_is_confidence() -> None:
    """A limb is as bright as the product of its two ends, dimmed by 0.6; joints as their own confidence."""
    size = (540, 540)
    xy, confidence = np.full((NUM_POINTS, 2), 270.0), np.zeros(NUM_POINTS)
    xy[2], xy[3], confidence[2], confidence[3] = (100, 270), (440, 270), 0.8, 0.5
    picture = draw_pose(xy, confidence, size)
    limb = np.trunc(np.trunc(BODY_COLOURS[2] * 0.4) * 0.6)
    np.testing.assert_array_equal(picture[270, 270], limb)
    np.testing.assert_allclose(picture[270, 440], BODY_COLOURS[R_ELBOW] * 0.5, atol=1)


def test_without_confidence_points_above_the_threshold_are_bright() -> None:
    size = (128, 72)
    xy, confidence = person(size, 0.4)
    plain = draw_pose(xy, confidence, size, confidence_aware=False)
    np.testing.assert_array_equal(plain, draw_pose(xy, np.ones(NUM_POINTS), size))
    assert draw_pose(xy, confidence, size).max() < plain.max()
    assert not draw_pose(xy, confidence * 0.7, size, confidence_aware=False).any()


def test_direct_drawing_looks_like_the_released_one() -> None:
    """At the size of the published weights, both styles are equally bright and differ little after smoothing."""
    import cv2

    size = (1024, 576)
    xy, confidence = person(size)
    released, direct = (draw_pose(xy, confidence, size, canvas_short_side=side) for side in (2160, None))
    blurred = [cv2.blur(p.astype(np.float32), (15, 15)) for p in (released, direct)]
    assert direct.mean() == pytest.approx(released.mean(), rel=0.1)
    assert np.corrcoef(blurred[0].ravel(), blurred[1].ravel())[0, 1] > 0.98


def test_direct_drawing_keeps_lines_whole_at_small_sizes() -> None:
    size = (224, 128)
    xy, confidence = np.full((NUM_POINTS, 2), 5.0), np.zeros(NUM_POINTS)
    xy[2], xy[3], confidence[2:4] = (20, 30), (90, 200), 1
    rows = draw_pose(xy, confidence, size, canvas_short_side=None)[32:198].any((1, 2))
    assert rows.all()
    assert not draw_pose(xy, confidence, size)[32:198].any((1, 2)).all()


def test_stroke_makes_lines_wider() -> None:
    xy, confidence = person((224, 128))
    thin, wide = (draw_pose(xy, confidence, (224, 128), canvas_short_side=None, stroke=s).mean() for s in (1, 2))
    assert wide > 1.4 * thin


coordinates = st.floats(-1e7, 1e7, allow_nan=False)


@given(
    points=st.lists(st.tuples(coordinates, coordinates), min_size=6, max_size=6),
    scale=st.sampled_from([1e-6, 1e-3, 1.0]),
    short_side=st.sampled_from([2160, None]),
)
def test_any_finite_pose_can_be_drawn(points: list[tuple[float, float]], scale: float, short_side: int | None) -> None:
    xy = np.resize(np.array(points) * scale, (NUM_POINTS, 2))
    picture = draw_pose(xy, np.ones(NUM_POINTS), (48, 32), canvas_short_side=short_side)
    assert picture.shape == (48, 32, 3)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize(
    "settings",
    [{"size": (0, 5)}, {"stroke": 2.0}, {"stroke": 0.0, "canvas_short_side": None}, {"threshold": 1.0}],
    ids=str,
)
def test_invalid_settings_are_refused(settings: dict) -> None:
    with pytest.raises(PoseError, match="expected"):
        PoseDrawer(**{"size": (64, 64)} | settings)


def test_nan_is_refused() -> None:
    xy, confidence = person((64, 64))
    xy[3, 0] = np.nan
    with pytest.raises(PoseError, match="NaN"):
        draw_pose(xy, confidence, (64, 64))
