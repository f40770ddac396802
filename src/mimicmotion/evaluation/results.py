"""Reading the results of reports and of other CSV files: method -> metric -> mean with interval."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mimicmotion.errors import InputError
from mimicmotion.evaluation.metrics.intervals import Interval, mean_interval
from mimicmotion.runtime.reading import read_json, reading

Results = dict[str, dict[str, Interval]]
SUMMARY, TABLE = "summary.json", "metrics.csv"
_FORM = "method -> metric -> {mean, low, high, n}"


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
        raise InputError("no rows", "a heading and at least one row", "check the file")
    values: dict[str, dict[str, list[float]]] = {}
    for line, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise InputError(f"line {line} does not match the heading", "as many cells as columns", "correct the line")
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
        raise InputError(f"{where}: {value!r}", "a number, or nothing", "correct the file") from e
