"""The transform maps pixels and keypoints alike."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mimicmotion.errors import ConfigError
from mimicmotion.video.geometry import FitMode, Size, check_size, plan_fit, plan_size

sides = st.integers(16, 200)
sizes = st.tuples(sides, sides)
modes = st.sampled_from(["crop", "letterbox", "stretch", "released"])


def centre_of_mass(image: np.ndarray) -> np.ndarray:
    """(x, y) of the bright dot; pixel centres at integer + 0.5."""
    weight = image[..., 0].astype(float)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


@settings(max_examples=150)
@given(source=sizes, target=sizes, mode=modes, at=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_keypoint_lands_where_its_dot_is_drawn(source: Size, target: Size, mode: FitMode, at: tuple) -> None:
    fit = plan_fit(source, target, mode)
    fit = fit if mode == "released" else dataclasses.replace(fit, resample="bicubic")  # rings less than Lanczos
    radius = max(2, round(3 / min(fit.scale)))  # a dot that neither filter can lose
    margin = radius + math.ceil(2 / min(fit.scale)) + 2  # the filter is renormalised at the rim
    assume(min(source) > 2 * margin)
    y, x = (margin + round(a * (s - 2 * margin)) for a, s in zip(at, source, strict=True))
    image = np.zeros((*source, 3), np.uint8)
    image[y - radius : y + radius, x - radius : x + radius] = 255
    want = fit.points(np.array([[float(x), float(y)]]))[0]  # the corner between the dot's four middle pixels
    reach = np.array([fit.scale[1], fit.scale[0]]) * radius + 2
    assume((want - reach > 0).all() and (want + reach < [target[1], target[0]]).all())  # not cut by the crop
    # interpolation rounds the rim of the dot a little; without antialiasing it misses up to half a source pixel
    tolerance = 0.12 if mode != "released" else 0.5 * max(1.0, *fit.scale)
    np.testing.assert_allclose(centre_of_mass(fit.apply(image)), want, atol=tolerance)


@given(source=sizes, target=sizes, mode=st.sampled_from(["crop", "stretch", "released"]))
def test_a_crop_is_filled_by_the_source(source: Size, target: Size, mode: FitMode) -> None:
    image = np.full((*source, 3), 200, np.uint8)
    out = plan_fit(source, target, mode).apply(image)
    assert out.shape == (*target, 3)
    assert out.min() == out.max() == 200


@given(source=sizes, target=sizes)
def test_a_crop_keeps_the_aspect_ratio_and_never_shows_more_than_the_source(source: Size, target: Size) -> None:
    fit = plan_fit(source, target)
    assert fit.scale[0] == fit.scale[1]
    first, last = fit.points(np.array([[0.0, 0.0], source[::-1]]))
    assert (first < 1e-9 * max(fit.scale)).all()
    assert (last > np.array(target[::-1]) - 1e-9 * max(fit.scale)).all()


@given(source=sizes, target=sizes, anchor=st.sampled_from([(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)]))
def test_a_letterbox_shows_everything(source: Size, target: Size, anchor: tuple[float, float]) -> None:
    fit = plan_fit(source, target, "letterbox", anchor=anchor)
    out = fit.apply(np.full((*source, 3), 200, np.uint8))
    inside = (out == 200).all(-1)
    bars = (out == 0).all(-1)
    assert (inside ^ bars).all()
    rows, columns = inside.any(1).sum(), inside.any(0).sum()
    assert inside.sum() == rows * columns
    assert rows == target[0] or columns == target[1]
    # whole pixels: at most half a pixel off the true aspect ratio
    scale = min(target[0] / source[0], target[1] / source[1])
    assert abs(rows - source[0] * scale) <= 0.5 + 1e-9 or rows == 1
    assert abs(columns - source[1] * scale) <= 0.5 + 1e-9 or columns == 1


def test_downscaling_is_antialiased_by_default_and_not_in_the_released_resize() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    smooth = plan_fit((256, 256), (50, 50)).apply(stripes)
    assert smooth.std() < 6
    assert abs(smooth.mean() - 127.5) < 3
    assert plan_fit((256, 256), (50, 50), "released").apply(stripes).std() > 60


def test_same_size_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    for mode in ("crop", "letterbox", "stretch", "released"):
        np.testing.assert_array_equal(plan_fit((33, 47), (33, 47), mode).apply(image), image)


def test_extreme_panorama_needs_little_memory() -> None:
    """Only what the crop keeps is resampled: the whole at full height would be 3 GB."""
    image = np.full((2, 4000, 3), 77, np.uint8)
    for mode in ("crop", "released"):
        assert (plan_fit((2, 4000), (576, 320), mode).apply(image) == 77).all()


def test_anchor_chooses_what_stays() -> None:
    image = np.zeros((100, 50, 3), np.uint8)
    image[:50] = 255
    assert (plan_fit((100, 50), (50, 50), anchor=(0.0, 0.5)).apply(image) == 255).all()
    assert (plan_fit((100, 50), (50, 50), anchor=(1.0, 0.5)).apply(image) == 0).all()


def test_released_sizes() -> None:
    assert plan_size((1920, 1080)) == (1024, 576)
    assert plan_size((1080, 1920)) == (576, 1024)
    assert plan_size((700, 700)) == (576, 1024)  # the published code lays a square down
    assert plan_size((90, 160), resolution=128) == (128, 192)


def test_bad_settings_say_what_is_expected() -> None:
    with pytest.raises(ConfigError, match="multiple of 64"):
        plan_size((10, 10), resolution=500)
    with pytest.raises(ConfigError, match="width=500.*\n.*multiple of 64.*\n.*512"):
        check_size((512, 500))
    with pytest.raises(ConfigError, match="1 x 1"):
        plan_fit((10, 10), (0, 5))
    with pytest.raises(ConfigError, match="1 x 1"):
        plan_fit((0, 10), (5, 5))
    with pytest.raises(ConfigError, match="mode"):
        plan_fit((10, 10), (5, 5), "zoom")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="10 x 10"):
        plan_fit((10, 10), (5, 5)).apply(np.zeros((11, 10, 3), np.uint8))
