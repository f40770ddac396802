"""Make any of the figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mimicmotion.evaluation.figures import bars, changes, fusion, people, specs
from mimicmotion.evaluation.figures.specs import FigureResult, FigureSpec
from mimicmotion.evaluation.reports.compare import TABLE
from mimicmotion.plot import check_plot_output
from mimicmotion.runtime.files import check_not_inputs
from mimicmotion.runtime.progress import Job

_MAKERS: dict[type[FigureSpec], Callable[[Any], Job[FigureResult]]] = {
    specs.YtSpec: changes.make_yt,
    specs.DiffSpec: changes.make_diff,
    specs.PosesSpec: people.make_poses,
    specs.HandsSpec: people.make_hands,
    specs.FusionSpec: fusion.make,
    specs.BarsSpec: bars.make,
}


def make(spec: FigureSpec) -> Job[FigureResult]:
    """Make the figure that a spec describes.

    Raises:
        InputError: the inputs do not match, cannot be read, or have nothing to show.
        OutputError: the figure cannot be written.
    """
    check_plot_output(spec.output)
    read = [getattr(spec, name, None) for name in ("video", "poses", "report")]
    results = [part for text in getattr(spec, "results", []) for part in (text, text.partition("=")[2])]
    tables = [spec.report / TABLE, spec.report.with_name(TABLE)] if isinstance(spec, specs.BarsSpec) else []
    check_not_inputs([*read, *results, *tables], [spec.output, spec.output.with_suffix(".csv")])
    return (yield from _MAKERS[type(spec)](spec))
