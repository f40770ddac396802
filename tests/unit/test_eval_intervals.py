from __future__ import annotations

import sys

import numpy as np
import pytest

from mimicmotion.errors import ConfigError, InputError
from mimicmotion.evaluation.metrics.intervals import Interval, holm, mean_interval, ratio_of_sums


def test_the_interval_is_students() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=60)
    found = mean_interval(values)
    assert found.value == pytest.approx(values.mean())
    from scipy import stats  # takes a while

    known = stats.ttest_1samp(values, 0)
    assert (found.low, found.high) == pytest.approx(tuple(known.confidence_interval()))
    assert found.p == pytest.approx(known.pvalue)


@pytest.mark.parametrize("n", [5, 6, 10])
def test_six_sequences_hold_the_truth_as_often_as_they_say(n: int) -> None:
    """The TikTok protocol has six."""
    draws = np.random.default_rng(n).normal(0, 2, (2000, n))
    found = [mean_interval(x) for x in draws]
    wrong = np.mean([x.excludes_zero for x in found])
    assert wrong == pytest.approx(0.05, abs=3 * (0.05 * 0.95 / 2000) ** 0.5)
    assert wrong == np.mean([x.p < 0.05 for x in found])


def test_a_report_of_many_differences_finds_none_where_there_is_none() -> None:
    rng = np.random.default_rng(7)
    reports, metrics, hits = 100, 30, 0
    for _ in range(reports):
        hits += min(holm([mean_interval(x).p for x in rng.normal(0, 1, (metrics, 6))])) < 0.05
    assert hits / reports < 0.05 + 3 * (0.05 * 0.95 / reports) ** 0.5  # without correction nearly all


def test_holm_by_hand() -> None:
    nan = float("nan")
    got = holm([0.04, nan, 0.01, 0.03])
    assert np.isnan(got[1])
    assert [got[0], got[2], got[3]] == pytest.approx([0.06, 0.03, 0.06])  # 3 x 0.01, then 2 x 0.03, then no less
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_pairing_removes_what_clips_have_in_common() -> None:
    rng = np.random.default_rng(2)
    hard = rng.normal(20, 5, 80)  # clips differ much
    a, b = hard + rng.normal(0.3, 0.5, 80), hard + rng.normal(0, 0.5, 80)
    gain, back = mean_interval(a - b), mean_interval(b - a)
    assert gain.value == pytest.approx((a - b).mean())
    assert gain.excludes_zero
    apart = mean_interval(a)
    assert gain.high - gain.low < 0.3 * (apart.high - apart.low)
    assert (back.low, back.high) == pytest.approx((-gain.high, -gain.low))


def test_one_sequence_and_equal_ones() -> None:
    one = mean_interval([5.0])
    assert (one.value, one.n) == (5.0, 1)
    assert np.isnan([one.low, one.high]).all()
    assert not one.excludes_zero  # one sequence proves nothing
    assert mean_interval([2.0, 2.0]) == Interval(2.0, 2.0, 2.0, 2, p=0.0)


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ConfigError, match=r"\[eval\]"):
        mean_interval([1.0, 2.0])


def test_ratio_of_sums_draws_clips_together() -> None:
    met, points = np.array([9.0, 1.0, 0.0, 30.0]), np.array([10.0, 10.0, 0.0, 30.0])
    x = ratio_of_sums(met, points)
    assert x.value == pytest.approx(0.8)
    assert x.n == 3  # the clip without points says nothing
    assert x.low < 0.8 < x.high
    same = ratio_of_sums(0.25 * points, points)
    assert (same.low, same.value, same.high) == pytest.approx((0.25, 0.25, 0.25))


def test_bad_input() -> None:
    with pytest.raises(InputError, match="value 1 is nan"):
        mean_interval([1.0, float("nan")])
    with pytest.raises(InputError, match="at least one"):
        mean_interval([])
    with pytest.raises(InputError, match="not all 0"):
        ratio_of_sums([0, 0], [0, 0])
