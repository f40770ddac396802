"""The report of an evaluation as Markdown, HTML, CSV and JSON; the same evaluation gives the same bytes."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimicmotion import __version__
from mimicmotion.evaluation.figures import bars
from mimicmotion.evaluation.metrics.intervals import Interval, holm
from mimicmotion.evaluation.reports.compare import SUMMARY, TABLE
from mimicmotion.evaluation.reports.summary import Row
from mimicmotion.evaluation.videos import RATES
from mimicmotion.generate.provenance import installed
from mimicmotion.runtime.files import write_json, write_text
from mimicmotion.settings.metrics import FIELD, FRECHET, METRICS, Metric
from mimicmotion.tables import Section, Table, html_page, markdown_page, write_csv

if TYPE_CHECKING:
    from mimicmotion.evaluation.job import Evaluation

FILES = ("report.md", "report.html", TABLE, SUMMARY)
FORMAT = 1
FEW = 5
"""Minimum number of sequences for a verdict on a difference."""
LEVEL = 0.05
"""Family-wise significance level of the differences of a report."""
PACKAGES = ("numpy", "opencv-python-headless", "av", "pillow", "scikit-image", "torch", "onnxruntime")
_TESTED = (
    "Over the sequences that both have. p: t test of the paired differences, corrected for all tests of this table "
    "(Holm): if nothing differs, one report in twenty claims a difference."
)
_FITTED = (
    "Generated frames are mapped to the real frames' pixels (bicubic with antialiasing) and cropped to the compared "
    "region. Videos of unequal length are cut to the shorter one."
)


def save_report(folder: Path, done: Evaluation) -> Path:
    """Write report.md, report.html (self-contained), metrics.csv and summary.json. Returns the folder.

    Raises:
        OutputError: a file cannot be written.
    """
    rows = [
        [r.sequence, r.method, m, None if math.isnan(r.values[m]) else float(r.values[m]), r.frames]
        for r in done.rows
        for m in METRICS
        if m in r.values
    ]
    write_csv(folder / TABLE, ["sequence", "method", "metric", "value", "frames"], rows)
    write_json(folder / SUMMARY, _data(done))
    sections = _sections(done)
    write_text(folder / "report.md", markdown_page("Evaluation", sections))
    write_text(folder / "report.html", html_page("Evaluation", sections))
    return folder


def overview(done: Evaluation) -> str:
    """Format the summary of an evaluation for the terminal."""
    (hits, made), table = done.reused, method_table(done)
    lines = [f"note: {n}" for n in done.notes]
    lines += [f"FAILED: {f.method}, {f.sequence}: {f.reason}" for f in done.failures]
    lines += ["", *(table.markdown() if table.rows else ["nothing could be measured"]), ""]
    lines.append(f"{hits} results from the cache, {made} computed")
    lines.append(f"report: {done.config.output / 'report.md'} (also report.html, metrics.csv, summary.json)")
    return "\n".join(lines)


def environment() -> dict[str, str]:
    """Return versions, platform and number of processors, on which results may depend."""
    found = {"mimicmotion": __version__, "python": platform.python_version(), "platform": platform.platform()}
    return found | installed(*PACKAGES) | {"processors": str(os.cpu_count())}


def _data(done: Evaluation) -> dict[str, Any]:
    """Content of summary.json, with null for NaN."""
    summary = done.summary
    used = {m: METRICS[m] for m in summary.metrics}
    return {
        "format": FORMAT,
        "methods": {name: {metric: _interval(i) for metric, i in of.items()} for name, of in summary.methods.items()},
        "paired": [
            {"method": p.method, "baseline": p.baseline, "metric": p.metric} | _interval(p.interval)
            for p in summary.paired
        ],
        "metrics": {m: {"title": title(done, m), "better": i.better, "what": i.what} for m, i in used.items()},
        "sequences": sorted({r.sequence for r in done.rows}),
        "rows": [{"sequence": r.sequence, "method": r.method, "frames": r.frames, "notes": r.notes} for r in done.rows],
        "failures": [{"method": f.method, "sequence": f.sequence, "reason": f.reason} for f in done.failures],
        "notes": done.notes,
        "protocol": _protocol(done),
        "settings": _settings(done),
        "networks": {g: {"file": n.path.name, "sha256": n.digest} for g, n in done.networks.items() if n},
        "inputs": done.inputs,
        "environment": environment(),
    }


def _protocol(done: Evaluation) -> dict[str, Any]:
    p = done.protocol
    crops = {m: p.crop_of(m).shows for m in done.methods}
    plain = {k: getattr(p, k) for k in ("name", "what", "region", "size")}
    return plain | {"sequences": list(p.sequences), "shows": crops}


def _settings(done: Evaluation) -> dict[str, Any]:
    c, groups = done.config, done.networks
    names = ["convention", "folder_fps", "strict", "clips", "fd_infinity", *(["borders"] if "seams" in groups else [])]
    return {n: getattr(c, n) for n in names} | {"metrics": list(groups), "driving_poses": c.driving is not None}


def _interval(i: Interval) -> dict[str, Any]:
    return {"mean": i.value, "low": i.low, "high": i.high, "n": i.n} | ({"clips": i.clips} if i.clips else {})


def title(done: Evaluation, metric: str) -> str:
    """Title of a metric; for a Frechet distance on other features, it names their network."""
    network = done.networks.get("features")
    if network is None or metric.removesuffix("_infinity") != "features":
        return METRICS[metric].title
    infinite = ", infinite set" if metric.endswith("_infinity") else ""
    return f"{network.title}{infinite} (not FVD, FID or FID-VID)"


def method_table(done: Evaluation) -> Table:
    """A row per metric and a column per method, with the best value of each metric marked with *."""
    rows = []
    for metric, info in METRICS.items():
        cells = [done.summary.methods[m].get(metric) for m in done.methods]
        if any(cells):
            best = info.best([c.value if c else None for c in cells])
            text = [
                f"{c.text(info.digits)} (n={_count(c)})" + (" *" if i == best else "") if c else "–"
                for i, c in enumerate(cells)
            ]
            rows.append([title(done, metric) + info.arrow, *text])
    return Table(["metric", *done.methods], rows)


def _count(i: Interval) -> str:
    return f"{i.n}, {i.clips} clips" if i.clips else str(i.n)


def _differences(done: Evaluation) -> Table:
    rows = []
    # with too few sequences there is no verdict, and so no test to correct for
    corrected = holm([p.interval.p if p.interval.n >= FEW else math.nan for p in done.summary.paired])
    for pair, p in zip(done.summary.paired, corrected, strict=True):
        info, i = METRICS[pair.metric], pair.interval
        cells = [i.text(info.digits, "+"), _count(i), "–" if math.isnan(p) else f"{p:.2g}"]
        rows.append(
            [title(done, pair.metric), f"{pair.method} − {pair.baseline}", *cells, verdict(pair.method, i, p, info)]
        )
    return Table(["metric", "difference", "mean [95% interval]", "n", "p", "verdict"], rows)


def verdict(method: str, i: Interval, p: float, info: Metric) -> str:
    """Verdict on a difference `i` whose corrected p-value is `p`, such as "A better"."""
    if not math.isfinite(i.low):
        return "no interval"
    if i.n < FEW:
        return "too few sequences"
    if p >= LEVEL:
        return "no difference shown"
    if not info.better:
        return "differs"
    return f"{method} {'better' if (i.value > 0) == (info.better == 'higher') else 'worse'}"


def _sections(done: Evaluation) -> list[Section]:
    """The sections of the report, without empty ones."""
    used = done.summary.metrics
    settings = [(k, json.dumps(v, ensure_ascii=False)) for k, v in (_protocol(done) | _settings(done)).items()]
    networks = [[n.title, n.path.name, n.digest] for n in done.networks.values() if n]
    inputs = [[name, s, digest] for name, of in done.inputs.items() for s, digest in of.items()]
    noted = [[r.method, r.sequence, "; ".join(r.notes)] for r in done.rows if r.notes]
    failed = [[f.method, f.sequence, f.reason] for f in done.failures]
    meanings = [[title(done, m), METRICS[m].what] for m in used]
    sections = [
        Section("Methods", _introduction(done, used), method_table(done), _bars(done, used)),
        Section(f"Differences from {done.methods[0]}", [_TESTED], _differences(done)),
        Section("Failed", ["These videos could not be measured."], Table(["method", "sequence", "reason"], failed)),
        Section("Notes", [f"- {n}" for n in done.notes], Table(["method", "sequence", "note"], noted)),
        Section("Sequences", (), _sequences(done)),
        Section("What the numbers mean", [_FITTED], Table(["number", "meaning"], meanings)),
        Section("Protocol and settings", (), Table(["setting", "value"], settings)),
        Section("Networks", (), Table(["number", "file", "sha256"], networks)),
        Section("Videos", (), Table(["folder", "sequence", "sha256"], inputs)),
        Section("Environment", (), Table(["what", "version"], list(environment().items()))),
    ]
    return [s for s in sections if s.table.rows or s.heading == "Methods" or (s.heading == "Notes" and s.text)]


def _introduction(done: Evaluation, used: Sequence[str]) -> list[str]:
    p, sequences = done.protocol, len({r.sequence for r in done.rows})
    out = [f"{len(done.methods)} method(s), {sequences} sequence(s); protocol {p.name}: {p.what}."]
    if done.rows and min(len([r for r in done.rows if r.method == m]) for m in done.methods) < FEW:
        out.append(f"Fewer than {FEW} sequences: too few to tell methods apart.")
    if any(RATES in note for r in done.rows for note in r.notes):
        out.append("Real and generated videos have different frame rates; see Notes for how they were compared.")
    out.append("Mean over sequences [95% interval, Student's t over sequences] (n: sequences). * marks the best mean.")
    if any(m in FIELD for m in used):
        out.append(
            "Numbers marked (field) reproduce what common code computes, averaged over frames; they do not follow the "
            "metrics' definitions."
        )
    if any(m in FRECHET for m in used):
        out.append(
            "Frechet distances depend on the number of clips and on every detail above: never compare them across "
            "papers. Their intervals come from resampling whole sequences."
        )
    return out


def _bars(done: Evaluation, used: Sequence[str]) -> dict[str, bytes]:
    """A picture (PNG) with bar charts of all metrics, by its caption; empty if there are no metrics."""
    png = BytesIO()
    if used:
        bars.paint(done.summary.methods, used, png, {m: title(done, m) for m in used})
    return {"means with 95% intervals": png.getvalue()} if used else {}


def _sequences(done: Evaluation) -> Table:
    metrics = [m for m in METRICS if any(m in r.values for r in done.rows)]

    def cell(row: Row, metric: str) -> str:
        value = row.values.get(metric, math.nan)
        return "–" if math.isnan(value) else f"{value:.{METRICS[metric].digits}f}"

    rows = [[r.sequence, r.method, r.frames, *(cell(r, m) for m in metrics)] for r in done.rows]
    return Table(["sequence", "method", "frames", *(METRICS[m].title for m in metrics)], rows)
