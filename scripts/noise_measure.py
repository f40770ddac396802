"""Statistics of a detector's poses: how far points jump and drift, its confidence, and how long these persist.

Distances are in torso lengths (neck to the middle of the hips, median over the clip). Spreads are robust: the median
absolute value divided by 0.6745, which for a normal distribution is the standard deviation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64
from numpy import ndarray
from scipy.special import ndtr

from mimicmotion.synth.noise import Z, normal_position

BINS = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])  # confidence bins
_MEDIAN = 0.6745
_CUBIC = np.array([-3.0, 12.0, 17.0, 12.0, -3.0]) / 35  # value in the middle of a parabola fitted to 5 frames
_GAIN = np.sqrt(1 - _CUBIC[2])  # factor by which its residual shrinks independent noise
_LONGEST = 3.0  # maximum seconds between values that are compared
_MIN_COUNT = 25  # minimum number of values for a bin to be used


def spread(values: ndarray) -> float:
    """Robust standard deviation about 0; NaN without values."""
    return float(np.median(np.abs(values)) / _MEDIAN) if values.size else float("nan")


def fast_and_slow(
    values: Float64[ndarray, "frames points 2"], seen: Bool[ndarray, "frames points"]
) -> tuple[ndarray, ndarray, Bool[ndarray, "frames-4 points"]]:
    """Split into the part that a parabola over 5 frames follows and the rest, scaled to the spread of the noise.

    Returns:
        Fast and slow part at the middle frames, and a mask of where all 5 frames were seen.
    """
    n = len(values) - 4
    slow = sum(w * values[i : i + n] for i, w in enumerate(_CUBIC))
    good = np.logical_and.reduce([seen[i : i + n] for i in range(5)])
    return (values[2:-2] - slow) / _GAIN, np.asarray(slow), good


def spread_by_confidence(values: Float64[ndarray, "n 2"], confidence: Float[ndarray, " n"]) -> Float64[ndarray, "k 3"]:
    """Rows (mean confidence, spread, count) of the bins with enough values."""
    rows = []
    which = np.clip(np.digitize(confidence, BINS) - 1, 0, len(BINS) - 2)
    for k in range(len(BINS) - 1):
        chosen = which == k
        if chosen.sum() >= _MIN_COUNT:
            rows.append((confidence[chosen].mean(), spread(values[chosen]), chosen.sum()))
    return np.array(rows, np.float64).reshape(-1, 3)


def fit_spread(rows: Float64[ndarray, "k 3"]) -> tuple[float, float, float]:
    """(a, b, most) of spread = min(a + b (1 - confidence)^2, most), all >= 0.

    Least squares of relative errors, weighting each bin by the square root of its count. `most` is the largest measured
    spread: bins of low confidence are often empty, and the parabola cannot be trusted there.
    """
    if not len(rows):
        return 0.0, 0.0, 0.0
    return *_parabola(rows), float(rows[:, 1].max())


def _parabola(rows: Float64[ndarray, "k 3"]) -> tuple[float, float]:
    weight = np.sqrt(np.sqrt(rows[:, 2])) / rows[:, 1]
    doubt = (1 - rows[:, 0]) ** 2
    design = np.stack([np.ones_like(doubt), doubt], 1) * weight[:, None]
    a, b = np.linalg.lstsq(design, rows[:, 1] * weight, rcond=None)[0]
    if b < 0 or len(rows) == 1:
        return float(np.average(rows[:, 1], weights=weight)), 0.0
    if a < 0:
        return 0.0, float((doubt * rows[:, 1] * weight**2).sum() / (doubt**2 * weight**2).sum())
    return float(a), float(b)


def persistence(
    tracks: Sequence[tuple[Float64[ndarray, "frames points dims"], Bool[ndarray, "frames points"], float]],
    smooth: bool,
) -> tuple[float, float]:
    """How long values persist: the fraction that is constant over the clip, and the decay time (s) of the rest.

    Half the mean square difference of values a time t apart is fitted by w (1 - exp(-t / time)) or, if `smooth`, by n +
    w (1 - (1 + t / time) exp(-t / time)), where n is independent between frames and not part of the results. The
    variance that w and n do not explain is constant. Times longer than the clips cannot be told from infinite ones, nor
    smooth movements faster than 0.2 s from jumps.

    Args:
        tracks: values, mask of those that are seen, seconds between frames.
        smooth: whether the values are a smooth movement with jumps added.
    """
    lags, halves, counts = [], [], []
    for values, seen, step in tracks:
        for k in range(1, len(values) - 1):
            both = seen[k:] & seen[:-k]
            if both.sum() >= 5 and k * step <= _LONGEST:
                lags.append(k * step)
                halves.append(0.5 * float(np.mean(np.square((values[k:] - values[:-k])[both]))))
                counts.append(both.sum())
    whole = float(np.mean(np.concatenate([np.square(v[s]).ravel() for v, s, _ in tracks])))
    t, half, weight = np.array(lags), np.array(halves), np.sqrt(np.array(counts))
    best = (np.inf, 0.0, 0.0, 0.5)
    for time in np.geomspace(0.2 if smooth else 0.03, t.max(), 40):
        rise = 1 - np.exp(-t / time) * (1 + t / time * smooth)
        design = np.stack([rise, np.full_like(rise, smooth)], 1) * weight[:, None]
        w, n = np.clip(np.linalg.lstsq(design, half * weight, rcond=None)[0], 0, None)
        error = float(np.sum(((w * rise + n * smooth - half) * weight) ** 2))
        best = min(best, (error, float(w), float(n), float(time)))
    _, w, n, time = best
    left = max(whole - n, 1e-12)
    return float(np.clip(1 - w / left, 0.0, 0.98)), time


def quantiles(values: ndarray) -> list[float]:
    """Quantiles of the values at the standard normal positions `Z`."""
    return np.quantile(values, ndtr(Z)).tolist()


def to_normal(values: Float[ndarray, "*shape"], of: ndarray) -> Float64[ndarray, "*shape"]:
    """Normal score of each value within the values `of` (ties get the middle)."""
    order = np.sort(of)
    rank = 0.5 * (np.searchsorted(order, values, "left") + np.searchsorted(order, values, "right")) / len(order)
    return normal_position(rank)


def runs(flags: Bool[ndarray, " frames"]) -> list[int]:
    """Lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return (edges[1::2] - edges[::2]).tolist()
