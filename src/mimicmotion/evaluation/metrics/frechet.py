"""Frechet distance between two sets of features, in float64 and without a matrix square root.

FVD, FID and similar metrics are |mu_a - mu_b|^2 + tr(Ca + Cb - 2 (Ca Cb)^1/2) of Gaussians fitted to the features. With
centred features X (n x d) and Y (m x d), tr (Ca Cb)^1/2 is the sum of the singular values of X Y^T, divided by
sqrt((n-1)(m-1)). This is exact even if n < d makes the covariances singular, where iterative roots fail.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from jaxtyping import Float, Float64
from numpy import ndarray

from mimicmotion.errors import InputError


class UnequalSetsWarning(UserWarning):
    """The two sets differ in size, on which the bias of the distance depends."""


def frechet_distance(x: Float[ndarray, "n d"], y: Float[ndarray, "m d"]) -> float:
    """Frechet distance between the Gaussians fitted to two sets of features.

    Args:
        x: features of one set, one row per clip.
        y: features of the other set, from the same network.

    Returns:
        The (squared) distance, at least 0, in squared units of the features. Warns with `UnequalSetsWarning` if n and
        m differ.

    Raises:
        InputError: a set has fewer than two features or NaN, or the dimensions differ.
    """
    a, b = _checked(x, "first set"), _checked(y, "second set")
    if a.shape[1] != b.shape[1]:
        got = f"features of dimension {a.shape[1]} and {b.shape[1]}"
        raise InputError(got, "features from the same network", "use one network for both sets")
    if len(a) != len(b):
        text = f"Frechet distance of {len(a)} against {len(b)} features: comparable only between sets of equal size"
        warnings.warn(text, UnequalSetsWarning, stacklevel=2)
    return _distance(a, b)


def _distance(a: Float64[ndarray, "n d"], b: Float64[ndarray, "m d"]) -> float:
    shift = a.mean(0) - b.mean(0)
    x, y = (_reduced(z - z.mean(0)) / math.sqrt(len(z) - 1) for z in (a, b))
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return max(float(shift @ shift + (x**2).sum() + (y**2).sum() - 2 * cross), 0.0)


def _reduced(x: Float64[ndarray, "n d"]) -> Float64[ndarray, "k d"]:
    """At most d rows with the same x^T x, which preserves traces and singular values of products."""
    return x if len(x) <= x.shape[1] else np.asarray(np.linalg.qr(x, mode="r"))


def _checked(x: Float[ndarray, "n d"], name: str) -> Float64[ndarray, "n d"]:
    """Return features as float64, checked to be a finite matrix with at least two rows."""
    x = np.asarray(x)
    if x.ndim != 2 or not x.shape[1]:
        raise InputError(f"{name} of shape {x.shape}", "(clips, dimension)", "stack the features as rows")
    if len(x) < 2:
        raise InputError(
            f"{len(x)} feature(s) in the {name}: the Frechet distance is undefined without a covariance",
            "at least two clips",
            "use more or longer clips, or clips=stride1",
        )
    if not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x).all(1))[0])
        raise InputError(f"NaN or infinity in the {name}, row {row}", "finite features", "check this clip")
    return x.astype(np.float64)


def fd_infinity(x: Float[ndarray, "n d"], y: Float[ndarray, "m d"], *, seed: int = 0) -> float:
    """Frechet distance without the bias of small sets: linear fit in 1/n, extrapolated to 0 (Chong & Forsyth 2020).

    The fit uses 8 set sizes, from half the smaller set to all of it, with the mean of four draws at each.

    Args:
        x: features of one set.
        y: features of the other set.
        seed: seed of the random draws.

    Returns:
        The distance for infinitely many clips, which can be negative because of noise. It cannot make up for too few
        sequences, because clips of the same sequence are alike.

    Raises:
        InputError: a set has fewer than 16 features, or as for `frechet_distance`.
    """
    a, b = _checked(x, "first set"), _checked(y, "second set")
    most = min(len(a), len(b))
    if most < 16 or a.shape[1] != b.shape[1]:
        got = f"sets of shape {a.shape} and {b.shape}"
        raise InputError(got, "at least 16 features per set, from the same network", "use frechet_distance for fewer")
    sizes = np.linspace(most // 2, most, 8).astype(int)
    rng = np.random.default_rng(seed)
    means = []
    for n in sizes:
        draws = [_distance(*(z[rng.permutation(len(z))[:n]] for z in (a, b))) for _ in range(4)]
        means.append(float(np.mean(draws)))
    return float(np.polyfit(1 / np.array(sizes), means, 1)[1])
