"""Means over sequences and Frechet distances of sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy import ndarray

from mimicmotion.evaluation.metrics.frechet import frechet_distance
from mimicmotion.evaluation.reports import summary
from mimicmotion.evaluation.reports.summary import Row, Sets, Summary, add_frechet, equal_sets, summarise_rows

NAN = float("nan")


def features(seed: int, n: int, shift: float = 0.0) -> ndarray:
    return (np.random.default_rng(seed).normal(size=(n, 3)) + shift).astype(np.float32)


def sets(methods: dict[str, float], counts: tuple[int, ...]) -> Sets:
    return {
        m: {f"s{i}": (features(i, n), features(100 + i, n, shift)) for i, n in enumerate(counts)}
        for m, shift in methods.items()
    }


def test_nan_is_left_out_and_reported_and_differences_are_paired() -> None:
    rows = [Row(s, "a", 8, {"l1": v}) for s, v in (("x", 1.0), ("y", 2.0), ("z", NAN))]
    rows += [Row(s, "b", 8, {"l1": v}) for s, v in (("x", 2.0), ("y", 3.0), ("w", 50.0))]
    got = summarise_rows(rows, ["a", "b"])
    assert (got.methods["a"]["l1"].value, got.methods["a"]["l1"].n) == (1.5, 2)
    assert "l1 is undefined for z" in got.notes[0]
    (difference,) = got.paired
    assert (difference.interval.value, difference.interval.n) == (1.0, 2)
    assert difference.interval.low == difference.interval.high == 1.0


def test_conventional_metrics_weigh_frames() -> None:
    rows = [Row("x", "a", 30, {"psnr_field": 10.0}), Row("y", "a", 10, {"psnr_field": 20.0})]
    assert summarise_rows(rows, ["a"]).methods["a"]["psnr_field"].value == pytest.approx(12.5)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "RESAMPLES", 40)


def add(of: Sets) -> Summary:
    out = Summary({m: {} for m in of})
    assert list(add_frechet(out, "fvd", of))[-1] == (40, 40)
    return out


def test_frechet_of_sets_with_intervals_and_differences() -> None:
    of = sets({"a": 0.0, "b": 2.0}, (9, 9, 9, 9))
    got = add(of)
    real, made = (np.concatenate([p[k] for p in of["b"].values()]) for k in (0, 1))
    assert got.methods["b"]["fvd"].value == pytest.approx(frechet_distance(real, made))
    for cell in (got.methods["a"]["fvd"], got.methods["b"]["fvd"]):
        assert 0 <= cell.low <= cell.value <= cell.high
        assert (cell.n, cell.clips) == (4, 36)
    (difference,) = got.paired
    assert difference.interval.low > 0
    assert got.notes == []
    assert add(of).methods == got.methods  # seeded


def test_one_sequence_has_no_interval_and_one_clip_no_distance() -> None:
    one = add(sets({"a": 0.0}, (9,)))
    assert math.isfinite(one.methods["a"]["fvd"].value)
    assert math.isnan(one.methods["a"]["fvd"].low)
    assert "is based on one sequence" in one.notes[0]
    none = add(sets({"a": 0.0}, (1,)))
    assert none.methods == {"a": {}}
    assert "the Frechet distance is undefined" in none.notes[0]
    assert add({"a": {}}).methods == {"a": {}}


def test_few_clips_are_reported() -> None:
    (note,) = [n for n in add(sets({"a": 0.0}, (1, 2))).notes if "clips" in n]
    assert note.startswith("a: fvd is based on 3 clips, no more than its 3 features")


def test_equal_numbers_of_clips() -> None:
    of = sets({"a": 0.0, "b": 1.0}, (9, 9))
    of["b"]["s0"] = features(0, 5), features(1, 5)
    of["a"]["s9"] = features(3, 7), features(4, 7)
    cut, notes = equal_sets(of)
    assert [[len(b) for _, b in s.values()] for s in cut.values()] == [[5, 9], [5, 9]]
    assert "cut to the same 14 clips" in notes[0]
