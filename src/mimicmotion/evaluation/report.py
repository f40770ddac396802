"""An evaluation as Markdown, HTML, CSV and JSON. The same evaluation gives the same bytes."""

from __future__ import annotations

import csv
import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mimicmotion.evaluation.bootstrap import Interval
from mimicmotion.evaluation.frechet import Extrapolated
from mimicmotion.evaluation.runner import Evaluation, environment
from mimicmotion.evaluation.settings import FIELD, FRECHET, METRICS, Metric
from mimicmotion.evaluation.summary import Row
from mimicmotion.files import atomic_path, writing

FILES = ("report.md", "report.html", "metrics.csv", "summary.json")
FORMAT = 1
FEW = 5
"""Below so many sequences no difference is called one."""
_ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}


def save_report(folder: Path, done: Evaluation) -> Path:
    """Write report.md, report.html (needs no other file), metrics.csv and summary.json.

    Raises:
        OutputError: a file cannot be written.
    """
    contents = {
        "metrics.csv": _csv(done),
        "summary.json": json.dumps(as_data(done), indent=1, allow_nan=False, ensure_ascii=False) + "\n",
        "report.md": markdown(done),
        "report.html": page(done),
    }
    for name, text in contents.items():
        with atomic_path(folder / name) as part, writing(folder / name):
            part.write_text(text, encoding="utf-8", errors="replace", newline="")
    return folder


def as_data(done: Evaluation) -> dict[str, Any]:
    """What summary.json holds: plain data; null is NaN."""
    used = {m: info for m, info in METRICS.items() if any(m in of for of in done.summary.methods.values())}
    return {
        "format": FORMAT,
        "methods": {
            name: {metric: _interval(i) for metric, i in of.items()} for name, of in done.summary.methods.items()
        },
        "paired": [
            {"method": p.method, "baseline": p.baseline, "metric": p.metric} | _interval(p.interval)
            for p in done.summary.paired
        ],
        "fits": {metric: {m: _fit(f) for m, f in of.items()} for metric, of in done.summary.fits.items()},
        "metrics": {m: {"title": title(done, m), "better": i.better, "what": i.what} for m, i in used.items()},
        "sequences": sorted({r.sequence for r in done.rows}),
        "rows": [{"sequence": r.sequence, "method": r.method, "frames": r.frames, "notes": r.notes} for r in done.rows],
        "failures": [{"method": f.method, "sequence": f.sequence, "reason": f.reason} for f in done.failures],
        "notes": done.notes,
        "protocol": _protocol(done),
        "settings": _settings(done),
        "networks": {n.group: {"file": n.path.name, "sha256": n.digest} for n in done.choice.networks.values()},
        "inputs": done.inputs,
        "environment": environment(),
    }


def _fit(f: Extrapolated) -> dict[str, Any]:
    r_squared = f.r_squared if math.isfinite(f.r_squared) else None
    return {"value": f.value, "slope": f.slope, "r_squared": r_squared, "sizes": f.sizes, "distances": f.distances}


def _protocol(done: Evaluation) -> dict[str, Any]:
    p = done.protocol
    crops = {m: p.crop_of(m).shows for m in done.methods}
    plain = {k: getattr(p, k) for k in ("name", "what", "region", "size")}
    return plain | {"sequences": list(p.sequences), "shows": crops}


def _settings(done: Evaluation) -> dict[str, Any]:
    c = done.config
    names = ["convention", "frame_rate", "fps", "folder_fps", "strict", "clips", "clip_frames", "fit", "equal_n"]
    if "seams" in done.choice.groups:
        names += [
            "borders",
            "segment_frames",
            *(["overlap_frames", "reference_slot", "fusion"] if c.segments() else []),
        ]
    if "identity" in done.choice.groups:
        names += [f"identity_{n}" for n in ("size", "colours", "mean", "std", "confidence")]
    return {n: getattr(c, n) for n in (*names, "fd_infinity", "resamples", "frechet_resamples", "seed")} | {
        "metrics": list(done.choice.groups),
        "driving_poses": c.driving is not None,
    }


def _interval(i: Interval) -> dict[str, Any]:
    numbers = {"mean": i.value, "low": i.low, "high": i.high}
    return {k: v if math.isfinite(v) else None for k, v in numbers.items()} | {"n": i.n}


def _csv(done: Evaluation) -> str:
    import io

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["sequence", "method", "metric", "value", "frames"])
    for row in done.rows:
        for metric in METRICS:
            if metric in row.values:
                value = row.values[metric]
                writer.writerow(
                    [row.sequence, row.method, metric, "" if math.isnan(value) else repr(float(value)), row.frames]
                )
    return out.getvalue()


def title(done: Evaluation, metric: str) -> str:
    """Heading of a metric; a stand-in's names its network."""
    network = done.choice.networks.get("features")
    if network is None or metric.removesuffix("_infinity") != "features":
        return METRICS[metric].title
    infinite = ", infinite set" if metric.endswith("_infinity") else ""
    return f"{network.title}{infinite} (not FVD, FID or FID-VID)"


Cells = list[list[str]]


def method_cells(done: Evaluation) -> tuple[list[str], Cells]:
    """Heading and rows: metrics down, methods across, the best one of each marked with *."""
    head = ["metric", *done.methods]
    rows = []
    for metric, info in METRICS.items():
        cells = [done.summary.methods[m].get(metric) for m in done.methods]
        if any(cells):
            best = _best(cells, info)
            text = [_text(c, info.digits) + (" *" if i == best else "") for i, c in enumerate(cells)]
            rows.append([title(done, metric) + _ARROWS[info.better], *text])
    return head, rows


def method_table(done: Evaluation) -> list[str]:
    """`method_cells` as lines of Markdown."""
    head, rows = method_cells(done)
    return grid(head, rows) if rows else ["nothing could be measured"]


def _best(cells: Sequence[Interval | None], info: Metric) -> int | None:
    known = [(c.value, i) for i, c in enumerate(cells) if c is not None]
    if len(known) < 2 or not info.better:
        return None
    return (max if info.better == "higher" else min)(known)[1]


def _text(i: Interval | None, digits: int) -> str:
    if i is None:
        return "–"
    value = f"{i.value:.{digits}f}"
    spread = f" [{i.low:.{digits}f}, {i.high:.{digits}f}]" if math.isfinite(i.low) else ""
    return f"{value}{spread} (n={i.n})"


def _paired_cells(done: Evaluation) -> tuple[list[str], Cells]:
    head = ["metric", "difference", "mean", "95 % interval", "n", "says"]
    rows = []
    for p in done.summary.paired:
        info, i = METRICS[p.metric], p.interval
        spread = f"{i.low:+.{info.digits}f} to {i.high:+.{info.digits}f}" if math.isfinite(i.low) else "–"
        difference = f"{p.method} − {p.baseline}"
        cells = [
            title(done, p.metric),
            difference,
            f"{i.value:+.{info.digits}f}",
            spread,
            str(i.n),
            _verdict(p.method, i, info),
        ]
        rows.append(cells)
    return head, rows


def _verdict(method: str, i: Interval, info: Metric) -> str:
    if not math.isfinite(i.low):
        return "no interval"
    if i.n < FEW:  # the bootstrap's intervals are far too narrow then
        return "too few sequences"
    if not i.excludes_zero:
        return "no difference shown"
    if not info.better:
        return "differs"
    return f"{method} {'better' if (i.value > 0) == (info.better == 'higher') else 'worse'}"


def _blocks(done: Evaluation) -> list[tuple[str, list[str], list[str], Cells]]:
    """Heading, sentences, table heading and table rows of each part of the report."""
    sequences = len({r.sequence for r in done.rows})
    p, s = done.protocol, _settings(done)
    intro = [f"{len(done.methods)} method(s), {sequences} sequence(s); protocol {p.name}: {p.what}."]
    if done.rows and min(len([r for r in done.rows if r.method == m]) for m in done.methods) < FEW:
        intro.append(f"Fewer than {FEW} sequences: the intervals are too narrow to be trusted.")
    intro.append("Mean over sequences [95 % interval, bootstrap over sequences] (n: sequences). * marks the best mean.")
    if any(m in FIELD for of in done.summary.methods.values() for m in of):
        intro.append(
            "Numbers marked (field) repeat what widespread code computes, mean over frames; they are not by definition."
        )
    if any(m in FRECHET for of in done.summary.methods.values() for m in of):
        intro.append(
            "Frechet distances depend on the number of clips and on every detail above: never compare them across "
            "papers. Their intervals show the draws' spread around the distance itself, because a draw holds fewer "
            "different clips and so lies higher."
        )
    blocks = [("Methods", intro, *method_cells(done))]
    if done.summary.paired:
        blocks.append((f"Differences to {done.methods[0]}", ["Over the sequences of both."], *_paired_cells(done)))
    if done.summary.fits:
        blocks.append(("Infinitely many clips", *_fit_cells(done)))
    if done.failures:
        cells = [[f.method, f.sequence, f.reason] for f in done.failures]
        blocks.append(("Failed", ["These videos could not be measured."], ["method", "sequence", "reason"], cells))
    noted = [[r.method, r.sequence, "; ".join(r.notes)] for r in done.rows if r.notes]
    blocks.append(("Notes", [*(f"- {n}" for n in done.notes)] or ["none"], ["method", "sequence", "note"], noted))
    blocks.append(("Sequences", [], *_sequence_cells(done)))
    meaning = [
        [title(done, m), i.what] for m, i in METRICS.items() if any(m in of for of in done.summary.methods.values())
    ]
    how = [
        "Generated frames are brought to the real frames' pixels, bicubic with antialiasing (where a picture shrinks, "
        "the kernel is widened by the scale), and cut to the compared region. Unequal lengths are cut to the shorter."
    ]
    blocks.append(("What the numbers are", how, ["number", "meaning"], meaning))
    facts = [[k, json.dumps(v, ensure_ascii=False)] for k, v in (_protocol(done) | s).items()]
    blocks.append(("Protocol and settings", [], ["setting", "value"], facts))
    networks = [[n.title, n.path.name, n.digest] for n in done.choice.networks.values()]
    blocks.append(("Networks", [] if networks else ["none"], ["number", "file", "sha256"], networks))
    inputs = [[name, s, digest] for name, of in done.inputs.items() for s, digest in of.items()]
    blocks.append(("Videos", [], ["folder", "sequence", "sha256"], inputs))
    blocks.append(("Environment", [], ["what", "version"], [list(kv) for kv in environment().items()]))
    return blocks


def _fit_cells(done: Evaluation) -> tuple[list[str], list[str], Cells]:
    said = [
        "A distance of n clips is too large by about slope / n: a line through the mean distances of subsets, read at "
        "infinitely many. R² says how well it fits. Clips of one sequence resemble one another, most of all at stride "
        "1: that there are few sequences no line can take out."
    ]
    rows = []
    for metric, of in done.summary.fits.items():
        for method, f in of.items():
            points = ", ".join(f"{n}: {d:.2f}" for n, d in zip(f.sizes, f.distances, strict=True))
            cells = [title(done, metric), method, f"{f.value:.2f}", f"{f.slope:.0f}", f"{f.r_squared:.3f}", points]
            rows.append(cells)
    return said, ["metric", "method", "at infinity", "slope", "R²", "mean distance of n clips"], rows


def _sequence_cells(done: Evaluation) -> tuple[list[str], Cells]:
    metrics = [m for m in METRICS if any(m in r.values for r in done.rows)]

    def cell(row: Row, metric: str) -> str:
        value = row.values.get(metric, math.nan)
        return "–" if math.isnan(value) else f"{value:.{METRICS[metric].digits}f}"

    rows = [[r.sequence, r.method, str(r.frames), *(cell(r, m) for m in metrics)] for r in done.rows]
    return ["sequence", "method", "frames", *(METRICS[m].title for m in metrics)], rows


def markdown(done: Evaluation) -> str:
    """The report as Markdown."""
    out = ["# Evaluation"]
    for heading, sentences, head, rows in _blocks(done):
        out += ["", f"## {heading}", ""]
        lists = all(s.startswith("- ") for s in sentences)
        out += sentences if lists else "\n\n".join(sentences).split("\n")
        out += ["", *grid(head, rows)] if rows and sentences else grid(head, rows) if rows else []
    return "\n".join(out) + "\n"


def grid(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in line) + " |" for line in lines]


STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:.5em 0 1.5em;display:block;overflow-x:auto;font-variant-numeric:tabular-nums}
th,td{padding:.2em .9em .2em 0;text-align:left;vertical-align:top}
th{border-bottom:1px solid #aaa}
td{border-bottom:1px solid #eee;overflow-wrap:anywhere}h2{margin-top:1.6em}
.failed{color:#b23030}svg{display:block;margin:.3em 0 1em}
svg text{font:12px system-ui,sans-serif;fill:#333}"""


def page(done: Evaluation) -> str:
    """The report as one HTML file."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Evaluation</title><style>{STYLE}</style><h1>Evaluation</h1>"
    ]
    for heading, sentences, head, rows in _blocks(done):
        name = " class=failed" if heading == "Failed" else ""
        parts.append(f"<h2{name}>{html.escape(heading)}</h2>")
        parts += [f"<p>{html.escape(s.removeprefix('- '))}</p>" for s in sentences]
        parts.append(table(head, rows))
        if heading == "Methods":
            parts += plots(done)
    return "\n".join(p for p in parts if p) + "\n"


def table(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table; nothing without rows."""
    if not rows:
        return ""
    top = "".join(f"<th>{html.escape(str(h))}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def plots(done: Evaluation) -> list[str]:
    """A drawing of the intervals of each metric, methods below one another."""
    out = []
    for metric, info in METRICS.items():
        cells = [(m, of[metric]) for m, of in done.summary.methods.items() if metric in of]
        if cells:
            name = html.escape(title(done, metric) + _ARROWS[info.better])
            out.append(f"<h3>{name}</h3>{_plot(cells, info.digits)}")
    return out


def _plot(cells: Sequence[tuple[str, Interval]], digits: int) -> str:
    ends = [v for _, i in cells for v in (i.value, i.low, i.high) if math.isfinite(v)]
    low, high = min(ends), max(ends)
    left, width, step = 190, 560, 24
    span = high - low

    def x(value: float) -> float:
        return left + 10 + (width - 20) * ((value - low) / span if span > 0 else 0.5)

    marks = []
    for k, (method, i) in enumerate(cells):
        y = 14 + step * k
        marks.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{html.escape(method[:26])}</text>')
        marks.append(f'<line x1="{left}" x2="{left + width}" y1="{y}" y2="{y}" stroke="#eee"/>')
        if math.isfinite(i.low):
            line = f'x1="{x(i.low):.1f}" x2="{x(i.high):.1f}" y1="{y}" y2="{y}"'
            marks.append(f'<line {line} stroke="#2b6cb0" stroke-width="3"/>')
        marks.append(f'<circle cx="{x(i.value):.1f}" cy="{y}" r="5" fill="#2b6cb0"/>')
    y = 14 + step * len(cells) + 4
    marks.append(f'<text x="{x(low):.1f}" y="{y}" text-anchor="start">{low:.{digits}f}</text>')
    if span > 0:
        marks.append(f'<text x="{x(high):.1f}" y="{y}" text-anchor="end">{high:.{digits}f}</text>')
    return f'<svg width="{left + width + 10}" height="{y + 8}" role="img">{"".join(marks)}</svg>'
