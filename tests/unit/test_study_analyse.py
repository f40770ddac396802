"""Analysis of votes: the paper's percentages, intervals, exclusion, consistency, sides and agreement."""

from __future__ import annotations

import csv
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicmotion import cli
from mimicmotion.errors import ConfigError, InputError
from mimicmotion.settings.study import Exclusion
from mimicmotion.study.analyse import Analysis, analyse_votes, markdown, save_report, share
from mimicmotion.study.folder import Key, KeyPair, KeyVideo, Study, StudyPair
from mimicmotion.study.votes import Vote, VoteStore, completion_code
from study_clips import build, result_folders, vote

PAPER = {"MagicPose": 208, "Moore": 213, "MuseV": 163}  # of 216 = 36 people x 6 pairs


def make_key(baselines: list[str], sequences: int) -> Key:
    videos = {
        f"v{s}-{m}": KeyVideo(m, str(s), f"{s}.mp4", False)
        for s in range(sequences)
        for m in ("MimicMotion", *baselines)
    }
    pairs = {f"p{s}-{b}": KeyPair(str(s), b) for s in range(sequences) for b in baselines}
    return Key("s1", "MimicMotion", tuple(baselines), videos, pairs)


def a_study(key: Key, questions: tuple[str, ...] = ("Better?",), practice: tuple[str, ...] = ()) -> Study:
    pairs = tuple(StudyPair(p, "", "", kind="practice" if p in practice else "vote") for p in key.pairs)
    return Study("s1", "ab" * 32, "", questions, True, "", "", False, 0.0, 1.0, pairs, {})


def analysed(key: Key, votes: list[Vote], rule: Exclusion | None = None) -> Analysis:
    return analyse_votes(a_study(key), key, votes, rule)


def paper_votes(key: Key) -> list[Vote]:
    rng = random.Random(0)
    votes = []
    for baseline, wins in PAPER.items():
        places = [(r, p) for r in range(36) for p, pair in key.pairs.items() if pair.baseline == baseline]
        rng.shuffle(places)
        for i, (rater, pair) in enumerate(places):
            votes.append(vote(key, f"r{rater}", pair, i < wins, ours_left=rng.random() < 0.5))
    return votes


def test_the_papers_percentages() -> None:
    key = make_key(list(PAPER), 6)
    analysis = analysed(key, paper_votes(key))
    assert [(p.baseline, p.votes.k, p.votes.n, f"{p.votes.share:.1%}") for p in analysis.preferences] == [
        ("MagicPose", 208, 216, "96.3%"),
        ("Moore", 213, 216, "98.6%"),
        ("MuseV", 163, 216, "75.5%"),
    ]
    for preference in analysis.preferences:
        assert preference.votes.low < preference.votes.share < preference.votes.high
        assert preference.votes.p < 1e-12
        assert preference.by_rater.value == pytest.approx(preference.votes.share)
        assert preference.by_rater.n == 36
        assert preference.by_rater.low > 0.65
    assert analysis.left.low < 0.5 < analysis.left.high
    for text in ("**96.3%** (208 of 216)", "**98.6%** (213 of 216)", "**75.5%** (163 of 216)"):
        assert text in markdown(analysis)


@given(st.integers(1, 300), st.data())
def test_intervals_and_sign_test_are_those_of_the_textbook(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    got = share(k, n)
    from scipy.stats import binom, norm  # takes a while

    z = norm.ppf(0.975)
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    assert got.low == pytest.approx(max(0, centre - half), abs=1e-9)
    assert got.high == pytest.approx(min(1, centre + half), abs=1e-9)
    assert got.p == pytest.approx(min(1, 2 * binom.cdf(min(k, n - k), n, 0.5)), rel=1e-6)


def test_nothing_counted_is_no_number() -> None:
    assert str(share(0, 0)) == "–"


def rated(key: Key, name: str, ours: bool, **options: object) -> list[Vote]:
    return [vote(key, name, p, ours, **options) for p in key.pairs]  # type: ignore[arg-type]


def test_repetitions_tell_consistency_and_count_in_nothing_else() -> None:
    key = make_key(["b"], 4)
    same = rated(key, "same", True) + rated(key, "same", True, ours_left=False, repeat=1)
    turned = rated(key, "turned", True) + rated(key, "turned", False, repeat=1)
    analysis = analysed(key, same + turned)
    assert (analysis.consistency.k, analysis.consistency.n) == (4, 8)
    assert [(r.name, r.consistent, r.repeated) for r in analysis.raters] == [("same", 4, 4), ("turned", 0, 4)]
    assert analysis.preferences[0].votes.k == analysis.preferences[0].votes.n == 8
    kept = analysed(key, same + turned, Exclusion(min_consistency=0.5))
    assert [r.name for r in kept.kept] == ["same"]
    assert kept.preferences[0].votes.n == 4
    assert kept.consistency.share == 1
    assert kept.raters[1].excluded == "0 of 4 repeated pairs answered consistently"
    assert {row["excluded"] for row in kept.rows if row["rater"] == "turned"} == {1}


def test_a_side_preference_is_found() -> None:
    key = make_key(["b"], 12)
    lefty = [vote(key, "lefty", p, i % 2 == 0, ours_left=i % 2 == 0) for i, p in enumerate(key.pairs)]
    fair = [vote(key, "fair", p, True, ours_left=i % 2 == 0) for i, p in enumerate(key.pairs)]
    analysis = analysed(key, lefty + fair)
    assert (analysis.left.k, analysis.left.n) == (18, 24)


def test_at_least_one_rater_is_kept() -> None:
    key = make_key(["b"], 4)
    turned = rated(key, "turned", True) + rated(key, "turned", False, repeat=1)
    with pytest.raises(InputError, match="all 1 raters are excluded"):
        analysed(key, turned, Exclusion(min_consistency=0.5))
    assert Exclusion().rule() == "none excluded"


@pytest.mark.parametrize(
    "bad",
    [{"min_consistency": 2}, {"min_caught": -1}, {"min_caught": math.nan}],
)
def test_bad_rules(bad: dict) -> None:
    with pytest.raises(ConfigError):
        Exclusion(**bad)


def test_agreement_is_with_most_of_the_others() -> None:
    key = make_key(["b"], 2)
    votes = rated(key, "a", True) + rated(key, "b", True) + rated(key, "c", True) + rated(key, "odd", False)
    assert {r.name: r.agreement for r in analysed(key, votes).raters} == {"a": 1, "b": 1, "c": 1, "odd": 0}
    alone = analysed(key, rated(key, "a", True))
    assert math.isnan(alone.raters[0].agreement)
    code = completion_code(a_study(key), "a")
    assert f"| a | {code} | 2 | 2 | 2 | 0 | 0 of 0 | 0 of 0 | – | 2.0 |  |" in markdown(alone)


def test_unknown_ids_and_no_votes_are_refused() -> None:
    key = make_key(["b"], 1)
    good = rated(key, "a", True)[0]
    with pytest.raises(InputError, match="no votes"):
        analysed(key, [])
    with pytest.raises(InputError, match="p9"):
        analysed(key, [replace(good, pair="p9")])


def test_ties_are_counted_apart() -> None:
    key = make_key(["b"], 4)
    votes = rated(key, "a", True)[:2] + [replace(v, choice="tie") for v in rated(key, "a", True)[2:]]
    analysis = analysed(key, votes)
    (found,) = analysis.preferences
    assert (found.votes.k, found.votes.n, found.ties, found.by_rater.value) == (2, 2, 2, 1)
    assert (analysis.raters[0].votes, analysis.raters[0].ties, analysis.left.n) == (4, 2, 2)
    assert {row["preferred"] for row in analysis.rows} == {"MimicMotion", "tie"}
    nothing = analysed(key, [replace(v, choice="tie") for v in rated(key, "a", True)])
    assert nothing.preferences[0].votes.n == 0
    assert "| **–** (0 of 0) | 4 |" in markdown(nothing)


def test_each_question_has_its_own_preference() -> None:
    key = make_key(["b"], 4)
    votes = rated(key, "a", True) + rated(key, "a", False, question=1) + rated(key, "a", False, question=1, repeat=1)
    analysis = analyse_votes(a_study(key, ("Better?", "Smoother?")), key, votes)
    found = [(p.question, p.votes.k, p.votes.n) for p in analysis.preferences]
    assert found == [("Better?", 4, 4), ("Smoother?", 0, 4)]
    assert (analysis.consistency.k, analysis.consistency.n) == (4, 4)
    with pytest.raises(InputError, match="pairs of this study"):
        analysed(key, votes)


def test_catch_pairs_find_careless_raters_and_practice_counts_in_nothing() -> None:
    key = make_key(["b"], 4)
    for name, better in (("c", "v0-MimicMotion"), ("t", "v1-MimicMotion")):
        key.pairs[name] = KeyPair("0", better=better)
    checks = {True: Vote("c", "", "c", 0, 0, "v0-b", "v0-MimicMotion", "v0-MimicMotion", 2.0, 0)}
    checks[False] = replace(checks[True], choice="v0-b")
    tried = replace(checks[False], pair="t", left="v1-b", right="v1-MimicMotion", choice="v1-b")
    votes = [
        replace(v, rater=name)
        for name, careful in (("careful", True), ("careless", False))
        for v in [*rated(key_of_pairs(key), name, careful), checks[careful], tried]
    ]
    study = a_study(key, practice=("t",))
    analysis = analyse_votes(study, key, votes)
    found = [(r.name, r.votes, r.caught, r.catches) for r in analysis.raters]
    assert found == [("careful", 4, 1, 1), ("careless", 4, 0, 1)]
    assert (analysis.preferences[0].votes.k, analysis.preferences[0].votes.n) == (4, 8)
    kept = analyse_votes(study, key, votes, Exclusion(min_caught=0.5))
    assert [r.excluded for r in kept.raters] == ["", "0 of 1 catch pairs answered correctly"]
    assert kept.preferences[0].votes.n == 4
    assert sum(row["catch"] for row in kept.rows) == 2
    assert not any(row["baseline"] == "" and not row["catch"] for row in kept.rows)


def key_of_pairs(key: Key) -> Key:
    """Without practice and catch pairs."""
    return replace(key, pairs={name: pair for name, pair in key.pairs.items() if pair.baseline})


def test_a_baseline_without_votes_is_no_row() -> None:
    key = make_key(["b", "c"], 1)
    analysis = analysed(key, [vote(key, "a", "p0-b", True)])
    assert [p.baseline for p in analysis.preferences] == ["b"]


def test_files_hold_the_same_numbers(tmp_path: Path) -> None:
    key = make_key(list(PAPER), 6)
    analysis = analysed(key, paper_votes(key))
    for _ in range(2):  # a report may be written again
        save_report(tmp_path / "out", analysis)
    data = json.loads((tmp_path / "out" / "preference.json").read_text())
    assert [p["votes"]["k"] for p in data["preferences"]] == list(PAPER.values())
    with (tmp_path / "out" / "preference.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [int(r["for_ours"]) for r in rows] == list(PAPER.values())
    with (tmp_path / "out" / "preference-votes.csv").open() as f:
        votes = list(csv.DictReader(f))
    assert len(votes) == 648
    assert sum(r["preferred"] == "MimicMotion" for r in votes) == sum(PAPER.values())
    assert (tmp_path / "out" / "preference.md").read_text() == markdown(analysis)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = result_folders(tmp_path)
    study, key = build(config)
    for name in ("anna", "ben"):
        VoteStore(tmp_path / f"{name}.sqlite", study).add(rated(key, name, name == "anna"))
    files = [str(tmp_path / f"{name}.sqlite") for name in ("anna", "ben")]
    argv = ["study", "analyse", str(config.output), *files, "-o", str(tmp_path / "out")]
    assert cli.main(argv) == 0
    assert "**50.0%** (2 of 4)" in capsys.readouterr().out
    assert cli.main([*argv, "--min-caught", "2"]) == 2
    assert "min_caught=2" in capsys.readouterr().err
    assert cli.main(["study", "analyse", str(config.output)]) == 2
    assert "votes.sqlite does not exist" in capsys.readouterr().err
