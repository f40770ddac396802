"""The result of an ablation as tables, a CSV file and a figure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion import plot
from mimicmotion.errors import InputError
from mimicmotion.evaluation.metrics.intervals import Interval
from mimicmotion.runtime.files import write_text
from mimicmotion.settings.metrics import Metric
from mimicmotion.tables import Table, write_csv

MEASURES: dict[str, Metric] = {
    "psnr_hands": Metric("PSNR hands, dB", "higher", 2),
    "hand_error": Metric("hand error, torso lengths", "lower", 3),
    "psnr_moving": Metric("PSNR moving, dB", "higher", 2),
    "psnr": Metric("PSNR, dB", "higher", 2),
    "ssim": Metric("SSIM", "higher", 4),
    "body_error": Metric("body error, torso lengths", "lower", 3),
    "flicker": Metric("flicker", "lower", 4),
}
EFFECTS = {
    "hand loss": ((("hand", "none"), 1), (("both", "confidence"), 1)),
    "confidence": ((("confidence", "none"), 1), (("both", "hand"), 1)),
    "interaction": ((("both", "confidence"), 1), (("hand", "none"), -1)),
}
"""The differences of arms behind each effect, with signs. An effect is their mean, the interaction their sum."""
PAPER = """The paper's Table 2 (second-hand; another data set, another model, full size):

| | FID-VID | FVD | SSIM | PSNR, dB |
|---|---|---|---|---|
| none | 14.6 | 776 | .760 | 18.0 |
| + hand | 15.0 | 678 | .758 | 17.9 |
| + hand + confidence | 12.2 | 623 | .787 | 18.4 |
| + progressive fusion | 9.3 | 594 | .795 | 20.1 |
"""


def cube(rows: Sequence[Mapping[str, Any]], arm: str, condition: str, measure: str) -> Float64[ndarray, "seeds clips"]:
    """One measure of one arm; NaN where it is undefined for a clip (such as without hands).

    Raises:
        InputError: a seed or clip is missing.
    """
    chosen = {(r["seed"], r["clip"]): r[measure] for r in rows if (r["arm"], r["condition"]) == (arm, condition)}
    seeds, clips = sorted({s for s, _ in chosen}), sorted({c for _, c in chosen})
    if not chosen or len(chosen) != len(seeds) * len(clips):
        got = f"{len(chosen)} scores of arm {arm}, condition {condition}"
        raise InputError(got, f"{len(seeds)} seeds x {len(clips)} clips", "run the ablation to the end")
    return np.array([[chosen[s, c] for c in clips] for s in seeds], np.float64)


def interval(values: Float64[ndarray, "seeds clips"], seed: int = 0, draws: int = 4000) -> Interval:
    """Mean over seeds and clips, with a bootstrap interval over seeds and clips.

    With three seeds the interval is rough: one that barely excludes zero is weak evidence.
    """
    values = values[:, ~np.isnan(values).all(0)]
    if not values.size:
        return Interval(float("nan"))
    rng = np.random.default_rng(seed)
    s = rng.integers(values.shape[0], size=(draws, values.shape[0], 1))
    c = rng.integers(values.shape[1], size=(draws, 1, values.shape[1]))
    means = np.nanmean(values[s, c], axis=(1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(np.nanmean(values)), float(low), float(high), values.shape[1])


def effect(rows: Sequence[Mapping[str, Any]], name: str, condition: str, measure: str) -> Interval:
    """Effect of a switch (`EFFECTS`): paired by seed and clip."""
    parts = [
        sign * (cube(rows, a, condition, measure) - cube(rows, b, condition, measure)) for (a, b), sign in EFFECTS[name]
    ]
    total = np.sum(parts, 0)
    return interval(total if name == "interaction" else total / len(parts))


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown tables of the arms and of the effects, for each condition."""
    arms = list(dict.fromkeys(r["arm"] for r in rows))
    out = []
    for condition in dict.fromkeys(r["condition"] for r in rows):
        seeds = len({r["seed"] for r in rows})
        clips = len({r["clip"] for r in rows if r["condition"] == condition})
        out += [f"Poses: {condition}; {seeds} seeds x {clips} clips, mean with 95% interval", ""]
        out += _table("arm", {arm: partial(_arm, rows, arm, condition) for arm in arms}, plus=False)
        out += ["Effects (paired differences):", ""]
        out += _table("effect", {e: partial(effect, rows, e, condition) for e in EFFECTS}, plus=True)
    return "\n".join([*out, PAPER])


def _arm(rows: Sequence[Mapping[str, Any]], arm: str, condition: str, measure: str) -> Interval:
    return interval(cube(rows, arm, condition, measure))


def _table(head: str, values: Mapping[str, Callable[[str], Interval]], *, plus: bool) -> list[str]:
    """A table with a row per name and a column per measure; with `plus`, intervals that exclude zero are bold."""
    found = {name: [value(m) for m in MEASURES] for name, value in values.items()}
    bold = {(i, j + 1) for i, of in enumerate(found.values()) for j, v in enumerate(of) if plus and v.excludes_zero}
    digits = [m.digits for m in MEASURES.values()]
    rows = [[name, *(v.text(d) for v, d in zip(of, digits, strict=True))] for name, of in found.items()]
    return [*Table([head, *(m.title + m.arrow for m in MEASURES.values())], rows, bold).markdown(), ""]


def figure(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot the effects with their intervals, one panel per measure, as a PNG file."""
    conditions = list(dict.fromkeys(r["condition"] for r in rows))
    with plot.figure(path, height=4.6, width=11) as sheet:
        for k, (measure, info) in enumerate(MEASURES.items()):
            axis = sheet.add_subplot(2, 4, k + 1)
            axis.axhline(0, color="0.6", lw=0.8)
            for j, condition in enumerate(conditions):
                found = [effect(rows, e, condition, measure) for e in EFFECTS]
                mean = np.array([f.value for f in found])
                bars = np.abs(np.array([[f.low, f.high] for f in found]).T - mean)
                axis.errorbar(np.arange(3) + 0.15 * j, mean, yerr=bars, fmt="o", ms=4, capsize=3, label=condition)
            axis.set_xticks(range(3), list(EFFECTS))
            axis.set_title(f"{info.title} ({info.better} is better)")
            if not k:
                axis.legend()
        sheet.suptitle("Effect of each switch, paired by seed and clip, 95% intervals")


def write_report(folder: Path, scores: Sequence[Path]) -> Path:
    """Read the scores of all runs and write results.csv, table.md and effects.png; returns the table.

    Raises:
        InputError: scores are missing.
    """
    rows = [row for path in scores for row in json.loads(path.read_text(encoding="utf-8"))]
    if not rows:
        raise InputError("no scores", "scores.json of at least one run", "run the ablation first")
    write_csv(folder / "results.csv", list(rows[0]), [list(row.values()) for row in rows])
    figure(rows, folder / "effects.png")
    return write_text(folder / "table.md", tables(rows))
