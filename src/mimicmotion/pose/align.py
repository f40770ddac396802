"""Align the driving person with the one in the picture, by one map for the whole video, which preserves the motion.

The network copies the body shape of the picture. If the driving person is larger or elsewhere in the frame, the
generated person grows or jumps in the first frames.
"""

from __future__ import annotations

import dataclasses
import logging
import warnings
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from mimicmotion.errors import ConfigError, PoseError
from mimicmotion.pose.keypoints import VISIBLE, PoseSequence

logger = logging.getLogger(__name__)

AlignMethod: TypeAlias = Literal["weighted", "released", "none"]

# Nose, neck, shoulders, hips, knees, ankles, eyes and ears. Arms move too much to tell a person's size and place.
STABLE = np.array([0, 1, 2, 5, *range(8, 18)])
MAX_PAIR_FRAMES = 400  # enough for the first guess of the scale


@dataclass(frozen=True, slots=True)
class Alignment:
    """Map from pixels of the driving video to pixels of the output: x' = scale[0] * x + offset[0], likewise for y.

    Attributes:
        scale: (x, y); equal in all methods, so the aspect ratio is kept.
        offset: (x, y) in pixels of the output.
        size: (height, width) of the output.
    """

    scale: tuple[float, float]
    offset: tuple[float, float]
    size: tuple[int, int]

    def apply(self, poses: PoseSequence) -> PoseSequence:
        """Map poses to the output frame. Confidences do not change."""
        return dataclasses.replace(poses, xy=poses.xy * self.scale + self.offset, size=self.size)


def align(
    driving: PoseSequence, reference: PoseSequence, size: tuple[int, int], method: AlignMethod = "weighted"
) -> PoseSequence:
    """Align the driving poses to the person in the reference picture; see `fit_alignment`."""
    return fit_alignment(driving, reference, size, method).apply(driving)


def fit_alignment(
    driving: PoseSequence, reference: PoseSequence, size: tuple[int, int], method: AlignMethod = "weighted"
) -> Alignment:
    """Fit the map from the driving poses to the reference pose.

    Args:
        driving: poses of the video, in pixels of the video.
        reference: pose of the picture (its first frame is used), scaled to `size` if its own size differs.
        size: (height, width) of the output.
        method: "weighted" robustly fits one scale and one offset to the joints that both show, weighted by their
            confidence in video and picture, and keeps the person inside the frame. "released" is the published code's
            linear fit of all heights in the frames with one person, regardless of confidence. "none" only scales the
            video's frame to fill the output, centred.

    Raises:
        ConfigError: the method is unknown.
        PoseError: the picture or the video shows no person, or they have no joint in common.
    """
    if method not in get_args(AlignMethod):
        raise ConfigError(f"align = {method!r}", ", ".join(get_args(AlignMethod)), "choose one of these")
    if method == "none":
        return _fill(driving.size, size)
    if not len(reference):
        raise PoseError("an empty reference pose", "one frame", "estimate the pose of the picture first")
    target = reference if reference.size == size else reference.scaled(size)
    joints, trust = target.xy[0, STABLE], target.confidence[0, STABLE].astype(np.float64)
    fix = "use a picture and a video that show the same part of one person clearly, or align 'none'"
    if not (trust > VISIBLE).any():
        raise PoseError(f"joints in the reference picture: none above confidence {VISIBLE}", "a visible person", fix)
    xy, weight = driving.xy[:, STABLE], driving.confidence[:, STABLE].astype(np.float64)
    if not driving.confidence.any():
        raise PoseError("nobody in the driving video", "at least one frame with a person", fix)
    if method == "released":  # the published code fits to the frames that show one person alone
        someone = driving.confidence.any(1)
        alone = someone & (driving.people <= 1)
        return _fit_released(xy[alone if alone.any() else someone], driving.size, joints, trust > VISIBLE, size)
    weight = np.where((weight > VISIBLE) & (trust > VISIBLE), weight * trust, 0.0)
    if not weight.any():
        raise PoseError("no joint that both the picture and the video show", "at least one", fix)
    return _fit_weighted(xy, weight, joints, driving.size, size)


def _fill(source: tuple[int, int], size: tuple[int, int]) -> Alignment:
    scale = max(size[0] / source[0], size[1] / source[1])
    offset = ((size[1] - source[1] * scale) / 2, (size[0] - source[0] * scale) / 2)
    return Alignment((scale, scale), offset, size)


def _fit_released(
    xy: Float[ndarray, "frames joints 2"],
    source: tuple[int, int],
    target: Float[ndarray, "joints 2"],
    usable: ndarray,
    size: tuple[int, int],
) -> Alignment:
    """Least squares on heights as fractions of the frame; the horizontal scale follows from both frames' shapes."""
    driven = (xy[:, usable] / source[::-1]).reshape(-1, 2)
    wanted = np.tile(target[usable] / size[::-1], (len(xy), 1))
    with warnings.catch_warnings():
        # where all heights are equal, numpy's least squares gives half of the height to the scale: so the released code
        warnings.simplefilter("ignore", np.exceptions.RankWarning)
        scale_y, offset_y = np.polyfit(driven[:, 1], wanted[:, 1], 1)
    scale_x = scale_y / (source[0] / source[1] / size[0] * size[1])
    offset_x = (wanted[:, 0] - driven[:, 0] * scale_x).mean()
    return Alignment(
        (float(scale_x * size[1] / source[1]), float(scale_y * size[0] / source[0])),
        (float(offset_x * size[1]), float(offset_y * size[0])),
        size,
    )


def _fit_weighted(
    xy: Float[ndarray, "frames joints 2"],
    weight: Float[ndarray, "frames joints"],
    target: Float[ndarray, "joints 2"],
    source: tuple[int, int],
    size: tuple[int, int],
) -> Alignment:
    """Fit the scale to the shape of the body in each frame, then the offset to the median over frames.

    A joint linear fit would mistake a walk through the frame for size, and make the body too small.
    """
    scale = _guess_scale(xy, weight, target)
    if scale is None:
        scale = _fill(source, size).scale[0]
        logger.warning("too few joints are seen in both picture and video to tell the size: it is left as it is")
    else:
        scale = _refine_scale(xy, weight, target, scale)
    # Per joint and frame, not per frame, so that an outlier joint has no influence.
    shift = target - scale * xy
    offset = tuple(_weighted_median(shift[..., k].ravel(), weight.ravel()) for k in (0, 1))
    offset = _refine_shift(shift, weight, np.array(offset), np.ptp(target[weight.any(0)], axis=0).max())
    offset += _keep_inside(scale * xy + offset, weight, target, size)
    return Alignment((scale, scale), (float(offset[0]), float(offset[1])), size)


def _guess_scale(xy: ndarray, weight: ndarray, target: ndarray) -> float | None:
    """Weighted median of the ratios of distances between joints, picture to video; None if there are none."""
    frames = np.unique(np.linspace(0, len(xy) - 1, min(len(xy), MAX_PAIR_FRAMES)).round().astype(int))
    if not ((weight[frames] > 0).sum(1) >= 2).any():
        frames = np.arange(len(xy))
    a, b = np.triu_indices(target.shape[0], 1)
    theirs = np.hypot(*np.moveaxis(xy[frames][:, a] - xy[frames][:, b], -1, 0))
    ours = np.broadcast_to(np.hypot(*(target[a] - target[b]).T), theirs.shape)
    # Longer distances have a smaller relative error.
    trust = weight[frames][:, a] * weight[frames][:, b] * np.minimum(theirs / max(theirs.max(), 1e-9), 1)
    good = (trust > 0) & (theirs > 1e-6) & (ours > 1e-6)
    if not good.any():
        return None
    return float(np.exp(_weighted_median(np.log(ours[good] / theirs[good]), trust[good])))


def _refine_scale(xy: ndarray, weight: ndarray, target: ndarray, scale: float, rounds: int = 20) -> float:
    """Tukey's biweight on the residuals of each frame's figure, both figures taken about their own middles.

    The scale is the ratio of the spreads and not a regression: it treats picture and video alike, so bent knees in
    half of the frames do not shrink the whole.
    """
    robust = weight
    for _ in range(rounds):
        use = (robust > 0).sum(1) >= 2
        if not use.any():
            return scale
        w = robust[use] / robust[use].sum(1, keepdims=True)
        mass = robust[use].sum(1)[:, None, None]
        theirs = xy[use] - (w[..., None] * xy[use]).sum(1, keepdims=True)
        ours = target - (w[..., None] * target).sum(1, keepdims=True)
        spreads = [float((mass * w[..., None] * v**2).sum()) for v in (ours, theirs)]
        if min(spreads) < 1e-12:
            return scale
        new = float(np.sqrt(spreads[0] / spreads[1]))
        if abs(new / scale - 1) < 1e-10:
            return new
        scale = new
        # Medians and not means as the middles: an outlier must not shift the residuals of the others
        gap = target - scale * xy
        middle = np.stack([[_weighted_median(g[:, k], v) for k in (0, 1)] for g, v in zip(gap, weight, strict=True)])
        robust = weight * _biweight(np.hypot(*np.moveaxis(gap - middle[:, None], -1, 0)), weight)
    return scale


def _refine_shift(shift: ndarray, weight: ndarray, offset: ndarray, extent: float) -> ndarray:
    """Mean of the offsets near the median, ignoring those further away than half a body."""
    far = np.hypot(*np.moveaxis(shift - offset, -1, 0))
    near = weight * (1 - np.clip(far / max(extent / 2, 1e-9), 0, 1) ** 2) ** 2
    total = near.sum()
    return (near[..., None] * shift).sum((0, 1)) / total if total > 0 else offset


def _keep_inside(placed: ndarray, weight: ndarray, target: ndarray, size: tuple[int, int]) -> ndarray:
    """The smallest extra offset that keeps the person inside the frame throughout, if the picture shows it inside.

    A driving person who crosses the frame matches the picture's position halfway; if that position is near an edge, the
    person would leave the frame. The position in a frame is that of the picture, moved by the median of the joints.
    """
    used = weight.any(0)
    frames = [(a, w) for a, w in zip(placed - target, weight, strict=True) if w.any()]
    more = np.zeros(2)
    for axis in (0, 1):
        end = size[1 - axis]
        low, high = target[used, axis].min(), target[used, axis].max()
        if low < 0 or high > end:
            continue
        # Not the extreme values: one outlier frame must not move the whole video.
        moved = np.quantile([_weighted_median(a[:, axis], w) for a, w in frames], (0.05, 0.95))
        low, high = low + moved[0], high + moved[1]
        more[axis] = (end - low - high) / 2 if high - low > end else max(-low, 0) - max(high - end, 0)
    return more


def _biweight(residual: ndarray, weight: ndarray) -> ndarray:
    cut = 6 * max(_weighted_median(residual.ravel(), weight.ravel()), 1e-6)
    return (1 - np.clip(residual / cut, 0, 1) ** 2) ** 2


def _weighted_median(values: Float[ndarray, " n"], weights: Float[ndarray, " n"]) -> float:
    """The value at which half of the weight is reached; 0 if there is no weight."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    if not total.size or total[-1] <= 0:
        return 0.0
    k = int(np.searchsorted(total, total[-1] / 2))
    return float(values[order[min(k, len(order) - 1)]])
