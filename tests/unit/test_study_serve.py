"""A study on the service: who may vote, what is stored, served and refused."""

from __future__ import annotations

import itertools
import json
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicmotion import cli
from mimicmotion.errors import InputError, OutputError
from mimicmotion.serve.study import MAX_BODY, RunningStudy
from mimicmotion.settings.study import StudyConfig
from mimicmotion.study.folder import Key, Study, StudyPair
from mimicmotion.study.votes import (
    Vote,
    VoteStore,
    completion_code,
    latest,
    load_votes,
    plan_trials,
    sign,
    verify,
    williams,
)
from study_clips import ServedStudy, build, result_folders, serving_study, vote


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    made = replace(result_folders(tmp_path_factory.mktemp("made")), questions=["Better?", "Smoother?"], ties=True)
    made = replace(made, practice=1, catch=1)
    build(made)
    return made


@pytest.fixture
def served(config: StudyConfig) -> Iterator[ServedStudy]:
    for file in config.output.glob("votes.*"):
        file.unlink()
    with serving_study(config.output) as served:
        yield served


@pytest.fixture(scope="module")
def refusing(config: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedStudy]:
    """A study for refused requests, of which nothing is stored."""
    study = tmp_path_factory.mktemp("refusing") / "study"
    shutil.copytree(config.output, study, ignore=shutil.ignore_patterns("votes.*"))
    with serving_study(study) as served:
        yield served


def answers(trials: list[dict[str, Any]], choice: str = "left", name: str = "a") -> list[dict[str, Any]]:
    """Answers to all questions."""
    return [
        {"id": f"{name}{i}{q}", "pair": t["pair"], "repeat": t["repeat"], "question": q, "choice": choice, "seconds": 2}
        for i, t in enumerate(trials)
        for q in (0, 1)
    ]


# --- raters -------------------------------------------------------------------------------------------------------


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True), st.data())
def test_a_signature_is_for_one_rater_and_one_study(rater: str, data: st.DataObject) -> None:
    study = a_study(2)
    signed = sign(study, rater)
    assert verify(study, signed) == rater
    assert verify(replace(study, secret="cd" * 32), signed) is None
    place = data.draw(st.integers(0, len(signed) - 1))
    other = signed[:place] + ("x" if signed[place] != "x" else "y") + signed[place + 1 :]
    assert verify(study, other) is None
    assert verify(study, rater) is None


@pytest.mark.parametrize("bad", ["", "a/b", "a.b", "é", "a" * 65, "-a", "a\n"])
def test_names_of_raters_are_plain(bad: str) -> None:
    with pytest.raises(InputError, match="at most 64 letters"):
        sign(a_study(1), bad)
    assert verify(a_study(1), f"{bad}.00") is None


def a_study(pairs: int, practice: int = 0, catch: int = 0, repeat_share: float = 0.25) -> Study:
    kinds = ["vote"] * pairs + ["practice"] * practice + ["catch"] * catch
    made = tuple(StudyPair(f"p{i}", f"a{i}", f"b{i}", kind=kind) for i, kind in enumerate(kinds))  # type: ignore[arg-type]
    return Study("s1", "ab" * 32, "", ("?",), False, "", "", False, repeat_share, 1.0, made, {})


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_places_and_neighbours_are_counterbalanced(count: int) -> None:
    pairs = a_study(count).pairs
    rows = [williams(pairs, r) for r in range(2 * count)]
    assert all(sorted(row, key=lambda p: p.id) == list(pairs) for row in rows)
    places = Counter((i, p.id) for row in rows for i, p in enumerate(row))
    assert set(places.values()) == {2}
    neighbours = Counter((a.id, b.id) for row in rows for a, b in itertools.pairwise(row))
    assert len(neighbours) == count * (count - 1)
    assert set(neighbours.values()) <= {2}


def test_each_rater_sees_all_with_practice_first_and_repetitions_late() -> None:
    study = a_study(8, practice=2, catch=3)
    first_sides = []
    for number in range(32):
        trials = plan_trials(study, number)
        assert trials == plan_trials(study, number)  # the same after a reload
        kinds = [t.pair.kind for t in trials]
        assert kinds[:2] == ["practice"] * 2
        assert Counter(kinds[2:]) == {"vote": 10, "catch": 3}
        assert kinds[2] == "vote"
        votes = [t for t in trials if t.pair.kind == "vote"]
        first = {t.pair.id: t for t in votes if not t.repeat}
        assert len(first) == 8
        for trial in (t for t in votes if t.repeat):
            before = first[trial.pair.id]
            assert (trial.left, trial.right) == (before.right, before.left)
            assert trials.index(trial) > trials.index(before) + 1
        first_sides.append({name: t.left for name, t in first.items()})
    for one, other in itertools.pairwise(first_sides):  # sides change from rater to rater
        assert not set(one.values()) & set(other.values())
    assert not any(t.repeat for t in plan_trials(replace(study, repeat_share=0.0), 3))


# --- what is served -----------------------------------------------------------------------------------------------


def test_page_and_videos_are_served_and_nothing_else(served: ServedStudy, config: StudyConfig) -> None:
    status, headers, body = served.ask("GET", "/")
    assert body == served.ask("GET", "")[2]
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/html")
    assert b'src="/study/page.js"' in body
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    study = served.running.study
    name = next(iter(study.videos.values())).file
    whole = (config.output / "videos" / name).read_bytes()
    status, headers, body = served.ask("GET", f"/videos/{name}")
    assert (status, headers["Content-Type"], body) == (200, "video/mp4", whole)
    status, headers, body = served.ask("GET", f"/videos/{name}", Range="bytes=10-19")
    assert (status, headers["Content-Range"], body) == (206, f"bytes 10-19/{len(whole)}", whole[10:20])
    status, headers, _ = served.ask("GET", f"/videos/{name}", Range=f"bytes={len(whole)}-")
    assert status == 416
    for path in ("/key.json", "/videos/../key.json", "/videos/%2e%2e%2fkey.json", "/study.json", "/x.js"):
        assert served.ask("GET", path)[0] == 404, path
    about = served.ask("GET", "/about")[2]
    assert (about["questions"], about["ties"], about["count"]) == (["Better?", "Smoother?"], True, 7)
    shown = json.dumps(served.ask("POST", "/begin?agreed=true", rater="anna")[2])
    for secret in (study.secret, "catch", "Firstmethod", "walk"):
        assert secret not in json.dumps(about) + shown


def test_the_service_asks_for_signed_links(served: ServedStudy) -> None:
    study = served.running.study
    for rater in ("", "anna", "anna.", "anna.00", sign(study, "ben").replace("ben", "anna")):
        for path in ("/begin", "/votes"):
            status, _, body = served.ask("POST", path, {"votes": []}, Authorization=f"Bearer {rater}")
            assert (status, body["error"]["got"]) == (401, "a missing or invalid link")
    assert served.ask("POST", "/raters")[0] == 403  # this study is not open
    assert served.ask("POST", "/begin", rater="anna")[::2] == (200, None)  # not agreed
    assert served.running.store.number("anna") is None
    assert served.ask("POST", "/votes", {"votes": answers(served.begin("ben"))}, rater="anna")[0] == 422
    assert served.running.store.history() == []


def test_anyone_gets_an_id_of_an_open_study(tmp_path: Path) -> None:
    config = replace(result_folders(tmp_path, ("walk",)), open=True)
    build(config)
    with serving_study(config.output) as served:
        ids = [served.ask("POST", "/raters")[2]["rater"] for _ in range(2)]
        assert len({verify(served.running.study, i) for i in ids} - {None}) == 2
        assert served.ask("POST", "/begin", Authorization=f"Bearer {ids[0]}")[0] == 200


# --- votes --------------------------------------------------------------------------------------------------------


def test_votes_are_added_and_never_changed(served: ServedStudy, config: StudyConfig) -> None:
    study, before = served.running.study, time.time() * 1000
    trials = served.begin("anna")
    given = answers(trials)
    for _ in range(2):  # sent twice, kept once
        status, _, body = served.ask("POST", "/votes", {"votes": given[:-1]}, rater="anna")
        assert (status, body) == (200, {"stored": len(given) - 1, "code": None})
    assert served.ask("POST", "/votes", {"votes": given[-1:]}, rater="anna")[2]["code"] == completion_code(
        study, "anna"
    )
    history = served.running.store.history("anna")
    assert [(v.id, v.left, v.choice) for v in history] == [
        (g["id"], t["left"], t["left"]) for g, t in pairs(given, trials)
    ]
    assert all(before <= v.time <= time.time() * 1000 for v in history)
    anew = {**given[0], "id": "new", "choice": "right"}
    assert served.ask("POST", "/votes", {"votes": [anew]}, rater="anna")[0] == 200
    assert served.ask("POST", "/votes", {"votes": [given[0]]}, rater="anna")[0] == 200  # a late second try
    assert len(served.running.store.history()) == len(given) + 1
    (now,) = [v for v in load_votes(config.output, study) if (v.pair, v.question) == (anew["pair"], 0) and not v.repeat]
    assert now.choice == trials[0]["right"]
    answered = served.ask("POST", "/begin", rater="anna")[2]["answered"]
    assert {tuple(a) for a in answered} == {(v.pair, v.repeat, v.question) for v in history}
    with sqlite3.connect(config.output / "votes.sqlite") as db:
        for change in ("DELETE FROM votes", "UPDATE votes SET rater = 'ben'"):
            with pytest.raises(sqlite3.IntegrityError, match="never"):
                db.execute(change)


def pairs(given: list[dict[str, Any]], trials: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each answer with its trial; there are two questions."""
    return [(g, trials[i // 2]) for i, g in enumerate(given)]


def test_many_raters_at_once(served: ServedStudy) -> None:
    results: list[int] = []

    def take_part(name: str) -> None:
        trials = served.begin(name)
        results.append(served.ask("POST", "/votes", {"votes": answers(trials)}, rater=name)[0])

    threads = [threading.Thread(target=take_part, args=(f"r{i}",)) for i in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == [200] * 12
    assert len(served.running.store.history()) == 12 * 14
    assert {served.running.store.number(f"r{i}") for i in range(12)} == set(range(12))


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b"[]", b"null", b'{"votes": 1}', b"[" * 9000, b"1" * 5000, b'{"votes": [{}]}'],
)
def test_bad_json_is_refused_and_the_service_goes_on(refusing: ServedStudy, body: bytes) -> None:
    status, _, reply = refusing.ask("POST", "/votes", body, rater="anna")
    assert status == 422
    assert reply["error"]["got"]
    assert refusing.running.store.history() == []
    assert refusing.ask("GET", "")[0] == 200


BAD_FIELDS = [
    ("id", ""),
    ("id", "x" * 65),
    ("pair", "p0"),
    ("pair", []),
    ("repeat", 2),
    ("question", 2),
    ("question", -1),
    ("choice", "x"),
    ("seconds", -1),
    ("seconds", float("nan")),
    ("seconds", "a"),
]


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(BAD_FIELDS)])
def test_bad_votes_are_refused_whole(refusing: ServedStudy, name: str, value: object) -> None:
    given = answers(refusing.begin("anna"))
    given[1] = {**given[1], name: value}
    assert refusing.ask("POST", "/votes", {"votes": given}, rater="anna")[0] == 422
    assert refusing.running.store.history() == []


def test_ties_are_taken_only_where_they_are_offered(served: ServedStudy, tmp_path: Path) -> None:
    served.ask("POST", "/votes", {"votes": answers(served.begin("anna"), "tie")}, rater="anna")
    assert {v.choice for v in served.running.store.history()} == {"tie"}
    config = result_folders(tmp_path, ("walk",))
    build(config)
    with serving_study(config.output) as other:
        given = answers(other.begin("anna"), "tie")[:1]
        assert other.ask("POST", "/votes", {"votes": given}, rater="anna")[0] == 422


def test_large_requests_are_not_read(served: ServedStudy) -> None:
    assert served.ask("POST", "/votes", b" " * (MAX_BODY + 1), rater="anna")[0] == 413
    assert served.ask("PUT", "/votes", b"{}", rater="anna")[0] == 405
    assert served.ask("POST", "/votes", {"votes": []}, rater="anna", Origin="http://elsewhere.example")[0] == 403


# --- the database -------------------------------------------------------------------------------------------------


def some_votes(key: Key, rater: str = "anna") -> list[Vote]:
    return [vote(key, rater, p, i % 2 == 0) for i, p in enumerate(sorted(key.pairs))]


def test_databases_of_several_machines_are_read_together(tmp_path: Path) -> None:
    config = result_folders(tmp_path)
    study, key = build(config)
    VoteStore(tmp_path / "one.sqlite", study).add(some_votes(key))
    changed = [replace(v, choice=v.left if v.choice == v.right else v.right, id="n") for v in some_votes(key)[:1]]
    VoteStore(tmp_path / "two.sqlite", study).add(changed + some_votes(key, "ben"))
    found = load_votes(config.output, study, [tmp_path / "one.sqlite", tmp_path / "two.sqlite"])
    assert found == latest(changed + some_votes(key)[1:] + some_votes(key, "ben"))
    with pytest.raises(InputError, match="does not exist"):
        load_votes(config.output, study)
    VoteStore(tmp_path / "other.sqlite", replace(study, study="s0"))
    with pytest.raises(InputError, match="contains votes of the study s0"):
        VoteStore(tmp_path / "other.sqlite", study)
    (tmp_path / "bad.sqlite").write_bytes(b"no database at all, but long enough to be looked at " * 9)
    with pytest.raises(InputError, match="not a database"):
        load_votes(config.output, study, [tmp_path / "bad.sqlite"])
    with pytest.raises(OutputError, match="unable to open"):
        VoteStore(tmp_path / "no folder" / "votes.sqlite", study)


def test_a_batch_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    config = result_folders(tmp_path, ("walk",))
    study, key = build(config)
    store = VoteStore(tmp_path / "votes.sqlite", study)
    votes = some_votes(key)
    with pytest.raises(InputError):
        store.add([*votes[:1], replace(votes[1], choice=None)])  # type: ignore[arg-type]
    assert store.history() == []


def test_a_study_without_one_of_its_videos_is_refused(tmp_path: Path) -> None:
    config = result_folders(tmp_path, ("walk",))
    build(config)
    name = next((config.output / "videos").iterdir()).name
    (config.output / "videos" / name).unlink()
    with pytest.raises(InputError, match=f"lacks {name}"):
        RunningStudy(config.output)


def test_links_on_the_command_line(config: StudyConfig, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["study", "invite", str(config.output), "anna", "ben", "--url", "https://lab.example/"]
    assert cli.main(argv) == 0
    links = capsys.readouterr().out.split()
    assert [link.split("#")[0] for link in links] == ["https://lab.example/study"] * 2
    study = RunningStudy(config.output).study
    assert [verify(study, link.split("#")[1]) for link in links] == ["anna", "ben"]
    assert cli.main(["study", "invite", str(config.output), "a/b"]) == 2
