"""Request bodies: multipart forms that are streamed to disk, and uploaded files named by their content."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import IO, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from mimicmotion.errors import MimicMotionError
from mimicmotion.runtime.files import writing

FILES, TEXTS = ("picture", "video"), ("settings", "priority")
MAX_TEXT = 1 << 16
MIB, GIB = 2**20, 2**30
MAX_SILENCE = 30.0
"""Maximum number of seconds between two chunks of a body."""
FORM = "a form (multipart/form-data) with the files 'picture' and 'video'"

PICTURES = {
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}
VIDEOS = {b"GIF8": ".gif", b"\x1aE\xdf\xa3": ".mkv", b"PK\3\4": ".npz", b"{": ".json", b"[": ".json"}
MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")


class RefusedError(MimicMotionError):
    """A refused request.

    Args:
        status: HTTP status of the response.
        got: see `MimicMotionError`.
        expected: see `MimicMotionError`.
        fix: see `MimicMotionError`.
    """

    def __init__(self, status: int, got: str, expected: str, fix: str) -> None:
        super().__init__(got, expected, fix)
        self.status = status


class Form:
    """A multipart form, parsed as it arrives: files are written to a folder, text fields are kept in memory.

    Args:
        content_type: content type of the request.
        folder: folder for the files, each named after its field.

    Attributes:
        texts: contents of the text fields received so far.
        files: names of the files received so far.

    Raises:
        RefusedError: the request is not a form.
    """

    def __init__(self, content_type: str, folder: Path) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise RefusedError(415, f"content of type {content_type[:80]!r}", FORM, "send the files as parts of a form")
        self.texts: dict[str, bytearray] = {}
        self.files: list[str] = []
        self._folder, self._complete = folder, False
        self._header = self._value = self._disposition = b""
        self._file: IO[bytes] | None = None
        self._text = bytearray()
        events = ("part_begin", "part_data", "part_end", "end")
        events += ("header_field", "header_value", "header_end", "headers_finished")
        callbacks: Any = {f"on_{event}": getattr(self, f"_{event}") for event in events}
        with _refusing_malformed():
            self._parser = MultipartParser(options[b"boundary"], callbacks)

    async def read(self, body: AsyncIterator[bytes], count: Callable[[int], None]) -> None:
        """Read the whole form.

        Args:
            body: chunks of the body of the request.
            count: called with the size of each chunk before it is stored; raises if the total is too large.

        Raises:
            RefusedError: the form is malformed or incomplete, or the upload stalled for 30 seconds.
            OutputError: the disk is full.
        """
        try:
            async for chunk in _chunks(body):
                count(len(chunk))
                with _refusing_malformed(), writing(self._folder):
                    self._parser.write(chunk)
        finally:
            self._part_end()
        if not self._complete:
            raise RefusedError(422, "an incomplete form", FORM, "send it again")

    def _part_begin(self) -> None:
        self._disposition = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name not in (*FILES, *TEXTS) or name in self.texts or name in self.files:
            got = f"a form field {name[:80]!r}" + (" for the second time" if name in (*self.texts, *self.files) else "")
            raise RefusedError(422, got, f"each of {', '.join((*FILES, *TEXTS))} at most once", "leave it out")
        if name in FILES:
            self.files.append(name)
            self._file = (self._folder / name).open("xb")
        else:
            self._text = self.texts.setdefault(name, bytearray())

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
        elif len(self._text) + end - start > MAX_TEXT:
            raise RefusedError(413, "a text field of more than 64 KiB", "a shorter text", "shorten the settings")
        else:
            self._text += data[start:end]

    def _part_end(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def _end(self) -> None:
        self._complete = True


async def small_body(request: Request, limit: int) -> bytes:
    """Read the body of a request that should be small.

    Raises:
        RefusedError: the body has more than `limit` bytes, or the upload stalled for 30 seconds.
    """
    body = b""
    async for chunk in _chunks(request.stream()):
        body += chunk
        if len(body) > limit:
            raise RefusedError(413, "a request that is too large", f"at most {limit} bytes", "send less at once")
    return body


async def _chunks(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        while (chunk := await asyncio.wait_for(anext(body, None), MAX_SILENCE)) is not None:
            yield chunk
    except (TimeoutError, ClientDisconnect) as e:
        raise RefusedError(408, "a stalled upload", "a complete request", "send it again") from e


@contextlib.contextmanager
def _refusing_malformed() -> Iterator[None]:
    try:
        yield
    except FormParserError as e:
        raise RefusedError(422, f"a malformed form ({e})", FORM, "correct the request") from e


def name_by_content(path: Path) -> Path:
    """Rename an uploaded file (`picture` or `video`) by adding the suffix of its actual format. Returns the new path.

    Formats that refer to other files, such as playlists, are not accepted.

    Raises:
        RefusedError: the format is not accepted.
    """
    with path.open("rb") as file:
        head = file.read(64)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip() if path.name == "video" else head
    known = PICTURES if path.name == "picture" else VIDEOS
    suffix = next((suffix for magic, suffix in known.items() if start.startswith(magic)), None)
    if head[:4] == b"RIFF":
        suffix = {b"WEBP": ".webp", b"AVI ": ".avi" if path.name == "video" else None}.get(head[8:12])
    elif head[4:8] == b"ftyp" and path.name == "picture":
        suffix = ".avif" if head[8:11] == b"avi" else ".heic"
    elif head[4:8] in MP4_BOXES and path.name == "video":
        suffix = ".mp4"
    if suffix is None:
        kinds = {"picture": "PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF or HEIC"}
        kinds["video"] = "MP4, MOV, MKV, WebM, AVI, GIF, WebP, or a pose file (.npz, OpenPose JSON)"
        raise RefusedError(422, f"a {path.name} in an unsupported format", kinds[path.name], "convert it")
    return path.rename(path.with_suffix(suffix))
