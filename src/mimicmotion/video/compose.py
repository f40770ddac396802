"""Frames side by side, and contact sheets for the documentation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from mimicmotion.errors import ConfigError
from mimicmotion.video.geometry import plan_fit

_WHITE = (255, 255, 255)

Picture = UInt8[ndarray, "_ _ 3"]
"""RGB; pictures of several sizes stand beside each other here."""


def side_by_side(
    frames: Sequence[Picture],
    *,
    height: int | None = None,
    gap: int = 4,
    labels: Sequence[str] | None = None,
    colour: tuple[int, int, int] = _WHITE,
) -> Picture:
    """Put frames of any size into one row of equal height, for example picture | pose | result.

    The size depends on the sizes and labels only, so that every frame of a video gets the same; it is even, as video
    encoders want it.

    Args:
        frames: uint8 RGB.
        height: pixels of the row, without labels; None takes the smallest, so that nothing is enlarged.
        gap: pixels between neighbours.
        labels: one text above each.
        colour: RGB of gaps and label bar; the text is black or white, whichever stands out.
    """
    if not frames:
        raise ConfigError("no frames", "at least one", "give the frames to compose")
    if labels is not None and len(labels) != len(frames):
        raise ConfigError(f"{len(labels)} labels for {len(frames)} frames", "one each", "leave labels out or add some")
    rows = height or min(f.shape[0] for f in frames)
    tiles = [_to_height(f, rows) for f in frames]
    bar = max(20, rows // 16) if labels is not None else 0
    width = sum(t.shape[1] for t in tiles) + gap * (len(tiles) - 1)
    out = _canvas((rows + bar + (rows + bar) % 2, width + width % 2), colour)
    x = 0
    for i, tile in enumerate(tiles):
        out[bar : bar + rows, x : x + tile.shape[1]] = tile
        if labels is not None:
            _write(out[:bar, x : x + tile.shape[1]], labels[i], colour)
        x += tile.shape[1] + gap
    return out


def contact_sheet(
    frames: Sequence[Picture],
    *,
    columns: int | None = None,
    tile_height: int | None = None,
    gap: int = 4,
    colour: tuple[int, int, int] = _WHITE,
) -> Picture:
    """Lay frames out in a grid, row by row; smaller ones are centred in their cell.

    Args:
        frames: uint8 RGB.
        columns: per row; None makes the sheet about square.
        tile_height: pixels of each frame; None keeps the smallest height.
        gap: pixels between cells.
        colour: RGB of the background.
    """
    if not frames:
        raise ConfigError("no frames", "at least one", "give the frames to lay out")
    per_row = min(len(frames), columns or math.ceil(math.sqrt(len(frames))))
    rows = tile_height or min(f.shape[0] for f in frames)
    tiles = [_to_height(f, rows) for f in frames]
    width = max(t.shape[1] for t in tiles)
    lines = math.ceil(len(tiles) / per_row)
    out = _canvas((lines * rows + (lines - 1) * gap, per_row * width + (per_row - 1) * gap), colour)
    for i, tile in enumerate(tiles):
        y, x = i // per_row * (rows + gap), i % per_row * (width + gap) + (width - tile.shape[1]) // 2
        out[y : y + rows, x : x + tile.shape[1]] = tile
    return out


def _to_height(frame: Picture, height: int) -> Picture:
    target = height, max(1, round(frame.shape[1] * height / frame.shape[0]))
    return plan_fit(frame.shape[:2], target, "stretch").apply(frame)


def _canvas(size: tuple[int, int], colour: tuple[int, int, int]) -> Picture:
    out = np.empty((*size, 3), np.uint8)
    out[:] = np.asarray(colour, np.uint8)
    return out


def _write(bar: Picture, text: str, colour: tuple[int, int, int]) -> None:
    """Write `text` into the middle of `bar`, in place, shrunk until it fits."""
    import cv2

    ink = (0, 0, 0) if sum(colour) > 382 else _WHITE
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, bar.shape[0] / 36
    (width, height), base = cv2.getTextSize(text, font, scale, 1)
    if width > bar.shape[1] - 4:
        scale *= max(1, bar.shape[1] - 4) / width
        (width, height), base = cv2.getTextSize(text, font, scale, 1)
    image = np.ascontiguousarray(bar)  # OpenCV draws only into contiguous memory
    # the tails of g and p hang below the base line
    origin = (bar.shape[1] - width) // 2, (bar.shape[0] + height - base) // 2
    cv2.putText(image, text, origin, font, scale, ink, 1, cv2.LINE_AA)
    bar[:] = image
