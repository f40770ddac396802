"""The person of a picture moved limb by limb, without learning: pieces of the picture turned and stretched to a pose.

The person is cut out of the picture (colour segmentation started from the keypoints), the hole in the background is
filled, and head, torso, limbs, hands and feet are moved by affine maps from the reference pose to each driving pose and
painted from back to front. It needs what a model is given: one picture, its pose, the driving poses. Evaluation has it
as the baseline to beat; a small model can be given its result as a hint of where things go (`reference_warp: limbs`).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.pose.keypoints import (
    FACE,
    L_ANKLE,
    L_EAR,
    L_ELBOW,
    L_EYE,
    L_HIP,
    L_KNEE,
    L_SHOULDER,
    L_WRIST,
    LEFT_HAND,
    NECK,
    NOSE,
    R_ANKLE,
    R_EAR,
    R_ELBOW,
    R_EYE,
    R_HIP,
    R_KNEE,
    R_SHOULDER,
    R_WRIST,
    RIGHT_HAND,
    PoseSequence,
)

Picture = UInt8[ndarray, "height width 3"]
Clip = UInt8[ndarray, "frames height width 3"]
Affine = Float64[ndarray, "2 3"]

TORSO = np.array([NECK, R_SHOULDER, L_SHOULDER, R_HIP, L_HIP])
HEAD = np.array([NOSE, R_EYE, L_EYE, R_EAR, L_EAR, *range(FACE.start, FACE.stop)])
BONES = {  # ends, half-width in torso lengths
    "right upper arm": (R_SHOULDER, R_ELBOW, 0.17),
    "left upper arm": (L_SHOULDER, L_ELBOW, 0.17),
    "right forearm": (R_ELBOW, R_WRIST, 0.13),
    "left forearm": (L_ELBOW, L_WRIST, 0.13),
    "right thigh": (R_HIP, R_KNEE, 0.25),
    "left thigh": (L_HIP, L_KNEE, 0.25),
    "right shank": (R_KNEE, R_ANKLE, 0.17),
    "left shank": (L_KNEE, L_ANKLE, 0.17),
}
ENDS = {  # hands and feet: their points, the bone they hang on, how far they reach around their points
    "right hand": (np.arange(RIGHT_HAND.start, RIGHT_HAND.stop), "right forearm", 0.06),
    "left hand": (np.arange(LEFT_HAND.start, LEFT_HAND.stop), "left forearm", 0.06),
    "right foot": (np.array([R_ANKLE, 21, 22, 23]), "right shank", 0.08),
    "left foot": (np.array([L_ANKLE, 18, 19, 20]), "left shank", 0.08),
}
BACK_TO_FRONT = (
    *("right foot", "left foot", "right shank", "left shank", "right thigh", "left thigh", "torso", "head"),
    *("right upper arm", "left upper arm", "right forearm", "left forearm", "right hand", "left hand"),
)
HIDDEN = 0.4
"""Parts whose points have a lower mean confidence are painted behind the torso, or taken from the other side."""
UNSEEN = 0.05
"""Parts below this have no position worth the name: they are neither cut out nor painted."""
STRETCH = (0.35, 2.5)
"""How much a limb may be shortened or stretched along its bone."""


def limb_warp(reference: Picture, reference_pose: PoseSequence, poses: PoseSequence, *, segmented: bool = True) -> Clip:
    """The person of the reference picture moved limb by limb to the driving poses.

    Args:
        reference: RGB.
        reference_pose: its pose, one frame, in pixels of the picture.
        poses: driving poses in pixels of the same picture (aligned to the person, as the pipeline's are).
        segmented: cut along the person's outline as GrabCut sees it; False cuts along capsules and hulls around the
            keypoints, the plain version.

    Raises:
        InputError: sizes differ, there is not one reference pose, or there are no driving poses.
    """
    _check(reference, reference_pose, poses)
    puppet = cut(reference, reference_pose, segmented=segmented)
    return np.stack([puppet.paint(xy, c) for xy, c in zip(poses.xy, poses.confidence, strict=True)])


class WarpedPicture:
    """The picture warped to each pose when it is asked for: `[a:b]` gives uint8 (b - a, height, width, 3).

    Args: as for `limb_warp`.
    """

    def __init__(self, reference: Picture, reference_pose: PoseSequence, poses: PoseSequence) -> None:
        _check(reference, reference_pose, poses)
        self.poses, self.puppet = poses, cut(reference, reference_pose)

    def __len__(self) -> int:
        return len(self.poses)

    def __getitem__(self, index: slice, /) -> Clip:
        rows = range(*index.indices(len(self)))
        return np.stack([self.puppet.paint(self.poses.xy[i], self.poses.confidence[i]) for i in rows])


@dataclass(frozen=True, slots=True)
class Puppet:
    """A reference picture in pieces.

    Attributes:
        background: the picture without the person.
        layers: per part, colours and opacity (premultiplied) where it lies in the reference.
        sources: per part, the part that it was cut from (the other side's where its own is hidden).
        xy: the reference pose.
        unit: torso length in pixels.
        face: whether the reference pose has face points.
    """

    background: Float32[ndarray, "height width 3"]
    layers: dict[str, Float32[ndarray, "height width 4"]]
    sources: dict[str, str]
    xy: Float64[ndarray, "134 2"]
    unit: float
    face: bool = True

    def paint(self, xy: Float[ndarray, "134 2"], confidence: Float[ndarray, " 134"]) -> Picture:
        """The person in another pose."""
        picture = self.background.copy()
        height, width = picture.shape[:2]
        for part in painting_order(confidence):
            leader = _leader(part, confidence)
            if part not in self.layers or _mean_confidence(confidence, leader) < UNSEEN:
                continue
            source, end = self.sources[part], np.asarray(xy, np.float64)
            if leader != part:  # a hand or foot without points of its own stays in line with its limb
                source = ENDS[source][1]
            matrix = part_map(self.xy, end, leader, source, self.unit, face=self.face and has_face(confidence))
            layer = cv2.warpAffine(self.layers[part], _pixel_centres(matrix), (width, height), flags=cv2.INTER_LINEAR)
            picture = picture * (1 - layer[..., 3:]) + layer[..., :3]
        return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def cut(reference: Picture, pose: PoseSequence, *, segmented: bool = True) -> Puppet:
    """Take a picture apart: background, and one layer for each part of the person; see `limb_warp`."""
    size = (reference.shape[0], reference.shape[1])
    xy, confidence = pose.xy[0].astype(np.float64), pose.confidence[0].astype(np.float64)
    unit = body_unit(xy)
    seen = [part for part in BACK_TO_FRONT if _mean_confidence(confidence, part) >= UNSEEN]
    if not seen:
        return Puppet(reference.astype(np.float32), {}, {}, xy, unit)
    face = has_face(confidence)
    regions = {part: part_region(xy, part, unit, size, face=face) for part in seen}
    person = segment_person(reference, regions, unit) if segmented else np.any(list(regions.values()), 0)
    around = cv2.dilate(person.astype(np.uint8), np.ones((5, 5), np.uint8))
    background = cv2.inpaint(reference, around, 3, cv2.INPAINT_TELEA)
    crossing = [p for p in seen if "forearm" in p or "hand" in p]
    arms = np.any([regions[p] for p in crossing if _mean_confidence(confidence, p) >= HIDDEN] or [~person & person], 0)
    layers = {part: _layer(reference, part, region, person, arms) for part, region in regions.items()}
    sources = {part: _source(part, confidence) for part in BACK_TO_FRONT}
    sources = {part: source for part, source in sources.items() if source in layers}
    return Puppet(background.astype(np.float32), {p: layers[s] for p, s in sources.items()}, sources, xy, unit, face)


def _layer(reference: Picture, part: str, region: ndarray, person: ndarray, arms: ndarray) -> ndarray:
    """Colours and opacity of one part; what the arms hide of torso and head is filled in."""
    colours, opacity = reference, region & person
    if part in ("torso", "head") and (arms & region).any() and not (arms | ~opacity).all():
        unknown = arms | ~person if part == "torso" else arms
        near = cv2.dilate(region.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        colours = cv2.inpaint(reference, (unknown & near).astype(np.uint8), 3, cv2.INPAINT_TELEA)
        opacity = opacity | (arms & region)
    alpha = cv2.GaussianBlur(opacity.astype(np.float32), (3, 3), 0.6)
    return np.dstack([colours * alpha[..., None], alpha]).astype(np.float32)


def body_unit(xy: Float64[ndarray, "134 2"]) -> float:
    """Torso length (neck to hips) in pixels, from whatever of the body is not foreshortened."""

    def length(a: int, b: int) -> float:
        return float(np.hypot(*(xy[a] - xy[b])))

    torso = float(np.hypot(*(xy[NECK] - 0.5 * (xy[R_HIP] + xy[L_HIP]))))
    return max(torso, 1.2 * length(R_SHOULDER, L_SHOULDER), 0.9 * length(R_HIP, R_KNEE), 1.0)


def segment_person(
    reference: Picture, regions: dict[str, Bool[ndarray, "height width"]], unit: float
) -> Bool[ndarray, "height width"]:
    """The person's pixels: GrabCut, told that the middle of each part is person and what is far from all is not."""
    union = np.any(list(regions.values()), 0).astype(np.uint8)
    far = cv2.dilate(union, _disc(0.1 * unit))
    trimap = np.where(far > 0, np.where(union > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD), cv2.GC_BGD).astype(np.uint8)
    for region in regions.values():
        core = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, 3)
        if core.max() > 0:
            trimap[core > 0.6 * core.max()] = cv2.GC_FGD
    if not (trimap == cv2.GC_BGD).any() or not (trimap == cv2.GC_FGD).any():
        return union > 0
    cv2.setRNGSeed(0)  # GrabCut starts k-means from OpenCV's generator
    cv2.grabCut(reference, trimap, (0, 0, 0, 0), np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_MASK)
    return (trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)


def part_region(
    xy: Float64[ndarray, "134 2"], part: str, unit: float, size: tuple[int, int], *, face: bool = True
) -> Bool[ndarray, "height width"]:
    """Pixels in which a part may lie: capsules around bones, hulls around torso, head, hands and feet."""
    mask = np.zeros(size, np.uint8)
    if part in BONES:
        a, b, radius = BONES[part]
        ends = np.clip(np.rint(xy[[a, b]] * 16), -(2**20), 2**20).astype(int)
        cv2.line(mask, ends[0].tolist(), ends[1].tolist(), 1, max(int(2 * radius * unit), 1), cv2.LINE_8, 4)
        return mask > 0
    if part == "torso":
        points, reach = xy[TORSO], 0.14
    elif part == "head":
        points, reach = np.concatenate([xy[head_points(face)], crown(xy, face=face)]), 0.1
    else:
        points, reach = xy[ENDS[part][0]], ENDS[part][2]
    hull = cv2.convexHull(np.clip(points, -(2**15), 2**15).astype(np.float32))
    cv2.fillConvexPoly(mask, np.rint(hull * 16).astype(np.int32), 1, cv2.LINE_8, 4)
    return cv2.dilate(mask, _disc(reach * unit)) > 0


def has_face(confidence: Float[ndarray, " 134"]) -> bool:
    """Whether face points were found; where not, they have no position worth the name."""
    return bool(np.mean(confidence[FACE]) >= UNSEEN)


def head_points(face: bool) -> ndarray:
    """The points that tell where the head is."""
    return HEAD if face else HEAD[:5]


def crown(xy: Float64[ndarray, "134 2"], *, face: bool = True) -> Float64[ndarray, "3 2"]:
    """Three points above the brows, where the face's points end but the head does not."""
    if face:
        chin, brows = xy[FACE][8], xy[FACE][17:27].mean(0)
    else:
        chin, brows = 0.5 * (xy[NOSE] + xy[NECK]), xy[[R_EYE, L_EYE]].mean(0)
    up = 1.0 * (brows - chin)
    across = 0.5 * (xy[L_EAR] - xy[R_EAR])
    return brows + up * np.array([[0.8], [1.0], [0.8]]) + across * np.array([[-1.0], [0.0], [1.0]])


def painting_order(confidence: Float[ndarray, " 134"]) -> list[str]:
    """Parts from back to front; arms that the detector hardly sees go behind the torso."""
    sure = {p: _mean_confidence(confidence, _leader(p, confidence)) for p in BACK_TO_FRONT}
    hidden = [p for p in BACK_TO_FRONT if p not in ("torso", "head") and sure[p] < HIDDEN]
    return hidden + [p for p in BACK_TO_FRONT if p not in hidden]


def _leader(part: str, confidence: Float[ndarray, " 134"]) -> str:
    """The part whose points say where `part` is: a hand or foot that was not found goes with its limb."""
    return ENDS[part][1] if part in ENDS and _mean_confidence(confidence, part) < UNSEEN else part


def part_map(
    start: Float64[ndarray, "134 2"],
    end: Float64[ndarray, "134 2"],
    part: str,
    source: str,
    unit: float,
    *,
    face: bool = True,
) -> Affine:
    """The affine map that takes a part from the reference pose to a driving pose; `face`: both have face points."""
    if part in BONES:
        (a, b, _), (c, d, _) = BONES[source], BONES[part]
        return bone_map(start[a], start[b], end[c], end[d], unit, mirrored=source != part)
    if part == "torso":
        hips = np.array([R_HIP, L_HIP])
        p, q = (np.concatenate([v[TORSO], v[hips].mean(0, keepdims=True)]) for v in (start, end))
        turn = rotation(p[5] - p[0], q[5] - q[0])
        return fit_affine(p, q, turn, 0.01 * unit**2)
    if part == "head":
        p, q = (v[head_points(face)] for v in (start, end))
        turn = rotation(p.mean(0) - start[NECK], q.mean(0) - end[NECK])
        return fit_affine(p, q, turn, 0.005 * unit**2)
    points, bone, _ = ENDS[part]
    from_points, from_bone, _ = ENDS[source]
    (a, b, _), (c, d, _) = BONES[from_bone], BONES[bone]
    turn = rotation(start[b] - start[a], end[d] - end[c], mirrored=source != part)
    return fit_affine(start[from_points], end[points], turn, 0.001 * unit**2)


def bone_map(a: ndarray, b: ndarray, c: ndarray, d: ndarray, unit: float, *, mirrored: bool = False) -> Affine:
    """The map of bone a-b onto c-d: turned, stretched along the bone, as wide as before."""
    before, after = b - a, d - c
    floor = 0.1 * unit
    stretch = np.clip(max(np.hypot(*after), floor) / max(np.hypot(*before), floor), *STRETCH)
    u = before / max(np.hypot(*before), 1e-6)
    along = np.outer(u, u)
    linear = rotation(before, after, mirrored=mirrored) @ (stretch * along + (np.eye(2) - along))
    return np.column_stack([linear, 0.5 * (c + d) - linear @ (0.5 * (a + b))])


def rotation(before: ndarray, after: ndarray, *, mirrored: bool = False) -> Float64[ndarray, "2 2"]:
    """Turns direction `before` into `after`; mirrored: and swaps the sides of the line."""
    u, v = (x / max(np.hypot(*x), 1e-6) for x in (before, after))
    side = -1.0 if mirrored else 1.0
    return np.outer(v, u) + side * np.outer([-v[1], v[0]], [-u[1], u[0]])


def fit_affine(p: ndarray, q: ndarray, prior: Float64[ndarray, "2 2"], weight: float) -> Affine:
    """Least-squares affine map of points p to q, drawn towards the linear part `prior`.

    Without the pull, foreshortened parts, which tell little about their width, would explode.
    """
    centre, target = p.mean(0), q.mean(0)
    x, y = (p - centre).T, (q - target).T
    ridge = weight * np.eye(2)
    linear = (y @ x.T / len(p) + prior @ ridge) @ np.linalg.inv(x @ x.T / len(p) + ridge)
    return np.column_stack([linear, target - linear @ centre])


def _source(part: str, confidence: Float64[ndarray, " 134"]) -> str:
    """The part itself, or its counterpart where that is seen and itself is not."""
    if part in ("torso", "head"):
        return part
    side, name = part.split(" ", 1)
    other = f"{'left' if side == 'right' else 'right'} {name}"
    mine, theirs = _mean_confidence(confidence, part), _mean_confidence(confidence, other)
    return other if mine < HIDDEN <= theirs else part


def _mean_confidence(confidence: Float[ndarray, " 134"], part: str) -> float:
    if part in BONES:
        points: ndarray = np.array(BONES[part][:2])
    elif part in ENDS:
        points = ENDS[part][0]
    else:
        points = TORSO if part == "torso" else HEAD[:5]
    return float(np.mean(confidence[points]))


def _pixel_centres(matrix: Affine) -> Affine:
    """From positions with pixel centres at integer + 0.5 to OpenCV's, which has them at integers."""
    half = np.array([0.5, 0.5])
    return np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2] @ half - half])


def _disc(radius: float) -> UInt8[ndarray, "n n"]:
    n = 2 * max(round(radius), 1) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (n, n))


def _check(reference: Picture, reference_pose: PoseSequence, poses: PoseSequence) -> None:
    check_picture(reference)
    size = (reference.shape[0], reference.shape[1])
    if len(reference_pose) != 1 or len(poses) < 1:
        got = f"{len(reference_pose)} reference and {len(poses)} driving poses"
        raise InputError(got, "one reference pose and at least one driving pose", "cut the reference pose to one frame")
    if reference_pose.size != size or poses.size != size:
        got = f"picture {size}, reference pose {reference_pose.size}, driving poses {poses.size}"
        raise InputError(got, "one size", "scale the poses with PoseSequence.scaled")


def check_picture(reference: ndarray) -> None:
    """Raise InputError unless it is an RGB picture of uint8."""
    reference = np.asarray(reference)
    if reference.ndim != 3 or reference.shape[-1] != 3 or reference.dtype != np.uint8 or not reference.size:
        raise InputError(f"reference {reference.shape} of {reference.dtype}", "(height, width, 3) of uint8", "use RGB")
