"""Figures over time: y-t slices, in which a seam between segments is a vertical edge, and frame differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from numpy import ndarray

from mimicmotion import plot
from mimicmotion.arrays import Frame
from mimicmotion.errors import InputError
from mimicmotion.evaluation.figures.clips import Clip, check_frames, check_same_length, open_clips, parse_names, spaced
from mimicmotion.evaluation.figures.specs import DiffSpec, FigureResult, YtSpec
from mimicmotion.runtime.progress import Job, Progress
from mimicmotion.tables import write_csv

COLUMNS = 4  # slices side by side
SHOWN_DIFFERENCES = 6
BRIGHTEST = 99.7  # percentile of the shown differences that has the brightest colour


def make_yt(spec: YtSpec) -> Job[FigureResult]:
    """Draw y-t slices; write their pixels to OUTPUT.csv, and the jump at each frame to OUTPUT-jumps.csv.

    The videos are read twice.

    Raises:
        InputError: lengths or sizes differ, or the column or a border is out of range.
        OutputError: a file cannot be written.
    """
    clips = open_clips(parse_names(spec.results), max_frames=spec.max_frames)
    yield Progress("read", 0, 1)
    found = {c.name: column_changes(c) for c in clips}
    frames = check_same_length(clips, {n: count for n, (_, count) in found.items()})
    width, column = clips[0].size[1], spec.column
    if column is None:
        column = choose_column([changes for changes, _ in found.values()])
    elif not 0 <= column < width:
        raise InputError(f"column={column} of {width} columns", f"0 to {width - 1}", "count columns from 0")
    borders = check_frames(spec.borders or (), 1, frames, "border")
    slices = {c.name: np.stack([f[:, column] for f in c], 1) for c in clips}
    middle = clips[0].chosen([frames // 2])[frames // 2]
    yield Progress("read", 1, 1)
    jumps = {n: np.abs(np.diff(s.astype(np.float64), axis=1)).mean((0, 2)) for n, s in slices.items()}
    pixels = (
        (name, t, y, *cut[y, t].tolist())
        for name, cut in slices.items()
        for t in range(cut.shape[1])
        for y in range(cut.shape[0])
    )
    table = write_csv(spec.output.with_suffix(".csv"), ("result", "frame", "row", "red", "green", "blue"), pixels)
    head = ("result", "column", "frame", "mean_abs_difference", "border")
    curve = write_csv(
        spec.output.with_name(f"{spec.output.stem}-jumps.csv"),
        head,
        ((n, column, t, float(v), int(t in borders)) for n, values in jumps.items() for t, v in enumerate(values, 1)),
    )
    _paint_yt(slices, jumps, borders, middle, column, spec.output)
    means = ", ".join(f"{name} {values.mean():.2f}" for name, values in jumps.items())
    note = f"column {column}; mean jump in grey levels: {means}"
    return FigureResult([spec.output, table, curve], [note])


def column_changes(frames: Iterable[Frame]) -> tuple[Float64[ndarray, " width"], int]:
    """Mean absolute difference of consecutive frames in each column (grey levels), and the number of frames."""
    total, changes = np.zeros(1), 0
    for before, now in pairwise(frame.astype(np.int16) for frame in frames):
        total = total + np.abs(now - before).mean((0, 2), dtype=np.float64)
        changes += 1
    return total / max(changes, 1), changes + 1


def choose_column(changes: Sequence[Float64[ndarray, " width"]]) -> int:
    """The column that changes most on average over all results; the middle one if nothing moves."""
    mean = np.mean(changes, 0)
    return int(mean.argmax()) if mean.max() > 0 else len(mean) // 2


def _paint_yt(
    slices: Mapping[str, UInt8[ndarray, "height frames 3"]],
    jumps: Mapping[str, Float64[ndarray, " frames-1"]],
    borders: Sequence[int],
    frame: Frame,
    column: int,
    output: Path,
) -> None:
    across = min(len(slices), COLUMNS)
    down = -(-len(slices) // across)
    height, width = frame.shape[:2]
    tall = 2.4
    with plot.figure(output, height=tall * down + 1.7) as sheet:
        top, bottom = sheet.subfigures(2, 1, squeeze=False, height_ratios=[tall * down, 1.7])[:, 0]
        place = min(0.9 * tall * width / height, 2.0)
        left, right = top.subfigures(1, 2, squeeze=False, width_ratios=[place, plot.PAGE_WIDTH - place])[0]
        axes = left.subplots()
        plot.bare(axes)
        axes.imshow(frame)
        axes.axvline(column, color="w", lw=1.8)
        axes.axvline(column, color=plot.MARK, lw=1.0)
        axes.set_title(f"column {column}")
        grid = right.subplots(down, across, squeeze=False, sharey=True)
        for axes in grid.flat[len(slices) :]:
            axes.set_axis_off()
        for k, (name, cut) in enumerate(slices.items()):
            axes = grid.flat[k]
            axes.imshow(cut, aspect="auto")
            axes.set_title(name, color=plot.colour(k), pad=9 if borders else None)
            axes.tick_params(length=2)
            axes.set_xlabel("frame")
            plot.mark_borders(axes, borders)
        for row in grid:
            row[0].set_ylabel("y")
        plot.curves(bottom.subplots(), jumps, "jump in the column,\ngrey levels", borders)


def make_diff(spec: DiffSpec) -> Job[FigureResult]:
    """Draw frame differences, and write their means to OUTPUT.csv. The videos are read twice.

    Raises:
        InputError: lengths or sizes differ, or a frame or border is out of range.
        OutputError: a file cannot be written.
    """
    clips = open_clips(parse_names(spec.results), max_frames=spec.max_frames)
    yield Progress("read", 0, 1)
    curves = {c.name: change_over_time(c) for c in clips}
    count = check_same_length(clips, {n: len(v) + 1 for n, v in curves.items()})
    shown = check_frames(spec.frames or (), 1, count) or spaced(1, count - 1, SHOWN_DIFFERENCES)
    borders = check_frames(spec.borders or (), 1, count, "border")
    pictures = {c.name: pictures_of(c, shown) for c in clips}
    yield Progress("read", 1, 1)
    rows = ((n, t, float(v), int(t in borders)) for n, values in curves.items() for t, v in enumerate(values, 1))
    table = write_csv(spec.output.with_suffix(".csv"), ("result", "frame", "mean_abs_difference", "border"), rows)
    _paint_diff(curves, pictures, borders, spec.output)
    means = ", ".join(f"{name} {values.mean():.2f}" for name, values in curves.items())
    return FigureResult([spec.output, table], [f"mean difference in grey levels: {means}"])


def frame_difference(now: Frame, before: Frame) -> Float32[ndarray, "height width"]:
    """|now - before| in grey levels, averaged over the colour channels."""
    return np.abs(now.astype(np.float32) - before.astype(np.float32)).mean(-1)


def change_over_time(frames: Iterable[Frame]) -> Float64[ndarray, " frames-1"]:
    """Mean `frame_difference` of each frame from the previous one."""
    return np.array([frame_difference(b, a).mean(dtype=np.float64) for a, b in pairwise(frames)], np.float64)


def pictures_of(clip: Clip, shown: Sequence[int]) -> dict[int, Float32[ndarray, "height width"]]:
    """Frame number -> `frame_difference` of this frame from the one before it."""
    have = clip.chosen(sorted({t - k for t in shown for k in (0, 1)}))
    return {t: frame_difference(have[t], have[t - 1]) for t in shown}


def _paint_diff(
    curves: Mapping[str, Float64[ndarray, " frames-1"]],
    pictures: Mapping[str, Mapping[int, Float32[ndarray, "height width"]]],
    borders: Sequence[int],
    output: Path,
) -> None:
    first = next(iter(pictures.values()))
    brightest = max(
        float(np.percentile([np.percentile(p, BRIGHTEST) for p in of.values()], 90)) for of in pictures.values()
    )
    height, width = next(iter(first.values())).shape
    row = min((plot.PAGE_WIDTH - 1.0) / max(len(first), 4) * height / width, 2.4)
    with plot.figure(output, height=row * len(pictures) + 2.3) as sheet:
        top, bottom = sheet.subfigures(2, 1, squeeze=False, height_ratios=[row * len(pictures) + 0.4, 1.9])[:, 0]
        rows = {name: list(of.values()) for name, of in pictures.items()}
        titles = [f"frame {t}" + (" ▼" if t in borders else "") for t in first]
        grid = plot.picture_grid(top, rows, titles, cmap="inferno", vmin=0, vmax=max(brightest, 1.0))
        for axes, t in zip(grid[0], first, strict=True):
            axes.title.set_color(plot.MARK if t in borders else "k")
        image = grid[0, 0].images[0]
        top.colorbar(image, ax=grid, label="|difference|, grey levels", extend="max", pad=0.01, aspect=40)
        plot.curves(bottom.subplots(), curves, "mean |difference|,\ngrey levels", borders)
