"""The commands of paired user studies."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from mimicmotion.cli.options import Option, app, run_job, say, settings_command
from mimicmotion.settings.study import AnalyseConfig, StudyConfig, parse_method

study_app = App(name="study", help="Run a paired user study: build it, invite raters and analyse the votes.")
app.command(study_app)

METHODS = {
    "ours": Option(kind=str, convert=parse_method),
    "questions": Option(name="--question"),
    "baselines": Option(name="--baseline", kind=list[str], convert=lambda texts: [parse_method(t) for t in texts]),
}


@settings_command(study_app, StudyConfig, name="build", options=METHODS)
def study_build(settings: StudyConfig) -> None:
    """Build the page of a blind study from one folder of results per method, with the same file names in each."""
    from mimicmotion.study.build import build_study

    say(run_job(build_study(settings)).summary())


@study_app.command(name="invite")
def study_invite(folder: Path, raters: list[str], /, *, url: str = "http://127.0.0.1:8000") -> None:
    """Print each rater's personal link to the study FOLDER, which `mimicmotion serve --study FOLDER` shows.

    Args:
        folder: Folder created by `study build`.
        raters: Names or numbers of the raters, which are stored with their votes.
        url: URL at which raters can reach the service.
    """
    from mimicmotion.study.folder import load_study
    from mimicmotion.study.votes import sign

    study = load_study(folder)
    for line in [f"{url.rstrip('/')}/study#{sign(study, rater)}" for rater in raters]:
        say(line)


@settings_command(study_app, AnalyseConfig, "folder", "votes", name="analyse")
def study_analyse(settings: AnalyseConfig) -> None:
    """Analyse the VOTES cast in the study FOLDER: preferences with intervals, consistency, side bias and agreement."""
    from mimicmotion.study.analyse import analyse

    say(analyse(settings.folder, settings.votes, settings.output, settings))
