"""The commands evaluate, compare and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App

from mimicmotion.cli.options import Option, Output, Several, app, run_job, say, settings_command
from mimicmotion.evaluation.figures.specs import BarsSpec, DiffSpec, FusionSpec, HandsSpec, PosesSpec, YtSpec
from mimicmotion.settings.evaluation import EvaluateConfig, parse_methods
from mimicmotion.settings.metrics import GROUPS

figures_app = App(name="figures", help="Draw the paper's figures for your results, as PNG with the numbers as CSV.")
app.command(figures_app)


EVALUATE = {
    "generated": Option(kind=list[str], convert=parse_methods),
    "metrics": Option(
        help=f"Any of {', '.join(GROUPS)}; default: all available except lpips-vgg, and except poses without --driving."
    ),
}


@settings_command(app, EvaluateConfig, name="evaluate", options=EVALUATE)
def evaluate(settings: EvaluateConfig) -> int:
    """Compare generated videos with real ones of the same names and write a report with confidence intervals.

    Writes OUTPUT/report.md, report.html, metrics.csv and summary.json. The exit code is 1 if a video could not be
    measured.
    """
    from mimicmotion.evaluation.job import evaluate as job
    from mimicmotion.evaluation.reports.report import overview

    done = run_job(job(settings))
    say(overview(done))
    return int(bool(done.failures))


@app.command
def compare(
    sources: list[str],
    /,
    *,
    output: Annotated[Path, Output] = Path("comparison"),
    metrics: Annotated[list[str] | None, Several] = None,
    published: bool = True,
) -> None:
    """Compare reports, results of other methods and published numbers (marked as such) in one table.

    Writes OUTPUT/compare.md, compare.tex, compare.html and compare.csv.

    Args:
        sources: Reports of `evaluate` (folders) or CSV files, each as PATH or NAME=PATH. A CSV file has the columns
            method, metric and value, or method and one column per metric; several rows of a method are averaged.
        output: Folder to write the tables to.
        metrics: Metrics to show, in this order; default: all.
        published: Add the numbers that the paper reports for MagicPose, Moore-AnimateAnyone, MuseV, MagicAnimate and
            MimicMotion.
    """
    from mimicmotion.evaluation.reports.compare import FILES, save_comparison
    from mimicmotion.evaluation.reports.compare import compare as job
    from mimicmotion.runtime.files import check_not_inputs

    check_not_inputs([part for s in sources for part in (s, s.partition("=")[2])], [output / name for name in FILES])
    say(save_comparison(output, job(sources, with_published=published, metrics=metrics or ())))


def _figure(name: str, spec: type, *arguments: str) -> None:
    """Add the command that draws a figure. Its help is the docstring of the figure's settings."""

    def draw(settings: Any) -> None:
        from mimicmotion.evaluation.figures.job import make

        say(run_job(make(settings)).summary())

    draw.__doc__ = spec.__doc__
    settings_command(figures_app, spec, *arguments, name=name)(draw)


_figure("yt", YtSpec, "results")
_figure("diff", DiffSpec, "results")
_figure("poses", PosesSpec, "video")
_figure("hands", HandsSpec, "results")
_figure("fusion", FusionSpec)
_figure("bars", BarsSpec, "report")
