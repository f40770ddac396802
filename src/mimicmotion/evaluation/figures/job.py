"""The paper's figures, made from results: each a PNG file and the numbers it shows as CSV."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mimicmotion.evaluation.figures import bars, diff, fusion, hands, poses, specs, yt
from mimicmotion.evaluation.figures.specs import FigureResult, FigureSpec
from mimicmotion.plot import check_output
from mimicmotion.runtime.progress import Job

_MAKERS: dict[type[FigureSpec], Callable[[Any], Job[FigureResult]]] = {
    specs.YtSpec: yt.make,
    specs.DiffSpec: diff.make,
    specs.PosesSpec: poses.make,
    specs.HandsSpec: hands.make,
    specs.FusionSpec: fusion.make,
    specs.BarsSpec: bars.make,
}


def make(spec: FigureSpec) -> Job[FigureResult]:
    """Make the figure that a spec describes.

    Raises:
        InputError: what it is made from does not fit together, cannot be read, or shows nothing.
        OutputError: the figure cannot be written.
    """
    check_output(spec.output)
    return (yield from _MAKERS[type(spec)](spec))
