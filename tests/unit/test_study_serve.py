"""Votes that are sent, kept, exported; what the server gives and what it refuses."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicmotion.errors import InputError, OutputError
from mimicmotion.study.folder import Key, Study
from mimicmotion.study.serve import MAX_BODY, StudyServer, parse_range
from mimicmotion.study.votes import Vote, VoteStore, load_votes, parse_votes, save_votes, votes_as_json
from study_clips import build, result_folders, vote

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study, Key]:
    config = result_folders(tmp_path_factory.mktemp("made"))
    return (config.output, *build(config))


@pytest.fixture
def server(made: tuple[Path, Study, Key]) -> Iterator[StudyServer]:
    for file in made[0].glob("votes.*"):
        file.unlink()
    with StudyServer(made[0]).running() as server:
        yield server


def ask(server: StudyServer, method: str, path: str, body: bytes | None = None, **headers: str):
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=20)
    try:
        connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()
    finally:
        connection.close()


def send(server: StudyServer, data: object) -> tuple[int, dict]:
    status, _, body = ask(server, "POST", "/votes", json.dumps(data).encode(), Content_Type="application/json")
    return status, json.loads(body)


def some_votes(key: Key, rater: str = "anna") -> list[Vote]:
    return [vote(key, rater, p, i % 2 == 0) for i, p in enumerate(sorted(key.pairs))]


def test_page_and_videos_are_served_and_nothing_else(server: StudyServer, made: tuple[Path, Study, Key]) -> None:
    folder, study, _ = made
    status, headers, body = ask(server, "GET", "/?rater=anna")
    assert (status, body) == (200, (folder / "page" / "index.html").read_bytes())
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    video = next(iter(study.videos.values()))
    status, headers, body = ask(server, "GET", f"/{video.file}")
    assert (status, headers["Content-Type"], body) == (200, "video/mp4", (folder / "page" / video.file).read_bytes())
    for path in (
        "/key.json",
        "/../key.json",
        "/%2e%2e/key.json",
        "/votes.sqlite",
        "/videos/",
        "/page/index.html",
        "/votes",
    ):
        assert ask(server, "GET", path)[0] == 404, path
    status, headers, body = ask(server, "HEAD", f"/{video.file}")
    assert (status, body, int(headers["Content-Length"])) == (200, b"", (folder / "page" / video.file).stat().st_size)


def test_ranges(server: StudyServer, made: tuple[Path, Study, Key]) -> None:
    folder, study, _ = made
    file = next(iter(study.videos.values())).file
    whole = (folder / "page" / file).read_bytes()
    status, headers, body = ask(server, "GET", f"/{file}", Range="bytes=10-19")
    assert (status, headers["Content-Range"], body) == (206, f"bytes 10-19/{len(whole)}", whole[10:20])
    assert ask(server, "GET", f"/{file}", Range="bytes=-5")[2] == whole[-5:]
    assert ask(server, "GET", f"/{file}", Range="bytes=5-")[2] == whole[5:]
    status, headers, _ = ask(server, "GET", f"/{file}", Range=f"bytes={len(whole)}-")
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(whole)}")
    assert ask(server, "GET", f"/{file}", Range="bytes=0-1,4-5")[0] == 200


@given(st.text("0123456789-, x", max_size=12), st.integers(0, 50))
def test_a_range_lies_inside_the_file_whatever_is_asked(text: str, size: int) -> None:
    for header in (text, f"bytes={text}"):
        got = parse_range(header, size)
        assert got is None or 0 <= got[0] <= got[1] <= size


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 50))
def test_ranges_are_those_of_a_slice(first: int, last: int, size: int) -> None:
    got = parse_range(f"bytes={first}-{last}", size)
    whole = bytes(range(size))
    if first > last:
        assert got == (0, size, False)
    elif first >= size:
        assert got is None
    else:
        assert got is not None
        assert whole[got[0] : got[1]] == whole[first : last + 1]


def test_votes_are_kept_once_and_the_later_answer_counts(server: StudyServer, made: tuple[Path, Study, Key]) -> None:
    folder, study, key = made
    votes = some_votes(key)
    for _ in range(2):
        assert send(server, votes_as_json(study, votes)) == (200, {"stored": 4})
    assert server.store.votes() == votes
    other = votes[0].right if votes[0].choice == votes[0].left else votes[0].left
    changed = replace(votes[0], choice=other, time=votes[0].time + 1)
    assert send(server, votes_as_json(study, [changed]))[0] == 200
    assert send(server, votes_as_json(study, [votes[0]]))[0] == 200  # a late second try
    assert server.store.votes() == [changed, *votes[1:]]
    assert load_votes(folder, study) == [changed, *votes[1:]]


def test_many_raters_at_once(server: StudyServer, made: tuple[Path, Study, Key]) -> None:
    _, study, key = made
    results: list[int] = []
    threads = [
        threading.Thread(
            target=lambda i=i: results.append(send(server, votes_as_json(study, some_votes(key, f"r{i}")))[0])
        )
        for i in range(12)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == [200] * 12
    assert len(server.store.votes()) == 48


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b'{"votes": []}',
        b"[" * 9000,
        b"1" * 5000,
        b'{"format":"mimicmotion-votes","version":1}',
    ],
)
def test_bad_json_is_refused_and_the_server_goes_on(server: StudyServer, body: bytes) -> None:
    status, _, reply = ask(server, "POST", "/votes", body, Content_Type="application/json")
    assert status == 400
    assert json.loads(reply)["error"]
    assert server.store.votes() == []
    assert ask(server, "GET", "/")[0] == 200


BAD_FIELDS = [
    ("pair", "p0"),
    ("pair", []),
    ("rater", ""),
    ("rater", "a/b"),
    ("rater", "a" * 65),
    ("rater", 5),
    ("repeat", 2),
    ("repeat", True),
    ("left", "x"),
    ("right", None),
    ("choice", "x"),
    ("seconds", -1),
    ("seconds", float("nan")),
    ("seconds", 10**400),
    ("seconds", True),
    ("seconds", "2"),
    ("time", 1.5),
    ("time", -1),
    ("time", 10**30),
]


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(BAD_FIELDS)])
def test_bad_votes_are_refused_whole(made: tuple[Path, Study, Key], name: str, value: object) -> None:
    _, study, key = made
    votes = some_votes(key)
    data = votes_as_json(study, votes)
    assert parse_votes(study, data) == votes
    data["votes"][1] = {**asdict(votes[1]), name: value}
    with pytest.raises(InputError, match=f"vote 2: {name} ="):
        parse_votes(study, data)


def test_both_sides_must_differ(made: tuple[Path, Study, Key]) -> None:
    _, study, key = made
    first = some_votes(key)[0]
    with pytest.raises(InputError, match="right"):
        parse_votes(study, votes_as_json(study, [replace(first, right=first.left)]))


def test_refused_before_reading(server: StudyServer) -> None:
    assert ask(server, "POST", "/", b"{}", Content_Type="application/json")[0] == 404
    assert ask(server, "POST", "/votes", b"{}", Content_Type="text/plain")[0] == 415
    assert (
        ask(server, "POST", "/votes", b"", Content_Length=str(MAX_BODY + 1), Content_Type="application/json")[0] == 413
    )
    assert ask(server, "POST", "/votes", b"", Content_Length="-5", Content_Type="application/json")[0] == 411
    assert ask(server, "PUT", "/votes", b"{}")[0] == 501


def test_votes_of_another_study_are_refused(server: StudyServer, made: tuple[Path, Study, Key], tmp_path: Path) -> None:
    folder, study, key = made
    other = replace(study, study="s0")
    status, reply = send(server, votes_as_json(other, some_votes(key)))
    assert status == 400
    assert "s0" in reply["error"]
    file = save_votes(tmp_path / "votes.json", other, some_votes(key))
    with pytest.raises(InputError, match=r"votes\.json: votes of the study 's0'"):
        load_votes(folder, study, [file])
    VoteStore(tmp_path / "other.sqlite", other)
    with pytest.raises(InputError, match="holds votes of the study s0"):
        VoteStore(tmp_path / "other.sqlite", study)


def test_votes_are_read_from_files_folders_and_databases(made: tuple[Path, Study, Key], tmp_path: Path) -> None:
    folder, study, key = made
    anna, ben = some_votes(key), some_votes(key, "ben")
    save_votes(tmp_path / "votes" / "a.json", study, anna)
    VoteStore(tmp_path / "ben.sqlite", study).add(ben)
    sources = [tmp_path / "votes", tmp_path / "votes" / "a.json", tmp_path / "ben.sqlite"]
    assert load_votes(folder, study, sources) == anna + ben
    for bad, message in ((tmp_path / "no.json", "does not exist"), (tmp_path, "holds no .json file")):
        with pytest.raises(InputError, match=message):
            load_votes(folder, study, [bad])
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="not a JSON file"):
        load_votes(folder, study, [tmp_path / "bad.json"])
    (tmp_path / "bad.sqlite").write_bytes(b"no database at all, but long enough to be looked at " * 9)
    with pytest.raises(InputError, match="not a database"):
        load_votes(folder, study, [tmp_path / "bad.sqlite"])


def test_a_batch_is_kept_whole_or_not_at_all(made: tuple[Path, Study, Key], tmp_path: Path) -> None:
    _, study, key = made
    store = VoteStore(tmp_path / "votes.sqlite", study)
    votes = some_votes(key)
    with pytest.raises(InputError):
        store.add([*votes[:2], replace(votes[2], choice=None)])  # type: ignore[arg-type]
    assert store.votes() == []


def test_a_page_without_a_video_and_a_taken_port_are_told(tmp_path: Path) -> None:
    config = result_folders(tmp_path, ("walk",))
    build(config)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OutputError, match="cannot listen"):
        StudyServer(config.output, port=taken.getsockname()[1])
    next((config.output / "page" / "videos").iterdir()).unlink()
    with pytest.raises(InputError, match="lacks videos/"):
        StudyServer(config.output)


def heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_stops_the_command_and_exports_the_votes(made: tuple[Path, Study, Key]) -> None:
    folder, study, key = made
    argv = [sys.executable, "-m", "mimicmotion.cli", "study", "serve", str(folder), "--port", "0"]
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # tests that run in the background of a shell are started with Ctrl-C ignored, and hand that on
    with subprocess.Popen(argv, **pipes, env=env, preexec_fn=heed_interrupts) as process:  # noqa: PLW1509
        assert process.stdout is not None
        line = process.stdout.readline()
        host, port = line.split("/")[2].split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        votes = some_votes(key, "carl")
        connection.request("POST", "/votes", json.dumps(votes_as_json(study, votes)), JSON)
        assert connection.getresponse().status == 200
        process.send_signal(signal.SIGINT)  # the connection is still open
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()  # else the test would wait for ever
        connection.close()
    assert process.returncode == 0, err
    assert err == ""
    assert "votes.json" in out
    assert set(votes) <= set(load_votes(folder, study, [folder / "votes.json"]))
