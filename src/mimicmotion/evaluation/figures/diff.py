"""Frame differences: pictures of |frame_t - frame_t-1|, and their mean over time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray

from mimicmotion import plot
from mimicmotion.arrays import Frame
from mimicmotion.evaluation.figures.clips import (
    Clip,
    borders_of,
    check_frames,
    check_same_length,
    open_clips,
    parse_names,
    spaced,
)
from mimicmotion.evaluation.figures.specs import DiffSpec, FigureResult
from mimicmotion.runtime.progress import Job, Progress
from mimicmotion.tables import write_csv

SHOWN = 6
BRIGHTEST = 99.7  # percentile of the shown differences that has the brightest colour


def make(spec: DiffSpec) -> Job[FigureResult]:
    """The figure, and OUTPUT.csv with the curves. The videos are streamed twice.

    Raises:
        InputError: lengths or sizes differ, or a frame or border is out of range.
        OutputError: a file cannot be written.
    """
    clips = open_clips(parse_names(spec.results), max_frames=spec.max_frames)
    yield Progress("read", 0, 1)
    curves = {c.name: change_over_time(c) for c in clips}
    count = check_same_length(clips, {n: len(v) + 1 for n, v in curves.items()})
    shown = check_frames(spec.frames or (), 1, count) or spaced(1, count - 1, SHOWN)
    borders = borders_of(spec, count)
    pictures = {c.name: pictures_of(c, shown) for c in clips}
    yield Progress("read", 1, 1)
    rows = ((n, t, float(v), int(t in borders)) for n, values in curves.items() for t, v in enumerate(values, 1))
    table = write_csv(spec.output.with_suffix(".csv"), ("result", "frame", "mean_abs_difference", "border"), rows)
    _paint(curves, pictures, borders, spec.output)
    means = ", ".join(f"{name} {values.mean():.2f}" for name, values in curves.items())
    return FigureResult([spec.output, table], [f"mean difference in grey levels: {means}"])


def frame_difference(now: Frame, before: Frame) -> Float32[ndarray, "height width"]:
    """|now - before| in grey levels, averaged over the colour channels."""
    return np.abs(now.astype(np.float32) - before.astype(np.float32)).mean(-1)


def change_over_time(frames: Iterable[Frame]) -> Float64[ndarray, " frames-1"]:
    """The mean of `frame_difference` at frames 1, 2, ..."""
    return np.array([frame_difference(b, a).mean(dtype=np.float64) for a, b in pairwise(frames)], np.float64)


def pictures_of(clip: Clip, shown: Sequence[int]) -> dict[int, Float32[ndarray, "height width"]]:
    """Frame number -> `frame_difference` of this frame from the one before it."""
    have = clip.chosen(sorted({t - k for t in shown for k in (0, 1)}))
    return {t: frame_difference(have[t], have[t - 1]) for t in shown}


def _paint(
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
