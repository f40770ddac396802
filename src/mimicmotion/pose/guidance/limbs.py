"""The parts of the body: their keypoints, their regions in a picture, and their affine maps between two poses."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float64, UInt8
from numpy import ndarray

from mimicmotion.pose import keypoints as kp

Affine = Float64[ndarray, "2 3"]

TORSO = np.array([kp.NECK, kp.R_SHOULDER, kp.L_SHOULDER, kp.R_HIP, kp.L_HIP])
HEAD = np.array([kp.NOSE, kp.R_EYE, kp.L_EYE, kp.R_EAR, kp.L_EAR, *range(kp.FACE.start, kp.FACE.stop)])
BONES = {  # ends, half-width in torso lengths
    "right upper arm": (kp.R_SHOULDER, kp.R_ELBOW, 0.17),
    "left upper arm": (kp.L_SHOULDER, kp.L_ELBOW, 0.17),
    "right forearm": (kp.R_ELBOW, kp.R_WRIST, 0.13),
    "left forearm": (kp.L_ELBOW, kp.L_WRIST, 0.13),
    "right thigh": (kp.R_HIP, kp.R_KNEE, 0.25),
    "left thigh": (kp.L_HIP, kp.L_KNEE, 0.25),
    "right shank": (kp.R_KNEE, kp.R_ANKLE, 0.17),
    "left shank": (kp.L_KNEE, kp.L_ANKLE, 0.17),
}
ENDS = {  # hands and feet: keypoints, the bone they are attached to, margin around the keypoints in torso lengths
    "right hand": (np.arange(kp.RIGHT_HAND.start, kp.RIGHT_HAND.stop), "right forearm", 0.06),
    "left hand": (np.arange(kp.LEFT_HAND.start, kp.LEFT_HAND.stop), "left forearm", 0.06),
    "right foot": (np.array([kp.R_ANKLE, 21, 22, 23]), "right shank", 0.08),
    "left foot": (np.array([kp.L_ANKLE, 18, 19, 20]), "left shank", 0.08),
}
PARENT = {part: bone for part, (_, bone, _) in ENDS.items()}
PARENT |= {f"{side} forearm": f"{side} upper arm" for side in ("right", "left")}
PARENT |= {f"{side} shank": f"{side} thigh" for side in ("right", "left")}
PARENT |= {f"{side} {limb}": "torso" for side in ("right", "left") for limb in ("upper arm", "thigh")}
"""The part that each part is attached to."""
BACK_TO_FRONT = (
    *("right foot", "left foot", "right shank", "left shank", "right thigh", "left thigh", "torso", "head"),
    *("right upper arm", "left upper arm", "right forearm", "left forearm", "right hand", "left hand"),
)
HIDDEN = 0.4
"""Parts with a lower mean confidence are painted behind the torso, or copied from the other side."""
UNSEEN = 0.05
"""Parts with a lower mean confidence have no usable position and are neither cut out nor painted."""
STRETCH = (0.35, 2.5)
"""Minimum and maximum factor by which a limb is stretched along its bone."""


def body_unit(xy: Float64[ndarray, "134 2"]) -> float:
    """Estimate the torso length (neck to hips) in pixels, from whichever body part is foreshortened least."""

    def length(a: int, b: int) -> float:
        return float(np.hypot(*(xy[a] - xy[b])))

    torso = float(np.hypot(*(xy[kp.NECK] - 0.5 * (xy[kp.R_HIP] + xy[kp.L_HIP]))))
    return max(torso, 1.2 * length(kp.R_SHOULDER, kp.L_SHOULDER), 0.9 * length(kp.R_HIP, kp.R_KNEE), 1.0)


def part_region(
    xy: Float64[ndarray, "134 2"], part: str, unit: float, size: tuple[int, int], *, face: bool = True
) -> Bool[ndarray, "height width"]:
    """Return a mask of the pixels that a part may cover: a capsule around a bone, else a hull around its points."""
    if part in BONES:
        mask = np.zeros(size, np.uint8)
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
    return cv2.dilate(hull_mask(points, size).astype(np.uint8), disc(reach * unit)) > 0


def hull_mask(points: Float64[ndarray, "n 2"], size: tuple[int, int]) -> Bool[ndarray, "height width"]:
    """Return a mask of the convex hull of some points."""
    mask = np.zeros(size, np.uint8)
    hull = cv2.convexHull(np.clip(points, -(2**15), 2**15).astype(np.float32))
    return cv2.fillConvexPoly(mask, np.rint(hull * 16).astype(np.int32), 1, cv2.LINE_8, 4) > 0


def with_head(
    regions: dict[str, Bool[ndarray, "height width"]], xy: Float64[ndarray, "134 2"], *, face: bool
) -> dict[str, Bool[ndarray, "height width"]]:
    """Add hair to the head, and the neck to head and torso, except for pixels of the arms."""
    if "head" not in regions:
        return regions
    axis = xy[head_points(face)].mean(0) - xy[kp.NECK]
    length = max(float(np.hypot(*axis)), 1e-6)
    height, width = regions["head"].shape
    y, x = np.mgrid[0:height, 0:width] + 0.5
    along, aside = rotation(axis, np.array([1.0, 0.0])) @ [x.ravel() - xy[kp.NECK, 0], y.ravel() - xy[kp.NECK, 1]]
    up, side = (v.reshape(height, width) / length for v in (along, abs(aside)))
    free = ~np.any([r for p, r in regions.items() if "arm" in p or "hand" in p] or [regions["head"] & False], 0)
    grown = {"head": (up > 0.3) & (up < 2.6) & (side < 1.25) & (free | regions["head"])}
    if "torso" in regions:
        neck = (up > -0.6) & (up < 0.85) & (side < 1.1) & free
        if face:  # not the chin
            neck &= ~hull_mask(xy[kp.FACE][:17], (height, width))
        grown["torso"] = regions["torso"] | neck
    return regions | grown


def has_face(confidence: Float[ndarray, " 134"]) -> bool:
    """Return whether face points were detected; if not, their positions are meaningless."""
    return bool(np.mean(confidence[kp.FACE]) >= UNSEEN)


def head_points(face: bool) -> ndarray:
    """Return the indices of the points that determine the position of the head."""
    return HEAD if face else HEAD[:5]


def crown(xy: Float64[ndarray, "134 2"], *, face: bool = True) -> Float64[ndarray, "3 2"]:
    """Estimate three points along the top of the head, above the brows (the highest face points)."""
    if face:
        chin, brows = xy[kp.FACE][8], xy[kp.FACE][17:27].mean(0)
    else:
        chin, brows = 0.5 * (xy[kp.NOSE] + xy[kp.NECK]), xy[[kp.R_EYE, kp.L_EYE]].mean(0)
    up = 1.0 * (brows - chin)
    across = 0.5 * (xy[kp.L_EAR] - xy[kp.R_EAR])
    return brows + up * np.array([[0.8], [1.0], [0.8]]) + across * np.array([[-1.0], [0.0], [1.0]])


def painting_order(confidence: Float[ndarray, " 134"]) -> list[str]:
    """Return the parts from back to front; limbs with low confidence are painted first, behind the torso."""
    sure = {p: mean_confidence(confidence, leader_of(p, confidence)) for p in BACK_TO_FRONT}
    hidden = [p for p in BACK_TO_FRONT if p not in ("torso", "head") and sure[p] < HIDDEN]
    return hidden + [p for p in BACK_TO_FRONT if p not in hidden]


def leader_of(part: str, confidence: Float[ndarray, " 134"]) -> str:
    """Return the part whose points determine the position of `part`: an undetected hand or foot follows its limb."""
    return ENDS[part][1] if part in ENDS and mean_confidence(confidence, part) < UNSEEN else part


def part_map(
    start: Float64[ndarray, "134 2"],
    end: Float64[ndarray, "134 2"],
    part: str,
    source: str,
    unit: float,
    sure: Float[ndarray, " 134"],
) -> Affine:
    """Return the map of a part (cut from `source`) from pose `start` to `end`; `sure`: confidence of the points."""
    if part == "head":
        return head_map(start, end, unit, sure)
    if part in BONES:
        (a, b, _), (c, d, _) = BONES[source], BONES[part]
        return bone_map(start[a], start[b], end[c], end[d], unit, mirrored=source != part)
    if part == "torso":
        hips = np.array([kp.R_HIP, kp.L_HIP])
        p, q = (np.concatenate([v[TORSO], v[hips].mean(0, keepdims=True)]) for v in (start, end))
        turn = rotation(p[5] - p[0], q[5] - q[0])
        return fit_affine(p, q, turn, 0.01 * unit**2)
    points, bone, _ = ENDS[part]
    from_points, from_bone, _ = ENDS[source]
    (a, b, _), (c, d, _) = BONES[from_bone], BONES[bone]
    turn = rotation(start[b] - start[a], end[d] - end[c], mirrored=source != part)
    stiff = 0.01 if "foot" in part else 0.001  # otherwise a foot, with its few points, could be stretched to a line
    return fit_affine(start[from_points], end[points], turn, stiff * unit**2)


def head_map(
    start: Float64[ndarray, "134 2"], end: Float64[ndarray, "134 2"], unit: float, sure: Float[ndarray, " 134"]
) -> Affine:
    """Return the map of the head: a rotation, and a scale within 10% of the body's.

    Points are weighted by confidence, the neck twice, face points by 0.06. A face that was not detected is ignored.
    """
    points = np.array([kp.NECK, *HEAD])
    weights = np.array([2.0, *[1.0] * 5, *[0.06] * 68]) * sure[points]
    weights[:6] = np.maximum(weights[:6], 0.05)
    weights /= weights.sum()
    centre, target = weights @ start[points], weights @ end[points]
    p, q = ((v[points] - c) @ [1, 1j] for v, c in ((start, centre), (end, target)))
    turn = (weights * p.conj() * q).sum() / max((weights * abs(p) ** 2).sum(), 1e-6)
    size = body_unit(end) / unit
    turn *= np.clip(abs(turn), 0.9 * size, 1.1 * size) / max(abs(turn), 1e-6)
    linear = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return np.column_stack([linear, target - linear @ centre])


def bone_map(a: ndarray, b: ndarray, c: ndarray, d: ndarray, unit: float, *, mirrored: bool = False) -> Affine:
    """Return the map of bone a-b onto c-d: a rotation, and a stretch along the bone that keeps its width."""
    before, after = b - a, d - c
    floor = 0.1 * unit
    stretch = np.clip(max(np.hypot(*after), floor) / max(np.hypot(*before), floor), *STRETCH)
    u = before / max(np.hypot(*before), 1e-6)
    along = np.outer(u, u)
    linear = rotation(before, after, mirrored=mirrored) @ (stretch * along + (np.eye(2) - along))
    return np.column_stack([linear, 0.5 * (c + d) - linear @ (0.5 * (a + b))])


def rotation(before: ndarray, after: ndarray, *, mirrored: bool = False) -> Float64[ndarray, "2 2"]:
    """Return the rotation from direction `before` to `after`; if mirrored, it also flips across that direction."""
    u, v = (x / max(np.hypot(*x), 1e-6) for x in (before, after))
    side = -1.0 if mirrored else 1.0
    return np.outer(v, u) + side * np.outer([-v[1], v[0]], [-u[1], u[0]])


def fit_affine(p: ndarray, q: ndarray, prior: Float64[ndarray, "2 2"], weight: float) -> Affine:
    """Fit an affine map of points p to q by least squares, with its linear part regularised towards `prior`.

    Without the prior, foreshortened parts would be distorted, since their points hardly determine their width.
    """
    centre, target = p.mean(0), q.mean(0)
    x, y = (p - centre).T, (q - target).T
    ridge = weight * np.eye(2)
    linear = (y @ x.T / len(p) + prior @ ridge) @ np.linalg.inv(x @ x.T / len(p) + ridge)
    return np.column_stack([linear, target - linear @ centre])


def source_of(part: str, confidence: Float64[ndarray, " 134"]) -> str:
    """Return the part to cut: the part itself, or its counterpart on the other side if only that is visible."""
    if part in ("torso", "head"):
        return part
    side, name = part.split(" ", 1)
    other = f"{'left' if side == 'right' else 'right'} {name}"
    return other if mean_confidence(confidence, part) < HIDDEN <= mean_confidence(confidence, other) else part


def points_of(part: str) -> ndarray:
    """Return the indices of the points of a part; for the head, without the face points."""
    if part in BONES:
        return np.array(BONES[part][:2])
    if part in ENDS:
        return ENDS[part][0]
    return TORSO if part == "torso" else HEAD[:5]


def mean_confidence(confidence: Float[ndarray, " 134"], part: str) -> float:
    """Return the mean confidence of the points of a part."""
    return float(np.mean(confidence[points_of(part)]))


def disc(radius: float) -> UInt8[ndarray, "n n"]:
    """Return a round kernel for dilation, at least 3 pixels wide."""
    n = 2 * max(round(radius), 1) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (n, n))
