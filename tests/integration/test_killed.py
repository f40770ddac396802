"""Servers and downloads that are killed at random moments: no vote that was acknowledged and no byte is lost.

`generate`, `prepare`, and `train` are killed in test_nothing_lost.py, test_prepare.py and test_resume.py.
"""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from http_server import serving
from mimicmotion.study.votes import VoteStore
from study_clips import ServedStudy, build, result_folders

KILLS = [1, pytest.param(20, marks=pytest.mark.slow)]
CLIENTS = 50
BODY = random.Random(0).randbytes(30_000_000)
"""A body of several of the 10 MB pieces that huggingface_hub writes."""


def start(*arguments: str, **env: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "mimicmotion.cli", *arguments]
    own = os.environ | {"PYTHONUNBUFFERED": "1"} | env
    return subprocess.Popen(argv, env=own, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.parametrize("kills", KILLS)
def test_no_acknowledged_vote_is_lost(tmp_path: Path, kills: int) -> None:
    config = result_folders(tmp_path)
    study, _ = build(config)
    rng = random.Random(1)
    acknowledged: dict[str, set[str]] = {f"r{i}": set() for i in range(CLIENTS)}
    for round in range(kills):
        options = ("--no-page", "--port", "0", "--data", str(tmp_path / "data"))
        process = start("serve", "--study", str(config.output), *options)
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        served = ServedStudy(SimpleNamespace(study=study), url)

        def take_part(rater: str, served: ServedStudy = served, name: str = f"{round}-") -> None:
            with suppress(OSError, http.client.HTTPException):  # until it is gone
                trials = served.begin(rater)
                for number in itertools.count():
                    votes = [
                        {"id": f"{name}{number}-{t['pair']}-{t['repeat']}", "pair": t["pair"], "repeat": t["repeat"]}
                        | {"question": 0, "choice": "left", "seconds": 1}
                        for t in trials
                    ]
                    if served.ask("POST", "/votes", {"votes": votes}, rater=rater)[0] == 200:
                        acknowledged[rater] |= {v["id"] for v in votes}

        clients = [threading.Thread(target=take_part, args=(rater,)) for rater in acknowledged]
        before = sum(map(len, acknowledged.values()))
        for client in clients:
            client.start()
        while sum(map(len, acknowledged.values())) == before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 2) if kills > 1 else 0)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        for client in clients:
            client.join()
        process.stdout.close()
    assert sum(map(len, acknowledged.values()))
    kept = VoteStore(config.output / "votes.sqlite", study).history()
    for rater, ids in acknowledged.items():
        assert ids <= {v.id for v in kept if v.rater == rater}
    trials = len(study.pairs) + 1  # one of them twice
    whole = Counter((v.rater, v.id.rsplit("-", 2)[0]) for v in kept)  # all votes of a request, or none
    assert set(whole.values()) == {trials}


class SlowHub(ThreadingHTTPServer):
    """Serves one file in about a second."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Piecemeal)
        self.starts = list[int]()
        self.begun = threading.Event()


class _Piecemeal(BaseHTTPRequestHandler):
    server: SlowHub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.head(0)

    def do_GET(self) -> None:
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.head(first)
        if "/resolve/" not in self.path:
            return
        self.server.starts.append(first)
        self.server.begun.set()
        with suppress(OSError):  # the other side was killed
            for place in range(first, len(BODY), 600_000):
                self.wfile.write(BODY[place : place + 600_000])
                time.sleep(0.02)

    def head(self, first: int) -> None:
        self.send_response(206 if first else 200)
        self.send_header("ETag", f'"{hashlib.sha256(BODY).hexdigest()}"')  # as for large files
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("Content-Length", str(len(BODY) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(BODY) - 1}/{len(BODY)}")
        self.end_headers()


@pytest.fixture
def slow_hub() -> Iterator[SlowHub]:
    with serving(SlowHub()) as server:
        yield server


@pytest.mark.slow  # `make test` goes on from a part in test_weights.py
@pytest.mark.parametrize("kills", [1, 20])
def test_a_killed_fetch_resumes_and_completes_the_file(slow_hub: SlowHub, tmp_path: Path, kills: int) -> None:
    rng, killed, number = random.Random(2), 0, 0
    while killed < kills:
        number += 1
        cache = tmp_path / str(number)
        env = {
            "HF_ENDPOINT": f"http://127.0.0.1:{slow_hub.server_port}",
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "hf"),
            "MIMICMOTION_CACHE": str(cache),
        }
        code = -signal.SIGKILL
        for attempt in range(min(kills, 3) + 1):  # all but the last are killed unless they finish
            slow_hub.begun.clear()
            process = start("weights", "fetch", "mimicmotion-1.0", **env)
            if attempt < min(kills, 3):
                slow_hub.begun.wait(60)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(rng.uniform(0, 1))
                process.kill()
            code = process.wait()
            process.communicate()
            if code == 0:
                break
            assert code == -signal.SIGKILL
            killed += 1
        assert code == 0
        folder = cache / "tencent--MimicMotion"
        assert (folder / "MimicMotion.pth").read_bytes() == BODY
        assert not list(folder.glob("*.part"))
        assert set(json.loads((folder / "checksums.json").read_text())) == {"MimicMotion.pth"}
    assert any(slow_hub.starts)  # what was there was not fetched again
