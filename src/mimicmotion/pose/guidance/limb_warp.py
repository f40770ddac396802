"""Animate the person in a picture without learning, by warping it limb by limb to each pose.

The person is cut out of the picture (by the bundled segmentation network and colours) and the background is filled.
Head, torso, limbs, hands and feet are moved by affine maps from the reference pose to each driving pose, and painted
from back to front. Inputs are the same as a model's: one picture, its pose, and the driving poses. This is the baseline
in evaluation, and a small model can take its result as an extra condition (`reference_warp: limbs`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int8, UInt8
from numpy import ndarray

from mimicmotion.arrays import Frame, Frames, PoseFrames
from mimicmotion.errors import InputError
from mimicmotion.pose.guidance.limbs import (
    BACK_TO_FRONT,
    BONES,
    ENDS,
    HIDDEN,
    PARENT,
    UNSEEN,
    Affine,
    body_unit,
    disc,
    has_face,
    hull_mask,
    leader_of,
    mean_confidence,
    painting_order,
    part_map,
    part_region,
    points_of,
    source_of,
    with_head,
)
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.pose.mask import SelfieSegmenter
from mimicmotion.video.background import fill_hole

HOLE = 0.024
"""Width of the rim around the person where the background is filled too, as a fraction of the picture's short side."""
CONTRAST = 30.0
"""Minimum RGB distance between the person and the background at which a pixel on the outline is assigned to one."""


def limb_warp(reference: Frame, reference_pose: PoseSequence, poses: PoseSequence, *, segmented: bool = True) -> Frames:
    """Move the person in the reference picture limb by limb to the driving poses.

    Args:
        reference: RGB picture.
        reference_pose: pose of the picture, one frame, in pixels of the picture.
        poses: driving poses in pixels of the same picture, aligned to the person as in the pipeline.
        segmented: cut along the person's outline (see `segment_person`); False cuts along capsules and hulls around the
            keypoints.

    Raises:
        InputError: sizes differ, there is not exactly one reference pose, or there are no driving poses.
    """
    return WarpedPicture(reference, reference_pose, poses, segmented=segmented)[:]


class WarpedPicture:
    """The picture warped to each pose on demand: `[a:b]` returns uint8 (b - a, height, width, 3).

    Args: see `limb_warp`.
    """

    def __init__(
        self, reference: Frame, reference_pose: PoseSequence, poses: PoseSequence, *, segmented: bool = True
    ) -> None:
        check_poses(reference, reference_pose, poses)
        self.poses, self.puppet = poses, cut(reference, reference_pose, segmented=segmented)

    def __len__(self) -> int:
        return len(self.poses)

    def __getitem__(self, index: slice, /) -> Frames:
        poses = self.poses[index]
        return np.stack([self.puppet.paint(xy, c) for xy, c in zip(poses.xy, poses.confidence, strict=True)])


@dataclass(frozen=True, slots=True, eq=False)
class WarpedPoses:
    """Drawn poses together with the picture warped to each. Slices return the drawn poses.

    Attributes:
        poses: uint8 (frames, height, width, 3), or anything with such slices.
        warped: the warped pictures in the same format (`WarpedPicture`).
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
    """A reference picture cut into pieces.

    Attributes:
        background: the picture without the person.
        colours: the picture, with the person's colours extended beyond the outline, and the same with the arms in
            front of the body inpainted. Pixel-wise warping samples from these.
        layers: per part, premultiplied colours and opacity, in pixels of the reference.
        boxes: per part, the corners (x, y) of its non-empty area.
        sources: per part, the part that it was cut from (its counterpart on the other side if it is hidden).
        xy: the reference pose.
        unit: torso length in pixels.
        confidence: confidence of the points of the reference pose.
    """

    background: Float32[ndarray, "height width 3"]
    colours: UInt8[ndarray, "2 height width 3"]
    layers: dict[str, Float32[ndarray, "height width 4"]]
    boxes: dict[str, Float64[ndarray, "4 2"]]
    sources: dict[str, str]
    xy: Float64[ndarray, "134 2"]
    unit: float
    confidence: Float64[ndarray, " 134"]

    def paint(self, xy: Float[ndarray, "134 2"], confidence: Float[ndarray, " 134"]) -> Frame:
        """Paint the person in another pose."""
        return self.arrange(xy, confidence).picture

    def arrange(self, xy: Float[ndarray, "134 2"], confidence: Float[ndarray, " 134"]) -> Arrangement:
        """Arrange the pieces in another pose."""
        picture = self.background.copy()
        height, width = picture.shape[:2]
        covered, shown = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
        top, opacity = np.full((height, width), -1, np.int8), np.zeros((len(BACK_TO_FRONT), height, width), np.float32)
        maps = np.zeros((len(BACK_TO_FRONT), 2, 3), np.float32)
        for part, matrix in moves(self.xy, self.confidence, self.sources, self.unit, xy, confidence, (height, width)):
            number = BACK_TO_FRONT.index(part)
            maps[number] = cv2.invertAffineTransform(matrix)
            corners = self.boxes[part] @ matrix[:, :2].T + matrix[:, 2]
            first = np.clip(np.floor(corners.min(0)).astype(int) - 1, 0, [width, height])
            last = np.clip(np.ceil(corners.max(0)).astype(int) + 2, first, [width, height])
            if (last <= first).any():  # moved out of the picture
                continue
            window = slice(first[1], last[1]), slice(first[0], last[0])
            inside = np.column_stack([matrix[:, :2], matrix[:, 2] - first])
            size = tuple(int(n) for n in last - first)
            layer = cv2.warpAffine(self.layers[part], inside, size, borderMode=cv2.BORDER_REPLICATE)
            alpha = opacity[number][window] = layer[..., 3]
            picture[window] = picture[window] * (1 - layer[..., 3:]) + layer[..., :3]
            covered[window] += alpha * (1 - covered[window])
            shown[window] *= 1 - alpha
            top[window][alpha > np.maximum(shown[window], 0.02)] = number
            shown[window] = np.maximum(shown[window], alpha)
        return Arrangement(np.clip(np.rint(picture), 0, 255).astype(np.uint8), covered, top, opacity, maps)


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The pieces of a person arranged in a pose; parts are numbered as in `BACK_TO_FRONT`.

    Attributes:
        picture: the pieces on the background.
        outline: combined opacity of all parts, 0..1.
        top: frontmost part at each pixel; -1 for none.
        opacity: opacity of each part.
        maps: affine map of each part from pixels (x, y, 1) of `picture` to the reference; 0 for omitted parts.
    """

    picture: Frame
    outline: Float32[ndarray, "height width"]
    top: Int8[ndarray, "height width"]
    opacity: Float32[ndarray, "14 height width"]
    maps: Float32[ndarray, "14 2 3"]


def moves(
    start: Float64[ndarray, "134 2"],
    start_confidence: Float[ndarray, " 134"],
    sources: Mapping[str, str],
    unit: float,
    xy: Float[ndarray, "134 2"],
    confidence: Float[ndarray, " 134"],
    size: tuple[int, int],
) -> Iterator[tuple[str, Affine]]:
    """Yield the parts from back to front, each with its affine map between two poses (for `cv2.warpAffine`).

    Args:
        start: pose in which the parts were cut out.
        start_confidence: confidence of the points of `start`.
        sources: available parts, and the part that each was cut from.
        unit: torso length in `start`.
        xy: target pose.
        confidence: confidence of the points of `xy`; parts that are hidden in it move with the part that they are
            attached to, or are omitted.
        size: (height, width) of the picture; arm and leg points outside it do not count as hidden.
    """
    end, sure = np.asarray(xy, np.float64), np.minimum(start_confidence, confidence)
    lost = (confidence < UNSEEN) & (xy >= 0).all(1) & (xy < size[::-1]).all(1)

    def is_lost(part: str) -> bool:
        return bool(lost[points_of(part)].any()) if part in BONES else mean_confidence(confidence, part) < UNSEEN

    for part in painting_order(confidence):
        if part not in sources:
            continue
        leader, source = part, sources[part]
        if leader_of(source, start_confidence) != source:  # cut without its own points
            leader, source = PARENT[leader], PARENT[source]
        while leader in PARENT and is_lost(leader):  # move with the part that it is attached to
            leader, source = PARENT[leader], PARENT[source]
        if mean_confidence(confidence, leader) < UNSEEN:
            continue
        yield part, _pixel_centres(part_map(start, end, leader, source, unit, sure))


def cut(
    reference: Frame, pose: PoseSequence, *, segmented: bool = True, person: Bool[ndarray, "height width"] | None = None
) -> Puppet:
    """Cut a picture into its background and one layer per body part; see `limb_warp`.

    `person`: mask of the person; by default, the person is segmented.
    """
    xy, confidence = pose.xy[0].astype(np.float64), pose.confidence[0].astype(np.float64)
    unit, face, regions = body_unit(xy), has_face(confidence), part_regions(pose)
    seen = list(regions)
    if not seen:
        return Puppet(reference.astype(np.float32), np.stack([reference] * 2), {}, {}, {}, xy, unit, confidence)
    if person is None:
        person = segment_person(reference, pose) if segmented else np.any(list(regions.values()), 0)
    around = cv2.dilate(person.astype(np.uint8), disc(HOLE * min(person.shape)))
    background = fill_hole(reference, around > 0)
    regions = _assign_rest(_separate_arms(reference, with_head(regions, xy, face=face), person), person)
    crossing = [p for p in seen if "forearm" in p or "hand" in p]
    crossing = [p for p in crossing if mean_confidence(confidence, leader_of(p, confidence)) >= HIDDEN]
    arms = np.any([regions[p] for p in crossing] or [~person & person], 0)
    colours = _colours(reference, regions, person, arms)
    matte = _matte(reference, colours[0], background, person)
    layers = {part: _layer(colours, part, region, matte, arms) for part, region in regions.items()}
    sources = {part: source_of(part, confidence) for part in BACK_TO_FRONT}
    sources = {part: source for part, source in sources.items() if source in layers}
    layers = {p: layers[source] for p, source in sources.items()}
    cropped = [p for p in BACK_TO_FRONT if p not in ENDS and (xy[points_of(p)] > reference.shape[1::-1]).any()]
    boxes = {p: _corners(layer[..., 3] > 0, 0.5 * unit * (p in cropped)) for p, layer in layers.items()}
    return Puppet(background.astype(np.float32), colours, layers, boxes, sources, xy, unit, confidence)


def _corners(mask: Bool[ndarray, "height width"], beyond: float) -> Float64[ndarray, "4 2"]:
    """Return the corners (x, y) of the mask's bounding box, moved out by `beyond` pixels at the picture's edges."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    low, high = np.array([x, y], np.float64), np.array([x + width, y + height], np.float64)
    low[low <= 0] -= beyond
    high[high >= mask.shape[::-1]] += beyond
    return np.array([[low[0], low[1]], [high[0], low[1]], [low[0], high[1]], [high[0], high[1]]])


def _colours(
    reference: Frame, regions: Mapping[str, ndarray], person: ndarray, arms: ndarray
) -> UInt8[ndarray, "2 height width 3"]:
    """Compute `Puppet.colours`, without the outermost pixels of the person, which are mixed with the background."""
    inner = cv2.erode(person.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    inner = inner if inner.any() else person
    seen, bare = _extended(reference, inner), _extended(reference, inner & ~arms)
    body = np.any([region for p, region in regions.items() if _is_behind_arms(p)] or [arms & False], 0)
    hiding = (arms & cv2.dilate(body.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0).astype(np.uint8)
    return np.stack([seen, cv2.inpaint(bare, hiding, 3, cv2.INPAINT_TELEA) if hiding.any() else bare])


def _is_behind_arms(part: str) -> bool:
    return part in ("torso", "head") or "thigh" in part


def _extended(picture: Frame, known: Bool[ndarray, "height width"]) -> Frame:
    """Replace each unknown pixel of a picture by the nearest known one."""
    if not known.any():
        return picture
    unknown = (~known).astype(np.uint8)
    _, nearest = cv2.distanceTransformWithLabels(unknown, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    colours = np.zeros((nearest.max() + 1, 3), np.uint8)
    colours[nearest[known]] = picture[known]
    return colours[nearest]


def _assign_rest(
    regions: dict[str, Bool[ndarray, "height width"]], person: Bool[ndarray, "height width"]
) -> dict[str, Bool[ndarray, "height width"]]:
    """Assign each of the person's pixels outside all regions to the nearest region."""
    unassigned = person & ~np.any(list(regions.values()), 0)
    distances = [cv2.distanceTransform((~r).astype(np.uint8), cv2.DIST_L2, 5) for r in regions.values()]
    nearest = np.argmin(distances, 0)
    return {part: region | (unassigned & (nearest == k)) for k, (part, region) in enumerate(regions.items())}


def _separate_arms(
    reference: Frame, regions: dict[str, Bool[ndarray, "height width"]], person: Bool[ndarray, "height width"]
) -> dict[str, Bool[ndarray, "height width"]]:
    """Separate arms and hands from the parts behind them along edges in the picture (watershed at twice the size)."""
    arms = {part: region for part, region in regions.items() if "arm" in part or "hand" in part}
    if not arms:
        return regions
    cores = [(depth > 0.5 * depth.max()) for depth in map(_depth, arms.values())]
    others = np.any([region for part, region in regions.items() if part not in arms] or [person], 0)
    around = np.any(list(arms.values()), 0)
    seeds = np.select([~person, np.any(cores, 0), others & ~around], [1, 2, 3], 0).astype(np.int32)
    size = tuple(2 * n for n in seeds.shape[::-1])
    marks = cv2.resize(seeds, size, interpolation=cv2.INTER_NEAREST)
    cv2.watershed(cv2.resize(reference, size, interpolation=cv2.INTER_CUBIC), marks)
    behind = cv2.resize((marks == 3).astype(np.float32), seeds.shape[::-1], interpolation=cv2.INTER_AREA) >= 0.5
    return regions | {part: region & ~behind for part, region in arms.items()}


def _depth(region: Bool[ndarray, "height width"]) -> Float32[ndarray, "height width"]:
    return cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, 3)


def part_regions(pose: PoseSequence) -> dict[str, Bool[ndarray, "height width"]]:
    """Return masks of the pixels that the visible parts may cover; an undetected hand extends a visible forearm."""
    xy, confidence = pose.xy[0].astype(np.float64), pose.confidence[0].astype(np.float64)
    seen = [part for part in BACK_TO_FRONT if mean_confidence(confidence, part) >= UNSEEN]
    unit, face = body_unit(xy), has_face(confidence)
    regions = {part: part_region(xy, part, unit, pose.size, face=face) for part in seen}
    for part in BACK_TO_FRONT:
        if "hand" in part and part not in seen and (bone := ENDS[part][1]) in seen:  # it continues the forearm
            elbow, wrist = xy[list(BONES[bone][:2])]
            ends = wrist + np.array([[0.1], [0.5]]) * (wrist - elbow)
            regions[part] = cv2.dilate(hull_mask(ends, pose.size).astype(np.uint8), disc(0.09 * unit)) > 0
    return regions


def _matte(
    picture: Frame, colours: Frame, background: Frame, person: Bool[ndarray, "height width"]
) -> Float32[ndarray, "height width"]:
    """Estimate the person's opacity, at the outline by its colour between `background` (0) and `colours` (1)."""
    seen, front = (x.astype(np.float32) - background for x in (picture, colours))
    apart = (front**2).sum(-1)
    alpha = np.clip((seen * front).sum(-1) / np.maximum(apart, 1), 0, 1)
    rim = (cv2.dilate(person.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0) & (_depth(person) < 2)
    return np.where(rim & (apart >= CONTRAST**2), alpha, person | rim).astype(np.float32)


def _layer(colours: ndarray, part: str, region: ndarray, person: ndarray, arms: ndarray) -> ndarray:
    """Return premultiplied colours and opacity of a part; torso, head and thighs continue behind the arms."""
    behind = _is_behind_arms(part)
    alpha = np.minimum(cv2.GaussianBlur(region.astype(np.float32), (3, 3), 0.6), np.maximum(person, arms * behind))
    return np.dstack([colours[int(behind)] * alpha[..., None], alpha]).astype(np.float32)


@functools.cache
def _segmenter() -> SelfieSegmenter:
    return SelfieSegmenter(threads=1, device="cpu")


def segment_person(reference: Frame, pose: PoseSequence) -> Bool[ndarray, "height width"]:
    """Segment the person with the bundled network and, at the outline, by colour (GrabCut at twice the size)."""
    likely = _segmenter().mask(reference, pose.xy[0], pose.confidence[0])
    sure = cv2.erode((likely > 200).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    classes = [cv2.GC_FGD, cv2.GC_PR_FGD, cv2.GC_PR_BGD]
    trimap = np.select([sure, likely >= 128, likely >= 50], classes, cv2.GC_BGD).astype(np.uint8)
    if not (trimap == cv2.GC_BGD).any() or not sure.any():
        return likely >= 128
    cv2.setRNGSeed(0)  # GrabCut initialises k-means from OpenCV's random generator
    trimap = cv2.resize(trimap, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    large = cv2.resize(reference, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    cv2.grabCut(large, trimap, (0, 0, 0, 0), np.zeros((1, 65)), np.zeros((1, 65)), 2, cv2.GC_INIT_WITH_MASK)
    person = np.isin(trimap, [cv2.GC_FGD, cv2.GC_PR_FGD]).astype(np.float32)
    return cv2.resize(person, reference.shape[1::-1], interpolation=cv2.INTER_AREA) >= 0.5


def _pixel_centres(matrix: Affine) -> Affine:
    """Convert from pixel centres at integer + 0.5 to OpenCV's convention, centres at integers."""
    half = np.array([0.5, 0.5])
    return np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2] @ half - half])


def check_poses(reference: Frame, reference_pose: PoseSequence, poses: PoseSequence) -> None:
    """Raise InputError unless there are a uint8 RGB picture, one pose of it, and at least one pose of the same size."""
    reference = np.asarray(reference)
    if reference.ndim != 3 or reference.shape[-1] != 3 or reference.dtype != np.uint8 or not reference.size:
        raise InputError(f"reference {reference.shape} of {reference.dtype}", "(height, width, 3) of uint8", "use RGB")
    size = (reference.shape[0], reference.shape[1])
    if len(reference_pose) != 1 or len(poses) < 1:
        got = f"{len(reference_pose)} reference and {len(poses)} driving poses"
        raise InputError(got, "one reference pose and at least one driving pose", "cut the reference pose to one frame")
    if reference_pose.size != size or poses.size != size:
        got = f"picture {size}, reference pose {reference_pose.size}, driving poses {poses.size}"
        raise InputError(got, "one size", "scale the poses with PoseSequence.scaled")
