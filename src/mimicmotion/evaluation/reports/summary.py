"""Means with intervals over sequences, differences between methods, and Frechet distances of sets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float64
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.evaluation.metrics.frechet import fd_infinity, frechet_distance
from mimicmotion.evaluation.metrics.intervals import Interval, mean_interval, ratio_of_sums, t_interval
from mimicmotion.settings.metrics import FIELD, METRICS


@dataclass(slots=True)
class Row:
    """The measurements of one method on one sequence.

    Attributes:
        sequence: name of the sequence.
        method: name of the method.
        frames: number of compared frames.
        values: metric -> number; NaN if undefined.
        notes: notes for the report.
    """

    sequence: str
    method: str
    frames: int
    values: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Paired:
    """Mean difference of two methods over the sequences that both have: `method` minus `baseline`."""

    method: str
    baseline: str
    metric: str
    interval: Interval


@dataclass(slots=True)
class Summary:
    """Summary of an evaluation.

    Attributes:
        methods: method -> metric -> number with its interval.
        paired: differences from the first method.
        notes: notes on undefined numbers.
    """

    methods: dict[str, dict[str, Interval]]
    paired: list[Paired] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> list[str]:
        """Metrics that at least one method has, in the order of the report."""
        return [m for m in METRICS if any(m in of for of in self.methods.values())]


RESAMPLES = 200
"""Bootstrap draws of whole sequences, for the intervals of Frechet distances."""
OfSequences = dict[str, tuple[Float[ndarray, "n d"], Float[ndarray, "n d"]]]
Sets = dict[str, OfSequences]
"""Method -> sequence -> features of the real and of the generated clips, equally many."""


def summarise_rows(rows: Sequence[Row], methods: Sequence[str]) -> Summary:
    """Summarise all metrics except the Frechet distances."""
    out = Summary({m: {} for m in methods})
    for metric in METRICS:
        found = {m: {r.sequence: r for r in rows if r.method == m and metric in r.values} for m in methods}
        for method, of in found.items():
            good = [r for r in of.values() if math.isfinite(r.values[metric])]
            if len(good) < len(of):
                lost = [r.sequence for r in of.values() if r not in good]
                out.notes.append(f"{method}: {metric} is undefined for {', '.join(lost)}, left out of its mean")
            if good:
                out.methods[method][metric] = _mean(good, [r.values[metric] for r in good], metric)
        first = found[methods[0]]
        for method in methods[1:]:
            both = [(r, first[s]) for s, r in found[method].items() if s in first]
            known = [(a, a.values[metric] - b.values[metric]) for a, b in both]
            known = [(a, d) for a, d in known if math.isfinite(d)]
            if known:
                interval = _mean([a for a, _ in known], [d for _, d in known], metric)
                out.paired.append(Paired(method, methods[0], metric, interval))
    return out


def _mean(rows: Sequence[Row], values: Sequence[float], metric: str) -> Interval:
    """Mean over sequences; for metrics of the field convention, over frames."""
    if metric in FIELD:
        frames = np.array([r.frames for r in rows], float)
        return ratio_of_sums(np.array(values) * frames, frames)
    return mean_interval(values)


def add_frechet(summary: Summary, metric: str, sets: Sets, *, infinite: bool = False) -> Iterator[tuple[int, int]]:
    """Add a Frechet distance to a summary; yields (draws done, total draws).

    The interval is Student's t with the standard deviation over bootstrap draws of whole sequences, the same draws for
    all methods. It is centred on the distance of the whole set, because a draw has fewer different clips, which raises
    its distance. With `infinite`, the distance at infinitely many clips is also added; it has no interval.
    """
    sets, notes = equal_sets(sets)
    summary.notes += [f"{metric}: {n}" for n in notes]
    values: dict[str, float] = {}
    for method, of in list(sets.items()):
        try:
            values[method] = _distance(list(of.values()))
        except InputError as e:
            summary.notes.append(f"{method}: {metric} is undefined: {e.got}")
            del sets[method]
    draws = {m: np.full(RESAMPLES, np.nan) for m in sets}
    for k in range(RESAMPLES):
        yield k, RESAMPLES
        for method, of in sets.items():
            chosen = np.random.default_rng([0, k]).integers(len(of), size=len(of))
            pairs = list(of.values())
            if len(pairs) > 1:
                draws[method][k] = _distance([pairs[i] for i in chosen])
    first = next(iter(summary.methods))
    for method, of in sets.items():
        clips, size = sum(len(b) for _, b in of.values()), next(iter(of.values()))[1].shape[1]
        own = _around(values[method], draws[method], len(of), clips)
        summary.methods[method][metric] = dataclasses.replace(own, low=max(own.low, 0.0))
        if clips <= size:
            few = f"is based on {clips} clips, no more than its {size} features: too large, and mostly chance"
            summary.notes.append(f"{method}: {metric} {few}")
        if len(of) == 1:
            summary.notes.append(f"{method}: {metric} is based on one sequence, so it has no interval and says little")
        if method != first and list(of) == list(sets.get(first, ())):
            gap = _around(values[method] - values[first], draws[method] - draws[first], len(of), clips)
            summary.paired.append(Paired(method, first, metric, gap))
        if infinite:
            try:
                limit = Interval(fd_infinity(*_joined(list(of.values()))), n=len(of), clips=clips)
                summary.methods[method][f"{metric}_infinity"] = limit
            except InputError as e:
                summary.notes.append(f"{method}: {metric}_infinity is undefined: {e.got}")
    yield RESAMPLES, RESAMPLES


def equal_sets(sets: Sets) -> tuple[Sets, list[str]]:
    """Cut the sets to the same clips for every method. Also returns a note if that was necessary.

    The bias of the distance depends on the number of clips, so distances of different numbers cannot be compared.
    """
    sets = {m: dict(of) for m, of in sets.items() if of}
    counts = {m: sum(len(b) for _, b in of.values()) for m, of in sets.items()}
    if len({(counts[m], *of) for m, of in sets.items()}) <= 1:
        return sets, []
    text = ", ".join(f"{m} {n}" for m, n in counts.items())
    common = [s for s in next(iter(sets.values())) if all(s in of for of in sets.values())]
    least = {s: min(len(of[s][1]) for of in sets.values()) for s in common}
    cut = {m: {s: (of[s][0][: least[s]], of[s][1][: least[s]]) for s in common} for m, of in sets.items()}
    return cut, [f"unequal numbers of clips ({text}): cut to the same {sum(least.values())} clips"]


def _distance(pairs: Sequence[tuple[ndarray, ndarray]]) -> float:
    if not pairs:
        raise InputError("no sequence is common to all methods", "at least one", "add the missing videos")
    return frechet_distance(*_joined(pairs))


def _joined(pairs: Sequence[tuple[ndarray, ndarray]]) -> tuple[ndarray, ndarray]:
    """Concatenate the real features of all sequences, and the generated ones."""
    real, generated = zip(*pairs, strict=True)
    return np.concatenate(real), np.concatenate(generated)


def _around(value: float, draws: Float64[ndarray, " draws"], n: int, clips: int) -> Interval:
    if n < 2:
        return Interval(value, n=n, clips=clips)
    return t_interval(value, float(draws.std()) * math.sqrt(n / (n - 1)), n, clips=clips)
