"""Hand masks of whole sequences against masks painted pixel by pixel in double precision."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray

from mimicmotion.pose.hands import hand_masks
from mimicmotion.pose.keypoints import LEFT_HAND, NUM_POINTS, RIGHT_HAND, PoseSequence

SIZE, GRID = (64, 48), (8, 6)
FINE = 4
"""Painted pixels per pixel: borders of boxes are multiples of a quarter pixel."""

Hand = tuple[tuple[float, float, float, float], list[float]]  # box of the points, confidence of each


def painted(frames: list[tuple[Hand, Hand]], threshold: float, padding: float) -> ndarray:
    """Each hand paints its box if all its points are sure; the union is the maximum; cells are means."""
    out = np.zeros((len(frames), *GRID))
    for frame, hands in enumerate(frames):
        union = np.zeros((SIZE[0] * FINE, SIZE[1] * FINE), np.float64)
        for (left, top, right, bottom), confidence in hands:
            mask = np.zeros_like(union)
            if min(confidence) > threshold:
                wide, high = padding * (right - left), padding * (bottom - top)
                for y in range(union.shape[0]):
                    if top - high <= (y + 0.5) / FINE < bottom + high:
                        x = (np.arange(union.shape[1]) + 0.5) / FINE
                        mask[y, (left - wide <= x) & (x < right + wide)] = 1
            union = np.maximum(union, mask)
        cell_h, cell_w = union.shape[0] // GRID[0], union.shape[1] // GRID[1]
        for row in range(GRID[0]):
            for column in range(GRID[1]):
                cell = union[row * cell_h : (row + 1) * cell_h, column * cell_w : (column + 1) * cell_w]
                out[frame, row, column] = cell.sum() / cell.size
    return out


def sequence(frames: list[tuple[Hand, Hand]]) -> PoseSequence:
    xy = np.zeros((len(frames), NUM_POINTS, 2), np.float32)
    confidence = np.ones((len(frames), NUM_POINTS), np.float32)
    for i, hands in enumerate(frames):
        for place, (box, sure) in zip((LEFT_HAND, RIGHT_HAND), hands, strict=True):
            xy[i, place] = np.linspace(box[:2], box[2:], 21)
            confidence[i, place] = sure
    return PoseSequence(xy, confidence, SIZE)


def hands_on(step: float) -> st.SearchStrategy[Hand]:
    """Boxes with borders at multiples of `step`, also beyond the frame; sure, doubtful or with one doubtful point."""
    place = st.integers(int(-12 / step), int(80 / step)).map(lambda k: k * step)
    box = st.tuples(place, place, place, place).map(
        lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
    )
    doubtful = st.integers(0, 20).map(lambda k: [0.95] * k + [0.5] + [0.95] * (20 - k))
    return st.tuples(box, st.one_of(st.just([0.95] * 21), st.just([0.95] * 21), st.just([0.1] * 21), doubtful))


def clips(step: float) -> st.SearchStrategy[list[tuple[Hand, Hand]]]:
    return st.lists(st.tuples(hands_on(step), hands_on(step)), min_size=1, max_size=3)


@given(clips(1.0))
def test_borders_on_pixels(frames: list[tuple[Hand, Hand]]) -> None:
    np.testing.assert_allclose(
        hand_masks(sequence(frames), GRID, padding=0), painted(frames, 0.8, 0), atol=1e-6, rtol=0
    )


@given(clips(0.25))
def test_borders_within_pixels(frames: list[tuple[Hand, Hand]]) -> None:
    """No rounding to pixels: a quarter of a pixel counts as a quarter."""
    np.testing.assert_allclose(
        hand_masks(sequence(frames), GRID, padding=0), painted(frames, 0.8, 0), atol=1e-6, rtol=0
    )


@given(clips(2.0), st.sampled_from([0.125, 0.25, 1.0]), st.sampled_from([0.3, 0.8]))
def test_padding_and_threshold(frames: list[tuple[Hand, Hand]], padding: float, threshold: float) -> None:
    mask = hand_masks(sequence(frames), GRID, padding=padding, threshold=threshold)
    np.testing.assert_allclose(mask, painted(frames, threshold, padding), atol=1e-6, rtol=0)


@given(hands_on(0.25), st.sampled_from([0, 1]))
def test_a_doubtful_second_hand_erases_nothing(hand: Hand, second: int) -> None:
    """In the same box, it has no effect."""
    box = hand[0]
    sure, doubtful = (box, [0.95] * 21), (box, [0.2] * 21)
    pair = (doubtful, sure) if second else (sure, doubtful)
    both = hand_masks(sequence([pair]), GRID)
    np.testing.assert_array_equal(both, hand_masks(sequence([(sure, sure)]), GRID))
