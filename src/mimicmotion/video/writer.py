"""Results out, frame by frame: MP4 and its relatives, WebM, GIF, WebP or a folder of PNG files."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from mimicmotion.errors import ConfigError, OutputError
from mimicmotion.runtime import files
from mimicmotion.runtime.run_folder import atomic_folder, check_replaceable_folder
from mimicmotion.video.audio import AudioTrack
from mimicmotion.video.encoders import (
    ENCODERS,
    EncoderSettings,
    GifPalette,
    OutputPlan,
    add_stream,
    open_container,
    to_yuv,
)
from mimicmotion.video.timing import exact_rate

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.frame import VideoFrame

logger = logging.getLogger(__name__)

Codec = Literal["auto", "h264", "hevc", "vp9"]
VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".gif", ".webp"})
FRAME_PATTERN = "frame_*.png"
_GIF_MAX_FPS = 50


@runtime_checkable
class FrameWriter(Protocol):
    """What `open_writer` gives: takes frames one by one and knows how many it has."""

    count: int

    def write(self, frame: UInt8[ndarray, "height width 3"]) -> None:
        """Append one uint8 RGB frame of the size the writer was opened with."""


@contextlib.contextmanager
def open_writer(
    path: str | os.PathLike[str],
    size: tuple[int, int],
    fps: float | Fraction,
    *,
    codec: Codec = "auto",
    crf: int | None = None,
    preset: str = "medium",
    audio_from: str | os.PathLike[str] | None = None,
    audio_start: float = 0.0,
) -> Iterator[FrameWriter]:
    """Write a video frame by frame; it appears under its name only when the block ends without an error.

    The suffix chooses the kind: .mp4, .mov, .m4v, .mkv (H.264, yuv420p, BT.709, index in front), .webm (VP9), .gif,
    .webp (lossless), or none or a trailing slash for a folder of frame_000000.png files. yuv420p needs even sizes:
    an odd side is made even by repeating its last row or column. Parent folders are created. The same frames give
    the same bytes.

    Args:
        path: the result. An existing file is replaced, when the new one is complete; an existing folder only if it
            holds nothing but frames.
        size: (height, width) of the frames.
        fps: frames per second; 29.97 and the like stand for their exact fractions.
        codec: `auto` is H.264, or VP9 in .webm.
        crf: constant quality, 0 (best) to 51; None for a visually lossless default.
        preset: x264's and x265's trade of speed against size.
        audio_from: a media file whose sound is taken along, cut to the length of the result; one without is fine.
        audio_start: second of that file at which the first frame stands.

    Raises:
        ConfigError: unknown suffix, codec or rate, or a frame of another size or type.
        OutputError: the place cannot be written, the disk is full, or no frame was written.
    """
    target = plan_output(path, codec)
    if min(size) < 1:
        raise ConfigError(f"size {size}", "(height, width) of at least 1 x 1", "check the size")
    rate = exact_rate(fps)
    files.check_writable(target.path)
    if audio_from is not None and not target.sound:
        logger.warning("%s: this format has no sound; the sound of %s is left out", target.path, audio_from)
        audio_from = None
    if target.kind == "folder":
        with atomic_folder(target.path, FRAME_PATTERN) as part:
            yield from _filled(_FolderWriter(part, target.path, size))
        return
    with files.atomic_path(target.path) as part:
        settings = EncoderSettings(part, target, size, rate, crf, preset)
        yield from _filled(_VideoWriter(settings, audio_from, audio_start))


def plan_output(path: str | os.PathLike[str], codec: Codec = "auto") -> OutputPlan:
    """Decide by the suffix what to write, without touching anything.

    Raises:
        ConfigError: the suffix is unknown, or the codec does not go into such a file.
    """
    suffix = Path(path).suffix.lower()
    if not suffix or os.fspath(path).endswith(("/", os.sep)):
        return OutputPlan(Path(path), "folder", "png")
    if suffix not in VIDEO_SUFFIXES:
        raise ConfigError(f"{path} ends in {suffix!r}", ", ".join(sorted(VIDEO_SUFFIXES)), "write to out.mp4")
    kind = {".mp4": "mov", ".m4v": "mov", ".mov": "mov"}.get(suffix, suffix[1:])
    if codec not in ("auto", *ENCODERS):
        raise ConfigError(f"codec={codec!r}", "auto, h264, hevc or vp9", "leave it at auto")
    if codec == "auto" or kind in ("gif", "webp"):
        codec = "vp9" if kind == "webm" else "h264"
    if kind == "webm" and codec != "vp9":
        raise ConfigError(f"codec={codec!r} in {path}", "vp9 in a .webm file", "write to .mp4 or leave codec at auto")
    return OutputPlan(Path(path), kind, codec)


def check_output(path: str | os.PathLike[str], codec: Codec = "auto") -> Path:
    """Everything that can be known to go wrong with writing `path`, found before long work; leaves nothing behind.

    Raises:
        ConfigError: unknown suffix.
        OutputError: the place cannot be written or is taken.
    """
    plan = plan_output(path, codec)
    if plan.kind == "folder":
        check_replaceable_folder(plan.path, FRAME_PATTERN)
    elif plan.path.is_dir():
        raise OutputError(f"{plan.path} is a folder", "a file name", f"write to {plan.path / 'out.mp4'}")
    return files.check_writable(plan.path)


def _filled(writer: Any) -> Iterator[Any]:
    """Hand out the writer, then complete the file; close it quietly if the caller failed."""
    try:
        yield writer
        if not writer.count:
            raise OutputError(f"no frame was written to {writer.path}", "at least one frame", "check the input")
        writer.finish()
    finally:
        writer.close()


def _check_frame(frame: ndarray, size: tuple[int, int]) -> None:
    if frame.dtype != np.uint8 or frame.shape != (*size, 3):
        raise ConfigError(
            f"a frame of {frame.dtype} {frame.shape}",
            f"uint8 {(*size, 3)}",
            "give RGB frames of the size the writer was opened with",
        )


class _FolderWriter:
    def __init__(self, part: Path, path: Path, size: tuple[int, int]) -> None:
        self.part, self.path, self.size, self.count = part, path, size, 0

    def write(self, frame: UInt8[ndarray, "height width 3"]) -> None:
        from PIL import Image

        _check_frame(frame, self.size)
        with files.writing(self.path):
            name = FRAME_PATTERN.replace("*", f"{self.count:06d}")
            Image.fromarray(np.ascontiguousarray(frame)).save(self.part / name, compress_level=1)
        self.count += 1

    def finish(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        """Nothing is open."""


class _VideoWriter:
    """One FFmpeg muxer with a video encoder and, where wanted, a sound track that is fed along with the frames."""

    def __init__(self, s: EncoderSettings, audio_from: str | os.PathLike[str] | None, audio_start: float) -> None:
        self.path, self.size, self.count, self._s = s.target.path, s.size, 0, s
        self._palette = GifPalette(s) if s.target.kind == "gif" else None
        self._container: OutputContainer | None = None
        self._audio: AudioTrack | None = None
        try:
            with self._translated():
                self._container = open_container(s)
                self._stream = add_stream(self._container, s)
                self._audio = AudioTrack.open(audio_from, self._container, s.target.kind, audio_start)
        except BaseException:
            self.close()
            raise
        if s.target.kind == "gif" and s.rate > _GIF_MAX_FPS:
            logger.warning("%s: players show GIFs of more than %d fps too slowly", self.path, _GIF_MAX_FPS)

    def write(self, frame: UInt8[ndarray, "height width 3"]) -> None:
        _check_frame(frame, self.size)
        with self._translated():
            encoded = self._to_native(np.ascontiguousarray(frame))
            encoded.pts, encoded.time_base = self.count, 1 / self._s.rate
            self._mux(self._stream.encode(encoded))
            self.count += 1
            if self._audio is not None:
                self._audio.advance(self.count / self._s.rate)

    def finish(self) -> None:
        """Flush the encoders and complete the file."""
        container = self._container
        if container is None:
            return
        with self._translated():
            self._mux(self._stream.encode())
            if self._audio is not None:
                self._audio.finish()
            self._container = None
            container.close()

    def close(self) -> None:
        """Let go of everything; used after an error too, so it raises nothing itself."""
        container, self._container = self._container, None
        if self._audio is not None:
            self._audio.close()
        if container is not None:
            with contextlib.suppress(Exception):
                container.close()

    def _mux(self, packets: list[Any]) -> None:
        if self._container is not None:
            for packet in packets:
                self._container.mux(packet)

    def _to_native(self, frame: ndarray) -> VideoFrame:
        from av.video.frame import VideoFrame

        if self._palette is not None:
            return self._palette.convert(frame, self.count)
        height, width = self._s.even_size
        if (height, width) != self.size:
            frame = np.pad(frame, ((0, height - self.size[0]), (0, width - self.size[1]), (0, 0)), mode="edge")
        rgb = VideoFrame.from_ndarray(frame, format="rgb24")
        if self._s.target.kind == "webp":
            return rgb.reformat(format="bgra")
        return to_yuv(rgb)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        import av

        try:
            with files.writing(self.path):
                yield
        except av.error.FFmpegError as e:
            raise OutputError(
                f"{self.path} cannot be encoded ({e})", "an encoder of this FFmpeg", "choose another format"
            ) from e
