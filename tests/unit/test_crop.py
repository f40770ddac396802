from __future__ import annotations

import numpy as np
import pytest

from mimicmotion.pose.crop import choose_size, fit_picture, keeps_person, person_extent
from mimicmotion.pose.keypoints import NECK, NOSE, NUM_POINTS, PoseSequence
from mimicmotion.video.geometry import Size


def person(size: Size, top: float, bottom: float, left: float, right: float) -> PoseSequence:
    """Neck, hands and feet at the edges of a box in pixels, the nose between neck and `top`: the head ends there."""
    xy, confidence = np.zeros((1, NUM_POINTS, 2)), np.zeros((1, NUM_POINTS), np.float32)
    middle, head = (left + right) / 2, (bottom - top) / 7
    for point, place in {
        NOSE: (middle, top + head / 2), NECK: (middle, top + head),
        4: (left, (top + bottom) / 2), 7: (right, (top + bottom) / 2), 10: (middle, bottom), 13: (middle, bottom),
    }.items():  # fmt: skip
        xy[0, point], confidence[0, point] = place, 0.9
    return PoseSequence(xy, confidence, size)


def shown(pose: PoseSequence, size: Size, mode: str) -> tuple[bool, np.ndarray]:
    picture = np.full((*pose.size, 3), 255, np.uint8)
    fitted, fit = fit_picture(picture, pose, size, mode)  # type: ignore[arg-type]
    return keeps_person(fit, pose), fitted


def test_the_extent_reaches_to_the_top_of_the_head_and_not_out_of_the_picture() -> None:
    np.testing.assert_allclose(person_extent(person((200, 100), 20, 180, 30, 70)), [[20, 30], [180, 70]])
    np.testing.assert_allclose(person_extent(person((200, 100), -9, 230, 30, 120)), [[0, 30], [200, 100]])


@pytest.mark.parametrize(
    ("picture", "wanted"),
    [((1920, 1080), (1024, 576)), ((1080, 2048), (576, 1024)), ((1600, 1200), (896, 640)), ((900, 900), (768, 768))],
)
def test_the_result_has_the_shape_of_the_picture(picture: Size, wanted: Size) -> None:
    """The published weights: the area of 576 x 1024 in multiples of 64."""
    small = person(picture, 400, 500, 450, 550)
    assert choose_size(small, "auto", None, 64) == wanted
    assert abs(np.prod(wanted) / (576 * 1024) - 1) < 0.03


@pytest.mark.parametrize(
    ("picture", "wanted"),
    [((1920, 1080), (224, 128)), ((1080, 2048), (128, 224)), ((1600, 1200), (192, 160)), ((900, 900), (160, 160))],
)
def test_the_bundled_model_has_sizes_of_its_own(picture: Size, wanted: Size) -> None:
    small = person(picture, 400, 500, 450, 550)
    assert choose_size(small, "auto", (224, 128), 32) == wanted
    assert choose_size(small, "released", (224, 128), 32) == (224, 128)


def test_the_person_influences_the_size() -> None:
    """896 x 640 cuts 3% of the width of this picture, so the hands; 832 x 704 cuts above and below instead."""
    wide = person((1200, 900), 300, 900, 0, 900)
    assert choose_size(wide, "auto", None, 64) == (832, 704)
    assert choose_size(wide, "crop", None, 64) == (896, 640)
    assert shown(wide, (832, 704), "auto")[0]


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (96, 64)])
def test_a_crop_keeps_a_person_who_fits(size: Size) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        height, width = rng.integers(80, 300, 2)
        window = np.array(size) * min(height / size[0], width / size[1])  # what a crop shows
        top, left = rng.uniform(0, (height, width) - window)
        pose = person((int(height), int(width)), top, top + window[0], left, left + window[1])
        whole, fitted = shown(pose, size, "auto")
        assert whole
        assert (fitted == 255).all()  # without bars


def test_a_person_too_large_for_any_crop_gets_bars_or_keeps_the_head() -> None:
    tall = person((300, 100), 3, 297, 30, 70)
    whole, fitted = shown(tall, (64, 64), "auto")
    assert whole
    assert (fitted[:, :21] == 0).all()
    assert (fitted[:, 22:42] == 255).all()
    whole, fitted = shown(tall, (64, 64), "crop")
    assert not whole
    assert (fitted == 255).all()
    _, fit = fit_picture(np.zeros((300, 100, 3), np.uint8), tall, (64, 64), "crop")
    assert fit.cut == pytest.approx((0.01, 1 - 1 / 3 - 0.01, 0, 0))  # from the top of the head down
