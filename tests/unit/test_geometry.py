"""The one transform: what it does to a pixel it does to a keypoint."""

from __future__ import annotations

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
    fit = plan_fit(source, target, mode, resample="bilinear")
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


@given(source=sizes, target=sizes, mode=modes, xy=st.tuples(st.floats(-50, 300), st.floats(-50, 300)))
def test_inverse_brings_points_back(source: Size, target: Size, mode: FitMode, xy: tuple) -> None:
    fit = plan_fit(source, target, mode)
    points = np.array([xy])
    np.testing.assert_allclose(fit.inverse().points(fit.points(points)), points, atol=1e-9)
    again = fit.inverse().inverse()
    np.testing.assert_allclose([*again.scale, *again.offset], [*fit.scale, *fit.offset], atol=1e-9)


@given(source=sizes, target=sizes, mode=st.sampled_from(["crop", "stretch", "released"]))
def test_a_crop_is_filled_by_the_source(source: Size, target: Size, mode: FitMode) -> None:
    image = np.full((*source, 3), 200, np.uint8)
    out = plan_fit(source, target, mode, fill=(0, 0, 0)).apply(image)
    assert out.shape == (*target, 3)
    assert out.min() == out.max() == 200


@given(source=sizes, target=sizes)
def test_a_crop_keeps_the_aspect_ratio_and_never_shows_more_than_the_source(source: Size, target: Size) -> None:
    fit = plan_fit(source, target)
    assert fit.scale[0] == fit.scale[1]
    corners = np.array([[0.0, 0.0], [target[1], target[0]]])
    seen = fit.inverse().points(corners)
    assert (seen > -1e-9).all()
    assert (seen < np.array(source[::-1]) + 1e-9).all()


@given(source=sizes, target=sizes, anchor=st.sampled_from([(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)]))
def test_a_letterbox_shows_everything(source: Size, target: Size, anchor: tuple[float, float]) -> None:
    fit = plan_fit(source, target, "letterbox", anchor=anchor, fill=(9, 8, 7))
    out = fit.apply(np.full((*source, 3), 200, np.uint8))
    inside = (out == 200).all(-1)
    bars = (out == (9, 8, 7)).all(-1)
    assert (inside ^ bars).all()
    rows, columns = inside.any(1).sum(), inside.any(0).sum()
    assert inside.sum() == rows * columns
    assert rows == target[0] or columns == target[1]
    # whole pixels: at most half a pixel off the true aspect ratio
    scale = min(target[0] / source[0], target[1] / source[1])
    assert abs(rows - source[0] * scale) <= 0.5 + 1e-9 or rows == 1
    assert abs(columns - source[1] * scale) <= 0.5 + 1e-9 or columns == 1


def test_inverse_brings_the_picture_back() -> None:
    y, x = np.mgrid[:120, :90]
    image = np.stack([x * 2, y * 2, (x + y)], -1).astype(np.uint8)
    fit = plan_fit((120, 90), (128, 128), "letterbox")
    back = fit.inverse().apply(fit.apply(image))
    assert np.abs(back.astype(int) - image)[2:-2, 2:-2].max() <= 2
    crop = plan_fit((120, 90), (64, 64))
    back = crop.inverse().apply(crop.apply(image))
    assert np.abs(back.astype(int) - image)[20:-20, 4:-4].max() <= 2
    assert (back[:14] == 0).all()  # cut off by the crop: fill


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
    assert plan_size((700, 700), ratio=1) == (576, 576)
    assert plan_size((90, 160), resolution=128) == (128, 192)


@given(
    source=st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
    cells=st.integers(1, 20),
    multiple=st.sampled_from([8, 32, 64]),
    ratio=st.sampled_from([9 / 16, 2 / 3, 1.0]),
)
def test_kept_aspect_is_bounded_and_divisible(source: Size, cells: int, multiple: int, ratio: float) -> None:
    resolution = cells * multiple
    height, width = plan_size(source, resolution=resolution, ratio=ratio, multiple=multiple, mode="keep")
    check_size((height, width), multiple)
    assert height * width <= resolution * (resolution / ratio)


def test_kept_aspect_of_usual_pictures() -> None:
    assert plan_size((1080, 1920), mode="keep") == (576, 1024)
    assert plan_size((1920, 1080), mode="keep") == (1024, 576)
    assert plan_size((1000, 1000), mode="keep") == (768, 768)
    assert plan_size((600, 900), mode="keep", multiple=8)[1] / plan_size((600, 900), mode="keep", multiple=8)[0] == (
        pytest.approx(1.5, rel=0.01)
    )


def test_bad_settings_say_what_is_expected() -> None:
    with pytest.raises(ConfigError, match="multiple of 64"):
        plan_size((10, 10), resolution=500)
    with pytest.raises(ConfigError, match="ratio"):
        plan_size((10, 10), ratio=1.5)
    with pytest.raises(ConfigError, match="mode"):
        plan_size((10, 10), mode="wide")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="width=500.*\n.*multiple of 64.*\n.*512"):
        check_size((512, 500))
    with pytest.raises(ConfigError, match="mode"):
        plan_fit((10, 10), (5, 5), "zoom")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="1 x 1"):
        plan_fit((0, 10), (5, 5))
    with pytest.raises(ConfigError, match="10 x 10"):
        plan_fit((10, 10), (5, 5)).apply(np.zeros((11, 10, 3), np.uint8))
