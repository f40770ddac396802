"""The person of a picture moved limb by limb, without learning: pieces of the picture turned and stretched to a pose.

The person is cut out of the picture (colour segmentation started from the keypoints), the hole in the background is
filled, and head, torso, limbs, hands and feet are moved by affine maps from the reference pose to each driving pose and
painted from back to front. It needs what a model is given: one picture, its pose, the driving poses. Evaluation has it
as the baseline to beat; a small model can be given its result as a hint of where things go (`reference_warp: limbs`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64
from numpy import ndarray

from mimicmotion.arrays import Frame, Frames, PoseFrames
from mimicmotion.errors import InputError
from mimicmotion.pose.guidance.limbs import (
    BACK_TO_FRONT,
    ENDS,
    HIDDEN,
    UNSEEN,
    Affine,
    body_unit,
    disc,
    has_face,
    leader_of,
    mean_confidence,
    painting_order,
    part_map,
    part_region,
    source_of,
)
from mimicmotion.pose.keypoints import PoseSequence


def limb_warp(reference: Frame, reference_pose: PoseSequence, poses: PoseSequence, *, segmented: bool = True) -> Frames:
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
    return WarpedPicture(reference, reference_pose, poses, segmented=segmented)[:]


class WarpedPicture:
    """The picture warped to each pose when it is asked for: `[a:b]` gives uint8 (b - a, height, width, 3).

    Args: as for `limb_warp`.
    """

    def __init__(
        self, reference: Frame, reference_pose: PoseSequence, poses: PoseSequence, *, segmented: bool = True
    ) -> None:
        _check(reference, reference_pose, poses)
        self.poses, self.puppet = poses, cut(reference, reference_pose, segmented=segmented)

    def __len__(self) -> int:
        return len(self.poses)

    def __getitem__(self, index: slice, /) -> Frames:
        some = self.poses[index]
        return np.stack([self.puppet.paint(xy, c) for xy, c in zip(some.xy, some.confidence, strict=True)])


@dataclass(frozen=True, slots=True, eq=False)
class WarpedPoses:
    """Drawn poses together with the picture warped to each; slices give the drawn poses.

    Attributes:
        poses: uint8 (frames, height, width, 3), or anything whose slices give that.
        warped: the same of the warped picture (`WarpedPicture`).
    """

    poses: PoseFrames
    warped: PoseFrames

    def __post_init__(self) -> None:
        if len(self.warped) < len(self.poses):
            got, want = f"{len(self.warped)} warped frames", f"one per pose, {len(self.poses)}"
            raise InputError(got, want, "warp the picture to each pose")

    def __len__(self) -> int:
        return len(self.poses)

    def __getitem__(self, index: slice, /) -> Frames:
        return self.poses[index]


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

    def paint(self, xy: Float[ndarray, "134 2"], confidence: Float[ndarray, " 134"]) -> Frame:
        """The person in another pose."""
        picture = self.background.copy()
        height, width = picture.shape[:2]
        for part, matrix in moves(self.xy, self.sources, self.unit, xy, confidence, face=self.face):
            layer = cv2.warpAffine(self.layers[part], matrix, (width, height), flags=cv2.INTER_LINEAR)
            picture = picture * (1 - layer[..., 3:]) + layer[..., :3]
        return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def moves(
    start: Float64[ndarray, "134 2"],
    sources: Mapping[str, str],
    unit: float,
    xy: Float[ndarray, "134 2"],
    confidence: Float[ndarray, " 134"],
    *,
    face: bool,
) -> Iterator[tuple[str, Affine]]:
    """Parts from back to front, and how each moves from one pose to another (as `cv2.warpAffine` wants it).

    Args:
        start: the pose in which the parts were cut out.
        sources: the parts that there are, and which each was cut from.
        unit: torso length in `start`.
        xy: the other pose.
        confidence: of its points; parts that it does not show are left out.
        face: whether `start` has face points.
    """
    end = np.asarray(xy, np.float64)
    for part in painting_order(confidence):
        leader = leader_of(part, confidence)
        if part not in sources or mean_confidence(confidence, leader) < UNSEEN:
            continue
        source = sources[part]
        if leader != part:  # a hand or foot without points of its own stays in line with its limb
            source = ENDS[source][1]
        matrix = part_map(start, end, leader, source, unit, face=face and has_face(confidence))
        yield part, _pixel_centres(matrix)


def cut(reference: Frame, pose: PoseSequence, *, segmented: bool = True) -> Puppet:
    """Take a picture apart: background, and one layer for each part of the person; see `limb_warp`."""
    size = (reference.shape[0], reference.shape[1])
    xy, confidence = pose.xy[0].astype(np.float64), pose.confidence[0].astype(np.float64)
    unit = body_unit(xy)
    seen = [part for part in BACK_TO_FRONT if mean_confidence(confidence, part) >= UNSEEN]
    if not seen:
        return Puppet(reference.astype(np.float32), {}, {}, xy, unit)
    face = has_face(confidence)
    regions = {part: part_region(xy, part, unit, size, face=face) for part in seen}
    person = segment_person(reference, regions, unit) if segmented else np.any(list(regions.values()), 0)
    around = cv2.dilate(person.astype(np.uint8), np.ones((5, 5), np.uint8))
    background = cv2.inpaint(reference, around, 3, cv2.INPAINT_TELEA)
    crossing = [p for p in seen if "forearm" in p or "hand" in p]
    arms = np.any([regions[p] for p in crossing if mean_confidence(confidence, p) >= HIDDEN] or [~person & person], 0)
    layers = {part: _layer(reference, part, region, person, arms) for part, region in regions.items()}
    sources = {part: source_of(part, confidence) for part in BACK_TO_FRONT}
    sources = {part: source for part, source in sources.items() if source in layers}
    return Puppet(background.astype(np.float32), {p: layers[s] for p, s in sources.items()}, sources, xy, unit, face)


def _layer(reference: Frame, part: str, region: ndarray, person: ndarray, arms: ndarray) -> ndarray:
    """Colours and opacity of one part; what the arms hide of torso and head is filled in."""
    colours, opacity = reference, region & person
    if part in ("torso", "head") and (arms & region).any() and not (arms | ~opacity).all():
        unknown = arms | ~person if part == "torso" else arms
        near = cv2.dilate(region.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        colours = cv2.inpaint(reference, (unknown & near).astype(np.uint8), 3, cv2.INPAINT_TELEA)
        opacity = opacity | (arms & region)
    alpha = cv2.GaussianBlur(opacity.astype(np.float32), (3, 3), 0.6)
    return np.dstack([colours * alpha[..., None], alpha]).astype(np.float32)


def segment_person(
    reference: Frame, regions: dict[str, Bool[ndarray, "height width"]], unit: float
) -> Bool[ndarray, "height width"]:
    """The person's pixels: GrabCut, told that the middle of each part is person and what is far from all is not."""
    union = np.any(list(regions.values()), 0).astype(np.uint8)
    far = cv2.dilate(union, disc(0.1 * unit))
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


def _pixel_centres(matrix: Affine) -> Affine:
    """From positions with pixel centres at integer + 0.5 to OpenCV's, which has them at integers."""
    half = np.array([0.5, 0.5])
    return np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2] @ half - half])


def _check(reference: Frame, reference_pose: PoseSequence, poses: PoseSequence) -> None:
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
