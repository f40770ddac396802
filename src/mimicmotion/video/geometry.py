"""Resize, crop and letterbox pictures, video frames and keypoints with the same transform.

Sizes are (height, width) in pixels, points are (x, y). Pixel centres are at integer + 0.5, so a frame of width w spans
0..w, and the same affine transform applies to pixels and keypoints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image

from mimicmotion.arrays import Frame
from mimicmotion.errors import ConfigError

Size = tuple[int, int]
FitMode = Literal["crop", "letterbox", "stretch", "released"]
MAX_ASPECT = 2.0  # maximum aspect ratio of automatic sizes; the published weights were trained on 16:9
Resample = Literal["lanczos", "bicubic", "released"]


@dataclass(frozen=True, slots=True)
class Fit:
    """The affine transform target = source * scale + offset of each axis, and a resampling filter.

    Target pixels outside the source are black.

    Attributes:
        source: (height, width) of the input.
        target: (height, width) of the output.
        scale: target pixels per source pixel, (y, x).
        offset: position (y, x) of the source's top left corner in target pixels; negative for a crop.
        resample: `lanczos`, `bicubic` (both antialiased), or `released`: bilinear without antialiasing, as in the
            published code.
    """

    source: Size
    target: Size
    scale: tuple[float, float]
    offset: tuple[float, float]
    resample: Resample = "lanczos"

    def __post_init__(self) -> None:
        for name in ("source", "target"):
            if min(getattr(self, name)) < 1:
                raise ConfigError(f"{name} size {getattr(self, name)}", "at least 1 x 1 pixel", "check the sizes")

    def apply(self, image: Frame) -> UInt8[ndarray, "out_height out_width 3"]:
        """Resample a uint8 RGB picture or frame of size `source` to size `target`.

        Raises:
            ConfigError: the picture is not of size `source`.
        """
        if image.shape[:2] != self.source:
            raise ConfigError(
                f"a picture of {image.shape[0]} x {image.shape[1]} pixels",
                f"{self.source[0]} x {self.source[1]} (height x width)",
                "plan a transform for each source size",
            )
        # target pixels whose centres are inside the source; the others stay black
        (top, bottom), (left, right) = (self._covered(axis) for axis in (0, 1))
        full = (top, bottom, left, right) == (0, self.target[0], 0, self.target[1])
        if full and self.scale == (1.0, 1.0):
            y, x = (round(-o) for o in self.offset)
            if (-y, -x) == self.offset:
                return np.ascontiguousarray(image[y : y + self.target[0], x : x + self.target[1]])
        out = np.zeros((*self.target, 3), np.uint8)
        if top < bottom and left < right:
            resize = _resize_released if self.resample == "released" else _resize_pillow
            out[top:bottom, left:right] = resize(self, image, (top, bottom), (left, right))
        return out

    def points(self, xy: Float[ndarray, "*batch 2"]) -> Float[ndarray, "*batch 2"]:
        """Map points (x, y) from pixels of the source to pixels of the target, without clipping."""
        return xy * np.asarray(self.scale[::-1], xy.dtype) + np.asarray(self.offset[::-1], xy.dtype)

    @property
    def cut(self) -> tuple[float, float, float, float]:
        """Margins of the source that are cropped off: (top, bottom, left, right), as fractions of height and width."""
        margins = []
        for scale, offset, source, target in zip(self.scale, self.offset, self.source, self.target, strict=True):
            length = scale * source
            margins += [max(0.0, -offset / length), max(0.0, (offset + length - target) / length)]
        return margins[0], margins[1], margins[2], margins[3]

    def _covered(self, axis: int) -> tuple[int, int]:
        start = self.offset[axis]
        stop = start + self.scale[axis] * self.source[axis]
        # 1e-6: rounding must not drop the last row of a crop
        first, last = math.ceil(start - 0.5 - 1e-6), math.ceil(stop - 0.5 - 1e-6)
        return max(0, first), max(0, min(self.target[axis], last))


def plan_fit(source: Size, target: Size, mode: FitMode = "crop", *, anchor: tuple[float, float] = (0.5, 0.5)) -> Fit:
    """Plan the transform from size `source` to size `target`.

    Args:
        source: (height, width) of the picture or video, or of the frame that keypoints refer to.
        target: (height, width) of the output.
        mode: `crop` fills the target and crops the rest; `letterbox` shows the whole source and adds black bars;
            `stretch` ignores the aspect ratio; `released` is the published code's resize to integer sizes, without
            antialiasing, followed by a centre crop.
        anchor: position (y, x) of the crop, or of a letterboxed picture, from 0 (top, left) to 1 (bottom, right).
    """
    if min(*source, *target) < 1:
        raise ConfigError(f"source {source}, target {target}", "sizes of at least 1 x 1 pixel", "check the sizes")
    ratios = target[0] / source[0], target[1] / source[1]
    if mode == "stretch":
        return Fit(source, target, ratios, (0.0, 0.0))
    if mode == "crop":  # one exact scale for both axes: a circle stays a circle
        scale = max(ratios)
        spare = [t - scale * s for t, s in zip(target, source, strict=True)]
        # on the axis that fits exactly, rounding must not make the offset 1e-13
        offset = [a * d if d < -1e-9 else 0.0 for a, d in zip(anchor, spare, strict=True)]
        return Fit(source, target, (scale, scale), (offset[0], offset[1]))
    if mode == "letterbox":  # whole pixels, for bars with sharp edges
        sizes = [min(t, max(1, round(min(ratios) * s))) for t, s in zip(target, source, strict=True)]
        starts = [float(round(a * (t - n))) for a, t, n in zip(anchor, target, sizes, strict=True)]
        scales = sizes[0] / source[0], sizes[1] / source[1]
        return Fit(source, target, scales, (starts[0], starts[1]))
    if mode == "released":
        return _plan_released(source, target)
    raise ConfigError(f"mode={mode!r}", "crop, letterbox, stretch or released", "use one of these")


def similar_sizes(source: Size, model: Size, multiple: int) -> list[Size]:
    """List sizes divisible by `multiple`, sorted by similarity to the aspect ratio of `source` and area of `model`."""

    def cost(size: Size) -> float:
        shape, area = size[0] / size[1] * source[1] / source[0], size[0] * size[1] / (model[0] * model[1])
        return abs(math.log(shape)) + 1.5 * abs(math.log(area))

    sides = range(multiple, math.ceil(math.sqrt(model[0] * model[1] * MAX_ASPECT)) + multiple, multiple)
    sizes = [(h, w) for h in sides for w in sides if 1 / MAX_ASPECT <= h / w <= MAX_ASPECT]
    return sorted(sizes, key=cost)


def plan_size(source: Size, *, multiple: int = 64, resolution: int = 576) -> Size:
    """Compute the output (height, width) of the published code for a picture of size `source`.

    The short side is `resolution`; the long side is 16/9 of it, rounded down to a multiple of `multiple`. The output is
    portrait if the picture is taller than wide, otherwise landscape.

    Args:
        source: (height, width) of the reference picture.
        multiple: factor that both sides must be divisible by (64 for the published weights: 8 each by VAE and U-Net).
        resolution: short side in pixels (paper: 576, for 576 x 1024).

    Raises:
        ConfigError: `resolution` is not a multiple of `multiple`.
    """
    check_size((resolution, resolution), multiple)
    long = int(resolution / (9 / 16) // multiple) * multiple
    return (long, resolution) if source[0] > source[1] else (resolution, long)


def check_size(size: Size, multiple: int = 64) -> None:
    """Raise ConfigError unless height and width are positive multiples of `multiple`."""
    for name, value in zip(("height", "width"), size, strict=True):
        if value < multiple or value % multiple:
            near = max(multiple, round(value / multiple) * multiple)
            raise ConfigError(f"{name}={value}", f"a multiple of {multiple}", f"use {near}")


def released_round_trip(image: Frame) -> Frame:
    """Reproduce the rounding of the published code before CLIP and the VAE.

    It converts uint8 to -1..1 in float32 and truncates on the way back, which decreases some values by 1.
    """
    unit = image.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return ((unit + np.float32(1)) * np.float32(127.5)).astype(np.uint8)


def _plan_released(source: Size, target: Size) -> Fit:
    aspect = source[0] / source[1]
    if aspect < target[0] / target[1]:
        resized = target[0], math.ceil(target[0] / aspect)
    else:
        resized = math.ceil(target[1] * aspect), target[1]
    # round() rounds half to even, as the centre crop of the published code does
    offset = [-float(round((r - t) / 2)) for r, t in zip(resized, target, strict=True)]
    scale = resized[0] / source[0], resized[1] / source[1]
    return Fit(source, target, scale, (offset[0], offset[1]), "released")


def _resize_pillow(fit: Fit, image: ndarray, rows: tuple[int, int], columns: tuple[int, int]) -> ndarray:
    # The source region of these target pixels may extend beyond the image by less than one target pixel.
    y0, y1 = ((r - fit.offset[0]) / fit.scale[0] for r in rows)
    x0, x1 = ((c - fit.offset[1]) / fit.scale[1] for c in columns)
    over = max(-y0, -x0, y1 - fit.source[0], x1 - fit.source[1])
    if over > 1e-4:
        pad = math.ceil(over)
        image = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
        y0, y1, x0, x1 = y0 + pad, y1 + pad, x0 + pad, x1 + pad
    height, width = image.shape[:2]
    box = max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1)
    size = columns[1] - columns[0], rows[1] - rows[0]
    method = Image.Resampling[fit.resample.upper()]
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, method, box=box))


def _resize_released(fit: Fit, image: ndarray, rows: tuple[int, int], columns: tuple[int, int]) -> ndarray:
    """Resize bilinearly in float32 with half-pixel centres and no antialiasing, computing only the given pixels."""
    i, j, f = _bilinear_taps(fit, 0, rows)
    k, m, g = _bilinear_taps(fit, 1, columns)
    f, g = f[:, None, None], g[None, :, None]
    one = np.float32(1)

    def resized_rows(index: ndarray) -> ndarray:
        rows = image[index].astype(np.float32)
        return rows[:, k] * (one - g) + rows[:, m] * g

    return np.clip(np.rint(resized_rows(i) * (one - f) + resized_rows(j) * f), 0, 255).astype(np.uint8)


def _bilinear_taps(fit: Fit, axis: int, span: tuple[int, int]) -> tuple[ndarray, ndarray, ndarray]:
    """Return the indices of both neighbours of each target pixel in the source, and the weight of the second one."""
    size = fit.source[axis]
    step = np.float32(size) / np.float32(round(fit.scale[axis] * size))
    target = np.arange(*span, dtype=np.float32) - np.float32(round(fit.offset[axis]))
    source = np.maximum((target + np.float32(0.5)) * step - np.float32(0.5), np.float32(0))
    low = np.minimum(source.astype(np.int64), size - 1)
    return low, np.minimum(low + 1, size - 1), source - low.astype(np.float32)
