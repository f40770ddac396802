"""Figure of how segments overlap, and of their weights at each frame (paper figure 4: N = 8, C = 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, get_args

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion import plot
from mimicmotion.errors import ConfigError
from mimicmotion.evaluation.figures.specs import FigureResult, FusionSpec
from mimicmotion.runtime.progress import Job
from mimicmotion.settings import FusionConfig, FusionMode
from mimicmotion.tables import write_csv

MODES = get_args(FusionMode)
MAX_LABELS = 32  # frames whose weights can be written into their cells


def make(spec: FusionSpec) -> Job[FigureResult]:
    """Draw segments and weights; write the weights to OUTPUT.csv, with a row per segment and a column per frame.

    Raises:
        ConfigError: an unknown mode, or an invalid overlap.
        InputError: the number of frames is below 1.
        OutputError: a file cannot be written.
    """
    yield from ()
    modes = ["progressive"] if spec.mode is None else list(dict.fromkeys(spec.mode))
    if not modes or not set(modes) <= set(MODES):
        got = f"fusion mode {next(m for m in modes if m not in MODES)!r}" if modes else "no mode"
        raise ConfigError(got, ", ".join(MODES), "choose one of these")
    plans = {mode: _plan(spec, mode) for mode in modes}
    head = ("mode", "segment", "first", "last", *(f"frame_{t}" for t in range(spec.frames)))
    rows = (
        (mode, k, first, last, *map(float, plan.weights[k]))
        for mode, plan in plans.items()
        for k, (first, last) in enumerate(plan.segments)
    )
    table = write_csv(spec.output.with_suffix(".csv"), head, rows)
    _paint(spec, plans)
    notes = [f"{mode}: {len(plan.segments)} segments for {spec.frames} frames" for mode, plan in plans.items()]
    return FigureResult([spec.output, table], notes)


class _Plan(NamedTuple):
    """(first, last) frame of each segment, their weights, and whether each also has the reference picture."""

    segments: list[tuple[int, int]]
    weights: Float64[ndarray, "segments frames"]
    reference_slot: bool


def _plan(spec: FusionSpec, mode: str) -> _Plan:
    """Segments and weights of the sampling plan, without the reference slot."""
    from mimicmotion.diffusion.fusion import make_plan

    numbers = {"segment_frames": spec.segment_frames, "overlap_frames": spec.overlap_frames}
    config = FusionConfig(mode=mode, **numbers, reference_slot=False)  # pyrefly: ignore [bad-argument-type]
    made = make_plan(spec.frames, config)
    slot = int(made.reference_slot)
    spans = [(s[slot] - slot, s[-1] - slot) for s in made.segments]
    return _Plan(spans, made.weights[:, slot:].numpy(), made.reference_slot)


def _paint(spec: FusionSpec, plans: Mapping[str, _Plan]) -> None:
    import matplotlib as mpl
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator

    frames = spec.frames
    heights = [0.8 + 0.24 * len(w.segments) for w in plans.values()]
    with plot.figure(spec.output, height=sum(heights) + 1.0 * len(plans)) as sheet:
        parts = sheet.subfigures(len(plans), 1, squeeze=False, height_ratios=[h + 1.0 for h in heights])[:, 0]
        for part, (mode, w), height in zip(parts, plans.items(), heights, strict=True):
            top, bottom = part.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [height, 1.0]})
            for k, (first, last) in enumerate(w.segments):
                for t in range(first, last + 1):
                    share = float(w.weights[k, t])
                    face = (*mpl.colors.to_rgb(plot.colour(k)), 0.08 + 0.85 * share)
                    top.add_patch(Rectangle((t - 0.5, k - 0.42), 1, 0.84, fc=face, ec="0.35", lw=0.5))
                    if frames <= MAX_LABELS:
                        ink = "w" if share > 0.6 else "k"
                        top.text(t, k, _short(share), ha="center", va="center", fontsize=5.5, color=ink)
                at = np.arange(max(first - 1, 0), min(last + 2, frames))  # with the zeros on both sides
                bottom.plot(at, w.weights[k, at], marker=".", ms=3, **plot.line(k))
                bottom.fill_between(at, w.weights[k, at], color=plot.colour(k), alpha=0.12, lw=0)
            top.set_xlim(-0.7, frames - 0.3)
            top.set_ylim(len(w.segments) - 0.4, -0.6)
            top.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
            top.set_ylabel("segment")
            top.tick_params(labelbottom=False)
            bottom.set_ylim(0, 1.08)
            bottom.set_ylabel("weight")
            bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
            slot = ", each with the reference picture in slot 0" if w.reference_slot else ""
            top.set_title(f"{mode}: N = {spec.segment_frames}, C = {spec.overlap_frames}{slot}")
            bottom.set_xlabel("frame")


def _short(share: float) -> str:
    return f"{share:.2f}".replace("0.", ".", 1) if 0 < share < 0.995 else f"{share:.0f}"
