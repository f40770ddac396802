"""Align the driving person with the one in the reference picture, using a single map for the whole video.

A single map preserves the motion. The network copies the body shape of the picture, so if the driving person is larger
or elsewhere in the frame, the generated person grows or jumps in the first frames. If the two have different
proportions, arms and legs change length; the method "limbs" adapts the driving person's proportions first.
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

# Nose, neck, shoulders, hips, knees, ankles, eyes and ears. Arms move too much to indicate size and position.
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
FARTHEST = 2.0  # a part whose scale differs from the body's by more than this factor was poorly detected
LONGEST = 0.7  # quantile over time taken as the full length of a part, which is often foreshortened
TURNED = 0.35  # ratio of shoulders to trunk below which the person is seen from the side: ignore widths
LIFTED = 0.05  # a foot this much higher than the other, relative to the body's height, is off the ground
SAME_LIMB = 1.25  # ratio of two bones' scales up to which both are trusted
STEP = 0.08  # the person walks if the feet are this far to the side of the picture's, relative to body height
# For each part, the deviation from the body's scale that perspective, the picture's pose and the detector can explain.
ALIKE = {"trunk": 1.1, "shoulders": 1.12, "neck": 1.1, "head": 1.15, "arms": 1.2, "feet": 1.0}
DISAGREE = 1.15  # ratio of two parts' scales above which body proportions differ


@dataclass(frozen=True, slots=True)
class Alignment:
    """Map from pixels of the driving video to pixels of the output: x' = scale[0] * x + offset[0], likewise for y.

    Attributes:
        scale: (x, y); the two are equal in all methods, which keeps the aspect ratio.
        offset: (x, y) in output pixels.
        size: (height, width) of the output.
        limbs: factors by which body parts are lengthened before mapping; see `stretch`.
    """

    scale: tuple[float, float]
    offset: tuple[float, float]
    size: tuple[int, int]
    limbs: dict[str, float] = field(default_factory=dict)

    def apply(self, poses: PoseSequence) -> PoseSequence:
        """Map poses to the output frame. Confidences do not change."""
        poses = stretch(poses, self.limbs) if self.limbs else poses
        return dataclasses.replace(poses, xy=poses.xy * self.scale + self.offset, size=self.size)


def align(
    driving: PoseSequence, reference: PoseSequence, size: tuple[int, int], method: AlignMethod = "limbs"
) -> PoseSequence:
    """Align the driving poses to the person in the reference picture; see `fit_alignment`."""
    return fit_alignment(driving, reference, size, method).apply(driving)


def fit_alignment(
    driving: PoseSequence, reference: PoseSequence, size: tuple[int, int], method: AlignMethod = "limbs"
) -> Alignment:
    """Fit the map from the driving poses to the reference pose.

    Args:
        driving: driving poses, in pixels of the driving video.
        reference: pose in the reference picture; only the first frame is used. Scaled to `size` if its own differs.
        size: (height, width) of the output.
        method: "weighted" uses one scale, from head, shoulders and trunk (`body_scale`), and one offset, from joints
            visible in both, weighted by confidence in the video and the picture; it keeps the person inside the frame.
            "limbs" also adapts the driving person's proportions to the picture (`limb_scales`) and aligns standing feet
            with the ground. "released" is the published code's linear fit of the joints' heights in all frames with one
            person, regardless of confidence. "none" only scales the video to fill the output, centred.

    Raises:
        PoseError: the picture or the video shows no person, or no joint is visible in both.
    """
    if method not in get_args(AlignMethod):
        raise ConfigError(f"align={method!r}", ", ".join(get_args(AlignMethod)), "use one of these")
    if method == "none":
        return _fill(driving.size, size)
    if not len(reference):
        raise PoseError("an empty reference pose", "one frame", "estimate the pose of the picture first")
    target = reference if reference.size == size else reference.scaled(size)
    joints, trust = target.xy[0, STABLE], target.confidence[0, STABLE].astype(np.float64)
    fix = "use a picture and a video that show the same part of one person clearly, or align 'none'"
    if not (trust > VISIBLE).any():
        raise PoseError(f"no joint in the reference picture above confidence {VISIBLE}", "a visible person", fix)
    xy, weight = driving.xy[:, STABLE], driving.confidence[:, STABLE].astype(np.float64)
    if not driving.confidence.any():
        raise PoseError("nobody in the driving video", "at least one frame with a person", fix)
    if method == "released":  # the published code fits the frames that show exactly one person
        someone = driving.confidence.any(1)
        alone = someone & (driving.people <= 1)
        return _fit_released(xy[alone if alone.any() else someone], driving.size, joints, trust > VISIBLE, size)
    weight = np.where((weight > VISIBLE) & (trust > VISIBLE), weight * trust, 0.0)
    if not weight.any():
        raise PoseError("no joint that both the picture and the video show", "at least one", fix)
    parts = part_scales(driving, target)
    scale, limbs = body_scale(parts), {}
    if scale is None:
        scale = _fill(driving.size, size).scale[0]
        logger.warning(
            "too few joints are visible in both the picture and the video to fit the body size, so it is kept"
        )
    elif method == "limbs":
        scale, limbs = limb_scales(parts, scale)
    sized = Alignment((scale, scale), (0.0, 0.0), size, limbs).apply(driving)
    ground = _to_ground(sized, target) if limbs else None
    offset = _place(sized.xy[:, STABLE], weight, joints, size, ground)
    return Alignment((scale, scale), offset, size, limbs)


def part_scales(driving: PoseSequence, reference: PoseSequence) -> dict[str, float]:
    """Compute the length of each body part in the picture divided by that in the video, for parts visible in both.

    A length in the video is a high quantile over time, since foreshortened parts look short.

    Args:
        driving: driving poses.
        reference: pose in the reference picture, one frame.

    Returns:
        Scale by part: head, trunk and the parts in `PAIRS`. Shoulders seen from the side are left out.
    """
    head = HEAD[reference.confidence[0, HEAD] > VISIBLE].tolist()
    ours, theirs = part_lengths(reference[:1], head), part_lengths(driving, head)
    scales = {part: ours[part] / theirs[part] for part in ours if part in theirs}
    widths = [x["shoulders"] / x["trunk"] for x in (ours, theirs) if {"shoulders", "trunk"} <= x.keys()]
    if min(widths, default=1.0) < TURNED:
        scales.pop("shoulders", None)
    return scales


def body_scale(parts: dict[str, float]) -> float | None:
    """Mean scale of the rigid parts near the median of all parts; None if there are no parts."""
    if not parts:
        return None
    scales = np.log([parts[p] for p in RIGID if p in parts] or list(parts.values()))
    apart = np.abs(scales - np.median(np.log(list(parts.values()))))
    return float(np.exp(scales[apart <= max(math.log(DISAGREE), apart.min())].mean()))


def limb_scales(parts: dict[str, float], scale: float) -> tuple[float, dict[str, float]]:
    """Compute the legs' scale, which applies to the whole body, and the other parts' factors relative to it.

    The bones of a limb share one scale. If they disagree, one of them is foreshortened, in the picture or throughout
    the video: the one closer to the body's scale counts. A limb that was poorly detected gets the scale of the body.
    For the factors, see `stretch`.
    """
    apart = {p: math.log(s / scale) for p, s in parts.items()}
    for limb, bones in LIMBS.items():
        seen = sorted((apart[b] for b in bones if b in apart), key=abs)
        alike = [s for s in seen if abs(s - seen[0]) < math.log(SAME_LIMB)]
        well = len(seen) == len(bones) and abs(seen[-1]) < math.log(FARTHEST)
        apart[limb] = sum(alike) / len(alike) if well else 0.0
    apart["neck"] = apart.get("head", 0.0) / 2  # nodding changes its length more than it varies between people
    ratios = {part: apart.get(part, 0.0) for part in ALIKE}
    ratios = {p: r if abs(r) > math.log(ALIKE[p]) else 0.0 for p, r in ratios.items()}
    return scale * math.exp(apart["legs"]), {p: math.exp(r - apart["legs"]) for p, r in ratios.items()}


def stretch(poses: PoseSequence, limbs: dict[str, float]) -> PoseSequence:
    """Change the body's proportions but not its motion: bones keep their direction, and the legs stay in place.

    From the hips upwards, each part is scaled by its factor and moves the parts attached to it. Hands are scaled with
    the arms; eyes, ears and face points are scaled about the nose by the head's factor.
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
    """Positions, with hidden parent joints interpolated over time relative to the neck."""
    xy, seen = poses.xy.copy(), poses.confidence > VISIBLE
    neck = np.zeros_like(xy[:, kp.NECK])
    for joint in (kp.NECK, kp.NOSE, kp.R_SHOULDER, kp.L_SHOULDER, kp.R_HIP, kp.L_HIP, kp.R_ANKLE, kp.L_ANKLE):
        known, hidden = np.flatnonzero(seen[:, kp.NECK] & seen[:, joint]), np.flatnonzero(~seen[:, joint])
        if len(known):
            away = (xy[:, joint] - neck)[known]
            xy[hidden, joint] = neck[hidden] + np.stack([np.interp(hidden, known, away[:, k]) for k in (0, 1)], 1)
        if joint == kp.NECK:
            neck = xy[:, kp.NECK]
    return xy


def part_lengths(poses: PoseSequence, head: Iterable[int] = ()) -> dict[str, float]:
    """Full length in pixels of each visible part, as in `part_scales`; for the head, the spread of its points."""
    head = list(head)
    xy, sure = poses.xy[:, kp.BODY], poses.confidence[:, kp.BODY]
    gap = lambda a, b: np.hypot(*(a - b).T)  # noqa: E731
    seen = {
        part: [(gap(xy[:, a], xy[:, b]), sure[:, [a, b]].min(1)) for a, b in pairs] for part, pairs in PAIRS.items()
    }
    hips = xy[:, [kp.R_HIP, kp.L_HIP]].mean(1)
    seen["trunk"] = [(gap(xy[:, kp.NECK], hips), sure[:, [kp.NECK, kp.R_HIP, kp.L_HIP]].min(1))]
    if len(head) >= 3:
        seen["head"] = [(np.sqrt(xy[:, head].var(1).sum(-1)), sure[:, head].min(1))]
    lengths = {part: max(_full_length(*side) for side in sides) for part, sides in seen.items()}
    return {part: length for part, length in lengths.items() if length > 1e-6}


def _full_length(length: Float[ndarray, " frames"], sure: Float[ndarray, " frames"]) -> float:
    """A high quantile over the more confident half of the frames that show the part; 0 if none does."""
    shown = sure > VISIBLE
    good = shown & (sure >= np.median(sure[shown])) if shown.any() else shown
    return float(np.quantile(length[good], LONGEST)) if good.any() else 0.0


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
    """Least squares on heights as fractions of the frame; the horizontal scale follows from the aspect ratios."""
    driven = (xy[:, usable] / source[::-1]).reshape(-1, 2)
    wanted = np.tile(target[usable] / size[::-1], (len(xy), 1))
    with warnings.catch_warnings():
        # if all heights are equal, numpy attributes half of the height to the scale, as in the released code
        warnings.simplefilter("ignore", np.exceptions.RankWarning)
        scale_y, offset_y = np.polyfit(driven[:, 1], wanted[:, 1], 1)
    scale_x = scale_y / (source[0] / source[1] / size[0] * size[1])
    offset_x = (wanted[:, 0] - driven[:, 0] * scale_x).mean()
    return Alignment(
        (float(scale_x * size[1] / source[1]), float(scale_y * size[0] / source[0])),
        (float(offset_x * size[1]), float(offset_y * size[0])),
        size,
    )


def _place(
    xy: Float[ndarray, "frames joints 2"],
    weight: Float[ndarray, "frames joints"],
    target: Float[ndarray, "joints 2"],
    size: tuple[int, int],
    ground: Float[ndarray, " 2"] | None = None,
) -> tuple[float, float]:
    """Offset that moves the scaled joints onto the picture's; `ground` is the offset that aligns standing feet."""
    # The median is over joints and frames, so a single outlier joint has no influence.
    shift = target - xy
    offset = np.array([_weighted_median(shift[..., k].ravel(), weight.ravel()) for k in (0, 1)])
    offset = _refine_shift(shift, weight, offset, np.ptp(target[weight.any(0)], axis=0).max())
    if ground is not None:
        steps = abs(ground[0] - offset[0]) > STEP * np.ptp(target[weight.any(0), 1])
        offset = np.array([offset[0] if steps else ground[0], ground[1]])
    offset += _keep_inside(xy + offset, weight, target, size)
    return float(offset[0]), float(offset[1])


def _to_ground(poses: PoseSequence, target: PoseSequence) -> Float[ndarray, " 2"] | None:
    """Offset that moves the scaled standing feet onto the picture's; None unless both ankles are visible in both."""
    seen = (poses.confidence[:, ANKLES] > VISIBLE).all(1)
    if not seen.any() or not (target.confidence[0, ANKLES] > VISIBLE).all():
        return None
    theirs, ours = poses.xy[seen][:, ANKLES], target.xy[0, ANKLES]
    floors = theirs[..., 1].max(1), ours[:, 1].max()
    lifted = LIFTED * np.ptp(target.xy[0, target.confidence[0] > VISIBLE, 1])
    down = (theirs[..., 1] > floors[0][:, None] - lifted) & (ours[:, 1] > floors[1] - lifted)
    shifts = [ours[k, 0] - np.median(theirs[down[:, k], k, 0]) for k in (0, 1) if down[:, k].any()]
    x = np.mean(shifts) if shifts else ours[:, 0].mean() - np.median(theirs[..., 0])
    return np.array([x, floors[1] - np.median(floors[0])])


def _refine_shift(shift: ndarray, weight: ndarray, offset: ndarray, extent: float) -> ndarray:
    """Mean of the shifts near the median (Tukey's biweight), ignoring those farther away than half the body."""
    far = np.hypot(*np.moveaxis(shift - offset, -1, 0))
    near = weight * (1 - np.clip(far / max(extent / 2, 1e-9), 0, 1) ** 2) ** 2
    total = near.sum()
    return (near[..., None] * shift).sum((0, 1)) / total if total > 0 else offset


def _keep_inside(placed: ndarray, weight: ndarray, target: ndarray, size: tuple[int, int]) -> ndarray:
    """The smallest extra offset that keeps the person inside the frame throughout, if the picture shows them inside.

    A driving person who crosses the frame matches the picture's position halfway; if that position is near an edge, the
    person would leave the frame. An offset is only added if both the driving joints and the picture's joints, moved
    along with them, lie outside: the former alone may be outliers, the latter alone may be due to a different pose.
    """
    used, shown = weight.any(0), weight.any(1)
    gap = [(a, w) for a, w in zip((placed - target)[shown], weight[shown], strict=True)]
    more = np.zeros(2)
    for axis in (0, 1):
        end, low, high = size[1 - axis], target[used, axis].min(), target[used, axis].max()
        if low < 0 or high > end:
            continue
        # Quantiles, not extremes: a single outlier frame must not move the whole video.
        moved = np.quantile([_weighted_median(a[:, axis], w) for a, w in gap], (0.05, 0.95))
        at, seen = placed[shown, :, axis], weight[shown] > 0
        own = (
            np.quantile(at.min(1, where=seen, initial=np.inf), 0.05),
            np.quantile(at.max(1, where=seen, initial=-np.inf), 0.95),
        )
        ways = [
            (end - a - b) / 2 if b - a > end else max(-a, 0) - max(b - end, 0)
            for a, b in ((low + moved[0], high + moved[1]), own)
        ]
        more[axis] = min(ways, key=abs)
    return more


def _weighted_median(values: Float[ndarray, " n"], weights: Float[ndarray, " n"]) -> float:
    """The value at which half of the weight is reached; 0 if there is no weight."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    if not total.size or total[-1] <= 0:
        return 0.0
    k = int(np.searchsorted(total, total[-1] / 2))
    return float(values[order[min(k, len(order) - 1)]])
