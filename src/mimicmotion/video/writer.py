"""Writing of results frame by frame: MP4 and related formats, WebM, GIF, WebP or a folder of PNG files."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from mimicmotion.errors import ConfigError, OutputError
from mimicmotion.runtime import files
from mimicmotion.runtime.run_folder import atomic_folder, check_replaceable_folder
from mimicmotion.video.audio import COPIED, AudioTrack
from mimicmotion.video.labels import Label, embed, sign
from mimicmotion.video.timing import exact_rate

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.frame import VideoFrame

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".gif", ".webp"})
FRAME_PATTERN = "frame_*.png"
_GIF_MAX_FPS = 50
BT709 = 1
LIMITED = 1
# Visually lossless constant quality, on the scales of VP9 and H.264.
_CRF_VP9, _CRF_H264 = 24, 16


class FrameWriter:
    """Base of the writers that `open_writer` yields; checks and counts frames.

    Args:
        path: path of the result, for messages.
        size: (height, width) of the frames.

    Attributes:
        unsigned_sha256: checksum of the complete file before signing, since signatures differ each time.
    """

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        self.path, self.size, self.count = path, size, 0
        self.unsigned_sha256: str | None = None

    def write(self, frame: UInt8[ndarray, "height width 3"]) -> None:
        """Append one uint8 RGB frame of the size the writer was opened with."""
        if frame.dtype != np.uint8 or frame.shape != (*self.size, 3):
            raise ConfigError(
                f"a frame of {frame.dtype} {frame.shape}",
                f"uint8 {(*self.size, 3)}",
                "give RGB frames of the size the writer was opened with",
            )
        with self._translated():
            self._append(np.ascontiguousarray(frame))
        self.count += 1

    def _append(self, frame: ndarray) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """Complete the file."""

    def close(self) -> None:
        """Release all resources. Does not raise, as it also runs after errors."""

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


@contextlib.contextmanager
def open_writer(
    path: str | os.PathLike[str],
    size: tuple[int, int],
    fps: float | Fraction,
    *,
    crf: int | None = None,
    audio_from: str | os.PathLike[str] | None = None,
    audio_start: float = 0.0,
    label: Label | None = None,
) -> Iterator[FrameWriter]:
    """Write a video frame by frame. The file is replaced or created only if the block ends without an error.

    The suffix selects the format: .mp4, .mov, .m4v, .mkv (H.264, yuv420p, BT.709, index in front), .webm (VP9), .gif,
    .webp (lossless), or none or a trailing slash for a folder of frame_000000.png files. yuv420p needs even sizes, so
    the last row or column of an odd side is repeated. Parent folders are created. The same frames give the same bytes.

    Args:
        path: path of the result. An existing file is replaced once the new one is complete; an existing folder only if
            it contains nothing but frames.
        size: (height, width) of the frames.
        fps: frames per second; values like 29.97 mean their exact fractions.
        crf: constant quality, 0 (best) to 51; None for a visually lossless default.
        audio_from: media file to copy the sound from, cut to the length of the result; it may be silent.
        audio_start: second of that file that corresponds to the first frame.
        label: label of the file in its metadata, and whether it is signed.

    Raises:
        ConfigError: the suffix or rate is unknown, or a frame has the wrong size or type.
        OutputError: the file cannot be written, the disk is full, or no frame was written.
    """
    target, kind = plan_output(path)
    if min(size) < 1:
        raise ConfigError(f"size {size}", "(height, width) of at least 1 x 1", "check the size")
    rate = exact_rate(fps)
    files.check_writable(target)
    if audio_from is not None and kind not in COPIED:
        logger.warning("%s: this format has no sound; the sound of %s is left out", target, audio_from)
        audio_from = None
    if kind == "folder":
        with atomic_folder(target, FRAME_PATTERN) as part:
            yield from _filled(_FolderWriter(part, target, size, label))
        return
    with files.atomic_path(target) as part:
        writer = _VideoWriter(part, target, kind, size, rate, crf, audio_from, audio_start, label)
        yield from _filled(writer)
        if label is not None and kind in ("gif", "webp"):
            embed(part, kind, label)
        if label is not None and label.sign:
            writer.unsigned_sha256 = files.sha256_file(part)
            signed = target.with_name(files.part_name(target))
            try:
                sign(part, signed, label)
                signed.replace(part)
            finally:
                signed.unlink(missing_ok=True)


def plan_output(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """Determine the output format from the suffix, without touching any file.

    Returns:
        The path, and its kind: `mov`, `mkv`, `webm`, `gif`, `webp` or `folder`.

    Raises:
        ConfigError: the suffix is unknown.
    """
    suffix = Path(path).suffix.lower()
    if not suffix or os.fspath(path).endswith(("/", os.sep)):
        return Path(path), "folder"
    if suffix not in VIDEO_SUFFIXES:
        raise ConfigError(f"{path} ends in {suffix!r}", ", ".join(sorted(VIDEO_SUFFIXES)), "write to out.mp4")
    return Path(path), "mov" if suffix in (".mp4", ".m4v") else suffix[1:]


def check_output(path: str | os.PathLike[str]) -> Path:
    """Check, before long work, that `path` can be written. Leaves nothing behind.

    Raises:
        ConfigError: the suffix is unknown.
        OutputError: the path cannot be written or is taken.
    """
    target, kind = plan_output(path)
    if kind == "folder":
        check_replaceable_folder(target, FRAME_PATTERN)
    elif target.is_dir():
        raise OutputError(f"{target} is a folder", "a file name", f"write to {target / 'out.mp4'}")
    return files.check_writable(target)


def _filled(writer: FrameWriter) -> Iterator[FrameWriter]:
    """Yield the writer, complete the file unless the caller failed, and close the writer."""
    try:
        yield writer
        if not writer.count:
            raise OutputError(f"no frame was written to {writer.path}", "at least one frame", "check the input")
        writer.finish()
    finally:
        writer.close()


class _FolderWriter(FrameWriter):
    def __init__(self, part: Path, path: Path, size: tuple[int, int], label: Label | None) -> None:
        super().__init__(path, size)
        self._part, self._label = part, label

    def _append(self, frame: ndarray) -> None:
        from PIL import Image, PngImagePlugin

        about = PngImagePlugin.PngInfo()
        if self._label is not None:
            about.add_itxt("XML:com.adobe.xmp", self._label.xmp)
        path = self._part / FRAME_PATTERN.replace("*", f"{self.count:06d}")
        Image.fromarray(frame).save(path, compress_level=1, pnginfo=about)


class _VideoWriter(FrameWriter):
    """An FFmpeg muxer with a video encoder and an optional sound track, fed in step with the frames."""

    def __init__(
        self,
        part: Path,
        path: Path,
        kind: str,
        size: tuple[int, int],
        rate: Fraction,
        crf: int | None,
        audio_from: str | os.PathLike[str] | None,
        audio_start: float,
        label: Label | None,
    ) -> None:
        super().__init__(path, size)
        self._kind, self._rate = kind, rate
        self._palette = GifPalette(size, rate) if kind == "gif" else None
        self._container: OutputContainer | None = None
        self._audio: AudioTrack | None = None
        try:
            with self._translated():
                self._container = open_container(part, kind, label)
                self._stream = add_stream(self._container, kind, size, rate, crf)
                self._audio = AudioTrack.open(audio_from, self._container, kind, audio_start)
        except BaseException:
            self.close()
            raise
        if kind == "gif" and rate > _GIF_MAX_FPS:
            logger.warning("%s: players show GIFs of more than %d fps too slowly", path, _GIF_MAX_FPS)

    def _append(self, frame: ndarray) -> None:
        encoded = self._to_native(frame)
        encoded.pts, encoded.time_base = self.count, 1 / self._rate
        self._mux(self._stream.encode(encoded))
        if self._audio is not None:
            self._audio.advance((self.count + 1) / self._rate)

    def finish(self) -> None:
        """Flush the encoders and complete the file."""
        with self._translated():
            self._mux(self._stream.encode())
            if self._audio is not None:
                self._audio.finish()
            container, self._container = self._container, None
            if container is not None:
                container.close()

    def close(self) -> None:
        """Release all resources. Does not raise, as it also runs after errors."""
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
        height, width = stored_size(self._kind, self.size)
        if (height, width) != self.size:
            frame = np.pad(frame, ((0, height - self.size[0]), (0, width - self.size[1]), (0, 0)), mode="edge")
        rgb = VideoFrame.from_ndarray(frame, format="rgb24")
        if self._kind == "webp":
            return rgb.reformat(format="bgra")
        return to_yuv(rgb)


# --- FFmpeg -----------------------------------------------------------------------------------------------------


def stored_size(kind: str, size: tuple[int, int]) -> tuple[int, int]:
    """The stored (height, width): rounded up to even numbers for formats with subsampled colour."""
    return size if kind in ("gif", "webp") else (size[0] + size[0] % 2, size[1] + size[1] % 2)


def open_container(path: Path, kind: str, label: Label | None = None) -> OutputContainer:
    """Open the muxer for a file of kind `mov`, `mkv`, `webm`, `gif` or `webp`, with reproducible output."""
    import av

    options = {"fflags": "+bitexact"}  # no version string, no date: same frames, same bytes
    if kind == "mov":
        options["movflags"] = "+faststart" if label is None else "+faststart+use_metadata_tags"
    if kind in ("gif", "webp"):
        options["loop"] = "0"  # forever
    container = av.open(str(path.absolute()), "w", options=options)
    if label is not None:
        container.metadata["AIGC"] = label.aigc
    return container


def to_yuv(rgb: VideoFrame) -> VideoFrame:
    """Convert a frame to the format of most codecs: 4:2:0, BT.709, limited range."""
    return rgb.reformat(
        format="yuv420p",
        dst_colorspace=BT709,
        dst_color_range=LIMITED,
        dst_color_trc=BT709,
        dst_color_primaries=BT709,
        # more accurate than the default: flat colours survive within 1-2 levels instead of 3
        interpolation="BICUBIC",
    )


def add_stream(container: OutputContainer, kind: str, size: tuple[int, int], rate: Fraction, crf: int | None) -> Any:
    """Add the video stream for frames of (height, width) with its encoder, colour tags and quality."""
    encoder = {"gif": "gif", "webp": "libwebp_anim", "webm": "libvpx-vp9"}.get(kind, "libx264")
    stream: Any = container.add_stream(encoder, rate=rate)
    stream.height, stream.width = stored_size(kind, size)
    stream.time_base = 1 / rate
    context = stream.codec_context
    if kind == "gif":
        stream.pix_fmt = "pal8"
        return stream
    if kind == "webp":
        stream.pix_fmt, stream.options = "bgra", {"lossless": "1"}
        return stream
    stream.pix_fmt = "yuv420p"
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = LIMITED
    context.gop_size = max(1, round(2 * rate))  # a key frame every 2 s, for seeking
    context.thread_count = 4  # fixed, as the output of x264 depends on it
    if kind == "webm":
        context.bit_rate = 0
        quality = str(_CRF_VP9 if crf is None else crf)
        stream.options = {"crf": quality, "deadline": "good", "cpu-used": "4", "row-mt": "1"}
    else:
        # With mbtree, x264 165 reads uninitialised memory (seen at width 64), so that equal frames sometimes give
        # different bytes.
        quality = str(_CRF_H264 if crf is None else crf)
        stream.options = {"crf": quality, "preset": "medium", "x264-params": "mbtree=0"}
    return stream


class GifPalette:
    """Convert frames to GIF colours with a palette per frame, so that only the current frame is in memory."""

    def __init__(self, size: tuple[int, int], rate: Fraction) -> None:
        import av

        self._time_base = 1 / rate
        graph = self._graph = av.filter.Graph()
        rgb = av.VideoFormat("rgb24")
        height, width = size
        self._source = graph.add_buffer(width=width, height=height, format=rgb, time_base=self._time_base)
        split = graph.add("split")
        make = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
        use = graph.add("paletteuse", "new=1:dither=bayer:bayer_scale=4")
        self._sink = graph.add("buffersink")
        self._source.link_to(split)
        split.link_to(make, 0, 0)
        split.link_to(use, 1, 0)
        make.link_to(use, 0, 1)
        use.link_to(self._sink)
        graph.configure()

    def convert(self, frame: ndarray, index: int) -> VideoFrame:
        """Convert uint8 RGB frame number `index`."""
        from av.video.frame import VideoFrame

        rgb = VideoFrame.from_ndarray(frame, format="rgb24")
        rgb.pts, rgb.time_base = index, self._time_base
        self._source.push(rgb)
        result: Any = self._sink.pull()
        return result
