"""Small result folders and votes for the tests of the user study."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mimicmotion.runtime.progress import finish
from mimicmotion.settings.study import StudyConfig
from mimicmotion.study.build import build_study
from mimicmotion.study.folder import Key, Study
from mimicmotion.study.votes import Vote, sign
from mimicmotion.video.writer import open_writer

OURS, BASELINES = "Firstmethod", ("Secondmethod", "Thirdmethod")


def clip(path: Path, shade: int, frames: int = 8, size: tuple[int, int] = (64, 48)) -> Path:
    """A video of a moving bar in its own shade."""
    with open_writer(path, size, 8.0) as writer:
        for i in range(frames):
            frame = np.full((*size, 3), shade, np.uint8)
            frame[:, 4 * i : 4 * i + 8] = 255 - shade
            writer.write(frame)
    return path


def result_folders(root: Path, sequences: tuple[str, ...] = ("walk", "turn"), suffix: str = ".mp4") -> StudyConfig:
    """Folders of results of three methods and the settings of a study of them."""
    for m, method in enumerate((OURS, *BASELINES)):
        for s, sequence in enumerate(sequences):
            clip(root / method / f"{sequence}{suffix}", 40 * m + 20 * s)
    return StudyConfig(
        ours=(OURS, root / OURS),
        baselines=[(b, root / b) for b in BASELINES],
        output=root / "study",
        repeat_share=0.25,
        min_seconds=0.1,
        seed=3,
    )


def build(config: StudyConfig) -> tuple[Study, Key]:
    """Build a study, running the job to completion."""
    built = finish(build_study(config))
    return built.study, built.key


def vote(
    key: Key, rater: str, pair: str, ours: bool, *, ours_left: bool = True, repeat: int = 0, question: int = 0
) -> Vote:
    """A vote for our method or for the baseline."""
    shown = key.pairs[pair]
    ids = {v.method: i for i, v in key.videos.items() if v.sequence == shown.sequence}
    mine, theirs = ids[key.ours], ids[shown.baseline]
    left, right = (mine, theirs) if ours_left else (theirs, mine)
    choice, time = mine if ours else theirs, 1_700_000_000_000
    return Vote(f"{pair}/{repeat}/{question}", rater, pair, repeat, question, left, right, choice, 2.0, time)


class ServedStudy:
    """A study on a service in this process, and a client of it.

    Attributes:
        running: the study.
        url: address of the service.
    """

    def __init__(self, running: Any, url: str) -> None:
        self.running, self.url = running, url

    def link(self, rater: str) -> str:
        return f"{self.url}/study#{sign(self.running.study, rater)}"

    def ask(self, method: str, path: str, body: Any = None, rater: str = "", **headers: str) -> tuple[int, Any, Any]:
        """Status, headers and (parsed, if JSON) body of a response; a body that is not bytes is sent as JSON."""
        if rater:
            headers["Authorization"] = f"Bearer {sign(self.running.study, rater)}"
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=60)
        with contextlib.closing(connection):
            connection.request(method, f"/study{path}", data, headers)
            reply = connection.getresponse()
            raw = reply.read()
        kind = reply.headers.get("Content-Type", "")
        return reply.status, reply.headers, json.loads(raw) if raw and "json" in kind else raw

    def begin(self, rater: str) -> list[dict[str, Any]]:
        """What a rater who agrees is shown."""
        return self.ask("POST", "/begin?agreed=true", rater=rater)[2]["trials"]


@contextlib.contextmanager
def serving_study(folder: Path, port: int = 0) -> Iterator[ServedStudy]:
    """Serve a study on a thread; jobs are not started."""
    import uvicorn

    from mimicmotion.serve.app import create_app
    from mimicmotion.settings.serve import ServeConfig

    app = create_app(ServeConfig(data=folder.parent / "serve-data", study=folder, page=False))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1))
    listener = socket.create_server(("127.0.0.1", port), reuse_port=True)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield ServedStudy(app.state.study, f"http://127.0.0.1:{listener.getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
