"""How much each frame differs from the one before: pictures of |frame_t - frame_t-1|, and the mean over time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray

from mimicmotion import plot
from mimicmotion.arrays import Frame
from mimicmotion.errors import InputError
from mimicmotion.evaluation.figures.clips import Clip, check_borders, check_frames, check_lengths, spaced
from mimicmotion.tables import write_csv

SHOWN = 6
BRIGHTEST = 99.7  # percentile of the shown differences that gets the brightest colour


@dataclass(frozen=True, slots=True, eq=False)
class Differences:
    """Differences of consecutive frames of several results, in grey levels (0..255), mean over the colours.

    Attributes:
        curves: name -> mean over the picture, of frames 1, 2, ...
        pictures: name -> frame number -> |frame_t - frame_t-1|.
        borders: first frames of new segments.
    """

    curves: dict[str, Float64[ndarray, " frames_minus_1"]]
    pictures: dict[str, dict[int, Float32[ndarray, "height width"]]]
    borders: tuple[int, ...]


def difference(now: Frame, before: Frame) -> Float32[ndarray, "height width"]:
    """|now - before| in grey levels, mean over the colours."""
    return np.abs(now.astype(np.float32) - before.astype(np.float32)).mean(-1)


def curve(frames: Iterable[Frame]) -> Float64[ndarray, " frames_minus_1"]:
    """The mean of `difference` at frames 1, 2, ...

    Raises:
        InputError: no frames.
    """
    before: Frame | None = None
    means = []
    for frame in frames:
        if before is not None:
            means.append(difference(frame, before).mean(dtype=np.float64))
        before = frame
    if before is None:
        raise InputError("no frames", "at least 1", "check the video")
    return np.array(means, np.float64)


def compare_frames(clips: Sequence[Clip], *, frames: Sequence[int] = (), borders: Sequence[int] = ()) -> Differences:
    """Compute the curves, and the pictures of the chosen frames; the videos are read twice, one frame at a time.

    Args:
        clips: results of one length.
        frames: numbers of the frames to show, from 1; none given takes six, evenly spaced.
        borders: first frames of new segments, to mark.

    Raises:
        InputError: lengths differ, or a frame or border lies outside.
    """
    curves = {c.name: curve(c) for c in clips}
    count = check_lengths(clips, {n: len(v) + 1 for n, v in curves.items()})
    shown = check_frames(frames, 1, count) or spaced(1, count - 1, SHOWN)
    marked = tuple(check_borders(borders, count))
    pictures = {}
    for clip in clips:
        have = clip.chosen(sorted({t - k for t in shown for k in (0, 1)}))
        pictures[clip.name] = {t: difference(have[t], have[t - 1]) for t in shown}
    return Differences(curves, pictures, marked)


def save(data: Differences, output: Path) -> list[Path]:
    """Write the figure, and OUTPUT.csv with the curves.

    Raises:
        OutputError: a file cannot be written.
    """
    rows = (
        (name, t, float(v), int(t in data.borders))
        for name, values in data.curves.items()
        for t, v in enumerate(values, 1)
    )
    table = write_csv(output.with_suffix(".csv"), ("result", "frame", "mean_abs_difference", "border"), rows)
    _paint(data, output)
    return [output, table]


def _paint(data: Differences, output: Path) -> None:
    shown = list(next(iter(data.pictures.values())))
    brightest = max(
        float(np.percentile([np.percentile(p, BRIGHTEST) for p in pictures.values()], 90))
        for pictures in data.pictures.values()
    )
    first = next(iter(data.pictures.values()))[shown[0]]
    cell = (plot.PAGE_WIDTH - 1.0) / max(len(shown), 4)
    row = min(cell * first.shape[0] / first.shape[1], 2.4)
    with plot.figure(output, height=row * len(data.pictures) + 2.3) as sheet:
        top, bottom = sheet.subfigures(2, 1, squeeze=False, height_ratios=[row * len(data.pictures) + 0.4, 1.9])[:, 0]
        grid = top.subplots(len(data.pictures), len(shown), squeeze=False)
        image = None
        for k, (name, pictures) in enumerate(data.pictures.items()):
            for j, t in enumerate(shown):
                axes = grid[k, j]
                image = axes.imshow(pictures[t], cmap=plot.INFERNO, vmin=0, vmax=max(brightest, 1.0))
                plot.bare(axes)
                if not k:
                    new = t in data.borders
                    axes.set_title(f"frame {t}" + (" ▼" if new else ""), color=plot.MARK if new else "k")
            grid[k, 0].set_ylabel(name, color=plot.colour(k))
        if image is not None:
            top.colorbar(image, ax=grid, label="|difference|, grey levels", extend="max", pad=0.01, aspect=40)
        plot.curves(bottom.subplots(), data.curves, "mean |difference|,\ngrey levels", data.borders)
