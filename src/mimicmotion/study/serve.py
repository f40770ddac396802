"""A small web server for one study: hands out the page and keeps the votes."""

from __future__ import annotations

import json
import logging
import mimetypes
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from mimicmotion.errors import InputError, MimicMotionError, OutputError
from mimicmotion.study.folder import DATABASE, INDEX, PAGE, STUDY, load_study
from mimicmotion.study.votes import VoteStore, parse_votes, save_votes

logger = logging.getLogger(__name__)

EXPORT = "votes.json"
MAX_BODY = 1_000_000
"""Bytes of one POST; 2000 votes are 400 kB."""
_IDLE_SECONDS = 30
_PIECE = 1 << 16
_TYPES = {".mp4": "video/mp4", ".webm": "video/webm", ".html": "text/html; charset=utf-8", ".json": "application/json"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class StudyServer(ThreadingHTTPServer):
    """Serves STUDY/page, and nothing else of the folder, and stores what is POSTed to /votes in STUDY/votes.sqlite.

    Args:
        folder: the study.
        host: address to listen at; 127.0.0.1 is this machine only, 0.0.0.0 every network it is in.
        port: 0 takes a free one.

    Raises:
        InputError: no study there.
        OutputError: the address cannot be used, or the database cannot be written.
    """

    daemon_threads = True
    # a thread that waits for a slow phone must not keep the server from stopping; a vote is kept or not, never half
    block_on_close = False
    request_queue_size = 64

    def __init__(self, folder: Path, host: str = "127.0.0.1", port: int = 0) -> None:
        self.study = load_study(folder)
        self.store = VoteStore(folder / DATABASE, self.study)
        page = folder / PAGE
        files = [INDEX, STUDY, *(v.file for v in self.study.videos.values()), *(p.reference for p in self.study.pairs)]
        # only what the study names can be asked for, so no path leads elsewhere
        self.files = {f"/{name}": page / name for name in files if name and (page / name).is_file()}
        self.files["/"] = page / INDEX
        missing = sorted({name for name in files if name and f"/{name}" not in self.files})
        if missing:
            raise InputError(f"{page} lacks {missing[0]}", "the folder as it was built", "build the study anew")
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as e:
            fix = "choose another --port or --host"
            raise OutputError(f"cannot listen at {host}:{port} ({e})", "a free address", fix) from e

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self.server_address[:2]
        name = str(host)
        return f"http://{socket.gethostname() if name == '0.0.0.0' else name}:{port}/"

    @contextmanager
    def running(self) -> Iterator[StudyServer]:
        """Serve in a thread until the block ends."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Say in one line that a connection broke; browsers do that whenever a video is no longer needed."""
        logger.debug("%s: %s", client_address, sys.exc_info()[1])


def serve(folder: Path, host: str, port: int, tell: Callable[[str], object]) -> str:
    """Serve a study until Ctrl-C; then export the votes as one file and say how many there are.

    Raises:
        InputError: no study there.
        OutputError: the address cannot be used, or a file cannot be written.
    """
    server = StudyServer(folder, host, port)
    tell(f"{server.url} shows {server.study.title!r} ({len(server.study.pairs)} pairs). Ctrl-C stops.")
    try:
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
    votes = server.store.votes()
    path = save_votes(folder / EXPORT, server.study, votes)
    return f"{len(votes)} votes of {len({v.rater for v in votes})} raters: {path}"


class _RefusedError(Exception):
    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS

    def version_string(self) -> str:
        return "study"

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)

    def do_HEAD(self) -> None:
        self._give(body=False)

    def do_GET(self) -> None:
        self._give(body=True)

    def do_POST(self) -> None:
        try:
            votes = parse_votes(self.study_server.study, self._json())
            self.study_server.store.add(votes)
        except _RefusedError as e:
            self.close_connection = True  # an unread body would be taken for the next request
            return self._answer(e.status, {"error": str(e)})
        except InputError as e:
            return self._answer(HTTPStatus.BAD_REQUEST, {"error": e.got})
        except MimicMotionError as e:
            logger.error("votes could not be stored: %s", e)
            return self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "could not be stored; try again"})
        return self._answer(HTTPStatus.OK, {"stored": len(votes)})

    @property
    def study_server(self) -> StudyServer:
        return cast(StudyServer, self.server)

    def _json(self) -> Any:
        """The body of a POST."""
        length = self.headers.get("Content-Length", "")
        if urlsplit(self.path).path != "/votes":
            raise _RefusedError(HTTPStatus.NOT_FOUND, "votes go to /votes")
        # a form on another site cannot send this type
        if self.headers.get_content_type() != "application/json":
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "votes come as application/json")
        if not re.fullmatch(r"[0-9]{1,18}", length):
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing")
        if int(length) > MAX_BODY:
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BODY} bytes")
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as e:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "not JSON") from e

    def _answer(self, status: HTTPStatus, data: dict[str, Any]) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        if self.close_connection:
            self.send_header("Connection", "close")
        self._headers("application/json", len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _headers(self, kind: str, length: int) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _give(self, *, body: bool) -> None:
        try:
            path = self.study_server.files[urlsplit(self.path).path]
            file = path.open("rb")
        except (KeyError, OSError):
            return self._answer(HTTPStatus.NOT_FOUND, {"error": "no such file"})
        with file:
            size = os.fstat(file.fileno()).st_size
            wanted = parse_range(self.headers.get("Range"), size)
            if wanted is None:
                self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                self.send_header("Content-Range", f"bytes */{size}")
                return self._headers("text/plain", 0)
            start, stop, partial = wanted
            self.send_response(HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK)
            if partial:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self.send_header("Accept-Ranges", "bytes")
            media = path.suffix not in (".html", ".json")
            self.send_header("Cache-Control", "private, max-age=86400, immutable" if media else "no-cache")
            kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            self._headers(kind, stop - start)
            file.seek(start)
            left = stop - start if body else 0
            while left and (piece := file.read(min(_PIECE, left))):
                self.wfile.write(piece)
                left -= len(piece)
        return None


def parse_range(header: str | None, size: int) -> tuple[int, int, bool] | None:
    """(start, stop, partial) of a Range header; None where no byte can be given (416).

    No header, another unit, several ranges or nonsense: the whole file, as HTTP allows (RFC 9110, section 14.2).
    """
    found = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", (header or "").strip())
    if not found or found[0] == "bytes=-":
        return 0, size, False
    first, last = found[1], found[2]
    if not first:
        count = min(int(last), size)
        return (size - count, size, True) if count else None
    start = int(first)
    stop = min(int(last) + 1, size) if last else size
    if last and int(last) < start:
        return 0, size, False
    return (start, stop, True) if start < size else None
