"""Parts of the service in isolation: tokens, forms, worker processes, settings."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mimicmotion import cli
from mimicmotion.errors import ConfigError, MimicMotionError
from mimicmotion.runtime.interrupt import Stopped
from mimicmotion.runtime.progress import Job, Progress
from mimicmotion.serve.app import Connection, create_app
from mimicmotion.serve.jobs import Jobs
from mimicmotion.serve.tokens import ANYBODY, Tokens
from mimicmotion.serve.uploads import Form, RefusedError, name_by_content
from mimicmotion.serve.worker import PROGRESS, DiedError, Worker, _run
from mimicmotion.settings import parse
from mimicmotion.settings.serve import ServeConfig, client_settings
from worker_task import task


def test_tokens_are_kept_as_checksums(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path)
    assert tokens.find("") is ANYBODY
    secret = tokens.add("anna", "read")
    assert secret not in tokens.path.read_text()
    assert tokens.path.stat().st_mode & 0o077 == 0
    found = tokens.find(secret)
    assert found is not None
    assert (found.name, found.allows("read"), found.allows("jobs"), found.allows("admin")) == (
        "anna",
        True,
        False,
        False,
    )
    assert [tokens.find(wrong) for wrong in ("", secret[:-1], found.sha256)] == [None] * 3
    with pytest.raises(ConfigError, match="has never been used"):
        tokens.add("anna", "jobs")


def test_a_revoked_token_is_invalid_at_once_and_opens_nothing(tmp_path: Path) -> None:
    tokens, other_process = Tokens(tmp_path), Tokens(tmp_path)
    secret = tokens.add("anna", "jobs")
    assert other_process.find(secret) is not None
    tokens.revoke("anna")
    assert other_process.find(secret) is None
    assert other_process.find("") is None
    with pytest.raises(ConfigError, match="one of: anna"):
        tokens.revoke("ben")


def test_tokens_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", str(tmp_path)]
    assert cli.main(["serve", "token", "add", "anna", "--scope", "admin", *data]) == 0
    secret = capsys.readouterr().out.strip()
    found = Tokens(tmp_path).find(secret)
    assert found is not None
    assert found.scope == "admin"
    assert cli.main(["serve", "token", "revoke", "anna", *data]) == 0
    assert cli.main(["serve", "token", "list", *data]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("anna  admin  created 20")
    assert Tokens(tmp_path).find(secret) is None


def test_connections_are_limited_and_silent_ones_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hello(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    def ask() -> int | None:
        connection = http.client.HTTPConnection(*address, timeout=60)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/")
            return connection.getresponse().status
        return None

    monkeypatch.setattr("mimicmotion.serve.app.SILENT_SECONDS", 0.5)
    limits: dict[str, Any] = {"limit_concurrency": 5, "http": Connection, "lifespan": "off", "log_level": "error"}
    server = uvicorn.Server(uvicorn.Config(hello, **limits))
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as opened:
        address = listener.getsockname()
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            assert ask() == 200
            silent = [opened.enter_context(socket.create_connection(address, timeout=60)) for _ in range(20)]
            with contextlib.suppress(ConnectionResetError):
                assert silent[-1].recv(1) == b""  # one too many: closed at once
            assert len(server.server_state.connections) <= 5
            assert ask() in (None, 503)
            assert silent[0].recv(1) == b""  # a silent one: closed after a while
            for _ in range(100):
                if ask() == 200:
                    break
                time.sleep(0.1)
            assert ask() == 200
        finally:
            server.should_exit = True
            thread.join()


def test_no_other_computer_without_a_token(tmp_path: Path) -> None:
    config = ServeConfig(data=tmp_path, host="0.0.0.0", page=False)
    with pytest.raises(ConfigError, match=r"host=0\.0\.0\.0 without a token"):
        create_app(config)
    Tokens(tmp_path).add("anna", "jobs")
    assert create_app(config).title == "MimicMotion"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": []}, "at least one"),
        ({"devices": ["cpu", "cpu"]}, "each once"),
        ({"database": "mysql://x"}, "postgresql://"),
        ({"port": 99999}, "port=99999"),
    ],
)
def test_invalid_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(ServeConfig, changes)


def test_settings_of_all_jobs_are_checked_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("sed: 3\n")
    with pytest.raises(ConfigError, match="did you mean seed"):
        create_app(ServeConfig(data=tmp_path, settings=tmp_path / "settings.yaml"))


def test_results_are_labelled_unless_the_operator_says_otherwise(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("label: metadata\n")
    given = ServeConfig(data=tmp_path, settings=tmp_path / "settings.yaml")
    assert Jobs(ServeConfig(data=tmp_path)).base["label"] in ("visible", "signed")
    assert Jobs(given).base["label"] == "metadata"
    assert {"label", "producer", "signer"} & set(client_settings()) == set()


# --- forms ------------------------------------------------------------------------------------------------------

PICTURE, SETTINGS = b"\r\n--b\r\n-" * 3 + bytes(range(256)), b'{"seed": 1}'
BODY = (
    b'--b0\r\nContent-Disposition: form-data; name="picture"; filename="../../etc/passwd"\r\nContent-Type: x/y\r\n\r\n'
    + PICTURE
    + b'\r\n--b0\r\ncontent-disposition: form-data; name="settings"\r\n\r\n'
    + SETTINGS
    + b"\r\n--b0--\r\n"
)


def read(folder: Path, body: bytes, cuts: list[int]) -> Form:
    form = Form("multipart/form-data; boundary=b0", folder)

    async def pieces() -> AsyncIterator[bytes]:
        for start, stop in zip([0, *cuts], [*cuts, len(body)], strict=True):
            yield body[start:stop]

    asyncio.run(form.read(pieces(), lambda _: None))
    return form


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, len(BODY)), max_size=8).map(sorted))
def test_a_form_is_the_same_wherever_it_is_cut(tmp_path: Path, cuts: list[int]) -> None:
    folder = tmp_path / "form"
    folder.mkdir(exist_ok=True)
    form = read(folder, BODY, cuts)
    assert [p.name for p in folder.iterdir()] == form.files == ["picture"]
    assert (folder / "picture").read_bytes() == PICTURE
    assert form.texts == {"settings": SETTINGS}
    (folder / "picture").unlink()


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(BODY) - 6))
def test_a_form_that_breaks_off_anywhere_is_refused(tmp_path: Path, end: int) -> None:
    folder = tmp_path / "form"
    folder.mkdir(exist_ok=True)
    with pytest.raises(RefusedError, match="an incomplete form"):
        read(folder, BODY[:end], [])
    (folder / "picture").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("name", "head", "suffix"),
    [
        ("picture", b"\xff\xd8\xff\xe0", ".jpg"),
        ("picture", b"RIFF\0\0\0\0WEBP", ".webp"),
        ("picture", b"\0\0\0\x18ftypheic", ".heic"),
        ("video", b"\0\0\0\x18ftypqt  ", ".mp4"),
        ("video", b"\x1aE\xdf\xa3", ".mkv"),
        ("video", b"RIFF\0\0\0\0AVI ", ".avi"),
        ("video", b"PK\3\4", ".npz"),
        ("video", b"\xef\xbb\xbf \n[{", ".json"),
        ("picture", b"RIFF\0\0\0\0AVI ", None),
        ("picture", b"%!PS-Adobe", None),
        ("video", b"#EXTM3U", None),
        ("video", b"", None),
    ],
)
def test_files_are_named_by_their_contents(name: str, head: bytes, suffix: str | None, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(head)
    if suffix is None:
        with pytest.raises(RefusedError, match="in an unsupported format"):
            name_by_content(tmp_path / name)
    else:
        assert name_by_content(tmp_path / name) == tmp_path / f"{name}{suffix}"


# --- worker processes -------------------------------------------------------------------------------------------


@pytest.mark.whole
def test_a_worker_answers_and_survives_what_it_is_asked() -> None:
    worker = Worker(task, environment={"MARK": "x"}, memory=4 << 30)
    try:
        first = worker.ask("pid", 60)
        assert worker.ask("MARK", 60) == "x"
        with pytest.raises(ConfigError, match="expected: b"):
            worker.ask("fail", 60)
        with pytest.raises(MimicMotionError, match="not enough memory"):
            worker.ask("grow", 60)
        with pytest.raises(MimicMotionError, match="an unexpected error") as e:
            worker.ask("bug", 60)
        assert "secret" not in str(e.value)
        assert worker.ask("pid", 60) == first
        with pytest.raises(DiedError, match="ended with exit code 3"):
            worker.ask("die", 60)
        second = worker.ask("pid", 60)
        with pytest.raises(DiedError, match=r"within 0\.2 seconds"):
            worker.ask("sleep", 0.2)
        with pytest.raises(Stopped):
            worker.ask("sleep", 60, lambda: 0.1)
        assert len({first, second, worker.ask("pid", 60)}) == 3
    finally:
        worker.kill()


def test_the_time_left_counts_what_later_stages_took_in_the_last_job(tmp_path: Path) -> None:
    def told() -> dict[str, Any]:
        return json.loads((tmp_path / PROGRESS).read_text())

    def job() -> Job[None]:
        for done in range(3):
            yield Progress("denoise", done, 2)
        assert (told()["stage"], told()["eta"]) == ("denoise", later)
        yield Progress("write", 1, 1)

    later = 0.0
    assert list(_run(job(), tmp_path, 10, {})) == ["denoise", "write"]
    later = 15.0
    _run(job(), tmp_path, 10, {"load": 9.0, "denoise": 4.0, "write": 1.5})
    assert told()["stage"] == "write"


def test_the_client_comes_with_the_package() -> None:
    import mimicmotion
    from mimicmotion.client import Client

    assert mimicmotion.Client is Client
