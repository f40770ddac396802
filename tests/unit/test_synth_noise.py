from __future__ import annotations

import dataclasses
import functools
import json
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from mimicmotion.errors import InputError
from mimicmotion.pose.keypoints import FACE, L_WRIST, LEFT_HAND, R_WRIST, RIGHT_HAND, PoseSequence
from mimicmotion.synth import noise, perturb_poses, render_clip
from mimicmotion.synth.noise import FIT, GROUPS, SMALL_TOES, Z, load_fit, normal_position, torso
from scripts_of_repository import load

measures = load("scripts/noise_measure.py")
CLIPS, ROUNDS = 10, 12
HANDS = ((LEFT_HAND, L_WRIST), (RIGHT_HAND, R_WRIST))


@functools.cache
def rendered(seed: int) -> PoseSequence:
    return render_clip(seed, 15, (80, 48)).poses.scaled((448, 256))


def exact() -> list[PoseSequence]:
    return [rendered(seed) for seed in range(CLIPS)]


@functools.cache
def imitated(one_score: float = 1.0) -> list[PoseSequence]:
    """All clips with one score for a hand (or none), as the holistic estimator of the fit gives it."""
    fit = dataclasses.replace(load_fit(), one_score=one_score)
    with mock.patch.object(noise, "load_fit", return_value=fit):
        return [perturb_poses(p, 7 + 1000 * k) for k, p in enumerate(exact() * ROUNDS)]


def fitted(group: str) -> dict:
    return json.loads(FIT.read_text())["groups"][group]


@pytest.mark.slow  # guards the fit, from which a table of the documentation is made
@pytest.mark.parametrize("group", [g for g in GROUPS if g not in ("face", "hand")])
def test_body_confidences_have_the_measured_distribution(group: str) -> None:
    points = [p for p in GROUPS[group] if p not in SMALL_TOES]
    values = np.concatenate([p.confidence[:, points][p.confidence[:, points] > 0] for p in imitated()])
    want, share = np.array(fitted(group)["found"]), ndtr(Z)
    # rank of the measured deciles among the imitated: immune to steep places of the distribution
    got = (values[:, None] <= want + 1e-6).mean(0)
    assert np.abs(got - share)[2:9].max() < 0.12
    assert len(values) > 300


@pytest.mark.slow  # guards the fit, from which a table of the documentation is made
@pytest.mark.parametrize("group", ["face", "hand"])
def test_parts_are_lost_as_often_and_as_long_as_measured(group: str) -> None:
    parts = HANDS if group == "hand" else ((FACE, 0),)
    scores = [p.confidence[:, part].max(1)[p.confidence[:, at] > 0] for p in imitated() for part, at in parts]
    everything = np.concatenate(scores)
    lost = fitted(group)["lost"]
    assert (everything == 0).mean() == pytest.approx(lost["share"], abs=0.1)
    if group == "hand":
        mean = np.mean([k for s in scores for k in measures.runs(s == 0)]) / 15
        assert lost["mean_seconds"] / 2 < mean < 2 * lost["mean_seconds"]
    found = np.median(everything[everything > 0])
    assert found == pytest.approx(fitted(group)["found"][5], abs=0.03)


@pytest.mark.slow  # guards the fit, from which a table of the documentation is made
@pytest.mark.parametrize("group", list(GROUPS))
def test_jumps_and_errors_have_the_measured_size(group: str) -> None:
    points = GROUPS[group]
    jumps, errors = [], []
    for truth, noisy in zip(exact() * ROUNDS, imitated(), strict=True):
        error = ((noisy.xy.astype(np.float64) - truth.xy) / torso(truth.xy))[:, points]
        sure = noisy.confidence[:, points]
        fast, slow, good = measures.fast_and_slow(error, noisy.confidence[:, points] > 0)
        good &= (sure[2:-2] > 0.8) & (np.abs(slow) < 0.3).all(-1)
        jumps.append(fast[good])
        errors.append(slow[good])
    for got, name in ((jumps, "fast"), (errors, "slow")):
        measured = fitted(group)[f"{name}_rows"][-1][1]  # the surest bin
        assert measured / 1.7 < measures.spread(np.concatenate(got)) < 1.7 * measured, name


@pytest.mark.slow  # guards the fit, from which a table of the documentation is made
def test_a_hand_moves_as_one_more_than_apart() -> None:
    whole, apart = [], []
    for truth, noisy in zip(exact() * ROUNDS, imitated(), strict=True):
        error = (noisy.xy - truth.xy)[:, LEFT_HAND]
        whole.append(error.mean(1))
        apart.append(error - error.mean(1, keepdims=True))
    assert measures.spread(np.concatenate(whole)) > 0.5 * measures.spread(np.concatenate(apart))


@pytest.mark.slow  # guards the fit, from which a table of the documentation is made
def test_one_score_for_a_part_or_one_for_each_point() -> None:
    together = [p.confidence[:, hand][:, 1:] for p in imitated() for hand, _ in HANDS]
    assert all(np.ptp(np.where(c > 0, c, c.max(1, keepdims=True)), axis=1).max() < 1e-6 for c in together)
    apart = [p.confidence[:, LEFT_HAND] for p in imitated(0.0)]
    assert np.median([np.ptp(c, axis=1).max() for c in apart if c.max() > 0.3]) > 0.1
    assert not any(p.confidence[:, SMALL_TOES].any() for p in imitated())
    assert any(p.confidence[:, SMALL_TOES].any() for p in imitated(0.0))


@pytest.mark.whole
@settings(max_examples=12)
@given(st.integers(0, 1000), st.floats(0, 3), st.integers(1, 20))
def test_noise_keeps_the_layout(seed: int, strength: float, n: int) -> None:
    poses = rendered(seed % 3)[:n]
    noisy = perturb_poses(poses, seed, strength)
    assert noisy.xy.shape == poses.xy.shape
    assert noisy.size == poses.size
    assert not (noisy.confidence > 0)[poses.confidence == 0].any()  # what is outside stays unseen
    seen = noisy.xy[noisy.confidence > 0]
    assert ((seen >= 0) & (seen < (256, 448))).all()
    again = perturb_poses(poses, seed, strength)
    np.testing.assert_array_equal(noisy.xy, again.xy)
    np.testing.assert_array_equal(noisy.confidence, again.confidence)
    if strength == 0:
        assert noisy is poses


def test_noise_grows_with_strength() -> None:
    poses = rendered(0)
    noisy = [[perturb_poses(poses, s, k) for s in range(20)] for k in (0.3, 1.0, 3.0)]
    error = [np.mean([measures.spread(p.xy - poses.xy) for p in same]) for same in noisy]
    assert 2 * error[0] < error[1] < error[2] / 2
    lost = []
    for k in (0.3, 1.0, 3.0):
        noisy = [
            (perturb_poses(p, s, k).confidence, p.confidence > 0)
            for s, p in enumerate([rendered(i) for i in range(4)] * 10)
        ]
        lost.append(np.mean([(c[:, 92:] == 0)[seen[:, 92:]].mean() for c, seen in noisy if seen[:, 92:].any()]))
    assert 0 < lost[0] < lost[1] < lost[2] < 0.6
    with pytest.raises(InputError, match="strength"):
        perturb_poses(poses, 0, -1.0)
    with pytest.raises(InputError, match="seed"):
        perturb_poses(poses, -1)


def test_little_noise_is_little() -> None:
    poses = rendered(3)
    noisy = perturb_poses(poses, 5, 1e-6)
    np.testing.assert_allclose(noisy.xy, poses.xy, atol=1e-3)
    inside = noisy.confidence > 0
    np.testing.assert_allclose(noisy.confidence[inside], poses.confidence[inside], atol=1e-3)


@pytest.mark.parametrize("seed", [1, 2])
def test_golden(golden, seed: int) -> None:  # type: ignore[no-untyped-def]
    """The same seed means the same noise in later versions too, as long as the fit stays."""
    rng = np.random.default_rng(3)
    xy = (100 + 60 * rng.random((5, 134, 2))).astype(np.float32)
    noisy = perturb_poses(PoseSequence(xy, rng.random((5, 134)).astype(np.float32), (256, 256), 12.0), seed, 1.5)
    golden(f"synth_noise_{seed}", rtol=1e-4, atol=1e-3, xy=noisy.xy[:, ::5], confidence=noisy.confidence[:, ::5])


@pytest.mark.parametrize("name", sorted(load_fit().faults))
def test_faults(name: str) -> None:
    """Each fault does what its name says, to one person who stands with the hands apart."""
    xy = np.zeros((3, 134, 2))
    xy[:, [7, *range(92, 113)]], xy[:, [4, *range(113, 134)]] = (50.0, 10.0), (-50.0, 10.0)
    xy[:, [12, 13]], xy[:, [9, 10]] = (20.0, 90.0), (-20.0, 90.0)
    before, confidence = xy.copy(), np.full((3, 134), 0.9)
    noise._fault(np.random.default_rng(0), name, xy, confidence, 50.0, 0.5)
    moved = np.flatnonzero((xy != before).any((0, 2)))
    hands = [set(range(92, 113)), set(range(113, 134))]
    if name == "swapped_arms":
        np.testing.assert_array_equal(xy[:, 7], before[:, 4])
        assert {4, 7} | hands[0] | hands[1] == set(moved)
    elif name == "swapped_legs":
        np.testing.assert_array_equal(xy[:, 12], before[:, 9])
        assert set(moved) == {9, 10, 12, 13}
    elif name == "arm_off":
        assert any(set(moved) == {a, b} | h for (a, b), h in zip(((6, 7), (3, 4)), hands, strict=True))
    else:
        assert set(moved) in hands
        apart = np.linalg.norm(xy[0, 92] - xy[0, 113])
        assert (apart < 20) == (name == "same_hand_twice")
    assert set(np.flatnonzero((confidence != 0.9).any(0))) >= set(moved)
    assert np.isfinite(xy).all()


@pytest.mark.slow  # guards the fit, from which a table of the documentation is made
def test_faults_are_as_frequent_as_the_fit_says() -> None:
    clips, strength = exact() * ROUNDS, 3.0  # a second each
    with mock.patch.object(noise, "_fault", wraps=noise._fault) as fault:
        for k, poses in enumerate(clips):
            perturb_poses(poses, k, strength)
    expected = sum(rate for rate, _ in load_fit().faults.values()) * len(clips) * strength
    assert fault.call_count == pytest.approx(expected, rel=0.3)


def test_measures_find_what_was_put_in() -> None:
    rng = np.random.default_rng(0)
    t = np.arange(4000) / 30
    smooth = np.stack([np.sin(t), np.cos(0.7 * t)], 1)[:, None]
    jump = 0.02 * rng.normal(size=(4000, 1, 2))
    seen = np.ones((4000, 1), bool)
    fast, slow, good = measures.fast_and_slow(smooth + jump, seen)
    assert measures.spread(fast[good]) == pytest.approx(0.02, rel=0.05)
    assert np.abs(slow - smooth[2:-2]).max() < 0.1
    a, b, most = measures.fit_spread(np.array([[0.9, 0.01 + 0.1 * 0.01, 50], [0.5, 0.01 + 0.1 * 0.25, 50]]))
    assert (a, b, most) == pytest.approx((0.01, 0.1, 0.035))
    np.testing.assert_allclose(normal_position(np.array([0.025, 0.5, 0.84134])), [-1.96, 0.0, 1.0], atol=1e-4)
    np.testing.assert_allclose(normal_position(ndtr(Z)), Z, atol=1e-3)
    normal = rng.normal(size=20000)
    np.testing.assert_allclose(measures.quantiles(normal)[2:-2], Z[2:-2], atol=0.06)
    np.testing.assert_allclose(measures.to_normal(np.array([0.0, 1.0]), normal), [0, 1], atol=0.05)
    assert measures.runs(np.array([1, 1, 0, 0, 1, 0, 1, 1, 1], bool)) == [2, 1, 3]


@pytest.mark.parametrize(("still", "time"), [(0.0, 0.3), (0.5, 0.2), (0.8, 0.6)])
def test_persistence_is_measured_as_it_is_made(still: float, time: float) -> None:
    rng = np.random.default_rng(1)
    sources = np.full(400, 1.0)
    slow = noise._wander(rng, 60, still * sources, time * sources, 0.1)
    got = measures.persistence([(slow[..., None], np.ones(slow.shape, bool), 0.1)], smooth=False)
    assert got == pytest.approx((still, time), abs=0.12)
    drift = np.moveaxis(noise._drift(rng, 60, still * sources, time * sources, 0.1), 1, 2)
    assert drift.std() == pytest.approx(1, abs=0.1)
    jumping = drift + 0.4 * rng.normal(size=drift.shape)
    got = measures.persistence([(jumping, np.ones(slow.shape, bool), 0.1)], smooth=True)
    assert got == pytest.approx((still, time), abs=0.15)


def test_odd_poses() -> None:
    """No person, one frame, or no frame rate: handled like any exact poses."""
    poses = rendered(1)
    nobody = dataclasses.replace(poses, confidence=np.zeros_like(poses.confidence))
    assert not perturb_poses(nobody, 1).confidence.any()
    assert len(perturb_poses(poses[:0], 1)) == 0
    still = dataclasses.replace(poses[:1], fps=0.0)
    rated = dataclasses.replace(still, fps=15.0)
    np.testing.assert_array_equal(perturb_poses(still, 4).xy, perturb_poses(rated, 4).xy)
    long = PoseSequence(np.tile(poses.xy[:1], (400, 1, 1)), np.tile(poses.confidence[:1], (400, 1)), poses.size, 30.0)
    assert np.isfinite(perturb_poses(long, 2, 10.0).xy).all()
