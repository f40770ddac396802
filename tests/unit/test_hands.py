from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray

from mimicmotion.errors import ConfigError
from mimicmotion.pose.hands import hand_boxes, hand_masks
from mimicmotion.pose.keypoints import LEFT_HAND, NUM_POINTS, RIGHT_HAND, PoseSequence

SIZE, GRID = (64, 48), (8, 6)


def hands(left: tuple[int, int, int, int], right: tuple[int, int, int, int]) -> ndarray:
    """Points whose hands just fill the boxes (left, top, right, bottom)."""
    xy = np.zeros((NUM_POINTS, 2), np.float32)
    for place, box in ((LEFT_HAND, left), (RIGHT_HAND, right)):
        xy[place] = np.linspace(box[:2], box[2:], 21)
    return xy


def poses(xy: ndarray, confidence: ndarray | None = None) -> PoseSequence:
    seen = np.ones(NUM_POINTS, np.float32) if confidence is None else confidence.astype(np.float32)
    return PoseSequence(xy[None], seen[None], SIZE)


edge = st.integers(-10, 70)
boxes = st.tuples(edge, edge, edge, edge).map(lambda b: (*np.minimum(b[:2], b[2:]), *np.maximum(b[:2], b[2:])))


@given(left=boxes, right=boxes)
def test_mask_is_the_area_average_of_the_union_of_boxes(left: tuple, right: tuple) -> None:
    pixels = np.zeros(SIZE)
    for a, b, c, d in (left, right):
        pixels[max(b, 0) : max(d, 0), max(a, 0) : max(c, 0)] = 1
    average = pixels.reshape(8, 8, 6, 8).mean((1, 3))
    mask = hand_masks(poses(hands(left, right)), GRID, padding=0)[0]
    np.testing.assert_allclose(mask, average, atol=1e-6)


def test_one_doubtful_finger_makes_a_hand_unreliable() -> None:
    xy, confidence = hands((0, 0, 10, 10), (20, 20, 30, 30)), np.full(NUM_POINTS, 0.9)
    confidence[LEFT_HAND.start + 5] = 0.8  # not above the threshold
    _, reliable = hand_boxes(xy, confidence)
    np.testing.assert_array_equal(reliable, [False, True])
    mask = hand_masks(poses(xy, confidence), GRID)[0]
    assert mask[:2, :2].max() == 0
    assert mask.max() > 0


def test_an_unreliable_hand_does_not_hide_the_other_one() -> None:
    """Both in one place: the doubtful second hand must not erase the sure first one."""
    xy, confidence = hands((8, 8, 24, 24), (8, 8, 24, 24)), np.full(NUM_POINTS, 0.9)
    confidence[RIGHT_HAND] = 0.1
    np.testing.assert_array_equal(hand_masks(poses(xy, confidence), GRID), hand_masks(poses(xy), GRID))


def test_padding_is_a_share_of_the_box() -> None:
    box, _ = hand_boxes(hands((10, 20, 30, 60), (0, 0, 1, 1)), np.ones(NUM_POINTS), padding=0.1)
    np.testing.assert_allclose(box[0], [8, 16, 32, 64], atol=1e-5)


def test_without_reliable_hands_the_mask_is_empty() -> None:
    assert not hand_masks(poses(hands((0, 0, 40, 40), (0, 0, 40, 40)), np.zeros(NUM_POINTS)), GRID).any()


def test_invalid_settings_are_refused() -> None:
    for wrong in ({"threshold": 1.2}, {"padding": -0.1}):
        with pytest.raises(ConfigError, match="threshold"):
            hand_masks(poses(hands((0, 0, 1, 1), (0, 0, 1, 1))), GRID, **wrong)
