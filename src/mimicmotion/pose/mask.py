"""Person segmentation: the segmenter protocol, and MediaPipe's selfie segmentation guided by the pose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeAlias, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray

from mimicmotion.errors import PoseError
from mimicmotion.pose import keypoints as kp
from mimicmotion.pose.estimators.base import Frame
from mimicmotion.pose.estimators.holistic.networks import Networks
from mimicmotion.pose.guidance.limbs import (
    BACK_TO_FRONT,
    ENDS,
    UNSEEN,
    body_unit,
    has_face,
    mean_confidence,
    part_region,
    points_of,
)
from mimicmotion.pose.keypoints import PoseSequence

Mask: TypeAlias = UInt8[ndarray, "height width"]
"""255 for the person, 0 for the background; values of at least 128 count as the person."""
Box: TypeAlias = Float[ndarray, "4"]
"""(left, top, right, bottom) in pixels."""

PIXELS = 256  # side of the network's input
CANVAS = 512  # maximum side of the person's crop in pixels: the network resolves no finer outline
MARGINS = (1.2, 1.5)  # factors that enlarge the person's box in the network's two passes; the second is mirrored
REACH = 0.3  # maximum distance of the person's outline from the parts of the pose, in torso lengths
CORE = 0.6  # pixels deeper inside a part, in half-widths, belong to the person regardless of the network ...
CORE_OF_ENDS = 0.4  # (the same for hands and feet)
CORE_CONFIDENCE = 0.6  # ... if the mean confidence of the part's points is at least this
PENALTY = 0.35  # subtracted from the network's output (0..1) at distance REACH, decreasing linearly to 0 on the parts
DETECTED = 0.3  # minimum confidence of a joint whose position is used
EXTENTS = (  # maximum extent of a limb from its first joint if the second was not detected, in torso lengths
    *((kp.R_SHOULDER, kp.R_ELBOW, 1.4), (kp.L_SHOULDER, kp.L_ELBOW, 1.4)),
    *((kp.R_ELBOW, kp.R_WRIST, 0.9), (kp.L_ELBOW, kp.L_WRIST, 0.9)),
    *((kp.R_HIP, kp.R_KNEE, 2.0), (kp.L_HIP, kp.L_KNEE, 2.0)),
    *((kp.R_KNEE, kp.R_ANKLE, 1.1), (kp.L_KNEE, kp.L_ANKLE, 1.1)),
)


@runtime_checkable
class PersonSegmenter(Protocol):
    """Protocol for segmenting one person in the frames of a video."""

    def masks(self, frames: Iterable[Frame], poses: PoseSequence) -> Iterator[Mask]:
        """Yield one mask per frame, of the frame's size, as soon as it is ready.

        Args:
            frames: RGB frames of equal size, consumed once and in order.
            poses: poses of the person, one per frame, in pixels of the frames.
        """
        ...


class SelfieSegmenter:
    """MediaPipe's selfie segmentation (bundled), run on the pose's bounding box and constrained by the pose.

    Without a pose, the whole frame is segmented. Frames are independent: a temporal median would erase fast hands.

    Args:
        threads: number of CPU threads; None lets onnxruntime decide.
        device: "auto", "cpu" or "cuda".
    """

    def __init__(self, threads: int | None = None, device: str = "auto") -> None:
        self._networks = Networks(threads, device)

    def masks(self, frames: Iterable[Frame], poses: PoseSequence) -> Iterator[Mask]:
        """Yield one mask per frame, of the frame's size, as soon as it is ready.

        Args:
            frames: RGB frames of equal size, consumed once and in order.
            poses: poses of the person, one per frame, in pixels of the frames.

        Raises:
            PoseError: the poses do not match the frames in number or size.
        """
        count = 0
        last: tuple[Frame, tuple[ndarray, ndarray], Mask] | None = None
        for count, frame in enumerate(frames, 1):
            if count > len(poses) or frame.shape[:2] != poses.size:
                got = f"frame {count - 1} of size {frame.shape[:2]} with {len(poses)} poses for size {poses.size}"
                raise PoseError(got, "one pose per frame, in pixels of the frame", "use the poses of these frames")
            pose = poses.xy[count - 1], poses.confidence[count - 1]
            if last is None or frame is not last[0] or not all(map(np.array_equal, pose, last[1])):
                last = frame, pose, self.mask(frame, *pose)
            yield last[2]
        if count != len(poses):
            got = f"{count} frames, but {len(poses)} poses"
            raise PoseError(got, "one pose per frame", "use the poses of these frames")

    def mask(self, frame: Frame, xy: Float[ndarray, "134 2"], confidence: Float32[ndarray, " 134"]) -> Mask:
        """Compute the mask of a frame.

        Args:
            frame: RGB frame.
            xy: keypoints in pixels of the frame.
            confidence: confidence of the keypoints, 0..1.
        """
        xy, confidence = xy.copy(), confidence.copy()
        for small, big in ((19, 18), (22, 21)):  # the bundled estimator does not detect small toes
            if confidence[small] == 0:
                xy[small], confidence[small] = xy[big], confidence[big]
        detected = confidence > 0  # the positions of other points are undefined
        xy = np.where(detected[:, None], xy, xy[detected].mean(0) if detected.any() else 0).astype(np.float64)
        parts = [
            part
            for part in BACK_TO_FRONT
            if mean_confidence(confidence, part) >= UNSEEN and detected[points_of(part)].all()
        ]
        left, top, right, bottom = 0, 0, *frame.shape[1::-1]
        if parts:
            left, top, right, bottom = _person_box(xy[detected], body_unit(xy), _open_ends(xy, confidence), frame)
        crop = frame[top:bottom, left:right]
        scale = min(1.0, CANVAS / max(crop.shape[:2]))
        size = (max(1, round(crop.shape[1] * scale)), max(1, round(crop.shape[0] * scale)))
        canvas = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
        if parts:
            points = (xy - np.array([left, top])) * (np.array(size) / crop.shape[1::-1])
            person = self._guided(canvas, points, confidence, parts)
        else:
            person = self._segment(canvas, np.array([0.0, 0.0, *size]))
        mask = np.zeros(frame.shape[:2], np.uint8)
        large = cv2.resize(person, crop.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        mask[top:bottom, left:right] = np.rint(255 * large)
        return mask

    def _guided(
        self, canvas: Frame, xy: Float[ndarray, "134 2"], confidence: Float32[ndarray, " 134"], parts: list[str]
    ) -> Float32[ndarray, "height width"]:
        unit, size, face = body_unit(xy), canvas.shape[:2], has_face(confidence)
        regions = {part: part_region(xy, part, unit, size, face=face) for part in parts}
        union = np.any(list(regions.values()), 0).astype(np.uint8)
        for end in _open_ends(xy, confidence):
            cv2.circle(union, np.rint(end[:2]).astype(int).tolist(), int(end[2]), 1, -1)
        if not union.any():  # the whole person is outside the frame
            return np.zeros(size, np.float32)
        if "torso" not in regions:  # the torso may be anywhere near the detected parts
            union[:] = 1
        rows, columns = np.flatnonzero(union.any(1)), np.flatnonzero(union.any(0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)
        mirrored = box[[2, 1, 0, 3]] * (-1, 1, -1, 1) + (size[1], 0, size[1], 0)
        first = self._segment(canvas, _grown(box, MARGINS[0]))
        second = self._segment(canvas[:, ::-1], _grown(mirrored, MARGINS[1]))[:, ::-1]
        distance = cv2.distanceTransform(1 - union, cv2.DIST_L2, 5) / (REACH * unit)
        output = np.maximum((first + second) / 2 - PENALTY * distance, 0)
        # the head has no core: no keypoint marks its top, and the network segments heads best
        confident = [p for p in regions if p != "head" and mean_confidence(confidence, p) >= CORE_CONFIDENCE]
        cores = [_core(regions[part], part) for part in confident]
        return np.where(distance <= 1, np.max([output, *cores], 0), 0).astype(np.float32)

    def _segment(self, image: Frame, box: Box) -> Float32[ndarray, "height width"]:
        """Return the network's output (0..1) for a box, which is stretched to fill its input."""
        scale = PIXELS / (box[2:] - box[:2])
        to_input = np.column_stack([np.diag(scale), (0.5 - box[:2]) * scale - 0.5])  # pixel centres at integers
        crop = cv2.warpAffine(image, to_input, (PIXELS, PIXELS), borderMode=cv2.BORDER_REPLICATE)
        back = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(self._networks.person(crop), to_input, image.shape[1::-1], flags=back)


def _open_ends(xy: Float[ndarray, "134 2"], confidence: Float32[ndarray, " 134"]) -> Float[ndarray, "n 3"]:
    """Return the joints whose next joint was not detected, as (x, y, maximum extent of the limb) in pixels."""
    unit = body_unit(xy)
    ends = [(*xy[a], extent * unit) for a, b, extent in EXTENTS if confidence[a] >= DETECTED > confidence[b]]
    return np.array(ends, np.float64).reshape(-1, 3)


def _person_box(
    points: Float[ndarray, "n 2"], unit: float, ends: Float[ndarray, "m 3"], frame: Frame
) -> tuple[int, int, int, int]:
    """Return the box (left, top, right, bottom) that may show the person, with the margin that the network needs."""
    low = np.concatenate([points - unit / 2, ends[:, :2] - ends[:, 2:]]).min(0)
    high = np.concatenate([points + unit / 2, ends[:, :2] + ends[:, 2:]]).max(0)
    size = frame.shape[1::-1]
    box = _grown(np.concatenate([np.maximum(low, -unit), np.minimum(high, np.add(size, unit))]), MARGINS[-1])
    limits = np.array(frame.shape[1::-1])
    low, high = np.clip(np.floor(box[:2]), 0, limits - 1), np.clip(np.ceil(box[2:]), 1, limits)
    high = np.maximum(high, low + 1)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _grown(box: Box, factor: float) -> Box:
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * factor
    return np.concatenate([middle - half, middle + half])


def _core(region: Bool[ndarray, "height width"], part: str) -> Bool[ndarray, "height width"]:
    """Return the inner part of a region, which belongs to the person regardless of the network; see `CORE`."""
    depth = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, 3)
    return (depth > (CORE_OF_ENDS if part in ENDS else CORE) * depth.max()) & region
