"""Bar charts of a report's metrics with their intervals, one panel per metric."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from mimicmotion import plot
from mimicmotion.errors import InputError
from mimicmotion.evaluation.figures.specs import BarsSpec, FigureResult
from mimicmotion.evaluation.metrics.intervals import Interval
from mimicmotion.evaluation.reports.compare import Results, load_results
from mimicmotion.runtime.progress import Job
from mimicmotion.settings.metrics import describe
from mimicmotion.tables import write_csv

ACROSS = 4


def make(spec: BarsSpec) -> Job[FigureResult]:
    """Draw the metrics of a report as bars, and write their numbers to OUTPUT.csv.

    Raises:
        InputError: the report cannot be read, or lacks a metric.
        OutputError: a file cannot be written.
    """
    yield from ()
    results, _ = load_results(spec.report)
    shown = choose_metrics(results, spec.metric or ())
    rows = ((m, k, i.value, i.low, i.high, i.n) for m, of in results.items() for k in shown if (i := of.get(k)))
    table = write_csv(spec.output.with_suffix(".csv"), ("method", "metric", "mean", "low", "high", "n"), rows)
    paint(results, shown, spec.output)
    return FigureResult([spec.output, table], [f"{len(shown)} metrics of {len(results)} methods"])


def choose_metrics(results: Results, metrics: Sequence[str] = ()) -> list[str]:
    """The metrics to show, in the order given; by default all that are defined for at least one method.

    Raises:
        InputError: a metric is unknown.
    """
    known = list(dict.fromkeys(m for found in results.values() for m in found))
    for metric in metrics:
        if metric not in known:
            raise InputError(f"metric {metric!r}", ", ".join(known), "choose among these")
    every = [m for m in known if any(m in f and math.isfinite(f[m].value) for f in results.values())]
    return list(dict.fromkeys(metrics)) or every


def paint(
    results: Results, metrics: Sequence[str], output: Path | BytesIO, titles: Mapping[str, str] | None = None
) -> None:
    """Draw the figure; `titles` replaces the titles of some metrics.

    Raises:
        OutputError: the file cannot be written.
    """
    across = min(ACROSS, len(metrics))
    down = -(-len(metrics) // across)
    with plot.figure(output, height=down * (0.75 + 0.22 * len(results))) as sheet:
        grid = sheet.subplots(down, across, squeeze=False, sharey=True)
        for axes in grid.flat[len(metrics) :]:
            axes.set_axis_off()
        for axes, metric in zip(grid.flat, metrics, strict=False):
            title = (titles or {}).get(metric, describe(metric).title) + describe(metric).arrow
            _panel(axes, title, [found.get(metric) for found in results.values()])
            axes.set_yticks(range(len(results)), [textwrap.shorten(m, 26, placeholder="…") for m in results])
            axes.set_ylim(len(results) - 0.4, -0.6)
            axes.tick_params(axis="y", length=0)


def _panel(axes: Any, title: str, bars: Sequence[Interval | None]) -> None:
    counts = {b.n for b in bars if b and b.n and math.isfinite(b.value)}
    ends = [v for b in bars if b for v in (b.value, b.low, b.high) if math.isfinite(v)] or [0.0]
    span = max(*ends, 0.0) - min(*ends, 0.0) or 1.0
    for k, b in enumerate(bars):
        if b is None or not math.isfinite(b.value):
            axes.text(0, k, " no number", va="center", fontsize=6, color="0.4")
            continue
        axes.barh(k, b.value, height=0.72, color=plot.colour(k), alpha=0.75, lw=0)
        end = b.value
        if math.isfinite(b.low) and math.isfinite(b.high):
            # the interval of a bias-corrected statistic may not contain its mean
            axes.plot([b.low, b.high], [k, k], color="k", lw=1, marker="|", ms=4)
            end = max(end, b.high)
        many = f" (n={b.n})" if len(counts) > 1 else ""
        axes.text(max(end, 0) + 0.03 * span, k, f"{b.value:.3g}{many}", va="center", fontsize=6)
    axes.axvline(0, color="k", lw=0.6)
    low, high = min(*ends, 0.0), max(*ends, 0.0)
    axes.set_xlim(low - (0.05 * span if low < 0 else 0), high + 0.38 * span)
    n = f", n = {counts.pop()}" if len(counts) == 1 else ""
    axes.set_title(textwrap.fill(title + n, 28))
    axes.locator_params(axis="x", nbins=4)
