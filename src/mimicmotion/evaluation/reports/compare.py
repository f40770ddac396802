"""Comparison tables of reports, other CSV files and published numbers, each row labelled with its source."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimicmotion.errors import InputError
from mimicmotion.evaluation.metrics.intervals import Interval, mean_interval
from mimicmotion.runtime.files import write_text
from mimicmotion.runtime.reading import read_json, reading
from mimicmotion.settings.metrics import METRICS, describe
from mimicmotion.tables import Section, Table, html_page, markdown_page, write_csv

Results = dict[str, dict[str, Interval]]
SUMMARY, TABLE = "summary.json", "metrics.csv"
_FORM = "method -> metric -> {mean, low, high, n}"
FILES = ("compare.md", "compare.tex", "compare.html", "compare.csv")
PUBLISHED = "published, other implementation, do not compare across papers"
# Table 1 of the paper (FID-VID, FVD), its supplement (SSIM, PSNR): TikTok sequences 335-340, central squares, zero-shot
_PAPER = {
    "MagicPose": (13.3, 916, 0.776, 18.8),
    "Moore-AnimateAnyone": (12.4, 728, 0.758, 18.7),
    "MuseV": (14.6, 754, 0.766, 17.6),
    "MagicAnimate": (16.2, 848, 0.740, 17.5),
    "MimicMotion": (9.3, 594, 0.795, 20.1),
}
_PAPER_METRICS = ("fid_vid", "fvd", "ssim", "psnr")


def load_results(path: Path, label: str = "") -> tuple[Results, Mapping[str, Any]]:
    """Read a report's folder, its summary.json, or a CSV file.

    A CSV file is long (columns method, metric, value) or wide (a column per metric); without a column "method" its rows
    belong to `label`. Several rows of a method are averaged.

    Returns:
        The numbers, with NaN for missing ones; and the content of summary.json (empty for a CSV file).

    Raises:
        InputError: the file is missing, in another format, or holds no numbers.
    """
    file = path
    if path.is_dir():
        file = next((path / n for n in (SUMMARY, TABLE) if (path / n).is_file()), path / SUMMARY)
    data: Mapping[str, Any] = {}
    what = "a report of 'mimicmotion evaluate', its summary.json, or a CSV file", "check the path"
    try:
        if file.suffix.lower() == ".json":
            found, data = _from_json(read_json(file, *what))
        else:
            with reading(file, *what):
                found = _from_csv(file.read_text(encoding="utf-8-sig"), label or file.stem)
    except InputError as e:
        got = e.got if str(file) in e.got else f"{file}: {e.got}"
        raise InputError(got, e.expected, e.fix) from e
    if not any(math.isfinite(i.value) for of in found.values() for i in of.values()):
        raise InputError(f"{file} contains no numbers", "at least one method with one metric", "check the file")
    return found, data


def _from_json(data: Any) -> tuple[Results, Mapping[str, Any]]:
    methods = data.get("methods", data) if isinstance(data, Mapping) else None
    if not isinstance(methods, Mapping) or not all(isinstance(of, Mapping) for of in methods.values()):
        raise InputError("unexpected JSON structure", _FORM, "use the summary.json of a report")
    found: Results = {}
    for method, of in methods.items():
        for metric, cell in of.items():
            if not isinstance(cell, Mapping) or "mean" not in cell:
                raise InputError(f"{method}, {metric}: {cell!r}", _FORM, "use the summary.json of a report")
            ends = (_number(cell.get(k), f"{method}, {metric}, {k}") for k in ("mean", "low", "high"))
            found.setdefault(method, {})[metric] = Interval(
                *ends, n=int(cell.get("n") or 0), clips=int(cell.get("clips") or 0)
            )
    return found, data


def _from_csv(text: str, label: str) -> Results:
    rows = list(csv.DictReader(text.splitlines()))
    if not rows:
        raise InputError("no rows", "a header and at least one row", "check the file")
    values: dict[str, dict[str, list[float]]] = {}
    for line, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise InputError(f"line {line} does not match the header", "as many cells as columns", "correct the line")
        cells = {row["metric"]: row["value"]} if {"metric", "value"} <= set(row) else row
        for metric, cell in cells.items():
            if metric not in ("sequence", "method", "frames"):
                known = values.setdefault(row.get("method") or label, {}).setdefault(metric, [])
                number = _number(cell.strip(), f"{metric} in line {line}")
                known += [number] if math.isfinite(number) else []
    return {m: {k: mean_interval(v) if v else Interval(math.nan) for k, v in of.items()} for m, of in values.items()}


def _number(value: Any, where: str) -> float:
    if value is None or value == "":
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError) as e:
        raise InputError(f"{where}: {value!r}", "a number or an empty cell", "correct the file") from e


@dataclass(frozen=True, slots=True)
class Entry:
    """One method of one source.

    Attributes:
        method: name of the method.
        source: report, table or publication.
        cells: metric to number, without an interval if it is unknown.
        published: whether the numbers are quoted from a publication.
    """

    method: str
    source: str
    cells: dict[str, Interval]
    published: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """All rows, their metrics, and notes on what must not be compared."""

    entries: list[Entry]
    metrics: list[str]
    notes: list[str]


def compare(sources: Sequence[str], *, with_published: bool = True, metrics: Sequence[str] = ()) -> Comparison:
    """Read all sources, and combine their rows.

    Args:
        sources: folders of reports, summary.json or CSV files, each as PATH or NAME=PATH.
        with_published: add the numbers of the paper, labelled as such.
        metrics: metrics to show, in this order; by default all.

    Raises:
        InputError: a source cannot be read or has no numbers, two have the same name, or a metric is unknown.
    """
    entries: list[Entry] = []
    conditions: dict[str, dict[str, Any]] = {}
    for text in sources:
        label, path = _split(text)
        if label in {e.source for e in entries}:
            raise InputError(f"two sources named {label!r}", "a different name for each", "name them: NAME=PATH")
        found, report = load_results(path, label)
        known = {m: {k: i for k, i in of.items() if math.isfinite(i.value)} for m, of in found.items()}
        entries += [Entry(m, label, cells) for m, cells in known.items() if cells]
        if report:
            conditions[label] = _condition(report)
    for method, numbers in _PAPER.items() if with_published else ():
        cells = {k: Interval(v, n=6) for k, v in zip(_PAPER_METRICS, numbers, strict=True)}
        entries.append(Entry(method, PUBLISHED, cells, published=True))
    if not entries:
        raise InputError("nothing to compare", "reports, CSV files or --published", "name at least one source")
    every = list(dict.fromkeys(m for e in entries for m in e.cells))
    shown = [m for m in METRICS if m in every] + [m for m in every if m not in METRICS]
    unknown = [m for m in metrics if m not in shown]
    if unknown:
        raise InputError(f"metric {unknown[0]!r}", ", ".join(shown), "choose among these")
    return Comparison(entries, list(metrics) or shown, _notes(conditions, with_published))


def _split(text: str) -> tuple[str, Path]:
    name, found, place = text.partition("=")
    if found and not Path(text).exists():
        return name, Path(place)
    path = Path(text)
    return (path.resolve().name if path.is_dir() else path.stem), path


def _condition(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties that two reports must share for their rows to be comparable."""
    protocol = {k: v for k, v in data.get("protocol", {}).items() if k not in ("shows", "name", "what")}
    free = {"strict", "metrics", "fd_infinity", "borders"}  # each method has its own borders
    settings = {k: v for k, v in data.get("settings", {}).items() if k not in free}
    return {"protocol": protocol, "settings": settings, "real videos": data.get("inputs", {}).get("real")}


def _notes(conditions: Mapping[str, Mapping[str, Any]], with_published: bool) -> list[str]:
    notes = []
    first = next(iter(conditions), "")
    for other, condition in conditions.items():
        unlike = [k for k, v in conditions[first].items() if condition[k] != v]
        if unlike:
            notes.append(f"{other} and {first} differ in {', '.join(unlike)}: do not compare their rows")
    if with_published:
        notes.append(
            "Published rows are quoted from the paper (TikTok sequences 335 to 340, central squares): other code, "
            "network weights and numbers of clips. Different papers quote an FVD of 594, 598, 472, 412 or 327 for the "
            "paper's own model."
        )
    return notes


def save_comparison(folder: Path, c: Comparison) -> str:
    """Write compare.md, compare.tex, compare.html and compare.csv.

    Returns:
        The table as Markdown, and where it was written.

    Raises:
        OutputError: a file cannot be written.
    """
    title = "Comparison of methods"
    section = Section("", [f"- {n}" for n in ("bold: the best of its source", *c.notes)], _table(c))
    text = markdown_page(title, [section])
    write_text(folder / FILES[0], text)
    write_text(folder / FILES[1], latex(c))
    write_text(folder / FILES[2], html_page(title, [section]))
    rows = [
        [e.method, e.source, int(e.published), m, *map(_finite, (i.value, i.low, i.high)), i.n]
        for e in c.entries
        for m in c.metrics
        if (i := e.cells.get(m)) is not None
    ]
    write_csv(folder / FILES[3], ["method", "source", "published", "metric", "mean", "low", "high", "n"], rows)
    return f"{text}\nwritten to {folder}: {', '.join(FILES)}"


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _table(c: Comparison, published: str = PUBLISHED) -> Table:
    """All numbers, the best of each metric and source in bold; `published` is the source shown for quoted rows."""

    def cell(e: Entry, metric: str) -> str:
        i = e.cells.get(metric)
        if i is None:
            return "–"
        return f"{i.value:g}" if e.published else i.text(describe(metric).digits)

    bold = set()
    for source in {e.source for e in c.entries if not e.published}:
        for j, metric in enumerate(c.metrics):
            cells = [e.cells.get(metric) if e.source == source else None for e in c.entries]
            best = describe(metric).best([i.value if i else None for i in cells])
            bold |= {(best, 2 + j)} if best is not None else set()
    head = ["method", "source", *(describe(m).title + describe(m).arrow for m in c.metrics)]
    body = [[e.method, published if e.published else e.source, *(cell(e, m) for m in c.metrics)] for e in c.entries]
    return Table(head, body, bold)


def latex(c: Comparison) -> str:
    """The comparison as a LaTeX table (needs the booktabs package), with a heading above published rows."""
    quoted = next((k for k, e in enumerate(c.entries) if e.published), None)
    headings = {} if quoted is None else {quoted: PUBLISHED}
    return "".join(f"% {n}\n" for n in c.notes) + _table(c, "paper").latex("ll" + "r" * len(c.metrics), headings)
