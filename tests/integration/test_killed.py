"""Servers and downloads that are killed at random moments: no vote that was acknowledged and no byte is lost.

`generate`, `prepare`, and `train` are killed in test_nothing_lost.py, test_prepare.py and test_resume.py.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from http_server import serving
from mimicmotion.study.votes import load_votes, votes_as_json
from study_clips import build, result_folders, vote

KILLS = [2, pytest.param(20, marks=pytest.mark.slow)]
BODY = random.Random(0).randbytes(30_000_000)
"""Several of the pieces of 10 MB in which huggingface_hub writes."""


def start(*arguments: str, **env: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "mimicmotion.cli", *arguments]
    own = os.environ | {"PYTHONUNBUFFERED": "1"} | env
    return subprocess.Popen(argv, env=own, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.parametrize("kills", KILLS)
def test_no_acknowledged_vote_is_lost(tmp_path: Path, kills: int) -> None:
    config = result_folders(tmp_path)
    study, key = build(config)
    rng, acknowledged, rater = random.Random(1), [], 0
    for _ in range(kills):
        process = start("study", "serve", str(config.output), "--port", "0")
        assert process.stdout is not None
        address = process.stdout.readline().split("/")[2]
        killer = threading.Timer(rng.uniform(0, 0.5), process.kill)
        killer.start()
        with suppress(OSError, http.client.HTTPException):  # until it is gone
            while True:
                rater += 1
                votes = [vote(key, f"r{rater}", pair, rng.random() < 0.5) for pair in sorted(key.pairs)]
                connection = http.client.HTTPConnection(address, timeout=20)
                body = json.dumps(votes_as_json(study, votes))
                connection.request("POST", "/votes", body, {"Content-Type": "application/json"})
                if connection.getresponse().status == 200:
                    acknowledged += votes
                connection.close()
        killer.join()
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
    kept = load_votes(config.output, study)
    assert set(acknowledged) <= set(kept)
    for number in range(1, rater + 1):  # all votes of a request, or none
        assert sum(v.rater == f"r{number}" for v in kept) in (0, len(key.pairs))


class SlowHub(ThreadingHTTPServer):
    """Gives one file, in about a second."""

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
        self.send_header("ETag", f'"{hashlib.sha256(BODY).hexdigest()}"')  # as of large files: a part can go on
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("Content-Length", str(len(BODY) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(BODY) - 1}/{len(BODY)}")
        self.end_headers()


@pytest.fixture
def slow_hub() -> Iterator[SlowHub]:
    with serving(SlowHub()) as server:
        yield server


@pytest.mark.parametrize("kills", KILLS)
def test_a_killed_fetch_goes_on_and_ends_with_the_file(slow_hub: SlowHub, tmp_path: Path, kills: int) -> None:
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
        for attempt in range(4):  # three are killed, if they live so long; the last one ends
            slow_hub.begun.clear()
            process = start("weights", "fetch", "mimicmotion-1.0", **env)
            if attempt < 3:
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
