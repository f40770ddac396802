"""The analysis of a study as Markdown, JSON and CSV."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mimicmotion.runtime.files import write_json, write_text, writing
from mimicmotion.runtime.run_folder import atomic_folder
from mimicmotion.settings.study import Exclusion
from mimicmotion.study.analyse import Analysis, analyse_votes
from mimicmotion.study.folder import load_key, load_study
from mimicmotion.study.votes import load_votes
from mimicmotion.tables import Section, Table, markdown_page, write_csv


def analyse(
    folder: Path, sources: Sequence[Path] = (), output: Path | None = None, exclusion: Exclusion | None = None
) -> str:
    """Analyse votes, write the report to the folder `output` (by default STUDY/analysis), and return it as text.

    Raises:
        InputError: there are no votes, or they belong to another study.
        OutputError: the folder holds other files, or cannot be written.
    """
    study = load_study(folder)
    analysis = analyse_votes(study, load_key(folder, study), load_votes(folder, study, sources), exclusion)
    place = save_report(output or folder / "analysis", analysis)
    return f"{markdown(analysis)}\nwritten to {place}"


def save_report(folder: Path, analysis: Analysis) -> Path:
    """Write preference.md, .json, .csv (a row for each question and baseline) and -votes.csv (a row for each vote).

    Raises:
        OutputError: the folder holds other files, or cannot be written.
    """
    head = ["question", "baseline", "votes", "for_ours", "ties", "share", "low", "high", "p", "raters"]
    head += ["raters_low", "raters_high"]
    rows = [
        [p.question, p.baseline, v.n, v.k, p.ties, v.share, v.low, v.high, v.p, r.n, r.low, r.high]
        for p in analysis.preferences
        for v, r in [(p.votes, p.by_rater)]
    ]
    with atomic_folder(folder, "preference*") as part, writing(folder):
        write_text(part / "preference.md", markdown(analysis))
        write_json(part / "preference.json", asdict(analysis))
        write_csv(part / "preference.csv", head, rows)
        write_csv(part / "preference-votes.csv", list(analysis.rows[0]), [list(r.values()) for r in analysis.rows])
    return folder


def markdown(analysis: Analysis) -> str:
    """The report in Markdown."""
    preferences, raters = analysis.preferences, analysis.raters
    shares = [
        [
            p.question,
            p.baseline,
            f"**{_number(p.votes.share, '.1%')}** ({p.votes.k} of {p.votes.n})",
            p.ties,
            _interval(p.votes.low, p.votes.high),
            _number(p.votes.p, ".2g"),
            _interval(p.by_rater.low, p.by_rater.high),
        ]
        for p in preferences
    ]
    head = ["question", "baseline", f"prefer {analysis.ours}", "ties", "95% Wilson", "sign test p", "95% over raters"]
    note = "Ties are not counted. Wilson and the sign test assume independent votes; the last interval is over raters."
    checks = [
        f"- repeated pairs answered consistently: {analysis.consistency} (50% by chance)",
        f"- answers for the left side: {analysis.left}, p = {_number(analysis.left.p, '.2g')} (50% is expected)",
        f"- raters excluded: {len(raters) - len(analysis.kept)} of {len(raters)}; rule: {analysis.rule}",
    ]
    people = [
        [
            *(r.name, r.code, r.votes, r.ours, r.left, r.ties),
            f"{r.consistent} of {r.repeated}",
            f"{r.caught} of {r.catches}",
            _number(r.agreement, ".0%"),
            f"{r.seconds:.1f}",
            r.excluded,
        ]
        for r in raters
    ]
    columns = ["rater", "code", "answers", "for ours", "left", "ties", "consistent", "catch pairs correct"]
    columns += ["with the majority", "seconds", "excluded"]
    return markdown_page(
        f"User study: {analysis.ours} against {len({p.baseline for p in preferences})} baselines",
        [
            Section("", [note], Table(head, shares)),
            Section("Checks", checks),
            Section("Raters", (), Table(columns, people)),
        ],
    )


def _interval(low: float, high: float) -> str:
    return "–" if math.isnan(low) else f"{low:.1%} to {high:.1%}"


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)
