"""The picture's own background behind a moving person: what is not the person stays as it was, in every frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from mimicmotion.errors import InputError

Frame = UInt8[ndarray, "height width 3"]
Mask = UInt8[ndarray, "height width"]

REACH = 0.04  # of the person's height: so far around the mask a frame still shows through ...
SURE = 0.02  # ... and so far alone; the seam lies between
HOLE = 0.03  # of the person's height: so far around the person the picture is filled in, not to leave a fringe
EDGE = 0.08  # of the picture's short side: over so much the fill turns from sharp to soft
ASIDE = 3.0  # how much further the fill looks aside than up and down


class KeptBackground:
    """A picture without its person, to lay other frames' person on.

    Args:
        picture: RGB.
        person: the person in it, as `mimicmotion.pose.mask` finds it: from 128 on.

    Attributes:
        background: the picture with the person filled in, once: it stays the same in all frames.
        height: of the person, pixels.

    Raises:
        InputError: the mask has another size.
    """

    def __init__(self, picture: Frame, person: Mask) -> None:
        _check(picture, person)
        self._size = picture.shape[:2]
        rows = np.flatnonzero((person >= 128).any(1))
        self.height = int(np.ptp(rows)) + 1 if len(rows) else picture.shape[0]
        self.background = fill_hole(picture, distance_outside(person) <= HOLE * self.height)

    def weight(self, person: Mask) -> Float32[ndarray, "height width"]:
        """How much of a frame shows: 1 on and close to the person, 0 from `REACH` on, softly falling between."""
        far = distance_outside(person) / self.height
        return np.clip((REACH - far) / (REACH - SURE), 0, 1)

    def apply(self, frame: Frame, person: Mask) -> Frame:
        """The frame's person, its surroundings within `REACH`, and the picture's background.

        Args:
            frame: RGB, of the picture's size.
            person: the person in it.

        Raises:
            InputError: a size differs.
        """
        _check(frame, person, self._size)
        weight = self.weight(person)[..., None]
        mixed = self.background + weight * (frame.astype(np.float32) - self.background)
        return np.rint(mixed).astype(np.uint8)


def keep_background(picture: Frame, person: Mask, frames: Iterable[Frame], people: Iterable[Mask]) -> Iterator[Frame]:
    """Put the person of each frame on the background of the picture; one frame is held at a time.

    Args:
        picture: RGB.
        person: its person, 0..255.
        frames: RGB, of the picture's size.
        people: the person in each frame.

    Raises:
        InputError: a size differs.
    """
    kept = KeptBackground(picture, person)
    for frame, mask in zip(frames, people, strict=True):
        yield kept.apply(frame, mask)


def distance_outside(person: Mask) -> Float32[ndarray, "height width"]:
    """Pixels from the person; 0 on it, infinite where there is none."""
    outside = (person < 128).astype(np.uint8)
    if outside.all():
        return np.full(person.shape, np.inf, np.float32)
    return cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def fill_hole(picture: Frame, hole: ndarray) -> Frame:
    """Fill in what the hole hides: Telea's fill at the edge, wide means of what is around in the middle, and grain.

    The means reach further aside than up and down: horizons, floors and shelves go on behind a standing person.
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
    telea = cv2.inpaint(picture, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)  # sharp at the edge, rays in the middle
    depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    sharp = np.exp(-depth / (EDGE * min(height, width)))[..., None]
    filled += sharp * (telea - filled)
    edge = (cv2.dilate(hole.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0) & ~hole
    fine = picture[edge] - cv2.GaussianBlur(picture, (0, 0), 1.5)[edge].astype(np.float32)
    grain = np.random.default_rng(0).normal(0, 1.48 * np.median(abs(fine)) if fine.size else 0.0, (height, width, 1))
    filled += (1 - sharp) * grain
    return np.where(hole[..., None], np.clip(np.rint(filled), 0, 255), picture).astype(np.uint8)


def _wide_mean(image: Float32[ndarray, "height width *colours"], reach: float) -> ndarray:
    """Gaussian mean over so many pixels up and down, `ASIDE` times as many aside; wide ones of a smaller image."""
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
