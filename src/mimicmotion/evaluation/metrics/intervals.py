"""Means with 95% confidence intervals (Student's t over sequences), and p-values corrected for multiple comparisons.

The sample is the sequence, never the frame: frames of a sequence are correlated, and intervals over frames would be far
too narrow. Student's t is valid even for few sequences: with 30 comparisons of equal methods over 6 sequences, 2 to 5%
of the reports contain a false positive (with a percentile bootstrap, 15% of single comparisons are false positives).
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


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate over sequences and its 95% confidence interval.

    Attributes:
        value: the estimate; NaN if it is unknown.
        low: lower end of the interval; NaN if there is none, as for a single sequence.
        high: upper end.
        n: number of sequences.
        p: two-sided p-value for the hypothesis that the true value is 0; NaN without an interval.
        clips: number of clips behind a Frechet distance; 0 for other metrics.
    """

    value: float
    low: float = float("nan")
    high: float = float("nan")
    n: int = 0
    p: float = float("nan")
    clips: int = 0

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0

    def text(self, digits: int, sign: str = "") -> str:
        """Format as "15.02 [14.80, 15.30]", or only the value if there is no interval.

        Args:
            digits: decimals.
            sign: "+" to show a plus sign before positive values.
        """
        value, low, high = (f"{v:{sign}.{digits}f}" for v in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]" if math.isfinite(self.low) else value


def mean_interval(values: Sequence[float] | ndarray) -> Interval:
    """Mean over sequences with its interval; pass differences to compare two methods on the same sequences.

    Args:
        values: one finite number per sequence, at least one.

    Raises:
        InputError: the values are not such numbers, or scipy is not installed.
    """
    x = _checked(values)
    return ratio_of_sums(x, np.ones_like(x))


def ratio_of_sums(numerators: Sequence[float] | ndarray, denominators: Sequence[float] | ndarray) -> Interval:
    """Ratio sum(numerators) / sum(denominators) over sequences, with its interval; for example, points found / visible.

    Sequences with a denominator of 0 are left out; at least one must remain.

    Raises:
        InputError: the lengths differ, a number is invalid, no sequence remains, or scipy is not installed.
    """
    x, y = _checked(numerators), _checked(denominators)
    if len(x) != len(y) or (y < 0).any() or not y.sum() > 0:
        got = f"{len(x)} numerators and {len(y)} denominators, sum {y.sum():g}"
        raise InputError(got, "one denominator >= 0 for each numerator, not all 0", "pass the counts of each sequence")
    x, y = x[y > 0], y[y > 0]
    value, n = float(x.sum() / y.sum()), len(x)
    residuals = x - value * y
    return t_interval(value, math.sqrt(n / max(n - 1, 1) * float(residuals @ residuals)) / float(y.sum()), n)


def t_interval(value: float, error: float, n: int, *, clips: int = 0) -> Interval:
    """Student's t interval of an estimate over `n` sequences, from its standard error; no bounds if n is 1."""
    if n < 2:
        return Interval(value, n=n, clips=clips)
    t = import_extra("scipy.stats", "eval").t
    reach = float(t.ppf(0.975, n - 1)) * error
    p = 2 * float(t.sf(abs(value) / error, n - 1)) if error else float(value == 0)
    return Interval(value, value - reach, value + reach, n, p, clips)


def holm(p: Sequence[float]) -> list[float]:
    """Holm-Bonferroni correction of p-values (Holm 1979); NaN stays NaN."""
    out, least = [float("nan")] * len(p), 0.0
    known = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    for rank, (value, i) in enumerate(known):
        least = max(least, min(1.0, value * (len(known) - rank)))
        out[i] = least
    return out


def _checked(values: Sequence[float] | ndarray) -> Float64[ndarray, " n"]:
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or not len(x):
        raise InputError(f"values of shape {x.shape}", "one number per sequence, at least one", "pass a flat list")
    if not np.isfinite(x).all():
        i = int(np.flatnonzero(~np.isfinite(x))[0])
        raise InputError(f"value {i} is {x[i]}", "finite numbers", "leave out such sequences")
    return x
