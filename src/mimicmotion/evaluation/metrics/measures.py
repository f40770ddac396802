"""Numbers of one pair of videos, computed piece by piece; equal to those of whole clips at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.arrays import Frame, Frames
from mimicmotion.errors import InputError
from mimicmotion.evaluation.metrics import pixels, temporal
from mimicmotion.evaluation.metrics.pixels import unit_frames
from mimicmotion.runtime.extras import import_extra

if TYPE_CHECKING:
    from mimicmotion.evaluation.metrics.poses import Fidelity
    from mimicmotion.evaluation.networks.lpips import Lpips
    from mimicmotion.pose.keypoints import PoseSequence

VERSIONS = {
    "psnr": 1,
    "ssim": 1,
    "l1": 1,
    "flicker": 1,
    "warping": 1,
    "seams": 1,
    "lpips": 1,
    "lpips-vgg": 1,
    "poses": 1,
    "identity": 1,
}
"""Raised when a number's meaning changes, so that old cached ones are not used."""


class Measure(Protocol):
    """Takes a sequence piece by piece."""

    def add(self, output: Frames, target: Frames) -> None:
        """The next frames."""
        ...

    def result(self) -> dict[str, float]:
        """Name -> number of the whole sequence; NaN where it is undefined."""
        ...


FrameNumbers = Callable[[Frames, Frames], Float64[ndarray, " frames"]]
"""Generated and real frames -> one number for each frame."""


class FrameMean:
    """Mean over all frames of a number for each frame; NaN without frames.

    Args:
        name: what the mean is called.
        values: the numbers.
        finish: what is made of their mean.
    """

    def __init__(self, name: str, values: FrameNumbers, finish: Callable[[float], float] = float) -> None:
        self.name, self.values, self.finish = name, values, finish
        self._sum, self._count = 0.0, 0

    def add(self, output: Frames, target: Frames) -> None:
        """The next frames."""
        values = self.values(output, target)
        self._sum, self._count = self._sum + float(values.sum()), self._count + len(values)

    def result(self) -> dict[str, float]:
        """The mean, finished."""
        return {self.name: self.finish(self._sum / self._count if self._count else float("nan"))}


def _squared_error(output: Frames, target: Frames) -> Float64[ndarray, " frames"]:
    a, b = pixels.pair(output, target)
    return ((a - b) ** 2).mean((1, 2, 3))


def _absolute_error(output: Frames, target: Frames) -> Float64[ndarray, " frames"]:
    a, b = pixels.pair(output, target)
    return np.abs(a - b).mean((1, 2, 3))


def _overflown_psnr(output: Frames, target: Frames) -> Float64[ndarray, " frames"]:
    """What old tables call PSNR: differences and squares of 8-bit numbers wrap around at 256."""
    difference = output - target  # wraps around: that is the point
    errors = (difference * difference).mean((1, 2, 3), dtype=np.float64)
    return np.where(errors == 0, 100.0, 10 * np.log10(255.0**2 / np.maximum(errors, 1e-12)))


def _field_l1(output: Frames, target: Frames) -> Float64[ndarray, " frames"]:
    """Colours from 0 to 255, divided by the number of pixels once more after averaging."""
    height, width = output.shape[1:3]
    return np.abs(output.astype(np.float64) - target).mean((1, 2, 3)) / (height * width)


def _field_ssim(output: Frames, target: Frames) -> Float64[ndarray, " frames"]:
    """On 8-bit grey with scikit-image's defaults: uniform 7 x 7 window, sample covariance."""
    import cv2

    if min(output.shape[1:3]) < 7:
        raise InputError(f"frames of {output.shape[1:3]}", "at least 7 pixels a side", "compare larger frames")
    structural_similarity = import_extra("skimage.metrics", "eval").structural_similarity
    greys = ([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in clip] for clip in (output, target))
    return np.array([float(structural_similarity(x, y)) for x, y in zip(*greys, strict=True)])


Psnr = partial(FrameMean, "psnr", _squared_error, pixels.decibel)
L1 = partial(FrameMean, "l1", _absolute_error)
Ssim = partial(FrameMean, "ssim", pixels.frame_ssim)
FieldPsnr = partial(FrameMean, "psnr_field", pixels.frame_psnr)
FieldOverflow = partial(FrameMean, "psnr_overflow", _overflown_psnr)
FieldL1 = partial(FrameMean, "l1_field", _field_l1)
FieldSsim = partial(FrameMean, "ssim_field", _field_ssim)


def lpips_mean(network: Lpips, *, field: bool = False) -> FrameMean:
    """Mean LPIPS over frames.

    Args:
        network: AlexNet or VGG-16 with heads.
        field: give it pictures in 0..1, as widespread code does, where it was trained on -1..1.
    """
    from mimicmotion.evaluation.metrics.lpips import lpips

    def values(output: Frames, target: Frames) -> Float64[ndarray, " frames"]:
        a, b = unit_frames(output), unit_frames(target)
        if field:  # lpips() doubles and subtracts 1
            a, b = 0.5 + a / 2, 0.5 + b / 2
        return lpips(a, b, network=network)

    return FrameMean(f"lpips_{network.net}" + ("_field" if field else ""), values)


class Flicker:
    """See `temporal.background_flicker`; sums of the difference to the first frame keep it exact."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, output: Frames, target: Frames) -> None:
        """The next frames."""
        a = unit_frames(output)
        if not self._count:
            self._first, self._sum, self._squares = a[0], np.zeros_like(a[0]), np.zeros_like(a[0])
            self._low, self._high = target[0], target[0]
        away = a - self._first
        self._sum += away.sum(0)
        self._squares += (away**2).sum(0)
        self._low = np.minimum(self._low, target.min(0))
        self._high = np.maximum(self._high, target.max(0))
        self._count += len(a)

    def result(self) -> dict[str, float]:
        """NaN where nothing of the real video stands still, or with fewer than two frames."""
        if self._count < 2:
            return {"flicker": float("nan")}
        moved = (self._high.astype(np.float64) - self._low).max(-1) / 255
        still = moved <= temporal.STATIC
        variance = self._squares / self._count - (self._sum / self._count) ** 2
        return {"flicker": float(np.sqrt(max(variance[still].mean(), 0.0))) if still.any() else float("nan")}


class Warping:
    """See `temporal.warping_error`, with the flow of the generated frames."""

    def __init__(self) -> None:
        self._last: ndarray | None = None
        self._errors: list[float] = []

    def add(self, output: Frames, target: Frames) -> None:  # noqa: ARG002
        """The next frames."""
        frames = output if self._last is None else np.concatenate([self._last, output])
        for i in range(1, len(frames)):
            self._errors.append(temporal.warping_error(frames[i - 1 : i + 1]))
        self._last = frames[-1:]

    def result(self) -> dict[str, float]:
        """NaN where no pixel of any pair counts."""
        known = [e for e in self._errors if not np.isnan(e)]
        return {"warping_error": float(np.mean(known)) if known else float("nan")}


class Seams:
    """Mean of `temporal.seam_scores` over the borders of a result; looks at the generated frames alone.

    Args:
        borders: first frames of new segments; those behind the end of what is compared don't count.
    """

    def __init__(self, borders: Sequence[int]) -> None:
        self.borders = borders
        self._last: ndarray | None = None
        self._jumps: list[ndarray] = []

    def add(self, output: Frames, target: Frames) -> None:  # noqa: ARG002
        """The next frames."""
        frames = unit_frames(output if self._last is None else np.concatenate([self._last, output]))
        self._jumps.append(temporal.jumps(frames))
        self._last = output[-1:]

    def result(self) -> dict[str, float]:
        """NaN without borders, or where no frames lie between them."""
        jumps = np.concatenate(self._jumps) if self._jumps else np.empty(0)
        borders = [b for b in self.borders if b <= len(jumps)]
        try:
            scores = temporal.scores_of_jumps(jumps, borders)
        except InputError:  # a border in every frame
            scores = np.empty(0)
        return {"seam": float(scores.mean()) if len(scores) else float("nan")}


EXACT: dict[str, tuple[Callable[[], Measure], ...]] = {
    "psnr": (Psnr,),
    "ssim": (Ssim,),
    "l1": (L1,),
    "flicker": (Flicker,),
    "warping": (Warping,),
}
FIELD = EXACT | {"psnr": (FieldPsnr, FieldOverflow), "ssim": (FieldSsim,), "l1": (FieldL1,)}


def run_measures(chunks: Iterable[tuple[Frames, Frames]], measures: Sequence[Measure]) -> Iterator[int]:
    """Feed all measures in one pass; yields the number of frames so far."""
    done = 0
    for output, target in chunks:
        for m in measures:
            m.add(output, target)
        done += len(output)
        yield done


def detection_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which poses are looked for: small frames are enlarged, as `poses.redetect` does."""
    from mimicmotion.evaluation.metrics.poses import DETECTION_SIDE

    scale = max(1.0, DETECTION_SIDE / min(size))
    return round(size[0] * scale), round(size[1] * scale)


def enlarged(frames: Iterable[Frame], size: tuple[int, int]) -> Iterator[Frame]:
    """Frames of (height, width) `size`, at the size at which poses are looked for."""
    import cv2

    height, width = detection_size(size)
    for frame in frames:
        yield frame if (height, width) == size else cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC)


def pose_numbers(found: PoseSequence, truth: PoseSequence) -> dict[str, float]:
    """All numbers of pose fidelity.

    Raises:
        PoseError: lengths differ, or the truth shows no torso.
    """
    from mimicmotion.evaluation.metrics.poses import TRULY_VISIBLE, pose_fidelity, torso_length
    from mimicmotion.pose.keypoints import LEFT_HAND, RIGHT_HAND

    parts: dict[str, Fidelity] = pose_fidelity(found, truth)
    out: dict[str, float] = {}
    for name, part in parts.items():
        out |= {f"pose_error_{name}": part.error, f"pck_{name}": part.pck, f"missing_{name}": part.missing}
    out["pck_box_body"] = pose_fidelity(found, truth, unit="box")["body"].pck
    hands = np.r_[LEFT_HAND, RIGHT_HAND]
    shown = truth.confidence[:, hands] >= TRULY_VISIBLE
    confidence = found.confidence[:, hands][shown]
    out["hand_confidence"] = float(confidence.mean()) if len(confidence) else float("nan")
    length = torso_length(truth)
    out["jerkiness"] = temporal.jerkiness(found.scaled(truth.size), length)
    steady = temporal.jerkiness(truth, length)
    out["jerkiness_ratio"] = out["jerkiness"] / steady if steady > 0 else float("nan")
    return out
