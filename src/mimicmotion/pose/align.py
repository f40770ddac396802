"""Align driving poses with the person in the reference picture, using one affine transform for the whole video.

A single transform preserves the motion. The network copies the body shape of the picture, so if the driving person has
another size or position, the generated person grows or jumps in the first frames. If their proportions differ, arms and
legs change length; the method "limbs" therefore adapts the driving person's proportions first.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from mimicmotion.errors import ConfigError, PoseError
from mimicmotion.pose import keypoints as kp
from mimicmotion.pose.keypoints import VISIBLE, PoseSequence

logger = logging.getLogger(__name__)

AlignMethod: TypeAlias = Literal["limbs", "weighted", "released", "none"]

# Nose, neck, shoulders, hips, knees, ankles, eyes and ears; arms move too much to indicate size and position.
STABLE = np.array([0, 1, 2, 5, *range(8, 18)])
ANKLES = np.array([kp.R_ANKLE, kp.L_ANKLE])
HEAD = np.array([kp.NOSE, kp.R_EYE, kp.L_EYE, kp.R_EAR, kp.L_EAR])
# Keypoint pairs whose distance is the length of a body part; the left and right parts are equally long.
PAIRS = {
    "shoulders": [(kp.R_SHOULDER, kp.L_SHOULDER)],
    "upper arms": [(kp.R_SHOULDER, kp.R_ELBOW), (kp.L_SHOULDER, kp.L_ELBOW)],
    "forearms": [(kp.R_ELBOW, kp.R_WRIST), (kp.L_ELBOW, kp.L_WRIST)],
    "thighs": [(kp.R_HIP, kp.R_KNEE), (kp.L_HIP, kp.L_KNEE)],
    "shanks": [(kp.R_KNEE, kp.R_ANKLE), (kp.L_KNEE, kp.L_ANKLE)],
}
LIMBS = {"arms": ("upper arms", "forearms"), "legs": ("thighs", "shanks")}
RIGID = ("head", "shoulders", "trunk")  # foreshortened less than limbs, so they indicate a person's size
MAX_DEVIATION = 2.0  # a part whose scale differs from the body's by more than this factor was poorly detected
LENGTH_QUANTILE = 0.7  # quantile over time taken as the full length of a part, which is often foreshortened
SIDE_VIEW = 0.35  # shoulder width relative to the trunk below which the person is seen from the side: ignore widths
LIFTED = 0.05  # a foot this much higher than the other, relative to body height, is off the ground
BONE_AGREEMENT = 1.25  # ratio of the scales of a limb's two bones up to which both are trusted
STEP = 0.08  # the person walks if feet and body need horizontal offsets that differ by this fraction of body height
# Factor by which the scale of each part may differ from the body's due to perspective, posture and detection errors.
TOLERANCE = {"trunk": 1.1, "shoulders": 1.12, "neck": 1.1, "head": 1.15, "arms": 1.2, "feet": 1.0}
PROPORTIONS_DIFFER = 1.15  # ratio of two parts' scales above which body proportions differ


@dataclass(frozen=True, slots=True)
class Alignment:
    """Affine transform from driving video pixels to output pixels: x' = scale[0] * x + offset[0], and the same for y.

    Attributes:
        scale: (x, y); equal in all methods, to preserve the aspect ratio.
        offset: (x, y) in output pixels.
        size: (height, width) of the output.
        limbs: factors by which body parts are scaled before the transform; see `stretch`.
    """

    scale: tuple[float, float]
    offset: tuple[float, float]
    size: tuple[int, int]
    limbs: dict[str, float] = field(default_factory=dict)

    def apply(self, poses: PoseSequence) -> PoseSequence:
        """Transform poses to the output frame. Confidences are unchanged."""
        poses = stretch(poses, self.limbs) if self.limbs else poses
        return dataclasses.replace(poses, xy=poses.xy * self.scale + self.offset, size=self.size)


def align(
    driving: PoseSequence, reference: PoseSequence, size: tuple[int, int], method: AlignMethod = "limbs"
) -> PoseSequence:
    """Align the driving poses with the person in the reference picture; see `fit_alignment`."""
    return fit_alignment(driving, reference, size, method).apply(driving)


def fit_alignment(
    driving: PoseSequence, reference: PoseSequence, size: tuple[int, int], method: AlignMethod = "limbs"
) -> Alignment:
    """Fit the transform from the driving poses to the reference pose.

    Args:
        driving: driving poses, in pixels of the driving video.
        reference: pose in the reference picture; only the first frame is used, scaled to `size` if necessary.
        size: (height, width) of the output.
        method: "weighted" fits a scale to head, shoulders and trunk (`body_scale`) and an offset to the joints visible
            in both, weighted by their confidences in video and picture; it keeps the person inside the frame. "limbs"
            also adapts the driving person's proportions to the picture (`limb_scales`) and aligns standing feet with
            the ground. "released" is the published code's linear fit of joint heights over all frames with exactly one
            person, ignoring confidences. "none" only scales and centres the video so that it fills the output.

    Raises:
        ConfigError: the method is unknown.
        PoseError: the picture or the video shows no person, or no joint is visible in both.
    """
    if method not in get_args(AlignMethod):
        raise ConfigError(f"align={method!r}", ", ".join(get_args(AlignMethod)), "use one of these")
    if method == "none":
        return _fill(driving.size, size)
    if not len(reference):
        raise PoseError("the reference pose has no frames", "one frame", "estimate the pose in the picture first")
    target = reference if reference.size == size else reference.scaled(size)
    joints, trust = target.xy[0, STABLE], target.confidence[0, STABLE].astype(np.float64)
    fix = "use a picture and a video that show the same part of one person clearly, or align 'none'"
    if not (trust > VISIBLE).any():
        raise PoseError(f"no joint in the reference picture has a confidence above {VISIBLE}", "a visible person", fix)
    xy, weight = driving.xy[:, STABLE], driving.confidence[:, STABLE].astype(np.float64)
    if not driving.confidence.any():
        raise PoseError("the driving video shows no person", "at least one frame with a person", fix)
    if method == "released":  # the published code fits the frames that show exactly one person
        detected = driving.confidence.any(1)
        single = detected & (driving.people <= 1)
        return _fit_released(xy[single if single.any() else detected], driving.size, joints, trust > VISIBLE, size)
    weight = np.where((weight > VISIBLE) & (trust > VISIBLE), weight * trust, 0.0)
    if not weight.any():
        raise PoseError("the picture and the video show no joint in common", "at least one", fix)
    parts = part_scales(driving, target)
    scale, limbs = body_scale(parts), {}
    if scale is None:
        scale = _fill(driving.size, size).scale[0]
        logger.warning(
            "too few joints are visible in both picture and video to match their sizes; the person is not resized"
        )
    elif method == "limbs":
        scale, limbs = limb_scales(parts, scale)
    sized = Alignment((scale, scale), (0.0, 0.0), size, limbs).apply(driving)
    ground = _ground_offset(sized, target) if limbs else None
    offset = _fit_offset(sized.xy[:, STABLE], weight, joints, size, ground)
    return Alignment((scale, scale), offset, size, limbs)


def part_scales(driving: PoseSequence, reference: PoseSequence) -> dict[str, float]:
    """Divide the length of each body part in the picture by its length in the video, for parts visible in both.

    The length in the video is a high quantile over time, since foreshortened parts look short.

    Args:
        driving: driving poses.
        reference: pose in the reference picture, one frame.

    Returns:
        Mapping from part (head, trunk and those in `PAIRS`) to ratio. Shoulders seen from the side are omitted.
    """
    head = HEAD[reference.confidence[0, HEAD] > VISIBLE].tolist()
    picture, video = part_lengths(reference[:1], head), part_lengths(driving, head)
    scales = {part: picture[part] / video[part] for part in picture if part in video}
    widths = [x["shoulders"] / x["trunk"] for x in (picture, video) if {"shoulders", "trunk"} <= x.keys()]
    if min(widths, default=1.0) < SIDE_VIEW:
        scales.pop("shoulders", None)
    return scales


def body_scale(parts: dict[str, float]) -> float | None:
    """Average the scales of the rigid parts that are close to the median of all parts; None if there are no parts."""
    if not parts:
        return None
    scales = np.log([parts[p] for p in RIGID if p in parts] or list(parts.values()))
    deviation = np.abs(scales - np.median(np.log(list(parts.values()))))
    return float(np.exp(scales[deviation <= max(math.log(PROPORTIONS_DIFFER), deviation.min())].mean()))


def limb_scales(parts: dict[str, float], scale: float) -> tuple[float, dict[str, float]]:
    """Compute the scale of the legs, which is applied to the whole body, and factors for `stretch` relative to it.

    The two bones of a limb share one scale. If they disagree, one of them is foreshortened in the picture or throughout
    the video, so the one closer to the body's scale is used. A poorly detected limb gets the scale of the body.

    Args:
        parts: result of `part_scales`.
        scale: result of `body_scale`.
    """
    deviation = {p: math.log(s / scale) for p, s in parts.items()}
    for limb, bones in LIMBS.items():
        visible = sorted((deviation[b] for b in bones if b in deviation), key=abs)
        agreeing = [s for s in visible if abs(s - visible[0]) < math.log(BONE_AGREEMENT)]
        reliable = len(visible) == len(bones) and abs(visible[-1]) < math.log(MAX_DEVIATION)
        deviation[limb] = sum(agreeing) / len(agreeing) if reliable else 0.0
    deviation["neck"] = deviation.get("head", 0.0) / 2  # nodding changes its length more than it varies between people
    ratios = {part: deviation.get(part, 0.0) for part in TOLERANCE}
    ratios = {p: r if abs(r) > math.log(TOLERANCE[p]) else 0.0 for p, r in ratios.items()}
    return scale * math.exp(deviation["legs"]), {p: math.exp(r - deviation["legs"]) for p, r in ratios.items()}


def stretch(poses: PoseSequence, limbs: dict[str, float]) -> PoseSequence:
    """Change the proportions of the body but not its motion: bones keep their direction, and the legs do not move.

    From the hips upwards, each part is scaled by its factor in `limbs`, and the parts attached to it move along. Hands
    are scaled with the arms; eyes, ears and face points are scaled about the nose by the factor of the head.
    """
    xy, out = _with_hidden_joints(poses), poses.xy.copy()
    hips = xy[:, [kp.R_HIP, kp.L_HIP]].mean(1)
    out[:, kp.NECK] = hips + limbs["trunk"] * (xy[:, kp.NECK] - hips)

    def carry(points: list[int], root: int, part: str) -> None:
        out[:, points] = out[:, [root]] + limbs[part] * (xy[:, points] - xy[:, [root]])

    carry([kp.R_SHOULDER, kp.L_SHOULDER], kp.NECK, "shoulders")
    carry([kp.R_ELBOW, kp.R_WRIST, *range(kp.RIGHT_HAND.start, kp.RIGHT_HAND.stop)], kp.R_SHOULDER, "arms")
    carry([kp.L_ELBOW, kp.L_WRIST, *range(kp.LEFT_HAND.start, kp.LEFT_HAND.stop)], kp.L_SHOULDER, "arms")
    carry([*range(kp.LEFT_FOOT.start, kp.LEFT_FOOT.stop)], kp.L_ANKLE, "feet")
    carry([*range(kp.RIGHT_FOOT.start, kp.RIGHT_FOOT.stop)], kp.R_ANKLE, "feet")
    carry([kp.NOSE], kp.NECK, "neck")
    carry([*HEAD[1:].tolist(), *range(kp.FACE.start, kp.FACE.stop)], kp.NOSE, "head")
    return dataclasses.replace(poses, xy=out)


def _with_hidden_joints(poses: PoseSequence) -> Float[ndarray, "frames 134 2"]:
    """Return the positions, with hidden parent joints interpolated over time relative to the neck."""
    xy, seen = poses.xy.copy(), poses.confidence > VISIBLE
    neck = np.zeros_like(xy[:, kp.NECK])
    for joint in (kp.NECK, kp.NOSE, kp.R_SHOULDER, kp.L_SHOULDER, kp.R_HIP, kp.L_HIP, kp.R_ANKLE, kp.L_ANKLE):
        known, hidden = np.flatnonzero(seen[:, kp.NECK] & seen[:, joint]), np.flatnonzero(~seen[:, joint])
        if len(known):
            relative = (xy[:, joint] - neck)[known]
            xy[hidden, joint] = neck[hidden] + np.stack([np.interp(hidden, known, relative[:, k]) for k in (0, 1)], 1)
        if joint == kp.NECK:
            neck = xy[:, kp.NECK]
    return xy


def part_lengths(poses: PoseSequence, head: Iterable[int] = ()) -> dict[str, float]:
    """Estimate the length in pixels, without foreshortening, of each visible part of `part_scales`.

    The length of the head is the spread of the points `head`, of which at least 3 are needed.
    """
    head = list(head)
    xy, confidence = poses.xy[:, kp.BODY], poses.confidence[:, kp.BODY]
    distance = lambda a, b: np.hypot(*(a - b).T)  # noqa: E731
    measured = {
        part: [(distance(xy[:, a], xy[:, b]), confidence[:, [a, b]].min(1)) for a, b in pairs]
        for part, pairs in PAIRS.items()
    }
    hips = xy[:, [kp.R_HIP, kp.L_HIP]].mean(1)
    measured["trunk"] = [(distance(xy[:, kp.NECK], hips), confidence[:, [kp.NECK, kp.R_HIP, kp.L_HIP]].min(1))]
    if len(head) >= 3:
        measured["head"] = [(np.sqrt(xy[:, head].var(1).sum(-1)), confidence[:, head].min(1))]
    lengths = {part: max(_full_length(*side) for side in sides) for part, sides in measured.items()}
    return {part: length for part, length in lengths.items() if length > 1e-6}


def _full_length(length: Float[ndarray, " frames"], confidence: Float[ndarray, " frames"]) -> float:
    """Return a high quantile of the lengths in the more confident half of the frames that show the part, or 0."""
    visible = confidence > VISIBLE
    used = visible & (confidence >= np.median(confidence[visible])) if visible.any() else visible
    return float(np.quantile(length[used], LENGTH_QUANTILE)) if used.any() else 0.0


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
    """Fit joint heights, as fractions of the frame, by least squares; the aspect ratios give the horizontal scale."""
    driving = (xy[:, usable] / source[::-1]).reshape(-1, 2)
    reference = np.tile(target[usable] / size[::-1], (len(xy), 1))
    with warnings.catch_warnings():
        # if all heights are equal, numpy attributes half of the height to the scale, as in the released code
        warnings.simplefilter("ignore", np.exceptions.RankWarning)
        scale_y, offset_y = np.polyfit(driving[:, 1], reference[:, 1], 1)
    scale_x = scale_y / (source[0] / source[1] / size[0] * size[1])
    offset_x = (reference[:, 0] - driving[:, 0] * scale_x).mean()
    return Alignment(
        (float(scale_x * size[1] / source[1]), float(scale_y * size[0] / source[0])),
        (float(offset_x * size[1]), float(offset_y * size[0])),
        size,
    )


def _fit_offset(
    xy: Float[ndarray, "frames joints 2"],
    weight: Float[ndarray, "frames joints"],
    target: Float[ndarray, "joints 2"],
    size: tuple[int, int],
    ground: Float[ndarray, " 2"] | None = None,
) -> tuple[float, float]:
    """Fit the offset from the scaled joints to the picture's; `ground` is the offset that aligns standing feet."""
    # The median over joints and frames is robust to a single outlier joint.
    shift = target - xy
    offset = np.array([_weighted_median(shift[..., k].ravel(), weight.ravel()) for k in (0, 1)])
    offset = _refine_shift(shift, weight, offset, np.ptp(target[weight.any(0)], axis=0).max())
    if ground is not None:
        walks = abs(ground[0] - offset[0]) > STEP * np.ptp(target[weight.any(0), 1])
        offset = np.array([offset[0] if walks else ground[0], ground[1]])
    offset += _keep_inside(xy + offset, weight, target, size)
    return float(offset[0]), float(offset[1])


def _ground_offset(poses: PoseSequence, target: PoseSequence) -> Float[ndarray, " 2"] | None:
    """Compute the offset from the scaled standing feet to the picture's; None unless both show both ankles."""
    visible = (poses.confidence[:, ANKLES] > VISIBLE).all(1)
    if not visible.any() or not (target.confidence[0, ANKLES] > VISIBLE).all():
        return None
    video, picture = poses.xy[visible][:, ANKLES], target.xy[0, ANKLES]
    floors = video[..., 1].max(1), picture[:, 1].max()
    lifted = LIFTED * np.ptp(target.xy[0, target.confidence[0] > VISIBLE, 1])
    standing = (video[..., 1] > floors[0][:, None] - lifted) & (picture[:, 1] > floors[1] - lifted)
    shifts = [picture[k, 0] - np.median(video[standing[:, k], k, 0]) for k in (0, 1) if standing[:, k].any()]
    x = np.mean(shifts) if shifts else picture[:, 0].mean() - np.median(video[..., 0])
    return np.array([x, floors[1] - np.median(floors[0])])


def _refine_shift(shift: ndarray, weight: ndarray, offset: ndarray, extent: float) -> ndarray:
    """Refine the median `offset` to a mean of the shifts with Tukey's biweight, which is 0 beyond half of `extent`."""
    distance = np.hypot(*np.moveaxis(shift - offset, -1, 0))
    weight = weight * (1 - np.clip(distance / max(extent / 2, 1e-9), 0, 1) ** 2) ** 2
    total = weight.sum()
    return (weight[..., None] * shift).sum((0, 1)) / total if total > 0 else offset


def _keep_inside(aligned: ndarray, weight: ndarray, target: ndarray, size: tuple[int, int]) -> ndarray:
    """Compute the smallest extra offset that keeps the person inside the frame, if the picture shows them inside.

    The median aligns someone who walks across the frame with the picture halfway through the video, so they would leave
    the frame if the picture shows them near an edge. The offset is nonzero only if both the driving joints and the
    picture's joints, moved with the body, leave the frame: the former alone may be outliers, and the latter alone may
    be due to a different pose.
    """
    used, shown = weight.any(0), weight.any(1)
    shifts = [(s, w) for s, w in zip((aligned - target)[shown], weight[shown], strict=True)]
    offset = np.zeros(2)
    for axis in (0, 1):
        end, low, high = size[1 - axis], target[used, axis].min(), target[used, axis].max()
        if low < 0 or high > end:
            continue
        # Quantiles, not extremes: a single outlier frame must not move the whole video.
        motion = np.quantile([_weighted_median(s[:, axis], w) for s, w in shifts], (0.05, 0.95))
        position, visible = aligned[shown, :, axis], weight[shown] > 0
        extent = (
            np.quantile(position.min(1, where=visible, initial=np.inf), 0.05),
            np.quantile(position.max(1, where=visible, initial=-np.inf), 0.95),
        )
        candidates = [
            (end - a - b) / 2 if b - a > end else max(-a, 0) - max(b - end, 0)
            for a, b in ((low + motion[0], high + motion[1]), extent)
        ]
        offset[axis] = min(candidates, key=abs)
    return offset


def _weighted_median(values: Float[ndarray, " n"], weights: Float[ndarray, " n"]) -> float:
    """Return the value at which half of the total weight is reached; 0 if the total is 0."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    if not total.size or total[-1] <= 0:
        return 0.0
    k = int(np.searchsorted(total, total[-1] / 2))
    return float(values[order[min(k, len(order) - 1)]])
