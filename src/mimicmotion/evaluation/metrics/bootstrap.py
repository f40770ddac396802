"""Means with 95 % intervals by scipy's percentile bootstrap over sequences.

A sequence is what is drawn, never a frame: frames of one sequence resemble one another, and intervals over frames would
be far too narrow. The draws are seeded, so a report can be repeated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.runtime.extras import import_extra

RESAMPLES = 10_000
_AT_ONCE = 4_000_000  # numbers held while drawing


@dataclass(frozen=True, slots=True)
class Interval:
    """A number of several sequences and its 95 % interval.

    Attributes:
        value: the number itself; NaN where it is unknown.
        low: lower end of the interval; NaN where there is none, as for a single sequence.
        high: upper end.
        n: sequences.
    """

    value: float
    low: float = float("nan")
    high: float = float("nan")
    n: int = 0

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0

    def text(self, digits: int, sign: str = "") -> str:
        """Such as "15.02 [14.80, 15.30]", of which only the number is left where there is no interval.

        Args:
            digits: behind the decimal point.
            sign: "+" shows the sign of positive numbers too.
        """
        value, low, high = (f"{v:{sign}.{digits}f}" for v in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]" if math.isfinite(self.low) else value


def bootstrap_mean(values: Sequence[float] | ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean over sequences with its interval; give differences to compare two methods on the same sequences.

    Args:
        values: one number a sequence.
        resamples: draws of the bootstrap, at least 100.
        seed: of the draws.

    Raises:
        InputError: no values, NaN or infinity, or too few draws.
        ConfigError: scipy is not installed.
    """
    x = _checked(values)
    return ratio_of_sums(x, np.ones_like(x), resamples=resamples, seed=seed)


def ratio_of_sums(
    parts: Sequence[float] | ndarray, wholes: Sequence[float] | ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """sum(parts) / sum(wholes) over sequences, e.g. points met / points visible, with its interval.

    Sequences whose whole is 0 say nothing and are left out.

    Raises:
        InputError: unequal numbers, a negative whole, all wholes 0, or as `bootstrap_mean`.
        ConfigError: scipy is not installed.
    """
    x, y = _checked(parts), _checked(wholes)
    if len(x) != len(y) or (y < 0).any() or not y.sum() > 0:
        got = f"{len(x)} parts and {len(y)} wholes, sum {y.sum():g}"
        raise InputError(got, "one whole >= 0 for each part, not all 0", "give the counts of each sequence")
    if resamples < 100:
        raise InputError(f"resamples={resamples}", "at least 100", "correct 'resamples'")
    x, y = x[y > 0], y[y > 0]
    value = float(x.sum() / y.sum())
    if len(x) == 1:  # nothing to draw from, which scipy refuses
        return Interval(value, n=1)
    found = import_extra("scipy.stats", "eval").bootstrap(
        (x, y),
        lambda x, y, axis: x.sum(axis) / y.sum(axis),
        paired=True,
        n_resamples=resamples,
        batch=max(1, _AT_ONCE // len(x)),
        method="percentile",  # the others are NaN where all draws are the same
        rng=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return Interval(value, float(low), float(high), len(x))


def _checked(values: Sequence[float] | ndarray) -> Float64[ndarray, " n"]:
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or not len(x):
        raise InputError(f"values of shape {x.shape}", "one number a sequence, at least one", "give a flat list")
    if not np.isfinite(x).all():
        i = int(np.flatnonzero(~np.isfinite(x))[0])
        raise InputError(f"value {i} is {x[i]}", "finite numbers", "leave such sequences out, and say so")
    return x
