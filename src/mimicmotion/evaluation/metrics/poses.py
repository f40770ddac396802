"""Pose fidelity: poses detected in generated frames, compared with the driving poses.

Lengths are in torso lengths: the distance from the neck to the middle of the hips in the true poses, median over the
clip (in a single frame it shrinks when the person bends towards the camera). PCK@0.1 is the fraction of visible true
points that are detected within 0.1 torso lengths; a missed point counts as wrong. With `unit="box"`, PCK is the
original one of Yang and Ramanan (2013): within a tenth of the longer side of the person's bounding box, which for a
standing person is three to four times as far.

Points in generated frames can be located in two ways:
- `redetect` runs a pose estimator. Its joints are defined slightly differently from the true ones, and it also errs on
  true frames: always report its score on the true frames too (the ceiling), and compare with its results on them.
- `find_patches` searches the generated frame for the neighbourhood of each point in the true frame. It needs the true
  frames but no estimator, so it also works on figures that an estimator does not recognise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float64
from numpy import ndarray

from mimicmotion.arrays import Frame, Frames
from mimicmotion.errors import InputError, PoseError
from mimicmotion.evaluation.metrics.temporal import jerkiness
from mimicmotion.pose import keypoints as kp
from mimicmotion.pose.estimators.base import PoseEstimator
from mimicmotion.pose.keypoints import VISIBLE, PoseSequence

PARTS = {"body": kp.BODY, "left_hand": kp.LEFT_HAND, "right_hand": kp.RIGHT_HAND, "face": kp.FACE}
TRULY_VISIBLE = 0.6
"""Minimum confidence of true points that count; occluded points of synthetic people stay below it."""
PCK_RADIUS = 0.1
"""Radius of PCK, in torso lengths or box sides."""
Unit = Literal["torso", "box"]


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Accuracy of the points of one part.

    Attributes:
        error: mean distance of the detected points from the true ones, in torso lengths or box sides; NaN if none is
            detected.
        pck: fraction of the visible points detected within the radius; NaN if none is visible.
        missing: fraction of the visible points that are not detected; NaN if none is visible.
        points: number of visible ground-truth points in all frames.
    """

    error: float
    pck: float
    missing: float
    points: int


def torso_length(truth: PoseSequence) -> float:
    """Distance in pixels from the neck to the middle of the hips, median over the frames in which they are visible.

    If the hips are never visible, 1.2 times the largest shoulder width.

    Raises:
        PoseError: no frame shows neck and hips, or both shoulders.
    """
    xy, seen = truth.xy.astype(np.float64), truth.confidence > 0
    spine = np.hypot(*(xy[:, kp.NECK] - 0.5 * (xy[:, kp.R_HIP] + xy[:, kp.L_HIP])).T)
    whole = seen[:, [kp.NECK, kp.R_HIP, kp.L_HIP]].all(1)
    if whole.any():
        length = float(np.median(spine[whole]))
    else:
        both = seen[:, [kp.R_SHOULDER, kp.L_SHOULDER]].all(1)
        width = np.hypot(*(xy[:, kp.R_SHOULDER] - xy[:, kp.L_SHOULDER]).T)[both]
        length = 1.2 * float(width.max()) if len(width) else 0.0
    if length <= 0:
        raise PoseError("no torso in the true poses", "neck and hips, or shoulders", "use frames that show the torso")
    return length


def box_sides(truth: PoseSequence, visible: float = TRULY_VISIBLE) -> Float64[ndarray, " frames"]:
    """Longer side in pixels of the bounding box of the visible body points of each frame.

    NaN for frames with fewer than two visible points, or if they coincide.
    """
    shown = truth.confidence[:, kp.BODY] >= visible
    xy = np.where(shown[..., None], truth.xy[:, kp.BODY].astype(np.float64), np.nan)
    sides = np.full(len(truth), np.nan)
    enough = shown.sum(1) >= 2
    sides[enough] = (np.nanmax(xy[enough], 1) - np.nanmin(xy[enough], 1)).max(-1)
    return np.where(sides > 0, sides, np.nan)


def pose_fidelity(
    found: PoseSequence, truth: PoseSequence, *, unit: Unit = "torso", visible: float = TRULY_VISIBLE
) -> dict[str, Fidelity]:
    """Compare poses detected in generated frames with the driving poses, separately for body, hands and face.

    Args:
        found: poses detected in the generated frames; scaled to the size of `truth` if necessary.
        truth: the driving poses.
        unit: unit of length: "torso" (`torso_length`) or "box" (`box_sides`). With "box", only the PCK of the body is
            useful, because hands and faces are smaller than the radius. Frames without a box are ignored.
        visible: true points with a lower confidence are ignored.

    Returns:
        `Fidelity` of "body" (18 points), "left_hand", "right_hand" (21), "face" (68).

    Raises:
        PoseError: lengths differ, there are no frames, or (with unit "torso") no torso is visible in the true poses.
    """
    if len(found) != len(truth) or not len(truth):
        got = f"{len(found)} found and {len(truth)} true poses"
        raise PoseError(got, "equal lengths, at least 1", "cut or resample one of them")
    if found.size != truth.size:
        found = found.scaled(truth.size)
    length = box_sides(truth, visible)[:, None] if unit == "box" else np.full((len(truth), 1), torso_length(truth))
    distance = np.hypot(*np.moveaxis(found.xy.astype(np.float64) - truth.xy, -1, 0)) / length
    counts, met = (truth.confidence >= visible) & np.isfinite(length), found.confidence >= VISIBLE
    return {name: _fidelity(distance[:, p], counts[:, p], met[:, p]) for name, p in PARTS.items()}


def pooled(clips: list[dict[str, Fidelity]]) -> dict[str, Fidelity]:
    """Combine the `Fidelity` of each part over clips, with equal weight for every visible point."""
    out = {}
    for part in clips[0] if clips else ():
        rows = [c[part] for c in clips if c[part].points]
        n = np.array([r.points for r in rows], float)
        met = n * [1 - r.missing for r in rows]
        errors = np.array([0.0 if np.isnan(r.error) else r.error for r in rows])
        out[part] = Fidelity(
            _share(errors * met, met), _share(n * [r.pck for r in rows], n), _share(n - met, n), int(n.sum())
        )
    return out


DETECTION_SIDE = 128
"""Smaller frames are enlarged to this short side for the estimator; larger sizes did not help on synthetic frames."""


def detection_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which poses are estimated in frames of this (height, width)."""
    scale = max(1.0, DETECTION_SIDE / min(size))
    return round(size[0] * scale), round(size[1] * scale)


def enlarged(frames: Iterable[Frame], size: tuple[int, int]) -> Iterator[Frame]:
    """Scale frames of `size` (height, width) to their `detection_size`."""
    height, width = detection_size(size)
    for frame in frames:
        # pyrefly: ignore [bad-return]
        yield frame if (height, width) == size else cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC)


def redetect(frames: Frames, estimator: PoseEstimator) -> PoseSequence:
    """Poses estimated in generated frames, in pixels of these frames; small frames are enlarged first."""
    size = (frames.shape[1], frames.shape[2])
    return estimator.estimate(enlarged(frames, size)).scaled(size)


def pose_numbers(found: PoseSequence, truth: PoseSequence) -> dict[str, float]:
    """Compute all pose metrics of a report, by name.

    Raises:
        PoseError: lengths differ, or no torso is visible in the true poses.
    """
    out: dict[str, float] = {}
    for name, part in pose_fidelity(found, truth).items():
        out |= {f"pose_error_{name}": part.error, f"pck_{name}": part.pck, f"missing_{name}": part.missing}
    out["pck_box_body"] = pose_fidelity(found, truth, unit="box")["body"].pck
    hands = np.r_[kp.LEFT_HAND, kp.RIGHT_HAND]
    confidence = found.confidence[:, hands][truth.confidence[:, hands] >= TRULY_VISIBLE]
    out["hand_confidence"] = float(confidence.mean()) if len(confidence) else float("nan")
    length = torso_length(truth)
    out["jerkiness"] = jerkiness(found.scaled(truth.size), length)
    steady = jerkiness(truth, length)
    out["jerkiness_ratio"] = out["jerkiness"] / steady if steady > 0 else float("nan")
    return out


PATCH = 0.15
"""Half the side of a patch, in torso lengths."""
REACH = 0.4
"""Search range along each axis, in torso lengths."""
MATCH = 0.5
"""Minimum normalised correlation of a match."""


def find_patches(output: Frames, target: Frames, truth: PoseSequence) -> PoseSequence:
    """Locate each true point in the generated frames by template matching.

    A square of 0.3 torso lengths around each visible point of the true frame is searched for in the output, up to 0.4
    torso lengths away along each axis, by normalised cross-correlation of colours. On true frames the result is exact;
    random matches give a PCK@0.1 of about 0.05. On limbs without texture a match can slide along the limb, so distances
    are less accurate than those of a good estimator.

    Args:
        output: generated frames, RGB.
        target: true frames.
        truth: true poses in pixels of these frames.

    Returns:
        Points with the correlation as confidence; 0 if it is below 0.5 or the point is not visible.

    Raises:
        InputError: lengths or sizes differ, or frames are not uint8.
        PoseError: no torso is visible in the true poses.
    """
    if output.dtype != np.uint8 or output.ndim != 4 or output.shape != target.shape or target.dtype != np.uint8:
        got = f"output {output.shape} of {output.dtype}, target {target.shape} of {target.dtype}"
        raise InputError(got, "uint8 clips of the same shape", "compare frames of one size and length")
    if len(truth) != len(target) or truth.size != target.shape[1:3]:
        got = f"{len(truth)} poses of {truth.size} for {len(target)} frames of {target.shape[1:3]}"
        raise InputError(got, "a pose for each frame, in its pixels", "cut or scale the poses")
    unit = torso_length(truth)
    half, reach = max(round(PATCH * unit), 2), max(round(REACH * unit), 2)
    xy, confidence = truth.xy.copy(), np.zeros_like(truth.confidence)
    for i, wanted in enumerate(truth.confidence >= TRULY_VISIBLE):
        pad = half + reach
        padded = cv2.copyMakeBorder(output[i], pad, pad, pad, pad, cv2.BORDER_REPLICATE)
        known = cv2.copyMakeBorder(target[i], half, half, half, half, cv2.BORDER_REPLICATE)
        for k in np.flatnonzero(wanted & _inside(truth.xy[i], truth.size)):
            x, y = np.floor(truth.xy[i, k]).astype(int)
            patch = known[y : y + 2 * half + 1, x : x + 2 * half + 1]
            area = padded[y : y + 2 * pad + 1, x : x + 2 * pad + 1]
            shift, score = _best(area, patch, reach)
            xy[i, k] += shift
            confidence[i, k] = score if score >= MATCH else 0.0
    return PoseSequence(xy, confidence, truth.size, truth.fps, "patches")


def patch_errors(output: Frames, target: Frames, truth: PoseSequence) -> dict[str, float]:
    """Mean distances of `find_patches` in torso lengths, for comparing models: `hand_error` and `body_error`.

    A patch without a match counts as 0.4 torso lengths off (the search range); otherwise a model that generates no
    hands at all would have the smallest error. NaN if no point is visible. Raises the errors of `find_patches`.
    """
    found = find_patches(output, target, truth)
    distance = np.hypot(*np.moveaxis(found.xy.astype(np.float64) - truth.xy, -1, 0)) / torso_length(truth)
    distance = np.where(found.confidence > 0, np.minimum(distance, REACH), REACH)
    counts = (truth.confidence >= TRULY_VISIBLE) & _inside(truth.xy, truth.size)

    def mean(*parts: slice) -> float:
        chosen = np.concatenate([distance[:, p][counts[:, p]] for p in parts])
        return float(chosen.mean()) if len(chosen) else float("nan")

    return {"hand_error": mean(kp.LEFT_HAND, kp.RIGHT_HAND), "body_error": mean(kp.BODY)}


def _best(area: ndarray, patch: ndarray, reach: int) -> tuple[tuple[int, int], float]:
    """Shift (x, y) of the best match from the centre (the nearest one in a tie), and its correlation."""
    if patch.std() < 1:  # a uniform patch matches anywhere
        return (0, 0), 0.0
    scores = np.nan_to_num(cv2.matchTemplate(area, patch, cv2.TM_CCOEFF_NORMED), nan=-1.0, posinf=-1.0, neginf=-1.0)
    offsets = np.arange(-reach, reach + 1)
    tie = scores - 1e-5 * np.hypot(offsets[:, None], offsets[None, :])
    row, column = np.unravel_index(int(tie.argmax()), tie.shape)
    return (int(column) - reach, int(row) - reach), float(np.clip(scores[row, column], 0, 1))


def _inside(xy: Float[ndarray, "*n 2"], size: tuple[int, int]) -> Bool[ndarray, "*n"]:
    return np.all((xy >= 0) & (xy < [size[1], size[0]]), axis=-1)


def _fidelity(distance: ndarray, counts: ndarray, met: ndarray) -> Fidelity:
    n, both = int(counts.sum()), counts & met
    if not n:
        return Fidelity(float("nan"), float("nan"), float("nan"), 0)
    error = float(distance[both].mean()) if both.any() else float("nan")
    return Fidelity(error, float((both & (distance <= PCK_RADIUS)).sum() / n), 1 - float(both.sum() / n), n)


def _share(part: ndarray, whole: ndarray) -> float:
    return float(part.sum() / whole.sum()) if whole.sum() else float("nan")
