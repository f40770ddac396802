"""Bars of metrics with their intervals, one panel a metric, from a report."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimicmotion.errors import InputError
from mimicmotion.evaluation.bootstrap import bootstrap_mean
from mimicmotion.evaluation.figures import style

SUMMARY, TABLE = "summary.json", "metrics.csv"
ACROSS = 4
HIGHER = ("ssim", "psnr", "pck", "identity", "similarity", "confidence", "preference")
# of a seam score 1 is best, so it has no arrow
LOWER = (
    "fvd",
    "fid",
    "frechet",
    "fd_",
    "lpips",
    "l1",
    "error",
    "missing",
    "flicker",
    "warping",
    "jerk",
    "distance",
)


@dataclass(frozen=True, slots=True)
class Bar:
    """A mean over `n` sequences and its interval; low and high are NaN where there is none."""

    mean: float
    low: float
    high: float
    n: int


Summary = dict[str, dict[str, Bar]]


def better(metric: str) -> str:
    """An arrow to where better values lie, "" for metrics we do not know."""
    name = metric.lower()
    # "hand_error" has no business with "higher": errors first
    return "↓" if any(k in name for k in LOWER) else "↑" if any(k in name for k in HIGHER) else ""


def load(path: Path) -> Summary:
    """Method -> metric -> bar, from summary.json, metrics.csv, or a report's folder (summary.json goes first).

    Raises:
        InputError: nothing there, or not of this form.
    """
    if path.is_dir():
        path = next((path / n for n in (SUMMARY, TABLE) if (path / n).is_file()), path / SUMMARY)
    try:
        text = path.read_text(encoding="utf-8")
        found = from_table(text) if path.suffix.lower() == ".csv" else from_json(json.loads(text))
    except FileNotFoundError as e:
        raise InputError(f"{path} does not exist", "a report", "make one with 'mimicmotion evaluate'") from e
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as e:
        raise InputError(f"{path}: {e}", "summary.json or metrics.csv of a report", "check the file") from e
    except InputError as e:
        raise InputError(f"{path}: {e.got}", e.expected, e.fix) from e
    if not any(found.values()):
        raise InputError(f"{path} holds no metric", "at least one method with one metric", "make the report again")
    return found


def from_json(data: Any) -> Summary:
    """`summary.json`: method -> metric -> {mean, low, high, n}; null is a missing number.

    Raises:
        InputError: another form.
    """
    form = "method -> metric -> {mean, low, high, n}"
    if isinstance(data, Mapping) and isinstance(data.get("methods"), Mapping):
        data = data["methods"]
    if not isinstance(data, Mapping) or not all(isinstance(v, Mapping) for v in data.values()):
        raise InputError("another form of JSON", form, "use the summary.json of a report")
    found: Summary = {}
    for method, metrics in data.items():
        for metric, numbers in metrics.items():
            if not isinstance(numbers, Mapping) or "mean" not in numbers:
                raise InputError(f"{method}, {metric}: {numbers!r}", form, "use the summary.json of a report")
            mean, low, high = (_number(numbers.get(k), f"{method}, {metric}, {k}") for k in ("mean", "low", "high"))
            n = _number(numbers.get("n"), f"{method}, {metric}, n")
            found.setdefault(method, {})[metric] = Bar(mean, low, high, 0 if math.isnan(n) else int(n))
    return found


def from_table(text: str) -> Summary:
    """`metrics.csv`: a row for each sequence and method, with one column a metric or with columns metric and value.

    Means with 95 % intervals by the bootstrap over sequences; empty cells and NaN are left out.

    Raises:
        InputError: columns are missing, or a cell is no number.
    """
    rows = list(csv.DictReader(text.splitlines()))
    if not rows or not {"sequence", "method"} <= set(rows[0]):
        got = ", ".join(map(str, rows[0])) if rows else "no rows"
        raise InputError(got, "the columns sequence and method", "use the metrics.csv of a report")
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        cells = row
        if {"metric", "value"} <= set(row):
            cells = {row["metric"]: row["value"]}
        for metric, cell in cells.items():
            if metric in ("sequence", "method"):
                continue
            number = _number(cell, f"{row['sequence']}, {row['method']}, {metric}")
            kept = values.setdefault(row["method"], {}).setdefault(metric, [])
            if math.isfinite(number):
                kept.append(number)
    found: Summary = {}
    for method, metrics in values.items():
        for metric, numbers in metrics.items():
            if numbers:
                i = bootstrap_mean(numbers)
                found.setdefault(method, {})[metric] = Bar(i.value, i.low, i.high, i.n)
            else:
                found.setdefault(method, {})[metric] = Bar(math.nan, math.nan, math.nan, 0)
    return found


def choose(summary: Summary, metrics: Sequence[str] = ()) -> list[str]:
    """The metrics to show, in the order given, or all that some method has a number for.

    Raises:
        InputError: an unknown metric.
    """
    known = list(dict.fromkeys(m for found in summary.values() for m in found))
    for metric in metrics:
        if metric not in known:
            raise InputError(f"metric {metric!r}", ", ".join(known), "choose from these")
    every = [m for m in known if any(m in f and math.isfinite(f[m].mean) for f in summary.values())]
    if not (metrics or every):
        raise InputError(f"only NaN in {', '.join(known)}", "a metric with a number", "see what the report says")
    return list(dict.fromkeys(metrics)) or every


def save(summary: Summary, output: Path, metrics: Sequence[str] = ()) -> list[Path]:
    """Write the figure, and OUTPUT.csv with the numbers.

    Args:
        summary: method -> metric -> bar.
        output: the PNG file.
        metrics: which to show; all by default.

    Raises:
        InputError: an unknown metric.
        OutputError: a file cannot be written.
    """
    shown = choose(summary, metrics)
    rows = (
        (method, m, found[m].mean, found[m].low, found[m].high, found[m].n)
        for method, found in summary.items()
        for m in shown
        if m in found
    )
    table = style.write_csv(output.with_suffix(".csv"), ("method", "metric", "mean", "low", "high", "n"), rows)
    _paint(summary, shown, output)
    return [output, table]


def _paint(summary: Summary, metrics: Sequence[str], output: Path) -> None:
    across = min(ACROSS, len(metrics))
    down = -(-len(metrics) // across)
    with style.figure(output, height=down * (0.75 + 0.22 * len(summary))) as sheet:
        grid = sheet.subplots(down, across, squeeze=False, sharey=True)
        for axes in grid.flat[len(metrics) :]:
            axes.set_axis_off()
        for axes, metric in zip(grid.flat, metrics, strict=False):
            _panel(axes, metric, [found.get(metric) for found in summary.values()])
            axes.set_yticks(range(len(summary)), list(summary))
            axes.set_ylim(len(summary) - 0.4, -0.6)
            axes.tick_params(axis="y", length=0)


def _panel(axes: Any, metric: str, bars: Sequence[Bar | None]) -> None:
    counts = {b.n for b in bars if b and b.n and math.isfinite(b.mean)}
    ends = [v for b in bars if b for v in (b.mean, b.low, b.high) if math.isfinite(v)] or [0.0]
    span = max(*ends, 0.0) - min(*ends, 0.0) or 1.0
    for k, b in enumerate(bars):
        if b is None or not math.isfinite(b.mean):
            axes.text(0, k, " no number", va="center", fontsize=6, color="0.4")
            continue
        axes.barh(k, b.mean, height=0.72, color=style.colour(k), alpha=0.75, lw=0)
        end = b.mean
        if math.isfinite(b.low) and math.isfinite(b.high):
            # an interval of a bias-corrected statistic may leave out its mean
            axes.plot([b.low, b.high], [k, k], color="k", lw=1, marker="|", ms=4)
            end = max(end, b.high)
        many = f" (n={b.n})" if len(counts) > 1 else ""
        axes.text(max(end, 0) + 0.03 * span, k, f"{b.mean:.3g}{many}", va="center", fontsize=6)
    axes.axvline(0, color="k", lw=0.6)
    low, high = min(*ends, 0.0), max(*ends, 0.0)
    axes.set_xlim(low - (0.05 * span if low < 0 else 0), high + 0.38 * span)
    n = f", n = {counts.pop()}" if len(counts) == 1 else ""
    axes.set_title(f"{metric.replace('_', ' ')} {better(metric)}".strip() + n)
    axes.locator_params(axis="x", nbins=4)


def _number(value: Any, where: str) -> float:
    if value is None or value == "":
        return math.nan
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError) as e:
        raise InputError(f"{where}: {value!r}", "a number", "correct the file") from e
