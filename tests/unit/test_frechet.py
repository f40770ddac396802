"""Frechet distances against closed forms, scipy's matrix root, and bad input."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from mimicmotion.errors import InputError
from mimicmotion.evaluation.metrics.frechet import UnequalSetsWarning, fd_infinity, frechet_distance

shapes = st.tuples(
    st.integers(2, 12), st.integers(1, 20), st.integers(0, 2**32 - 1)
)  # fewer rows than columns, and more


def normal(n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


@given(shapes)
def test_identical_sets_in_any_order_have_no_distance(shape: tuple[int, int, int]) -> None:
    x = normal(*shape)
    assert frechet_distance(x, x[::-1]) == pytest.approx(0, abs=1e-9 * (x**2).sum())


@given(shapes)
def test_a_shift_gives_its_squared_length(shape: tuple[int, int, int]) -> None:
    x = normal(*shape)
    shift = np.random.default_rng(1).normal(size=x.shape[1])
    assert frechet_distance(x, x + shift) == pytest.approx(shift @ shift, rel=1e-6, abs=1e-8 * (x**2).sum())


@given(shapes)
def test_twice_the_spread_gives_the_trace_of_the_covariance(shape: tuple[int, int, int]) -> None:
    x = normal(*shape)
    assert frechet_distance(x, 2 * x - x.mean(0)) == pytest.approx(x.var(0, ddof=1).sum(), rel=1e-6)


@pytest.mark.parametrize(("n", "m", "d"), [(40, 40, 5), (200, 200, 12), (9, 9, 4)])
def test_against_the_matrix_root_of_scipy(n: int, m: int, d: int) -> None:
    x, y = normal(n, d, 0), normal(m, d, 1) * 2
    ca, cb, shift = np.cov(x, rowvar=False), np.cov(y, rowvar=False), x.mean(0) - y.mean(0)
    want = shift @ shift + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    assert frechet_distance(x, y) == pytest.approx(want, rel=1e-9)
    assert frechet_distance(y, x) == pytest.approx(want, rel=1e-9)


def test_float32_features_far_from_zero_keep_their_precision() -> None:
    x = (np.random.default_rng(0).normal(size=(300, 400)) + 1000).astype(np.float32)
    assert frechet_distance(x, x[::-1]) < 1e-6


def test_unequal_sets_warn_with_their_sizes() -> None:
    with pytest.warns(UnequalSetsWarning, match="5 against 7 features"):
        frechet_distance(normal(5, 3, 0), normal(7, 3, 1))


def test_bad_input_is_refused_by_name() -> None:
    x = normal(4, 3, 0)
    with pytest.raises(InputError, match="undefined"):
        frechet_distance(x, x[:1])
    with pytest.raises(InputError, match="dimension 3 and 2"):
        frechet_distance(x, x[:, :2])
    with pytest.raises(InputError, match="shape"):
        frechet_distance(x[0], x)
    broken = x.copy()
    broken[2, 1] = np.nan
    with pytest.raises(InputError, match="first set, row 2"):
        frechet_distance(broken, x)


def test_extrapolation_removes_most_of_the_bias() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 400, 20))  # the same distribution: the true distance is 0
    plain, fit = frechet_distance(x, y), fd_infinity(x, y, seed=3)
    assert abs(fit) < plain / 4
    assert fit == fd_infinity(x, y, seed=3)


def test_extrapolation_refuses_too_few() -> None:
    x = normal(20, 3, 0)
    with pytest.raises(InputError, match="at least 16"):
        fd_infinity(x[:10], x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fd_infinity(x, normal(30, 3, 1))  # unequal sets are cut to equal sizes, so there is nothing to warn of
