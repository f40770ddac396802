from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicmotion.errors import ConfigError
from mimicmotion.pose.keypoints import NUM_POINTS, PoseSequence
from mimicmotion.pose.smooth import smooth_poses


def poses(path: np.ndarray, confidence: np.ndarray | float = 1.0) -> PoseSequence:
    xy = np.repeat(np.stack([path, -path], -1)[:, None], NUM_POINTS, 1).astype(np.float32)
    full = np.broadcast_to(np.asarray(confidence, np.float32), (len(path), NUM_POINTS)).copy()
    return PoseSequence(xy, full, (100, 100))


@given(seed=st.integers(0, 30), window=st.sampled_from([3, 5, 9]), frames=st.integers(1, 20))
def test_steady_acceleration_passes_unchanged_at_any_confidence(seed: int, window: int, frames: int) -> None:
    random = np.random.default_rng(seed)
    t = np.arange(frames)
    still = poses(3 + 2 * t - 0.1 * t**2, random.uniform(0, 1, (frames, NUM_POINTS)))
    np.testing.assert_allclose(smooth_poses(still, window).xy, still.xy, atol=1e-3)


def test_noise_shrinks_and_confidence_stays() -> None:
    random = np.random.default_rng(0)
    true = 30 + 10 * np.sin(np.arange(60) / 10)
    noisy = poses(true + random.normal(0, 1, 60))
    smooth = smooth_poses(noisy, 9)
    assert np.abs(smooth.xy[:, 0, 0] - true).mean() < 0.7 * np.abs(noisy.xy[:, 0, 0] - true).mean()
    np.testing.assert_array_equal(smooth.confidence, noisy.confidence)


def test_a_doubtful_jump_is_pulled_to_its_sure_neighbours_and_not_they_to_it() -> None:
    path, confidence = np.full(11, 50.0), np.ones((11, NUM_POINTS))
    path[5], confidence[5] = 90, 0.02
    smooth = smooth_poses(poses(path, confidence), 7).xy[:, 0, 0]
    assert abs(smooth[5] - 50) < 2
    assert np.abs(np.delete(smooth, 5) - 50).max() < 1


def test_unseen_points_stay_and_do_not_pull() -> None:
    path, confidence = np.full(9, 50.0), np.ones((9, NUM_POINTS))
    path[4], confidence[4] = 0, 0
    smooth = smooth_poses(poses(path, confidence), 5).xy[:, 0, 0]
    np.testing.assert_allclose(smooth, path, atol=1e-3)


def test_window_of_one_changes_nothing_and_even_ones_are_refused() -> None:
    some = poses(np.arange(5.0))
    assert smooth_poses(some, 1) is some
    for window in (0, 4, -3):
        with pytest.raises(ConfigError, match="odd"):
            smooth_poses(some, window)
