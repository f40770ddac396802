"""Keep the background of the picture behind the moving person, unchanged in every frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from jaxtyping import Float32, Int, UInt8
from numpy import ndarray

from mimicmotion.arrays import Frame
from mimicmotion.errors import InputError

Mask = UInt8[ndarray, "height width"]

# Margins around the person's mask, as fractions of the person's height:
SURE = 0.02  # within this distance, a frame is opaque ...
REACH = 0.04  # ... and beyond this one, transparent
HOLE = 0.03  # within this distance, the picture is inpainted, to avoid a fringe
EDGE = 0.06  # fraction of the picture's short side over which the fill turns from a blurred continuation to patches
PATCH = 7  # side of a patch of the fill in pixels
COARSE = 24  # minimum short side of the coarsest picture in pixels
SEARCHED = 2**13  # patches are searched for in pictures of at most this many pixels, and only copied in larger ones
ROWS = 800.0  # weight of a patch's row in the search: floors and walls continue at the same height


class KeptBackground:
    """The background of a picture, onto which the person of other frames is composited.

    Args:
        picture: RGB picture.
        person: mask of the person in the picture, 0..255 (see `mimicmotion.pose.mask`); 128 or more is the person.

    Attributes:
        background: the picture with the person removed by inpainting.
        height: height of the person in pixels.

    Raises:
        InputError: the picture and the mask differ in size, or are not uint8.
    """

    def __init__(self, picture: Frame, person: Mask) -> None:
        _check(picture, person)
        self._size = picture.shape[:2]
        rows = np.flatnonzero((person >= 128).any(1))
        self.height = int(np.ptp(rows)) + 1 if len(rows) else picture.shape[0]
        self.background = fill_hole(picture, distance_outside(person) <= HOLE * self.height)

    def weight(self, person: Mask) -> Float32[ndarray, "height width"]:
        """Opacity of a frame, 0..1: 1 within a distance of `SURE` from the person, falling to 0 at `REACH`."""
        far = distance_outside(person) / self.height
        return np.clip((REACH - far) / (REACH - SURE), 0, 1)

    def apply(self, frame: Frame, person: Mask) -> Frame:
        """Composite the person of a frame, with a margin up to `REACH`, onto the background of the picture.

        Args:
            frame: RGB frame of the picture's size.
            person: mask of the person in the frame, 0..255.

        Raises:
            InputError: the frame or the mask has the wrong size or dtype.
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
        InputError: a frame or mask has the wrong size or dtype.
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
    """Fill a hole with patches from elsewhere in the picture, from coarse to fine (Wexler et al. 2007).

    Each patch is replaced by the most similar one outside the hole, and each pixel is the mean over the patches around
    it.
    """
    if hole.all() or not hole.any():
        return picture.copy()
    height, width = hole.shape
    scale = 1 << max(0, int(np.log2(min(height, width) / COARSE)))
    filled = field = None
    while scale:
        size = max(width // scale, 1), max(height // scale, 1)
        known = cv2.resize((~hole).astype(np.float32), size, interpolation=cv2.INTER_AREA)
        image = cv2.resize(np.where(hole[..., None], 0, picture).astype(np.float32), size, interpolation=cv2.INTER_AREA)
        image, gap = image / np.maximum(known, 1e-6)[..., None], known < 0.5
        near = cv2.dilate(gap.astype(np.uint8), np.ones((PATCH, PATCH), np.uint8)) > 0
        if filled is None or field is None:
            first = cv2.inpaint(image.astype(np.uint8), gap.astype(np.uint8), 3, cv2.INPAINT_TELEA)
            filled, field = first.astype(np.float32), np.zeros((*gap.shape, 2), int)
        else:
            finer = cv2.resize(filled, size, interpolation=cv2.INTER_CUBIC)
            filled = np.where(gap[..., None], finer, image)
            field = 2 * cv2.resize(field.astype(np.float32), size, interpolation=cv2.INTER_NEAREST).astype(int)
        searched = gap.size <= SEARCHED and not near.all()
        for _ in range(6 if searched else 1):
            if searched:
                field[near] = _most_similar(filled, near)
            filled[gap] = _votes(filled, gap, field)
        scale //= 2
    assert filled is not None
    telea = cv2.inpaint(picture, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)  # continuous at the edge, streaky inside
    depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    filled += np.exp(-depth / (EDGE * min(height, width)))[..., None] * (telea - filled)
    return np.where(hole[..., None], np.clip(np.rint(filled), 0, 255), picture).astype(np.uint8)


def _most_similar(image: Float32[ndarray, "height width 3"], near: ndarray) -> Int[ndarray, "n 2"]:
    """Displacement (rows, columns) from each patch at the hole to the most similar patch elsewhere."""
    reach = PATCH // 2
    padded = cv2.copyMakeBorder(image, reach, reach, reach, reach, cv2.BORDER_REFLECT_101)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (PATCH, PATCH), (0, 1))
    here, there = np.argwhere(near), np.argwhere(~near)
    wanted, offered = (
        np.concatenate([windows[tuple(at.T)].reshape(len(at), -1), at[:, :1] * (ROWS / len(near))], 1, dtype=np.float32)
        for at in (here, there)
    )
    squares = (offered**2).sum(1)
    best = [(squares - 2 * some @ offered.T).argmin(1) for some in np.array_split(wanted, len(wanted) // 512 + 1)]
    return there[np.concatenate(best)] - here


def _votes(
    image: Float32[ndarray, "height width 3"], gap: ndarray, field: Int[ndarray, "height width 2"]
) -> Float32[ndarray, "n 3"]:
    """Mean colour of each pixel in the gap over the patches around it; unchanged where there are none."""
    at, last = np.argwhere(gap), np.array(gap.shape) - 1
    total, votes = 1e-3 * image[gap], np.full((len(at), 1), 1e-3, np.float32)
    for by in np.ndindex(PATCH, PATCH):
        source = at + field[tuple(np.clip(at + by - np.array(PATCH // 2), 0, last).T)]
        valid = ((source >= 0) & (source <= last)).all(1)
        row, column = np.clip(source, 0, last).T
        valid = (valid & ~gap[row, column])[:, None]
        total, votes = total + valid * image[row, column], votes + valid
    return total / votes


def _check(frame: Frame, mask: Mask, size: tuple[int, int] | None = None) -> None:
    size = size or frame.shape[:2]
    if frame.shape != (*size, 3) or frame.dtype != np.uint8 or mask.shape != size or mask.dtype != np.uint8:
        got = f"a frame {frame.shape} of {frame.dtype} with a mask {mask.shape} of {mask.dtype}"
        raise InputError(got, f"uint8, height and width {size}", "scale frames and masks to the picture's size")
