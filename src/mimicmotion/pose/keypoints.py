"""`PoseSequence`: the keypoints of one person over time, with the estimator's confidence."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32, Int
from numpy import ndarray

from mimicmotion.errors import PoseError

if TYPE_CHECKING:
    from mimicmotion.video.geometry import Fit

# Layout of the 134 points (COCO-WholeBody order with OpenPose's 18 body points in front):
# nose, neck, R shoulder, elbow, wrist, L ..., R hip, knee, ankle, L ..., R eye, L eye, R ear, L ear
BODY = slice(0, 18)
FEET = slice(18, 24)  # L big toe, small toe, heel, R big toe, small toe, heel
LEFT_FOOT, RIGHT_FOOT = slice(18, 21), slice(21, 24)
FACE = slice(24, 92)  # 68 iBUG points
LEFT_HAND = slice(92, 113)  # wrist, then thumb, index, middle, ring, little finger from base to tip
RIGHT_HAND = slice(113, 134)
NUM_POINTS = 134

# Indices of the body points.
NOSE, NECK = 0, 1
R_SHOULDER, R_ELBOW, R_WRIST, L_SHOULDER, L_ELBOW, L_WRIST = 2, 3, 4, 5, 6, 7
R_HIP, R_KNEE, R_ANKLE, L_HIP, L_KNEE, L_ANKLE = 8, 9, 10, 11, 12, 13
R_EYE, L_EYE, R_EAR, L_EAR = 14, 15, 16, 17

_FACE_MIRRORED = (
    *(*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)),  # jaw, brows, nose
    *(*range(45, 41, -1), 47, 46, *range(39, 35, -1), 41, 40),  # eyes
    *(*range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1)),  # mouth
)
MIRRORED = np.array(
    [
        *(NOSE, NECK, *range(5, 8), *range(2, 5), *range(11, 14), *range(8, 11), 15, 14, 17, 16),
        *(*range(21, 24), *range(18, 21), *(FACE.start + i for i in _FACE_MIRRORED)),
        *(*range(113, 134), *range(92, 113)),
    ]
)
"""Index of each point's counterpart in a mirrored pose."""

VISIBLE = 0.3
"""Confidence above which a point counts as visible: the published code's threshold for drawing and retargeting."""


@dataclass(frozen=True, slots=True, eq=False)
class PoseSequence:
    """Keypoints of one person over time. Left and right are from the person's point of view.

    Attributes:
        xy: positions (x, y) in pixels of a frame of `size`, with pixel centres at integer + 0.5; finite even for points
            that were not detected. Converted to float64, because the released drawing style rounds to pixels of a large
            canvas.
        confidence: the estimator's confidence, 0..1; 0 for points that were not detected, all 0 without a person.
        size: (height, width) in pixels of the frame that `xy` refers to.
        fps: frames per second of the sequence.
        source: origin of the poses, such as the estimator and its version, or a file.
        people: number of people detected in each frame; 0 (default) if they were not counted.
    """

    xy: Float[ndarray, "frames 134 2"]
    confidence: Float32[ndarray, "frames 134"]
    size: tuple[int, int]
    fps: float = 0.0
    source: str = ""
    people: Int[ndarray, " frames_or_0"] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        object.__setattr__(self, "xy", np.asarray(self.xy, np.float64))
        frames = self.confidence.shape[0] if self.confidence.ndim else 0
        people = self.people if self.people.size else np.zeros(frames, np.int64)
        object.__setattr__(self, "people", people)
        if self.xy.shape != (frames, NUM_POINTS, 2) or self.confidence.shape != (frames, NUM_POINTS):
            raise PoseError(
                f"xy has shape {self.xy.shape}, and confidence {self.confidence.shape}",
                f"shapes (frames, {NUM_POINTS}, 2) and (frames, {NUM_POINTS})",
                "use the 134-point layout of mimicmotion.pose.keypoints",
            )
        if people.shape != (frames,):
            got, expected = f"people has shape {people.shape} with {frames} frames", "one number per frame"
            raise PoseError(got, expected, "select the same frames from all arrays, or omit 'people'")
        if not np.isfinite(self.xy).all() or not np.isfinite(self.confidence).all():
            fix = "give undetected points confidence 0 and any finite position"
            raise PoseError("the pose contains NaN or infinity", "finite numbers", fix)
        if frames and not (self.confidence.min() >= 0 and self.confidence.max() <= 1):
            low, high = float(self.confidence.min()), float(self.confidence.max())
            got = f"the confidences range from {low:.3g} to {high:.3g}"
            raise PoseError(got, "0 to 1", "rescale or clip the confidences")

    def __len__(self) -> int:
        return len(self.confidence)

    def __getitem__(self, frames: slice | list[int]) -> PoseSequence:
        part = {name: getattr(self, name)[frames] for name in ("xy", "confidence", "people")}
        return dataclasses.replace(self, **part)

    def mirrored(self) -> PoseSequence:
        """Flip the poses horizontally, as if they had been estimated in flipped frames."""
        xy = self.xy[:, MIRRORED] * (-1, 1) + (self.size[1], 0)
        return dataclasses.replace(self, xy=xy, confidence=self.confidence[:, MIRRORED])

    def scaled(self, size: tuple[int, int]) -> PoseSequence:
        """Scale the poses to frames of size (height, width)."""
        return dataclasses.replace(self, xy=self.xy * (size[1] / self.size[1], size[0] / self.size[0]), size=size)

    def fitted(self, fit: Fit) -> PoseSequence:
        """Transform the poses like the frames. Points outside the new frame get confidence 0."""
        xy = fit.points(self.xy)
        inside = ((xy >= 0) & (xy <= fit.target[::-1])).all(-1)
        return dataclasses.replace(self, xy=xy, confidence=self.confidence * inside, size=fit.target)
