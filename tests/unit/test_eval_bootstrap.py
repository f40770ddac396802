from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicmotion.errors import ConfigError, InputError
from mimicmotion.evaluation.metrics.bootstrap import Interval, bootstrap_mean, ratio_of_sums


def test_the_interval_is_that_of_drawing_sequences_by_hand() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=60)
    draws = values[np.random.default_rng(0).integers(60, size=(10_000, 60))].mean(-1)
    found = bootstrap_mean(values)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), rel=1e-9)
    assert bootstrap_mean(values, seed=1).low != found.low


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        x = bootstrap_mean(rng.normal(3, 2, 50), resamples=600)
        hits += x.low <= 3 <= x.high
    assert 0.90 <= hits / 300 <= 0.985  # 0.95, less a little for 50 clips, plus or minus 3 standard errors


def test_pairing_removes_what_clips_have_in_common() -> None:
    rng = np.random.default_rng(2)
    hard = rng.normal(20, 5, 80)  # clips differ much
    a, b = hard + rng.normal(0.3, 0.5, 80), hard + rng.normal(0, 0.5, 80)
    gain, back = bootstrap_mean(a - b), bootstrap_mean(b - a)
    assert gain.value == pytest.approx((a - b).mean())
    assert gain.excludes_zero
    apart = bootstrap_mean(a)
    assert gain.high - gain.low < 0.3 * (apart.high - apart.low)
    assert (back.low, back.high) == pytest.approx((-gain.high, -gain.low))


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), st.integers(0, 5))
def test_interval_surrounds_the_mean_and_repeats(values: list[float], seed: int) -> None:
    x = bootstrap_mean(values, resamples=200, seed=seed)
    assert min(values) - 1e-9 <= x.low <= x.high <= max(values) + 1e-9
    assert x == bootstrap_mean(values, resamples=200, seed=seed)


def test_drawing_in_parts_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(size=40)
    whole = bootstrap_mean(values)
    monkeypatch.setattr("mimicmotion.evaluation.metrics.bootstrap._AT_ONCE", 1000)
    parts = bootstrap_mean(values)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=1e-12)


def test_one_sequence_and_equal_ones() -> None:
    one = bootstrap_mean([5.0])
    assert (one.value, one.n) == (5.0, 1)
    assert np.isnan([one.low, one.high]).all()
    assert not one.excludes_zero  # one sequence proves nothing
    assert bootstrap_mean([2.0, 2.0]) == Interval(2.0, 2.0, 2.0, 2)


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ConfigError, match=r"mimicmotion\[eval\]"):
        bootstrap_mean([1.0, 2.0])


def test_ratio_of_sums_draws_clips_together() -> None:
    met, points = np.array([9.0, 1.0, 0.0, 30.0]), np.array([10.0, 10.0, 0.0, 30.0])
    x = ratio_of_sums(met, points)
    assert x.value == pytest.approx(0.8)
    assert x.n == 3  # the clip without points says nothing
    assert 0.1 <= x.low < 0.8 < x.high <= 1.0
    same = ratio_of_sums(0.25 * points, points)
    assert (same.low, same.value, same.high) == pytest.approx((0.25, 0.25, 0.25))


def test_bad_input() -> None:
    with pytest.raises(InputError, match="value 1 is nan"):
        bootstrap_mean([1.0, float("nan")])
    with pytest.raises(InputError, match="at least one"):
        bootstrap_mean([])
    with pytest.raises(InputError, match="resamples=5"):
        bootstrap_mean([1, 2], resamples=5)
    with pytest.raises(InputError, match="not all 0"):
        ratio_of_sums([0, 0], [0, 0])
