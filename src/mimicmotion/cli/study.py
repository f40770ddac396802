"""Paired user studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App

from mimicmotion.cli.options import Option, Output, app, run_job, say, settings_command
from mimicmotion.settings.study import Exclusion, StudyConfig, parse_method

study_app = App(name="study", help="Run a paired user study: build its page, serve it, and analyse the votes.")
app.command(study_app)

METHODS = {
    "ours": Option(kind=str, convert=parse_method),
    "baselines": Option(name="--baseline", kind=list[str], convert=lambda texts: [parse_method(t) for t in texts]),
}


@settings_command(study_app, StudyConfig, name="build", options=METHODS)
def study_build(settings: StudyConfig) -> None:
    """Build the page of a blind study from folders of results, with one video per sequence and the same names."""
    from mimicmotion.study.build import build_study

    say(run_job(build_study(settings)).summary())


@study_app.command(name="serve")
def study_serve(folder: Path, /, *, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve the page of the study FOLDER until Ctrl-C, and store the votes in FOLDER/votes.sqlite.

    Args:
        folder: Folder made by `study build`.
        host: Address to listen on; 0.0.0.0 allows access from other machines and phones.
        port: Port to listen on; 0 chooses a free one.
    """
    from mimicmotion.study.serve import serve

    say(serve(folder, host, port, lambda line: say(line, flush=True)))


@study_app.command(name="analyse")
def study_analyse(
    folder: Path,
    votes: list[Path] | None = None,
    /,
    *,
    output: Annotated[Path | None, Output] = None,
    min_votes: int = 0,
    min_consistency: float = 0.0,
    max_side: float = 1.0,
    min_seconds: float = 0.0,
) -> None:
    """Analyse the votes of the study FOLDER: preference with intervals, consistency, side bias, agreement.

    Args:
        folder: Folder made by `study build`.
        votes: Files of votes or folders of them; by default those that `study serve` stored.
        output: Folder for the report; by default FOLDER/analysis.
        min_votes: Exclude raters who answered fewer pairs.
        min_consistency: Exclude raters who answered a smaller share of repeated pairs consistently.
        max_side: Exclude raters who chose one side in a larger share of pairs.
        min_seconds: Exclude raters whose median time per vote is shorter.
    """
    from mimicmotion.study.report import analyse

    rule = Exclusion(min_votes=min_votes, min_consistency=min_consistency, max_side=max_side, min_seconds=min_seconds)
    say(analyse(folder, votes or [], output, rule))
