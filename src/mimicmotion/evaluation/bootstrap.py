"""Means with 95 % intervals by the bootstrap over clips.

The clip (the sequence) is what is drawn, never the frame or the window: frames of one clip resemble one another, and
intervals over frames would be far too narrow. Percentile bootstrap (Efron 1979), seeded, so a report can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.errors import InputError

RESAMPLES = 10_000
_CHUNK = 4_000_000  # numbers held at once


@dataclass(frozen=True, slots=True)
class Interval:
    """A statistic and its bootstrap interval.

    Attributes:
        value: the statistic of all clips.
        low: lower end of the interval; NaN for a single clip.
        high: upper end.
        n: clips.
    """

    value: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def bootstrap_mean(
    values: Sequence[float] | ndarray, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean over clips with its interval.

    Args:
        values: one number a clip.
        level: coverage, between 0 and 1.
        resamples: draws of the bootstrap.
        seed: of the draws; the same for every list of the same length, so paired numbers stay paired.

    Raises:
        InputError: no values, NaN or infinity, or a setting out of range.
    """
    return bootstrap(values, lambda x: x.mean(-1), level=level, resamples=resamples, seed=seed)


def bootstrap(
    values: Sequence[float] | ndarray,
    statistic: Callable[[Float64[ndarray, "*draws n"]], Float64[ndarray, "*draws"]],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Any statistic over the last axis, e.g. `lambda x: np.median(x, -1)`, with its interval; see `bootstrap_mean`."""
    return _resampled(_checked(values), statistic, level, resamples, seed)


def paired_difference(
    a: Sequence[float] | ndarray,
    b: Sequence[float] | ndarray,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean of a - b over the same clips, with its interval: clips are drawn in pairs.

    Raises:
        InputError: unequal numbers of clips, or as `bootstrap_mean`.
    """
    x, y = _checked(a), _checked(b)
    if len(x) != len(y):
        raise InputError(f"{len(x)} and {len(y)} clips", "the same clips in both", "leave out clips that one lacks")
    return bootstrap_mean(x - y, level=level, resamples=resamples, seed=seed)


def ratio_of_sums(
    parts: Sequence[float] | ndarray,
    wholes: Sequence[float] | ndarray,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """sum(parts) / sum(wholes) over clips, e.g. points met / points visible, with its interval over clips.

    Raises:
        InputError: unequal numbers, a negative whole, all wholes 0, or as `bootstrap_mean`.
    """
    x, y = _checked(parts), _checked(wholes)
    if len(x) != len(y) or (y < 0).any() or not y.sum() > 0:
        got = f"{len(x)} parts and {len(y)} wholes, sum {y.sum():g}"
        raise InputError(got, "one whole >= 0 for each part, not all 0", "give the counts of each clip")
    keep = y > 0  # a clip without a single point says nothing
    x, y = x[keep], y[keep]
    table = x + 1j * y  # drawn together

    def share(z: ndarray) -> ndarray:
        return z.real.sum(-1) / z.imag.sum(-1)

    return _resampled(table, share, level, resamples, seed)


def summarise(
    rows: Sequence[Mapping[str, float]], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """`bootstrap_mean` of each column of a table with one row a clip; clips where a number is NaN are left out of it.

    Raises:
        InputError: no rows, rows with unlike columns, infinity, or a column that is NaN everywhere.
    """
    if not rows:
        raise InputError("a table without rows", "one row a clip", "measure at least one clip")
    for i, row in enumerate(rows):
        if set(row) != set(rows[0]):
            raise InputError(f"columns of row {i}: {sorted(row)}", f"{sorted(rows[0])}", "measure all clips alike")
    out = {}
    for key in rows[0]:
        column = np.array([row[key] for row in rows], float)
        known = column[~np.isnan(column)]
        if not len(known):
            raise InputError(f"{key} is NaN for every clip", "a number for one clip at least", f"leave {key} out")
        out[key] = bootstrap_mean(known, level=level, resamples=resamples, seed=seed)
    return out


def _resampled(
    x: ndarray, statistic: Callable[[ndarray], ndarray], level: float, resamples: int, seed: int
) -> Interval:
    _check_settings(level, resamples)
    value = float(statistic(x))
    if len(x) == 1:
        return Interval(value, float("nan"), float("nan"), 1)
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // len(x))
    sizes = [min(step, resamples - i) for i in range(0, resamples, step)]
    draws = np.concatenate([statistic(x[rng.integers(len(x), size=(n, len(x)))]) for n in sizes])
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), len(x))


def _checked(values: Sequence[float] | ndarray) -> Float64[ndarray, " n"]:
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or not len(x):
        raise InputError(f"values of shape {x.shape}", "one number a clip, at least one", "give a flat list")
    if not np.isfinite(x).all():
        i = int(np.flatnonzero(~np.isfinite(x))[0])
        raise InputError(f"value {i} is {x[i]}", "finite numbers", "leave such clips out, and say so")
    return x


def _check_settings(level: float, resamples: int) -> None:
    if not 0 < level < 1 or resamples < 100:
        got = f"level={level!r}, resamples={resamples!r}"
        raise InputError(got, "0 < level < 1, at least 100 resamples", "correct the setting")
