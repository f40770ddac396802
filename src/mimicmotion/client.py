"""HTTP client for the service, using only the standard library."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from mimicmotion.errors import MimicMotionError
from mimicmotion.runtime.files import atomic_path

CHUNK_SIZE = 1 << 16


@dataclass(frozen=True, slots=True)
class JobState:
    """State of a job on the service. Times are in seconds since 1970.

    Attributes:
        id: id of the job.
        kind: "generate", or "plan", which only predicts what generate would do.
        state: "queued", "running", "done", "failed" or "cancelled".
        owner: name of the token that submitted the job.
        priority: 0 to 9; jobs with a higher priority run first.
        settings: settings that the job was submitted with.
        frames: approximate number of frames of the result.
        created: time of submission.
        started: time of the last start; None before the first.
        finished: time at which the job ended; None before.
        stage: current stage: "load", "picture", "poses", "encode", "denoise" or "write".
        done: completed frames or steps of the stage.
        total: total number of frames or steps of the stage.
        eta: estimated seconds until the job is done, from the speed of the current stage and the time of later stages
            in the last job; for the first job, until the stage is complete.
        preview: whether a preview picture is available (see the setting `preview`).
        error: error of a failed job, with the keys "got", "expected" and "fix".
    """

    id: str
    kind: str
    state: str
    owner: str
    priority: int
    settings: dict[str, Any]
    frames: int
    created: float
    started: float | None
    finished: float | None
    stage: str | None
    done: int | None
    total: int | None
    eta: float | None
    preview: bool
    error: dict[str, str] | None

    @property
    def ended(self) -> bool:
        """Whether the job is done, failed or cancelled."""
        return self.state in ("done", "failed", "cancelled")


class ServiceError(MimicMotionError):
    """The service rejected a request, or a job failed or was cancelled.

    Args:
        status: HTTP status of the response; 0 if a job failed or was cancelled.
        error: parts of the message: "got", "expected" and "fix".
    """

    def __init__(self, status: int, error: dict[str, str]) -> None:
        super().__init__(error["got"], error["expected"], error["fix"])
        self.status = status


class Client:
    """Client for the service started by `mimicmotion serve`.

    Args:
        url: URL of the service.
        token: access token, if the service requires one.
        timeout: seconds to wait for a response, and to keep retrying while the service cannot be reached.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", token: str | None = None, timeout: float = 60.0) -> None:
        self.url, self.timeout = urlsplit(url), timeout
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def submit(
        self,
        picture: str | os.PathLike[str],
        video: str | os.PathLike[str],
        *,
        kind: Literal["generate", "plan"] = "generate",
        priority: int = 5,
        key: str | None = None,
        **settings: Any,
    ) -> JobState:
        """Submit a job and return its state.

        Args:
            picture: picture of the person.
            video: driving video or pose file.
            kind: "generate", or "plan" to only predict what generate would do.
            priority: 0 to 9; jobs with a higher priority run first.
            key: idempotency key: submitting the same key again returns the same job. By default, each call creates one.
            settings: options of `mimicmotion generate`, such as `seed`.

        Raises:
            ServiceError: the service rejected the job.
            ConnectionError: the service cannot be reached.
        """
        boundary = secrets.token_hex(16)
        texts = {"settings": json.dumps(settings, default=str), "priority": str(priority)}
        head, parts, end = _form(boundary, texts, {"picture": Path(picture), "video": Path(video)})
        size = len(head) + sum(len(intro) + path.stat().st_size for intro, path in parts) + len(end)
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(size),
            "Idempotency-Key": key or secrets.token_hex(16),
        }

        def body() -> Iterator[bytes]:
            yield head
            for intro, path in parts:
                yield intro
                with path.open("rb") as file:
                    while chunk := file.read(CHUNK_SIZE):
                        yield chunk
            yield end

        with self._request("POST", "/v1/jobs" if kind == "generate" else "/v1/plan", headers, body) as answer:
            return JobState(**json.load(answer))

    def state(self, id: str) -> JobState:
        """Return the current state of a job."""
        return JobState(**self._json("GET", f"/v1/jobs/{quote(id)}"))

    def progress(self, id: str) -> Iterator[JobState]:
        """Yield the state of a job whenever it changes, until the job ends. Reconnects if the connection is lost."""
        while True:
            with self._request("GET", f"/v1/jobs/{quote(id)}/events") as answer:
                for line in _lines(answer):
                    if line.startswith(b"data: "):
                        state = JobState(**json.loads(line[6:]))
                        yield state
                        if state.ended:
                            return

    def wait(self, id: str) -> JobState:
        """Wait until a job is done, and return its final state.

        Raises:
            ServiceError: the job failed or was cancelled.
        """
        *_, state = self.progress(id)
        if state.state != "done":
            cancelled = {"got": f"the job was {state.state}", "expected": "a completed job", "fix": "submit it again"}
            raise ServiceError(0, state.error or cancelled)
        return state

    def cancel(self, id: str) -> JobState:
        """Cancel a queued or running job, and return its state."""
        return JobState(**self._json("DELETE", f"/v1/jobs/{quote(id)}"))

    def delete(self, id: str) -> None:
        """Delete a job and its files; cancel it first if it has not ended."""
        with self._request("DELETE", f"/v1/jobs/{quote(id)}?purge=true"):
            pass

    def download(self, id: str, path: str | os.PathLike[str]) -> Path:
        """Download the result of a job to `path`, and return the path. The file appears only once it is complete."""
        with self._request("GET", f"/v1/jobs/{quote(id)}/result") as answer, atomic_path(path) as part:
            with part.open("wb") as file:
                shutil.copyfileobj(answer, file)
            if part.stat().st_size != int(answer.headers["Content-Length"]):
                raise ConnectionError("the download was interrupted")
        return Path(path)

    def sidecar(self, id: str) -> dict[str, Any]:
        """Return the sidecar of a result (settings, versions, checksums), or the report of a plan."""
        return self._json("GET", f"/v1/jobs/{quote(id)}/sidecar")

    def list(self, limit: int = 50, offset: int = 0) -> list[JobState]:
        """Return up to `limit` jobs, newest first, skipping the first `offset`."""
        return [JobState(**job) for job in self._json("GET", f"/v1/jobs?limit={limit}&offset={offset}")["jobs"]]

    def _json(self, method: str, path: str) -> Any:
        with self._request(method, path) as answer:
            return json.load(answer)

    @contextlib.contextmanager
    def _request(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: Any = None
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request and yield the response. Connection errors are retried, since all requests are idempotent."""
        kind = http.client.HTTPSConnection if self.url.scheme == "https" else http.client.HTTPConnection
        end = time.monotonic() + self.timeout
        while True:
            connection = kind(self.url.hostname or "", self.url.port, timeout=self.timeout)
            try:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused early: read the response
                    connection.request(
                        method,
                        self.url.path.rstrip("/") + path,
                        body=body() if body else None,
                        headers=self._headers | (headers or {}),
                    )
                answer = connection.getresponse()
                break
            except (ConnectionError, http.client.HTTPException):
                connection.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)
        with contextlib.closing(connection):
            if answer.status >= HTTPStatus.BAD_REQUEST:
                raise ServiceError(answer.status, _error(answer))
            yield answer


def _lines(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the lines of a response until it ends or the connection is lost."""
    with contextlib.suppress(ConnectionError, http.client.HTTPException, TimeoutError):
        yield from answer


def _form(
    boundary: str, texts: dict[str, str], files: dict[str, Path]
) -> tuple[bytes, list[tuple[bytes, Path]], bytes]:
    """Build a multipart form: the text fields, (header, path) of each file, and the closing boundary."""
    line = 'Content-Disposition: form-data; name="{}"'
    head = "".join(f"--{boundary}\r\n{line.format(name)}\r\n\r\n{text}\r\n" for name, text in texts.items())
    parts = []
    for i, (name, path) in enumerate(files.items()):
        intro = f'--{boundary}\r\n{line.format(name)}; filename="{name}"\r\n\r\n'
        parts.append((("\r\n" * (i > 0) + intro).encode(), path))
    return head.encode(), parts, f"\r\n--{boundary}--\r\n".encode()


def _error(answer: http.client.HTTPResponse) -> dict[str, str]:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        error = json.load(answer)["error"]
        return {name: str(error[name]) for name in ("got", "expected", "fix")}
    got = f"HTTP {answer.status} {answer.reason} without an error message"
    return {"got": got, "expected": "a response from the service", "fix": "check the URL"}
