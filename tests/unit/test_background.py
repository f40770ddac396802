"""The picture's background behind a moving person."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.video.background import HOLE, REACH, SURE, KeptBackground, distance_outside, fill_hole, keep_background

HEIGHT = 100  # of the person


def person_at(x: int) -> ndarray:
    mask = np.zeros((140, 120), np.uint8)
    mask[20 : 20 + HEIGHT, x : x + 20] = 255
    return mask


@pytest.fixture
def picture() -> ndarray:
    """A smooth wall with a red person at 20."""
    y, x = np.mgrid[:140, :120]
    wall = np.stack([100 + x / 4, 100 + y / 4, np.full_like(x, 120)], -1).astype(np.uint8)
    wall[person_at(20) > 0] = (255, 0, 0)
    return wall


def test_outside_is_the_picture_and_inside_the_frame(picture: ndarray) -> None:
    kept = KeptBackground(picture, person_at(20))
    frame = np.random.default_rng(0).integers(0, 256, picture.shape, np.uint8)
    result, far = kept.apply(frame, person_at(70)), distance_outside(person_at(70))
    assert kept.height == HEIGHT
    outside = (far >= REACH * HEIGHT) & (distance_outside(person_at(20)) > HOLE * HEIGHT)
    np.testing.assert_array_equal(result[outside], picture[outside])
    np.testing.assert_array_equal(result[far <= SURE * HEIGHT], frame[far <= SURE * HEIGHT])


def test_seam_falls_without_a_step(picture: ndarray) -> None:
    weight = KeptBackground(picture, person_at(20)).weight(person_at(60))[70]
    away = weight[79 : 79 + 6]
    assert weight[60:80].min() == 1
    assert away[-1] == 0
    assert np.all(np.diff(away) <= 0)
    assert np.diff(away).min() >= -1 / ((REACH - SURE) * HEIGHT) - 1e-6


def test_where_the_person_stood_is_wall(picture: ndarray) -> None:
    background = KeptBackground(picture, person_at(20)).background
    y, x = np.mgrid[:140, :120]
    wall = np.stack([100 + x / 4, 100 + y / 4, np.full_like(x, 120)], -1)
    # filled from both sides: the slope of 6 levels across the hole may be lost, the red may not come through
    assert np.abs(background - wall).max() <= 12


def test_horizon_continues_behind_the_person() -> None:
    rng = np.random.default_rng(1)
    scene = np.full((140, 120, 3), 200.0)
    scene[70:] = (60, 120, 40)
    noisy = np.clip(scene + rng.normal(0, 4, scene.shape), 0, 255).astype(np.uint8)
    picture = noisy.copy()
    picture[person_at(50) > 0] = (255, 0, 0)
    hole = distance_outside(person_at(50)) <= HOLE * HEIGHT
    filled = fill_hole(picture, hole)
    np.testing.assert_array_equal(filled[~hole], picture[~hole])
    inside = np.zeros_like(hole)
    inside[20:55, 52:68] = inside[85:115, 52:68] = True  # away from the horizon, which is soft
    assert np.abs(cv2.blur(filled, (5, 5))[inside].astype(float) - scene[inside]).max() < 10
    fine = filled[inside] - cv2.GaussianBlur(filled, (0, 0), 1.5)[inside].astype(float)
    assert 2 < fine.std() < 5  # as grainy as the picture


def test_without_a_person_the_background_is_unchanged(picture: ndarray) -> None:
    kept, none = KeptBackground(picture, person_at(20)), np.zeros((140, 120), np.uint8)
    np.testing.assert_array_equal(kept.apply(np.full_like(picture, 9), none), kept.background)
    np.testing.assert_array_equal(KeptBackground(picture, none).background, picture)


def test_frames_are_taken_one_by_one(picture: ndarray) -> None:
    taken = []

    def frames() -> object:
        for i in range(3):
            taken.append(i)
            yield np.full_like(picture, i)

    results = keep_background(picture, person_at(20), frames(), (person_at(x) for x in (30, 40, 50)))
    first = next(results)
    assert taken == [0]
    np.testing.assert_array_equal(first, KeptBackground(picture, person_at(20)).apply(picture * 0, person_at(30)))
    assert len(list(results)) == 2


def test_refused_sizes(picture: ndarray) -> None:
    with pytest.raises(InputError, match="scale"):
        KeptBackground(picture, person_at(20)[1:])
    with pytest.raises(InputError, match="scale"):
        KeptBackground(picture, person_at(20)).apply(picture[1:], person_at(20))
