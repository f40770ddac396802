"""Composite the moving person onto the background of the picture, which is the same in every frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from jaxtyping import Float32, Int, UInt8
from numpy import ndarray

from mimicmotion.arrays import Frame
from mimicmotion.errors import InputError

Mask = UInt8[ndarray, "height width"]

# Distances from the person's mask, as fractions of the person's height:
SURE = 0.02  # up to this distance, frames are opaque ...
REACH = 0.04  # ... and from this distance on, transparent
HOLE = 0.03  # up to this distance, the picture is inpainted, to avoid a fringe
EDGE = 0.06  # decay length from inpainting to patches, as a fraction of the picture's short side
PATCH = 7  # side of a patch in pixels
COARSE = 24  # minimum short side of the coarsest pyramid level in pixels
SEARCHED = 2**13  # maximum pixels of a pyramid level in which patches are searched; larger levels reuse the matches
ROWS = 800.0  # weight of a patch's row in the search: floors and walls continue at the same height


class KeptBackground:
    """Composites the person of each frame onto the background of a picture.

    Args:
        picture: RGB picture.
        person: mask of the person in the picture, 0..255; values of at least 128 count as the person.

    Attributes:
        background: the picture, with the person removed by inpainting.
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
        """Compute the opacity of a frame's pixels: 1 up to a distance of `SURE` from the person, 0 from `REACH` on."""
        distance = distance_outside(person) / self.height
        return np.clip((REACH - distance) / (REACH - SURE), 0, 1)

    def apply(self, frame: Frame, person: Mask) -> Frame:
        """Composite the person of a frame, with a soft margin, onto the background of the picture.

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
    """Lazily composite the person of each frame onto the background of the picture.

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
    """Compute the distance of each pixel from the person in pixels: 0 on the person, infinite if there is none."""
    outside = (person < 128).astype(np.uint8)
    if outside.all():
        return np.full(person.shape, np.inf, np.float32)
    return cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def fill_hole(picture: Frame, hole: ndarray) -> Frame:
    """Inpaint a hole with patches from the rest of the picture, from coarse to fine (Wexler et al. 2007).

    Each patch that overlaps the hole is replaced by the most similar one outside. Overlapping patches are averaged.

    Args:
        picture: RGB picture.
        hole: bool mask (height, width) of the pixels to fill.
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
    """Return the displacement (rows, columns) from each patch centred in `near` to the most similar patch elsewhere."""
    half = PATCH // 2
    padded = cv2.copyMakeBorder(image, half, half, half, half, cv2.BORDER_REFLECT_101)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (PATCH, PATCH), (0, 1))
    targets, sources = np.argwhere(near), np.argwhere(~near)
    queries, keys = (
        np.concatenate([windows[tuple(p.T)].reshape(len(p), -1), p[:, :1] * (ROWS / len(near))], 1, dtype=np.float32)
        for p in (targets, sources)
    )
    squares = (keys**2).sum(1)
    best = [(squares - 2 * chunk @ keys.T).argmin(1) for chunk in np.array_split(queries, len(queries) // 512 + 1)]
    return sources[np.concatenate(best)] - targets


def _votes(
    image: Float32[ndarray, "height width 3"], gap: ndarray, field: Int[ndarray, "height width 2"]
) -> Float32[ndarray, "n 3"]:
    """Average the colours that overlapping patches assign to each pixel in the gap; unchanged if there are none."""
    pixels, last = np.argwhere(gap), np.array(gap.shape) - 1
    total, votes = 1e-3 * image[gap], np.full((len(pixels), 1), 1e-3, np.float32)
    for shift in np.ndindex(PATCH, PATCH):
        source = pixels + field[tuple(np.clip(pixels + shift - np.array(PATCH // 2), 0, last).T)]
        valid = ((source >= 0) & (source <= last)).all(1)
        row, column = np.clip(source, 0, last).T
        valid = (valid & ~gap[row, column])[:, None]
        total, votes = total + valid * image[row, column], votes + valid
    return total / votes


def _check(frame: Frame, mask: Mask, size: tuple[int, int] | None = None) -> None:
    size = size or frame.shape[:2]
    if frame.shape != (*size, 3) or frame.dtype != np.uint8 or mask.shape != size or mask.dtype != np.uint8:
        got = f"a {frame.dtype} frame of shape {frame.shape} with a {mask.dtype} mask of shape {mask.shape}"
        raise InputError(got, f"uint8, (height, width) = {size}", "scale frames and masks to the size of the picture")
