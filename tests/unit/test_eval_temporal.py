from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.evaluation.metrics.temporal import (
    background_flicker,
    jerkiness,
    jumps,
    sample_bilinear,
    seam_scores,
    static_where,
    warping_errors,
)
from mimicmotion.pose.keypoints import NUM_POINTS, PoseSequence


def texture(height: int = 64, width: int = 80, seed: int = 0) -> ndarray:
    """Smooth random colours, which optical flow can follow."""
    noise = np.random.default_rng(seed).uniform(0, 1, (height, width, 3))
    blurred = cv2.GaussianBlur(noise, (0, 0), 2.5)
    return ((blurred - blurred.min()) / (blurred.max() - blurred.min()) * 255).astype(np.uint8)


def drifting(frames: int = 6, step: int = 2) -> ndarray:
    """A camera that moves to the right by `step` pixels a frame."""
    wide = texture(64, 80 + frames * step)
    return np.stack([wide[:, i * step : i * step + 80] for i in range(frames)])


def test_flicker_is_the_spread_over_time_where_the_target_stands_still() -> None:
    target = np.repeat(texture()[None], 4, 0)
    target[:, 10:20, 10:20] = np.random.default_rng(1).integers(0, 256, (4, 10, 10, 3))  # what moves
    still = static_where((target / 255).std(0))
    assert not still[8:22, 8:22].any()  # with a margin
    assert still[:5].all()
    assert still[25:].all()
    assert still[:, 25:].all()
    assert background_flicker(target, target) == 0
    wrong_but_still = np.repeat((target[:1] // 2), 4, 0)
    assert background_flicker(wrong_but_still, target) == 0
    output = np.full(target.shape, 100, np.uint8)
    output[::2] += 20  # 100, 120, 100, 120: spread 10
    output[:, 10:20, 10:20] = target[:, 10:20, 10:20]
    assert background_flicker(output, target) == pytest.approx(10 / 255)


def test_flicker_of_a_clip_in_which_everything_moves_is_unknown() -> None:
    rng = np.random.default_rng(2)
    clip = rng.integers(0, 256, (5, 16, 16, 3), np.uint8)
    assert np.isnan(background_flicker(clip, clip))


def test_flicker_is_not_of_what_moves_a_few_pixels_further_on() -> None:
    """A camera's noise stands still; a result that is shifted by four pixels does not flicker."""
    rng = np.random.default_rng(3)
    target = np.repeat(texture(96, 128)[None].astype(float), 30, 0)
    for i in range(30):
        target[i, 30:60, 40 + i : 60 + i] = 255 * (i % 2)
    target = np.clip(target + rng.normal(0, 2, target.shape), 0, 255).astype(np.uint8)
    assert ((target.max(0) - target.min(0)).max(-1) <= 4).mean() < 0.01  # no pixel without noise
    assert static_where((target / 255).std(0)).mean() > 0.5
    own = background_flicker(target, target)
    assert own == pytest.approx(2 / 255, rel=0.1)
    shifted = np.roll(target, 4, 2)
    assert background_flicker(shifted, target) == pytest.approx(own, rel=0.1)


def means(output: ndarray, target: ndarray) -> list[float]:
    return warping_errors(output, target).mean(0).tolist()


def test_warping_error_follows_the_true_motion() -> None:
    clip = drifting()
    made, own = means(clip, clip)
    plain = float((np.diff(clip.astype(float) / 255, axis=0) ** 2).mean())
    assert made == own < 0.05 * plain  # the flow explains the drift
    flashing = clip.astype(float)
    flashing[1::2] = 0.8 * flashing[1::2] + 25
    assert means(flashing.astype(np.uint8), clip)[0] > 5 * own


@pytest.mark.parametrize("kind", ["frozen", "dropped", "blurred"])
def test_frozen_blurred_or_repeated_frames_are_not_better_than_the_real_ones(kind: str) -> None:
    rng = np.random.default_rng(4)
    real = np.clip(drifting(9) + rng.normal(0, 6, (9, 64, 80, 3)), 0, 255).astype(np.uint8)
    near = np.clip(real + rng.normal(0, 1, real.shape), 0, 255).astype(np.uint8)
    bad = {
        "frozen": np.repeat(real[:1], 9, 0),
        "dropped": real[np.arange(9) // 2 * 2],
        "blurred": np.stack([cv2.GaussianBlur(f, (0, 0), 3) for f in real]),
    }[kind]
    (good, own), (odd, _) = means(near, real), means(bad, real)
    assert abs(odd - own) > 5 * abs(good - own)


def test_sampling_along_a_known_drift_gives_the_frame_before() -> None:
    clip = drifting(3)
    moved = np.zeros((64, 80, 2), np.float32)
    moved[..., 0] = 2  # the true drift: two pixels a frame
    inside = (slice(20, 40), slice(30, 50))
    expected = ((clip[1] / 255 - sample_bilinear(clip[0] / 255, moved)) ** 2)[inside].mean()
    assert expected == pytest.approx(0, abs=1e-12)


def test_seams_stand_out_from_the_jumps_around_them() -> None:
    frames = np.zeros((12, 8, 8, 3))
    level = np.cumsum([0, 1, 1, 1, 1, 1, 5, 1, 1, 1, 1, 1]) * 0.01  # a jump five times as large into frame 6
    frames += level[:, None, None, None]
    assert jumps(frames) == pytest.approx(np.diff(level))
    assert seam_scores(jumps(frames), [6])[0] == pytest.approx(5, rel=0.05)
    assert seam_scores(jumps(frames), [3])[0] == pytest.approx(1, rel=0.01)
    assert seam_scores(jumps(frames), [3, 6]) == pytest.approx([1, 5], rel=0.05)
    assert seam_scores(jumps(frames), [1, 11]) == pytest.approx([1, 1], rel=0.01)  # at the ends neighbours are inside
    assert len(seam_scores(jumps(frames), [])) == 0
    assert seam_scores(jumps(np.zeros((5, 8, 8, 3))), [2]) == 1


@pytest.mark.parametrize("times", [2, 3, 12])
def test_frames_that_are_shown_several_times_make_no_seam(times: int) -> None:
    clip = np.repeat(drifting(12), times, 0)
    moving, repeated = 6 * times, 6 * times + 1
    assert seam_scores(jumps(clip), [moving])[0] == pytest.approx(1, rel=0.2)
    assert np.isnan(seam_scores(jumps(clip), [repeated])[0])
    flash = clip.astype(float)
    flash[moving:] = 255 - flash[moving:]
    assert seam_scores(jumps(flash.astype(np.uint8)), [moving])[0] > 1.5
    still = np.repeat(clip[:1], 12, 0) // 2
    still[6:] += 20
    assert seam_scores(jumps(still), [6])[0] > 100  # in a still clip a flash is a seam


def pose_clip(xy: ndarray) -> PoseSequence:
    whole = np.zeros((len(xy), NUM_POINTS, 2), np.float32)
    whole[:, 4] = xy
    confidence = np.zeros((len(xy), NUM_POINTS), np.float32)
    confidence[:, 4] = 0.9
    return PoseSequence(whole, confidence, (100, 100), 15.0)


def test_jerkiness() -> None:
    t = np.arange(8.0)
    assert jerkiness(pose_clip(np.stack([3 * t, 2 * t], -1)), 50) == pytest.approx(0, abs=1e-7)
    assert jerkiness(pose_clip(np.stack([t**2, 0 * t], -1)), 50) == pytest.approx(2 / 50)  # steady acceleration
    trembling = np.stack([(-1) ** t, 0 * t], -1)
    assert jerkiness(pose_clip(trembling), 50) == pytest.approx(4 / 50)
    hidden = pose_clip(trembling)
    hidden.confidence[::2] = 0
    assert np.isnan(jerkiness(hidden, 50))
    assert np.isnan(jerkiness(pose_clip(trembling[:2]), 50))


def test_bad_input() -> None:
    clip = drifting(4)
    with pytest.raises(InputError, match="4 output and 3 target frames"):
        background_flicker(clip, clip[:3])
    with pytest.raises(InputError, match="16 pixels"):
        warping_errors(clip[:, :8], clip[:, :8])
    with pytest.raises(InputError, match="NaN"):
        jumps(np.full((4, 8, 8, 3), np.nan))
    with pytest.raises(InputError, match="at least 2"):
        warping_errors(clip[:1], clip[:1])
    with pytest.raises(InputError, match="border 4 in a clip of 4 frames"):
        seam_scores(jumps(clip), [4])
    with pytest.raises(InputError, match="length=0"):
        jerkiness(pose_clip(np.zeros((4, 2))), 0)
