"""y-t slice: one column of pixels over time. A seam between segments is a vertical edge in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8
from numpy import ndarray

from mimicmotion import plot
from mimicmotion.arrays import Frame
from mimicmotion.errors import InputError
from mimicmotion.evaluation.figures.clips import Clip, check_borders, check_lengths
from mimicmotion.tables import write_csv

COLUMNS = 4  # slices beside one another


@dataclass(frozen=True, slots=True, eq=False)
class Slices:
    """The same column of several results.

    Attributes:
        column: which, from the left, from 0.
        slices: name -> column over time: y goes down, time to the right.
        borders: first frames of new segments.
        frame: a frame of the first result, to show where the column is.
    """

    column: int
    slices: dict[str, UInt8[ndarray, "height frames 3"]]
    borders: tuple[int, ...]
    frame: Frame

    def jumps(self) -> dict[str, Float64[ndarray, " frames_minus_1"]]:
        """Name -> mean absolute difference from the frame before within the column, in grey levels."""
        return {n: np.abs(np.diff(s.astype(np.float64), axis=1)).mean((0, 2)) for n, s in self.slices.items()}


def column_changes(frames: Iterable[Frame]) -> tuple[Float64[ndarray, " width"], int]:
    """Mean absolute difference of consecutive frames in each column (grey levels), and the number of frames."""
    total: ndarray | None = None
    before: ndarray | None = None
    count = 0
    for frame in frames:
        now = frame.astype(np.int16)
        if before is not None:
            change = np.abs(now - before).mean((0, 2), dtype=np.float64)
            total = change if total is None else total + change
        before, count = now, count + 1
    if before is None:
        raise InputError("no frames", "at least 1", "check the video")
    return (np.zeros(before.shape[1]) if total is None else total / (count - 1)), count


def choose_column(changes: Sequence[Float64[ndarray, " width"]]) -> int:
    """The column that changes most, over all results alike; the middle one where nothing moves."""
    mean = np.mean(changes, 0)
    return int(mean.argmax()) if mean.max() > 0 else len(mean) // 2


def slice_at(frames: Iterable[Frame], column: int) -> UInt8[ndarray, "height frames 3"]:
    """One column of every frame."""
    return np.stack([f[:, column] for f in frames], 1)


def cut_slices(clips: Sequence[Clip], *, column: int | None = None, borders: Sequence[int] = ()) -> Slices:
    """Cut the slices; the videos are read twice, one frame at a time.

    Args:
        clips: results of one size and length.
        column: which; None chooses the one that changes most.
        borders: first frames of new segments, to mark.

    Raises:
        InputError: lengths or sizes differ, or the column or a border lies outside.
    """
    if len({c.size for c in clips}) != 1:
        raise InputError("; ".join(f"{c} is {c.size}" for c in clips), "one size", "resize them")
    found = {c.name: column_changes(c) for c in clips}
    frames = check_lengths(clips, {n: count for n, (_, count) in found.items()})
    width = clips[0].size[1]
    if column is None:
        column = choose_column([changes for changes, _ in found.values()])
    elif not 0 <= column < width:
        raise InputError(f"column={column} of pictures {width} wide", f"0 to {width - 1}", "columns count from 0")
    marked = tuple(check_borders(borders, frames))
    slices = {c.name: slice_at(c, column) for c in clips}
    return Slices(column, slices, marked, clips[0].chosen([frames // 2])[frames // 2])


def save(data: Slices, output: Path) -> list[Path]:
    """Write the figure, OUTPUT.csv with every pixel of the slices and OUTPUT-jumps.csv with the jump at each frame.

    Raises:
        OutputError: a file cannot be written.
    """
    pixels = (
        (name, t, y, *cut[y, t].tolist())
        for name, cut in data.slices.items()
        for t in range(cut.shape[1])
        for y in range(cut.shape[0])
    )
    table = write_csv(output.with_suffix(".csv"), ("result", "frame", "row", "red", "green", "blue"), pixels)
    head = ("result", "column", "frame", "mean_abs_difference", "border")
    jumps = (
        (name, data.column, t, float(v), int(t in data.borders))
        for name, values in data.jumps().items()
        for t, v in enumerate(values, 1)
    )
    curve = write_csv(output.with_name(f"{output.stem}-jumps.csv"), head, jumps)
    _paint(data, output)
    return [output, table, curve]


def _paint(data: Slices, output: Path) -> None:
    across = min(len(data.slices), COLUMNS)
    down = -(-len(data.slices) // across)
    height, width = data.frame.shape[:2]
    tall = 2.4
    with plot.figure(output, height=tall * down + 1.7) as sheet:
        top, bottom = sheet.subfigures(2, 1, squeeze=False, height_ratios=[tall * down, 1.7])[:, 0]
        place = min(0.9 * tall * width / height, 2.0)
        left, right = top.subfigures(1, 2, squeeze=False, width_ratios=[place, plot.PAGE_WIDTH - place])[0]
        axes = left.subplots()
        plot.bare(axes)
        axes.imshow(data.frame)
        axes.axvline(data.column, color="w", lw=1.8)
        axes.axvline(data.column, color=plot.MARK, lw=1.0)
        axes.set_title(f"column {data.column}")
        grid = right.subplots(down, across, squeeze=False, sharey=True)
        for axes in grid.flat[len(data.slices) :]:
            axes.set_axis_off()
        for k, (name, cut) in enumerate(data.slices.items()):
            axes = grid.flat[k]
            axes.imshow(cut, aspect="auto")
            axes.set_title(name, color=plot.colour(k), pad=9 if data.borders else None)
            axes.tick_params(length=2)
            axes.set_xlabel("frame")
            plot.mark_borders(axes, data.borders)
        for row in grid:
            row[0].set_ylabel("y")
        plot.curves(bottom.subplots(), data.jumps(), "jump in the column,\ngrey levels", data.borders)
