"""Reports, tables of others and published numbers side by side, each row labelled with where it comes from."""

from __future__ import annotations

import csv
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimicmotion.errors import InputError
from mimicmotion.evaluation.bootstrap import Interval, bootstrap_mean
from mimicmotion.evaluation.report import STYLE, grid, table
from mimicmotion.evaluation.settings import METRICS, Metric
from mimicmotion.files import atomic_path, writing

FILES = ("compare.md", "compare.tex", "compare.html", "compare.csv")
PUBLISHED = "published, other implementation, do not compare across papers"
# Table 1 of the paper and its supplement: TikTok sequences 335-340, central squares, zero-shot
_PAPER = {
    "MagicPose": (13.3, 916, 0.776, 18.8),
    "Moore-AnimateAnyone": (12.4, 728, 0.758, 18.7),
    "MuseV": (14.6, 754, 0.766, 17.6),
    "MagicAnimate": (16.2, 848, 0.740, 17.5),
    "MimicMotion": (9.3, 594, 0.795, 20.1),
}
_PAPER_METRICS = ("fid_vid", "fvd", "ssim", "psnr")


@dataclass(frozen=True, slots=True)
class Entry:
    """One method of one source.

    Attributes:
        method: its name.
        source: the report, table or publication.
        cells: metric -> number; without an interval where none is known.
        published: whether the numbers are only quoted.
    """

    method: str
    source: str
    cells: dict[str, Interval]
    published: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """All rows, the metrics that some row has, and sentences on what must not be compared."""

    entries: list[Entry]
    metrics: list[str]
    notes: list[str]


def published() -> list[Entry]:
    """The numbers of the paper's Table 1 (FID-VID, FVD) and its supplement (SSIM, PSNR)."""
    nan = float("nan")
    return [
        Entry(m, PUBLISHED, {k: Interval(v, nan, nan, 6) for k, v in zip(_PAPER_METRICS, row, strict=True)}, True)
        for m, row in _PAPER.items()
    ]


def compare(sources: Sequence[str], *, with_published: bool = True, metrics: Sequence[str] = ()) -> Comparison:
    """Read all sources.

    Args:
        sources: PATH or NAME=PATH each: folders of reports, summary.json, or CSV files.
        with_published: add the paper's numbers, labelled.
        metrics: only these, in this order; default all.

    Raises:
        InputError: a source cannot be read, has no numbers, two have one name, or a metric is in none.
    """
    entries: list[Entry] = []
    conditions: dict[str, dict[str, Any]] = {}
    for text in sources:
        label, path = _split(text)
        if label in {e.source for e in entries}:
            raise InputError(f"two sources called {label!r}", "a name of its own for each", "give NAME=PATH")
        found, condition = load_source(label, path)
        entries += found
        if condition is not None:
            conditions[label] = condition
    entries += published() if with_published else []
    if not entries:
        raise InputError("nothing to compare", "reports, CSV files or --published", "name at least one source")
    known = list(dict.fromkeys([*METRICS, *(m for e in entries for m in e.cells)]))
    shown = [m for m in known if any(m in e.cells for e in entries)]
    unknown = [m for m in metrics if m not in shown]
    if unknown:
        raise InputError(f"metric {unknown[0]!r}", ", ".join(shown), "choose from these")
    return Comparison(entries, list(metrics) or shown, _notes(conditions, with_published))


def _split(text: str) -> tuple[str, Path]:
    name, found, place = text.partition("=")
    if found and not Path(text).exists():
        return name, Path(place)
    path = Path(text)
    return (path.resolve().name if path.is_dir() else path.stem), path


def load_source(label: str, path: Path) -> tuple[list[Entry], dict[str, Any] | None]:
    """The methods of a report or CSV, and (of a report) all that must agree for two to be comparable.

    Raises:
        InputError: not there, not of this form, or without numbers.
    """
    file = path / "summary.json" if path.is_dir() else path
    condition = None
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() == ".json":
            data = json.loads(text)
            cells = {m: {k: _cell(v) for k, v in of.items()} for m, of in data["methods"].items()}
            condition = _condition(data)
        else:
            cells = _from_csv(text, label)
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, AttributeError, ValueError) as e:
        if isinstance(e, InputError):
            raise InputError(f"{file}: {e.got}", e.expected, e.fix) from e
        reason = e.strerror if isinstance(e, OSError) else f"{type(e).__name__}: {e}"
        what = "a report of 'mimicmotion evaluate', its summary.json, or a CSV file"
        raise InputError(f"{file} cannot be read ({reason})", what, "check the path") from e
    entries = [Entry(m, label, known) for m, of in cells.items() if (known := _known(of))]
    if not entries:
        raise InputError(f"{file} holds no number", "at least one method with one metric", "check the file")
    return entries, condition


def _known(of: Mapping[str, Interval]) -> dict[str, Interval]:
    return {k: i for k, i in of.items() if math.isfinite(i.value)}


def _cell(data: Mapping[str, Any]) -> Interval:
    mean, low, high = (float("nan") if data.get(k) is None else float(data[k]) for k in ("mean", "low", "high"))
    return Interval(mean, low, high, int(data.get("n") or 0))


def _condition(data: Mapping[str, Any]) -> dict[str, Any]:
    """What two reports must share for their rows to be comparable."""
    protocol = {k: v for k, v in data.get("protocol", {}).items() if k not in ("shows", "name", "what")}
    free = {"strict", "metrics", "resamples", "frechet_resamples", "seed", "fd_infinity"}
    free |= {"borders", "segment_frames", "overlap_frames", "reference_slot", "fusion"}  # of each method's own
    settings = {k: v for k, v in data.get("settings", {}).items() if k not in free}
    return {"protocol": protocol, "settings": settings, "real videos": data.get("inputs", {}).get("real")}


def _from_csv(text: str, label: str) -> dict[str, dict[str, Interval]]:
    """Long (sequence, method, metric, value) or wide (method, one column a metric); several rows are averaged."""
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows:
        raise InputError("no rows", "a heading and at least one row", "check the file")
    values: dict[str, dict[str, list[float]]] = {}
    for line, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise InputError(f"line {line} does not fit the heading", "as many cells as columns", "mend the line")
        method = row.get("method") or label
        long = {"metric", "value"} <= set(row)
        cells = {row["metric"]: row["value"]} if long else row
        for metric, cell in cells.items():
            if metric in ("sequence", "method", "frames") or not cell.strip():
                continue
            try:
                number = float(cell)
            except ValueError as e:
                got = f"{metric} = {cell!r} in line {line}"
                raise InputError(got, "a number, or nothing", "correct the cell, or take the column out") from e
            if math.isfinite(number):
                values.setdefault(method, {}).setdefault(metric, []).append(number)
    return {m: {k: bootstrap_mean(v) for k, v in of.items()} for m, of in values.items()}


def _notes(conditions: Mapping[str, Mapping[str, Any]], with_published: bool) -> list[str]:
    notes = []
    if len(conditions) > 1:
        first, *others = conditions
        for other in others:
            unlike = [k for k, v in conditions[first].items() if conditions[other][k] != v]
            if unlike:
                notes.append(f"{other} and {first} differ in {', '.join(unlike)}: do not compare their rows")
    if with_published:
        notes.append(
            "Published rows are quoted from the paper (TikTok sequences 335 to 340, central squares): other code, "
            "other weights of the networks, other numbers of clips. The paper's own model is quoted with FVD 594, "
            "598, 472, 412 and 327 in different papers."
        )
    return notes


def save_comparison(folder: Path, c: Comparison) -> Path:
    """Write compare.md, compare.tex, compare.html and compare.csv.

    Raises:
        OutputError: a file cannot be written.
    """
    for name, text in zip(FILES, (markdown(c), latex(c), page(c), _csv(c)), strict=True):
        with atomic_path(folder / name) as part, writing(folder / name):
            part.write_text(text, encoding="utf-8", newline="")
    return folder


def _title(metric: str) -> str:
    info = METRICS.get(metric)
    return metric if info is None else info.title + {"higher": " ↑", "lower": " ↓", "": ""}[info.better]


def _number(i: Interval | None, metric: str, published: bool) -> str:
    if i is None:
        return "–"
    digits = METRICS[metric].digits if metric in METRICS else 4
    if published:
        return f"{i.value:g}"
    spread = f" [{i.low:.{digits}f}, {i.high:.{digits}f}]" if math.isfinite(i.low) else ""
    return f"{i.value:.{digits}f}{spread}"


def _best(c: Comparison) -> set[tuple[int, str]]:
    """Best measured row of each source and metric, as (number of the row, metric)."""
    best: set[tuple[int, str]] = set()
    for source in {e.source for e in c.entries if not e.published}:
        for metric in c.metrics:
            info: Metric | None = METRICS.get(metric)
            rows = [
                (e.cells[metric].value, k) for k, e in enumerate(c.entries) if e.source == source and metric in e.cells
            ]
            if info is not None and info.better and len(rows) > 1:
                best.add(((max if info.better == "higher" else min)(rows)[1], metric))
    return best


def _cells(c: Comparison, emphasis: str) -> tuple[list[str], list[list[str]]]:
    best = _best(c)
    rows = []
    for k, e in enumerate(c.entries):
        numbers = [_number(e.cells.get(m), m, e.published) for m in c.metrics]
        marked = [emphasis.format(n) if (k, m) in best else n for n, m in zip(numbers, c.metrics, strict=True)]
        rows.append([e.method, e.source, *marked])
    return ["method", "source", *map(_title, c.metrics)], rows


def markdown(c: Comparison) -> str:
    """The comparison as a Markdown table, the best row of each source in bold."""
    notes = [f"- {n}" for n in c.notes]
    return "\n".join(["# Comparison of methods", "", *grid(*_cells(c, "**{}**")), "", *notes]).rstrip() + "\n"


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--",
}  # fmt: skip


def latex(c: Comparison) -> str:
    """The comparison as a LaTeX table (package booktabs); published rows stand apart, under a heading."""
    best = _best(c)
    columns = "l" * 2 + "r" * len(c.metrics)
    head = " & ".join(_tex(h) for h in ["method", "source", *map(_title, c.metrics)])
    out = [*(f"% {n}" for n in c.notes), rf"\begin{{tabular}}{{{columns}}}", r"\toprule", rf"{head} \\", r"\midrule"]
    quoted = False
    for k, e in enumerate(c.entries):
        if e.published and not quoted:
            quoted = True
            out += [r"\midrule"] if k else []
            out.append(rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{{_tex(PUBLISHED)}}}}} \\")
        numbers = [_tex(_number(e.cells.get(m), m, e.published)) for m in c.metrics]
        marked = [rf"\textbf{{{n}}}" if (k, m) in best else n for n, m in zip(numbers, c.metrics, strict=True)]
        out.append(" & ".join([_tex(e.method), "paper" if e.published else _tex(e.source), *marked]) + r" \\")
    return "\n".join([*out, r"\bottomrule", r"\end{tabular}", ""])


def _tex(text: str) -> str:
    return "".join(_TEX.get(ch, ch) for ch in text)


def page(c: Comparison) -> str:
    """The comparison as one HTML file."""
    notes = "".join(f"<p>{html.escape(n)}</p>" for n in c.notes)
    start = f"<!doctype html><html lang=en><meta charset=utf-8><title>Comparison</title><style>{STYLE}</style>"
    return f"{start}<h1>Comparison of methods</h1>{table(*_cells(c, '{} *'))}<p>* best of its source</p>{notes}\n"


def _csv(c: Comparison) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "source", "published", "metric", "mean", "low", "high", "n"])
    for e in c.entries:
        for m in c.metrics:
            if (i := e.cells.get(m)) is not None:
                ends = [repr(float(v)) if math.isfinite(v) else "" for v in (i.value, i.low, i.high)]
                writer.writerow([e.method, e.source, int(e.published), m, *ends, i.n])
    return out.getvalue()
