"""What comes with a request: parts of a form, counted while they are read, and files, named by their contents."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import IO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from mimicmotion.errors import MimicMotionError
from mimicmotion.runtime.files import writing

FILES, TEXTS = ("picture", "video"), ("settings", "priority")
MAX_TEXT = 1 << 16
MIB, GIB = 2**20, 2**30
MAX_SILENCE = 30.0
"""Seconds between two pieces of an upload."""
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
    """A request is not served; the answer says why.

    Args:
        status: of the answer, as HTTP has it.
        got: see `MimicMotionError`.
        expected: see `MimicMotionError`.
        fix: see `MimicMotionError`.
    """

    def __init__(self, status: int, got: str, expected: str, fix: str) -> None:
        super().__init__(got, expected, fix)
        self.status = status


class Form:
    """The parts of a form as they come in: files go to a folder under our own names, texts stay in memory.

    Args:
        content_type: of the request.
        folder: gets the files, each under the name of its part.

    Attributes:
        texts: what came as text.
        files: names of the files that came.

    Raises:
        RefusedError: the request is no form.
    """

    def __init__(self, content_type: str, folder: Path) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise RefusedError(415, f"content of type {content_type[:80]!r}", FORM, "send the files as parts of a form")
        self.texts: dict[str, bytearray] = {}
        self.files: list[str] = []
        self._folder, self._whole = folder, False
        self._header = self._value = self._disposition = b""
        self._file: IO[bytes] | None = None
        self._text = bytearray()
        names = (
            "part_begin",
            "part_data",
            "part_end",
            "header_field",
            "header_value",
            "header_end",
            "headers_finished",
        )
        calls: dict[str, Callable[..., None]] = {f"on_{name}": getattr(self, f"_{name}") for name in (*names, "end")}
        with _as_refusal():
            self._parser = MultipartParser(options[b"boundary"], calls)  # type: ignore[arg-type]

    async def read(self, pieces: AsyncIterator[bytes], count: Callable[[int], None]) -> None:
        """Read the whole form.

        Args:
            pieces: the body of the request.
            count: is told the bytes of each piece before it is kept, and raises if they are too many.

        Raises:
            RefusedError: the form is malformed, not complete, or did not go on for 30 seconds.
            OutputError: the disk is full.
        """
        try:
            while (piece := await asyncio.wait_for(anext(pieces, None), MAX_SILENCE)) is not None:
                count(len(piece))
                with _as_refusal(), writing(self._folder):
                    self._parser.write(piece)
        except (TimeoutError, ClientDisconnect) as e:
            raise RefusedError(408, "an upload that does not go on", "all of it", "send it again") from e
        finally:
            self._part_end()
        if not self._whole:
            raise RefusedError(422, "a form that breaks off", FORM, "send it again")

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
            got = f"a part named {name[:80]!r}" + (" for the second time" if name in (*self.texts, *self.files) else "")
            raise RefusedError(422, got, f"each of {', '.join((*FILES, *TEXTS))} once", "leave it out")
        if name in FILES:
            self.files.append(name)
            self._file = (self._folder / name).open("xb")
        else:
            self._text = self.texts.setdefault(name, bytearray())

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
        elif len(self._text) + end - start > MAX_TEXT:
            raise RefusedError(413, "a text of more than 64 KiB", "settings as JSON", "send files as files")
        else:
            self._text += data[start:end]

    def _part_end(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def _end(self) -> None:
        self._whole = True


async def small_body(request: Request, limit: int) -> bytes:
    """The body of a request that has no reason to be large.

    Raises:
        RefusedError: it has more than `limit` bytes, or did not go on for 30 seconds.
    """
    body, pieces = b"", request.stream()
    try:
        while (piece := await asyncio.wait_for(anext(pieces, None), MAX_SILENCE)) is not None:
            body += piece
            if len(body) > limit:
                raise RefusedError(413, "a request that is too large", f"at most {limit} bytes", "send less at once")
    except (TimeoutError, ClientDisconnect) as e:
        raise RefusedError(408, "a request that does not go on", "all of it", "send it again") from e
    return body


@contextlib.contextmanager
def _as_refusal() -> Iterator[None]:
    try:
        yield
    except FormParserError as e:
        raise RefusedError(422, f"a malformed form ({e})", FORM, "correct the request") from e


def name_by_content(path: Path) -> Path:
    """Give an uploaded file (picture or video) the suffix of what it holds.

    Formats that name other files (playlists, scripts of pictures) are not among those that are taken.

    Raises:
        RefusedError: it holds something else.
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
        raise RefusedError(422, f"a {path.name} of an unknown kind", kinds[path.name], "convert it")
    return path.rename(path.with_suffix(suffix))
