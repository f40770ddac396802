"""Metrics of a pair of videos, computed in chunks, with the same results as on whole clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.arrays import Frames
from mimicmotion.errors import InputError
from mimicmotion.evaluation.metrics import pixels, temporal
from mimicmotion.evaluation.metrics.pixels import unit_frames
from mimicmotion.runtime.extras import import_extra

if TYPE_CHECKING:
    from mimicmotion.evaluation.networks.lpips import Lpips

VERSIONS = dict.fromkeys(("psnr", "ssim", "l1", "lpips", "lpips-vgg", "poses", "identity"), 1)
VERSIONS |= dict.fromkeys(("flicker", "warping", "seams"), 2)
"""Incremented when a metric changes, to invalidate cached values."""
FrameNumbers = Callable[[Frames, Frames], Float64[ndarray, " frames"]]
"""Function of generated and real frames that returns one value per frame."""


class Measure:
    """A metric that is computed from the values of single frames, or of the changes between frames.

    Args:
        values: function of generated and real frames that returns the values of each frame, or of each but the first.
        finish: converts the values of all chunks to results.
        changes: whether `values` compares each frame with the one before it.
    """

    def __init__(
        self,
        values: Callable[[Frames, Frames], Float64[ndarray, "frames ..."]],
        finish: Callable[[list[ndarray]], dict[str, float]],
        *,
        changes: bool = False,
    ) -> None:
        self.values, self.finish, self.changes = values, finish, changes
        self._last: tuple[Frames, Frames] | None = None
        self._values: list[ndarray] = []

    def add(self, output: Frames, target: Frames) -> None:
        """Add the next frames."""
        both = output, target
        if self._last is not None:
            both = np.concatenate([self._last[0], output]), np.concatenate([self._last[1], target])
        if len(both[0]) > self.changes:
            self._values.append(self.values(*both))
        self._last = (output[-1:], target[-1:]) if self.changes else None

    def result(self) -> dict[str, float]:
        """Compute the results from all frames added so far."""
        return self.finish(self._values)


def frame_mean(name: str, values: FrameNumbers, finish: Callable[[float], float] = float) -> Measure:
    """Mean of a per-frame metric over all frames; NaN without frames.

    Args:
        name: name of the result.
        values: computes the metric of each frame.
        finish: function applied to the mean.
    """

    def mean(chunks: list[ndarray]) -> dict[str, float]:
        count = sum(map(len, chunks))
        return {name: finish(sum(float(c.sum()) for c in chunks) / count if count else float("nan"))}

    return Measure(values, mean)


def _error(output: Frames, target: Frames, power: Callable[[ndarray], ndarray]) -> Float64[ndarray, " frames"]:
    a, b = pixels.pair(output, target)
    return power(a - b).mean((1, 2, 3))


def _overflown_psnr(output: Frames, target: Frames) -> Float64[ndarray, " frames"]:
    """PSNR as in older published tables, whose 8-bit differences and squares wrap around at 256."""
    difference = output - target  # wraps around on purpose
    errors = (difference * difference).mean((1, 2, 3), dtype=np.float64)
    return np.where(errors == 0, 100.0, 10 * np.log10(255.0**2 / np.maximum(errors, 1e-12)))


def _field_l1(output: Frames, target: Frames) -> Float64[ndarray, " frames"]:
    """Mean absolute error of colours in 0..255, divided once more by the number of pixels."""
    height, width = output.shape[1:3]
    return np.abs(output.astype(np.float64) - target).mean((1, 2, 3)) / (height * width)


def _field_ssim(output: Frames, target: Frames) -> Float64[ndarray, " frames"]:
    """SSIM of 8-bit greyscale frames with scikit-image's defaults: uniform 7 x 7 window, sample covariance."""
    import cv2

    if min(output.shape[1:3]) < 7:
        raise InputError(f"frames of {output.shape[1:3]}", "at least 7 pixels a side", "compare larger frames")
    structural_similarity = import_extra("skimage.metrics", "eval").structural_similarity
    greys = ([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in clip] for clip in (output, target))
    return np.array([float(structural_similarity(x, y)) for x, y in zip(*greys, strict=True)])


def lpips_mean(network: Lpips, *, field: bool = False) -> Measure:
    """Mean LPIPS over frames.

    Args:
        network: network returned by `load_lpips`.
        field: pass frames in 0..1, as much published code does, although the network was trained on -1..1.
    """

    def values(output: Frames, target: Frames) -> Float64[ndarray, " frames"]:
        a, b = unit_frames(output), unit_frames(target)
        if field:  # lpips() doubles and subtracts 1
            a, b = 0.5 + a / 2, 0.5 + b / 2
        return pixels.lpips(a, b, network=network)

    return frame_mean(f"lpips_{network.net}" + ("_field" if field else ""), values)


class Flicker:
    """`temporal.background_flicker` of output and target, from sums over the frames added so far."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, output: Frames, target: Frames) -> None:
        """Add the next frames."""
        both = np.stack([unit_frames(output), unit_frames(target)], 1)
        if not self._count:
            self._first, self._sum, self._squares = both[0], np.zeros_like(both[0]), np.zeros_like(both[0])
        difference = both - self._first
        self._sum += difference.sum(0)
        self._squares += (difference**2).sum(0)
        self._count += len(both)

    def result(self) -> dict[str, float]:
        """Return flicker, its difference from the target's (both NaN if too little is static), and the static share."""
        flicker, own, share = (float("nan"),) * 3
        if self._count > 1:
            variance = np.maximum(self._squares / self._count - (self._sum / self._count) ** 2, 0)
            still = temporal.static_where(np.sqrt(variance[1]))
            share = float(still.mean())
            if share >= temporal.LEAST_SHARE:
                flicker, own = np.sqrt(variance[:, still].mean((1, 2))).tolist()
        return {"flicker": flicker, "flicker_distance": abs(flicker - own), "flicker_share": share}


def _warping(chunks: list[ndarray]) -> dict[str, float]:
    """Mean warping error of the output, and its absolute difference from that of the target."""
    made, own = map(temporal.mean_of_known, np.concatenate(chunks).T) if chunks else (float("nan"),) * 2
    return {"warping_error": made, "warping_distance": abs(made - own)}


def seam_score(borders: Sequence[int]) -> Measure:
    """Mean of `temporal.seam_scores`; NaN if no border has a score.

    Args:
        borders: first frames of new segments; those beyond the compared frames are ignored.
    """

    def mean(chunks: list[ndarray]) -> dict[str, float]:
        jumps = np.concatenate(chunks) if chunks else np.empty(0)
        within = [b for b in borders if b <= len(jumps)]
        return {"seam": temporal.mean_of_known(temporal.seam_scores(jumps, within))}

    return Measure(lambda output, _: temporal.jumps(output), mean, changes=True)


EXACT: dict[str, tuple[Callable[[], Measure | Flicker], ...]] = {
    "psnr": (partial(frame_mean, "psnr", partial(_error, power=np.square), pixels.decibel),),
    "ssim": (partial(frame_mean, "ssim", pixels.frame_ssim),),
    "l1": (partial(frame_mean, "l1", partial(_error, power=np.abs)),),
    "flicker": (Flicker,),
    "warping": (partial(Measure, temporal.warping_errors, _warping, changes=True),),
}
FIELD = EXACT | {
    "psnr": (
        partial(frame_mean, "psnr_field", pixels.frame_psnr),
        partial(frame_mean, "psnr_overflow", _overflown_psnr),
    ),
    "ssim": (partial(frame_mean, "ssim_field", _field_ssim),),
    "l1": (partial(frame_mean, "l1_field", _field_l1),),
}


def run_measures(chunks: Iterable[tuple[Frames, Frames]], measures: Sequence[Measure | Flicker]) -> Iterator[int]:
    """Feed all metrics in one pass; yields the number of frames processed so far."""
    done = 0
    for output, target in chunks:
        for m in measures:
            m.add(output, target)
        done += len(output)
        yield done
