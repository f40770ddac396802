"""Keep the background of the picture behind the moving person, unchanged in every frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from mimicmotion.arrays import Frame
from mimicmotion.errors import InputError

Mask = UInt8[ndarray, "height width"]

# Margins around the person's mask, as fractions of the person's height:
SURE = 0.02  # within this distance, a frame is opaque ...
REACH = 0.04  # ... and beyond this one, transparent
HOLE = 0.03  # within this distance, the picture is inpainted, to avoid a fringe
EDGE = 0.08  # fraction of the picture's short side over which the fill turns from sharp to soft
ASIDE = 3.0  # ratio of horizontal to vertical blur of the fill


class KeptBackground:
    """The background of a picture, onto which the person of other frames is composited.

    Args:
        picture: RGB picture.
        person: mask of the person in the picture, 0..255 (see `mimicmotion.pose.mask`); 128 or more is the person.

    Attributes:
        background: the picture with the person removed by inpainting.
        height: height of the person in pixels.

    Raises:
        InputError: picture and mask differ in size, or are not uint8.
    """

    def __init__(self, picture: Frame, person: Mask) -> None:
        _check(picture, person)
        self._size = picture.shape[:2]
        rows = np.flatnonzero((person >= 128).any(1))
        self.height = int(np.ptp(rows)) + 1 if len(rows) else picture.shape[0]
        self.background = fill_hole(picture, distance_outside(person) <= HOLE * self.height)

    def weight(self, person: Mask) -> Float32[ndarray, "height width"]:
        """Opacity of a frame, 0..1: 1 on the person and up to `SURE`, falling to 0 at `REACH`."""
        far = distance_outside(person) / self.height
        return np.clip((REACH - far) / (REACH - SURE), 0, 1)

    def apply(self, frame: Frame, person: Mask) -> Frame:
        """Composite the person of a frame, with a margin up to `REACH`, onto the background of the picture.

        Args:
            frame: RGB frame of the picture's size.
            person: mask of the person in the frame, 0..255.

        Raises:
            InputError: frame or mask has a wrong size or dtype.
        """
        _check(frame, person, self._size)
        weight = self.weight(person)[..., None]
        mixed = self.background + weight * (frame.astype(np.float32) - self.background)
        return np.rint(mixed).astype(np.uint8)


def keep_background(picture: Frame, person: Mask, frames: Iterable[Frame], people: Iterable[Mask]) -> Iterator[Frame]:
    """Composite the person of each frame onto the background of the picture, one frame at a time.

    Args:
        picture: RGB picture.
        person: mask of the person in the picture, 0..255.
        frames: RGB frames of the picture's size.
        people: masks of the person in the frames, 0..255.

    Raises:
        InputError: a frame or mask has a wrong size or dtype.
    """
    kept = KeptBackground(picture, person)
    for frame, mask in zip(frames, people, strict=True):
        yield kept.apply(frame, mask)


def distance_outside(person: Mask) -> Float32[ndarray, "height width"]:
    """Distance of each pixel from the person, in pixels; 0 on the person, infinite without a person."""
    outside = (person < 128).astype(np.uint8)
    if outside.all():
        return np.full(person.shape, np.inf, np.float32)
    return cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def fill_hole(picture: Frame, hole: ndarray) -> Frame:
    """Inpaint a hole with Telea's method at its edge, a wide blur of the surroundings in its middle, and grain.

    The blur is wider than it is tall, because horizons, floors and shelves continue behind a standing person.
    """
    height, width = hole.shape
    if hole.all() or not hole.any():
        return picture.copy()
    known = (~hole).astype(np.float32)
    inside = picture * known[..., None]
    filled, reach = np.zeros(picture.shape, np.float32), float(max(height, width))
    share: ndarray | float = 1.0
    while reach > 0.5:
        weight, colours = (_wide_mean(part, reach) for part in (known, inside))
        filled += share * (colours / np.maximum(weight, 1e-6)[..., None] - filled)
        reach /= 1.5
        share = np.clip(4 * _wide_mean(known, reach), 0, 1)[..., None]
    telea = cv2.inpaint(picture, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)  # sharp at the edge, streaky inside
    depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    sharp = np.exp(-depth / (EDGE * min(height, width)))[..., None]
    filled += sharp * (telea - filled)
    edge = (cv2.dilate(hole.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0) & ~hole
    fine = picture[edge] - cv2.GaussianBlur(picture, (0, 0), 1.5)[edge].astype(np.float32)
    grain = np.random.default_rng(0).normal(0, 1.48 * np.median(abs(fine)) if fine.size else 0.0, (height, width, 1))
    filled += (1 - sharp) * grain
    return np.where(hole[..., None], np.clip(np.rint(filled), 0, 255), picture).astype(np.uint8)


def _wide_mean(image: Float32[ndarray, "height width *colours"], reach: float) -> ndarray:
    """Gaussian blur by `reach` pixels vertically and `ASIDE` times that horizontally; wide blurs are downsampled."""
    height, width = image.shape[:2]
    shrink = max(1.0, reach / 4)
    size = max(1, round(width / shrink)), max(1, round(height / shrink))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    sigma = reach * size[0] / width
    blurred = cv2.GaussianBlur(small, (0, 0), ASIDE * sigma, sigmaY=sigma, borderType=cv2.BORDER_REFLECT)
    return cv2.resize(blurred, (width, height))


def _check(frame: Frame, mask: Mask, size: tuple[int, int] | None = None) -> None:
    size = size or frame.shape[:2]
    if frame.shape != (*size, 3) or frame.dtype != np.uint8 or mask.shape != size or mask.dtype != np.uint8:
        got = f"a frame {frame.shape} of {frame.dtype} with a mask {mask.shape} of {mask.dtype}"
        raise InputError(got, f"uint8 of (height, width) {size}", "scale frames and masks to the picture's size")
