"""The analysis of a study as Markdown, JSON and CSV."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mimicmotion.evaluation.study.analyse import Analysis, Share
from mimicmotion.files import atomic_folder, writing

_FILES = "preference*"


def save_report(folder: Path, analysis: Analysis) -> Path:
    """Write preference.md, .json, .csv (a row for each baseline) and preference-votes.csv (a row for each vote).

    Raises:
        OutputError: the folder holds other files or cannot be written.
    """
    rows = [
        {
            "baseline": p.baseline,
            "votes": p.votes.n,
            "for_ours": p.votes.k,
            "share": p.votes.share,
            "low": p.votes.low,
            "high": p.votes.high,
            "p": p.votes.p,
            "raters": p.by_rater.n,
            "raters_low": p.by_rater.low,
            "raters_high": p.by_rater.high,
        }
        for p in analysis.preferences
    ]
    with atomic_folder(folder, _FILES) as part, writing(folder):
        (part / "preference.md").write_text(markdown(analysis) + "\n", encoding="utf-8")
        data = json.dumps(_plain(asdict(analysis)), indent=1, allow_nan=False, ensure_ascii=False)
        (part / "preference.json").write_text(data + "\n", encoding="utf-8")
        _table(part / "preference.csv", rows)
        _table(part / "preference-votes.csv", analysis.rows)
    return folder


def markdown(analysis: Analysis) -> str:
    """The report as text."""
    out = [f"# User study: {_cell(analysis.ours)} against {len(analysis.preferences)} baselines", ""]
    head = ["baseline", f"prefer {analysis.ours}", "95 % Wilson", "sign test p", "95 % over raters"]
    rows = [
        [
            p.baseline,
            f"**{p.votes.share:.1%}** ({p.votes.k} of {p.votes.n})",
            _interval(p.votes.low, p.votes.high),
            f"{p.votes.p:.2g}",
            _interval(p.by_rater.low, p.by_rater.high),
        ]
        for p in analysis.preferences
    ]
    out += [*_grid(head, rows), ""]
    out.append("Wilson and the sign test take votes for independent; the last column draws whole raters.")
    out += ["", "## Checks", ""]
    out += [f"- repeated pairs answered alike: {analysis.consistency} (50 % is guessing)"]
    out += [f"- answers for the left side: {analysis.left}, p = {_p(analysis.left)} (50 % is expected)"]
    out += [f"- agreement of the raters (Krippendorff's alpha): {_number(analysis.alpha, '.2f')}"]
    left_out = len(analysis.raters) - len(analysis.kept)
    out += [f"- raters left out: {left_out} of {len(analysis.raters)}; rule: {analysis.rule}", "", "## Raters", ""]
    head = ["rater", "pairs", "for ours", "left", "repeated alike", "with the majority", "seconds", "left out"]
    out += _grid(
        head,
        [
            [
                r.name,
                r.votes,
                r.ours,
                r.left,
                f"{r.consistent} of {r.repeated}",
                _number(r.agreement, ".0%"),
                f"{r.seconds:.1f}",
                r.excluded,
            ]
            for r in analysis.raters
        ],
    )
    out += ["", "## Sequences", ""]
    sequences = sorted({s for p in analysis.preferences for s in p.sequences})
    cells = [[s, *(_of(p.sequences.get(s)) for p in analysis.preferences)] for s in sequences]
    out += _grid(["sequence", *(p.baseline for p in analysis.preferences)], cells)
    return "\n".join(out)


def _of(counts: tuple[int, int] | None) -> str:
    return f"{counts[0]} of {counts[1]}" if counts else "–"


def _interval(low: float, high: float) -> str:
    return "–" if math.isnan(low) else f"{low:.1%} to {high:.1%}"


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


def _p(value: Share) -> str:
    return _number(value.p, ".2g")


def _grid(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(_cell(c) for c in line) + " |" for line in lines]


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _plain(value: Any) -> Any:
    """Numbers that JSON has; NaN becomes null."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]) if rows else ["baseline"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
