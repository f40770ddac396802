from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipy_bootstrap

from mimicmotion.errors import InputError
from mimicmotion.evaluation.bootstrap import bootstrap, bootstrap_mean, paired_difference, ratio_of_sums, summarise


def test_mean_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=60)
    ours = bootstrap_mean(values)
    theirs = scipy_bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, random_state=1)
    width = ours.high - ours.low
    assert ours.value == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)


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
    gain = paired_difference(a, b)
    assert gain.value == pytest.approx((a - b).mean())
    assert gain.excludes_zero
    whole = bootstrap_mean(a)
    assert gain.high - gain.low < 0.3 * (whole.high - whole.low)
    back = paired_difference(b, a)
    assert (back.low, back.high) == pytest.approx((-gain.high, -gain.low))


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), st.integers(0, 5))
def test_interval_surrounds_the_mean_and_repeats(values: list[float], seed: int) -> None:
    x = bootstrap_mean(values, resamples=200, seed=seed)
    assert min(values) - 1e-9 <= x.low <= x.high <= max(values) + 1e-9
    assert x == bootstrap_mean(values, resamples=200, seed=seed)


def test_wider_level_wider_interval_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(size=40)
    narrow, wide = bootstrap_mean(values, level=0.5), bootstrap_mean(values, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    monkeypatch.setattr("mimicmotion.evaluation.bootstrap._CHUNK", 1000)
    again = bootstrap_mean(values, level=0.5)
    assert (again.low, again.high) == pytest.approx((narrow.low, narrow.high), abs=1e-12)


def test_other_statistics_and_single_clips() -> None:
    values = [1.0, 2.0, 3.0, 100.0]
    assert bootstrap(values, lambda x: np.median(x, -1)).value == 2.5
    one = bootstrap_mean([5.0])
    assert (one.value, one.n) == (5.0, 1)
    assert np.isnan([one.low, one.high]).all()
    assert not one.excludes_zero  # one clip proves nothing
    assert str(bootstrap_mean([2.0, 2.0])) == "2 [2, 2]"


def test_ratio_of_sums_draws_clips_together() -> None:
    met, points = np.array([9.0, 1.0, 0.0, 30.0]), np.array([10.0, 10.0, 0.0, 30.0])
    x = ratio_of_sums(met, points)
    assert x.value == pytest.approx(0.8)
    assert x.n == 3  # the clip without points says nothing
    assert 0.1 <= x.low < 0.8 < x.high <= 1.0
    same = ratio_of_sums(0.25 * points, points)
    assert (same.low, same.value, same.high) == pytest.approx((0.25, 0.25, 0.25))


def test_summary_of_a_table() -> None:
    rows = [{"psnr": 20.0, "hands": float("nan")}, {"psnr": 22.0, "hands": 15.0}, {"psnr": 24.0, "hands": 17.0}]
    table = summarise(rows)
    assert table["psnr"].value == 22.0
    assert table["psnr"].n == 3
    assert table["hands"].value == 16.0
    assert table["hands"].n == 2


def test_bad_input() -> None:
    with pytest.raises(InputError, match="value 1 is nan"):
        bootstrap_mean([1.0, float("nan")])
    with pytest.raises(InputError, match="at least one"):
        bootstrap_mean([])
    with pytest.raises(InputError, match="3 and 2 clips"):
        paired_difference([1, 2, 3], [1, 2])
    with pytest.raises(InputError, match="level=1"):
        bootstrap_mean([1, 2], level=1)
    with pytest.raises(InputError, match="resamples=5"):
        bootstrap_mean([1, 2], resamples=5)
    with pytest.raises(InputError, match="not all 0"):
        ratio_of_sums([0, 0], [0, 0])
    with pytest.raises(InputError, match="columns of row 1"):
        summarise([{"a": 1.0}, {"b": 1.0}])
    with pytest.raises(InputError, match="a is NaN for every clip"):
        summarise([{"a": float("nan")}])
    with pytest.raises(InputError, match="without rows"):
        summarise([])
