"""How segments overlap and what each weighs at each frame (paper figure 4: N = 8, C = 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion import plot
from mimicmotion.errors import ConfigError
from mimicmotion.settings import FusionConfig, FusionMode
from mimicmotion.tables import write_csv

MODES = get_args(FusionMode)
MAX_LABELS = 32  # frames whose weights can be written into their cells


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """The plan of one mode.

    Attributes:
        config: N, C, mode.
        segments: (first, last) frame of each segment, without the reference slot.
        weights: what each segment weighs at each frame; every column sums to 1.
        reference_slot: whether each segment also holds the reference picture.
    """

    config: FusionConfig
    segments: tuple[tuple[int, int], ...]
    weights: Float64[ndarray, "segments frames"]
    reference_slot: bool


def plan(frames: int, segment: int, overlap: int, mode: str, *, reference_slot: bool = False) -> Weights:
    """The plan that sampling uses, as `mimicmotion.diffusion.fusion` makes it.

    Args:
        frames: frames of the video.
        segment: frames per segment (N).
        overlap: frames shared by neighbours (C).
        mode: progressive, released, average or none.
        reference_slot: the reference picture takes a frame of each segment; mode released always has it.

    Raises:
        ConfigError: an unknown mode, or numbers that make no plan.
        InputError: no frames.
    """
    from mimicmotion.diffusion.fusion import make_plan

    if mode not in MODES:
        raise ConfigError(f"fusion mode {mode!r}", ", ".join(MODES), "choose one of these")
    config = FusionConfig(mode=mode, segment_frames=segment, overlap_frames=overlap, reference_slot=reference_slot)  # pyrefly: ignore [bad-argument-type]
    made = make_plan(frames, config)
    slot = int(made.reference_slot)
    rows = [[r - slot for r in s if r >= slot] for s in made.segments]
    return Weights(config, tuple((r[0], r[-1]) for r in rows), made.weights[:, slot:].numpy(), made.reference_slot)


def save(data: Sequence[Weights], output: Path) -> list[Path]:
    """Write the figure, and OUTPUT.csv: a row for each segment, a column for each frame.

    Raises:
        OutputError: a file cannot be written.
    """
    frames = data[0].weights.shape[1]
    head = ("mode", "segment", "first", "last", *(f"frame_{t}" for t in range(frames)))
    rows = (
        (w.config.mode, k, first, last, *map(float, w.weights[k]))
        for w in data
        for k, (first, last) in enumerate(w.segments)
    )
    table = write_csv(output.with_suffix(".csv"), head, rows)
    _paint(data, output)
    return [output, table]


def _paint(data: Sequence[Weights], output: Path) -> None:
    import matplotlib as mpl
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator

    heights = [0.8 + 0.24 * len(w.segments) for w in data]
    with plot.figure(output, height=sum(heights) + 1.0 * len(data)) as sheet:
        parts = sheet.subfigures(len(data), 1, squeeze=False, height_ratios=[h + 1.0 for h in heights])[:, 0]
        for part, w, height in zip(parts, data, heights, strict=True):
            top, bottom = part.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [height, 1.0]})
            frames = w.weights.shape[1]
            for k, (first, last) in enumerate(w.segments):
                for t in range(first, last + 1):
                    share = float(w.weights[k, t])
                    face = (*mpl.colors.to_rgb(plot.colour(k)), 0.08 + 0.85 * share)
                    top.add_patch(Rectangle((t - 0.5, k - 0.42), 1, 0.84, fc=face, ec="0.35", lw=0.5))
                    if frames <= MAX_LABELS:
                        ink = "w" if share > 0.6 else "k"
                        top.text(t, k, _short(share), ha="center", va="center", fontsize=5.5, color=ink)
                at = np.arange(max(first - 1, 0), min(last + 2, frames))  # down to the zeros beside it
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
            top.set_title(f"{w.config.mode}: N = {w.config.segment_frames}, C = {w.config.overlap_frames}{slot}")
            bottom.set_xlabel("frame")


def _short(share: float) -> str:
    return f"{share:.2f}".replace("0.", ".", 1) if 0 < share < 0.995 else f"{share:.0f}"
