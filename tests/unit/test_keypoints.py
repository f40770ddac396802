from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mimicmotion.errors import PoseError
from mimicmotion.pose.keypoints import BODY, FACE, FEET, LEFT_HAND, NUM_POINTS, RIGHT_HAND, PoseSequence


def poses(frames: int = 3) -> PoseSequence:
    xy = np.arange(frames * NUM_POINTS * 2, dtype=np.float32).reshape(frames, NUM_POINTS, 2)
    return PoseSequence(xy, np.full((frames, NUM_POINTS), 0.5, np.float32), (100, 50), 24.0, "test")


def test_parts_cover_all_points_once() -> None:
    covered = [k for part in (BODY, FEET, FACE, LEFT_HAND, RIGHT_HAND) for k in range(NUM_POINTS)[part]]
    assert covered == list(range(NUM_POINTS))


def test_slices_are_sequences() -> None:
    part = poses(5)[1:3]
    assert len(part) == 2
    np.testing.assert_array_equal(part.xy, poses(5).xy[1:3])
    assert (part.size, part.fps, part.source) == ((100, 50), 24.0, "test")


def test_scaling_there_and_back() -> None:
    wide = poses().scaled((50, 200))
    np.testing.assert_allclose(wide.xy, poses().xy * (4, 0.5), rtol=1e-6)
    np.testing.assert_allclose(wide.scaled((100, 50)).xy, poses().xy, rtol=1e-6)


def test_it_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        poses().fps = 3.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("xy", "confidence", "message"),
    [
        (np.zeros((2, NUM_POINTS, 2)), np.zeros((3, NUM_POINTS)), "134"),
        (np.zeros((2, 17, 2)), np.zeros((2, 17)), "134"),
        (np.zeros((2, NUM_POINTS, 3)), np.zeros((2, NUM_POINTS)), "134"),
        (np.zeros((2, NUM_POINTS, 2)), np.float32(1), "134"),
        (np.full((2, NUM_POINTS, 2), np.nan), np.zeros((2, NUM_POINTS)), "NaN"),
        (np.zeros((2, NUM_POINTS, 2)), np.full((2, NUM_POINTS), np.nan), "NaN"),
        (np.zeros((2, NUM_POINTS, 2)), np.full((2, NUM_POINTS), 1.01), "0 to 1"),
        (np.zeros((2, NUM_POINTS, 2)), np.full((2, NUM_POINTS), -0.01), "0 to 1"),
    ],
)
def test_malformed_poses_are_refused(xy: np.ndarray, confidence: np.ndarray, message: str) -> None:
    with pytest.raises(PoseError, match=message):
        PoseSequence(xy, confidence, (4, 4))
