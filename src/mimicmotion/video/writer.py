"""Write videos frame by frame: MP4 and related formats, WebM, GIF, WebP, or a folder of PNG files."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from numpy import ndarray
from PIL import Image, PngImagePlugin

from mimicmotion.arrays import Frame
from mimicmotion.errors import ConfigError, OutputError
from mimicmotion.runtime import files
from mimicmotion.runtime.run_folder import atomic_folder, check_replaceable_folder
from mimicmotion.video.audio import COPIED, AudioTrack
from mimicmotion.video.labels import Label, embed, sign
from mimicmotion.video.timing import exact_rate

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".gif", ".webp"})
FRAME_PATTERN = "frame_*.png"
_GIF_MAX_FPS = 50
BT709 = 1
LIMITED = 1
# Constant rate factors of VP9 and H.264 that are visually lossless.
_CRF_VP9, _CRF_H264 = 24, 16

Append = Callable[[ndarray, int], None]
"""Function that writes a frame, given the frame and its index."""


class FrameWriter:
    """Writes the frames of a video; created by `open_writer`.

    Attributes:
        path: path of the video.
        size: (height, width) of the frames.
        count: number of frames written so far.
        unsigned_sha256: SHA-256 of the file before signing (signatures differ each time); None if it is not signed.
    """

    def __init__(self, path: Path, size: tuple[int, int], append: Append) -> None:
        self.path, self.size, self.count, self._append = path, size, 0, append
        self.unsigned_sha256: str | None = None

    def write(self, frame: Frame) -> None:
        """Append a uint8 RGB frame of the size that the writer was opened with."""
        if frame.dtype != np.uint8 or frame.shape != (*self.size, 3):
            raise ConfigError(
                f"a frame of {frame.dtype} {frame.shape}",
                f"uint8 {(*self.size, 3)}",
                "pass RGB frames of the writer's size",
            )
        with _encoding(self.path):
            self._append(np.ascontiguousarray(frame), self.count)
        self.count += 1


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
    """Context manager that writes a video frame by frame. The file appears only if the block ends without an error.

    The suffix selects the format: .mp4, .mov, .m4v, .mkv (H.264, yuv420p, BT.709, index at the front), .webm (VP9),
    .gif, .webp (lossless), or, without a suffix or with a trailing slash, a folder of frame_000000.png files. yuv420p
    needs even sizes, so the last row or column is repeated if the size is odd. Parent folders are created. The output
    is deterministic.

    Args:
        path: path of the video. An existing file is replaced; an existing folder only if it contains nothing but
            frames.
        size: (height, width) of the frames.
        fps: frames per second; values like 29.97 stand for exact fractions (30000/1001).
        crf: constant rate factor, 0 (best) to 51; None for a visually lossless default.
        audio_from: media file whose audio, if any, is added and cut to the length of the video.
        audio_start: time in that file that corresponds to the first frame, in seconds.
        label: label for the metadata, which also selects whether the file is signed; None for no label.

    Raises:
        ConfigError: the suffix is unknown, the size or rate is out of range, or a frame has the wrong size or type.
        OutputError: the file cannot be written, the disk is full, or no frame was written.
    """
    target, kind = plan_output(path)
    if min(size) < 1:
        raise ConfigError(f"size {size}", "(height, width) of at least 1 x 1", "check the size")
    rate = exact_rate(fps)
    if audio_from is not None and kind not in COPIED:
        logger.warning("%s: this format has no sound; the sound of %s is left out", target, audio_from)
        audio_from = None
    folder = kind == "folder"
    with atomic_folder(target, FRAME_PATTERN) if folder else files.atomic_path(target) as part:
        encoder: contextlib.AbstractContextManager[Append] = (
            contextlib.nullcontext(partial(_save_frame, part, label))
            if folder
            else _encoder(part, target, kind, size, rate, crf, label, audio_from, audio_start)
        )
        with encoder as append:
            writer = FrameWriter(target, size, append)
            yield writer
            if not writer.count:
                raise OutputError(f"no frame was written to {target}", "at least one frame", "check the input")
        if label is not None and kind in ("gif", "webp"):
            embed(part, kind, label)
        if label is not None and label.sign and not folder:
            writer.unsigned_sha256 = files.sha256_file(part)
            signed = target.with_name(files.part_name(target))
            try:
                sign(part, signed, label)
                signed.replace(part)
            finally:
                signed.unlink(missing_ok=True)


def plan_output(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """Determine the output format from the suffix, without accessing any file.

    Returns:
        The path and its format: `mov`, `mkv`, `webm`, `gif`, `webp` or `folder`.

    Raises:
        ConfigError: the suffix is unknown.
    """
    suffix = Path(path).suffix.lower()
    if not suffix or os.fspath(path).endswith(("/", os.sep)):
        return Path(path), "folder"
    if suffix not in VIDEO_SUFFIXES:
        got, fix = f"{path} has the suffix {suffix!r}", "change the suffix, for example to .mp4"
        raise ConfigError(got, ", ".join(sorted(VIDEO_SUFFIXES)), fix)
    return Path(path), "mov" if suffix in (".mp4", ".m4v") else suffix[1:]


def check_output(path: str | os.PathLike[str]) -> Path:
    """Check in advance that `path` can be written, and return it. Leaves no files behind.

    Raises:
        ConfigError: the suffix is unknown.
        OutputError: the path cannot be written, or what exists there cannot be replaced.
    """
    target, kind = plan_output(path)
    if kind == "folder":
        check_replaceable_folder(target, FRAME_PATTERN)
    elif target.is_dir():
        raise OutputError(f"{target} is a folder", "a file name", f"write to {target / 'out.mp4'}")
    return files.check_writable(target)


@contextlib.contextmanager
def _encoding(path: Path) -> Iterator[None]:
    """Convert disk and FFmpeg errors to OutputError."""
    try:
        with files.writing(path):
            yield
    except av.error.FFmpegError as e:
        raise OutputError(
            f"{path} cannot be encoded ({e})", "a format FFmpeg can encode", "choose another format"
        ) from e


def _save_frame(folder: Path, label: Label | None, frame: ndarray, index: int) -> None:
    about = PngImagePlugin.PngInfo()
    if label is not None:
        about.add_itxt("XML:com.adobe.xmp", label.xmp)
    Image.fromarray(frame).save(folder / FRAME_PATTERN.replace("*", f"{index:06d}"), compress_level=1, pnginfo=about)


@contextlib.contextmanager
def _encoder(
    part: Path,
    path: Path,
    kind: str,
    size: tuple[int, int],
    rate: Fraction,
    crf: int | None,
    label: Label | None,
    audio_from: str | os.PathLike[str] | None,
    audio_start: float,
) -> Iterator[Append]:
    """Write the partial file `part` with FFmpeg: a video track, and optionally audio in step with the frames.

    Takes the arguments of `open_writer`; the final `path` is only used in messages.
    """
    if kind == "gif" and rate > _GIF_MAX_FPS:
        logger.warning("%s: players show GIFs above %d fps too slowly", path, _GIF_MAX_FPS)
    to_native = gif_converter(size, rate) if kind == "gif" else partial(_to_native, kind)

    def append(frame: ndarray, index: int) -> None:
        native = to_native(frame, index)
        native.pts, native.time_base = index, 1 / rate
        container.mux(stream.encode(native))
        if audio is not None:
            audio.advance((index + 1) / rate)

    with contextlib.ExitStack() as stack:
        with _encoding(path):
            container = open_container(part, kind, label)
            stack.callback(_close_quietly, container)
            stream = add_stream(container, kind, size, rate, crf)
            audio = AudioTrack.open(audio_from, container, kind, audio_start)
            if audio is not None:
                stack.callback(audio.close)
        yield append
        with _encoding(path):
            container.mux(stream.encode())
            if audio is not None:
                audio.finish()
            container.close()


def _close_quietly(container: OutputContainer) -> None:
    """Close a container, suppressing exceptions so that an earlier one is not masked."""
    with contextlib.suppress(Exception):
        container.close()


# --- FFmpeg -----------------------------------------------------------------------------------------------------


def _stored_size(kind: str, size: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) rounded up to even numbers for formats with chroma subsampling."""
    return size if kind in ("gif", "webp") else (size[0] + size[0] % 2, size[1] + size[1] % 2)


def open_container(path: Path, kind: str, label: Label | None = None) -> OutputContainer:
    """Open a muxer with reproducible output for the format `mov`, `mkv`, `webm`, `gif` or `webp`."""
    options = {"fflags": "+bitexact"}  # no version or date, so the same frames give the same bytes
    if kind == "mov":
        options["movflags"] = "+faststart" if label is None else "+faststart+use_metadata_tags"
    if kind in ("gif", "webp"):
        options["loop"] = "0"  # loop forever
    container = av.open(str(path.absolute()), "w", options=options)
    if label is not None:
        container.metadata["AIGC"] = label.aigc
    return container


def _to_native(kind: str, frame: ndarray, _index: int) -> VideoFrame:
    """Convert a frame to the pixel format of the encoder, padded to `_stored_size`."""
    height, width = _stored_size(kind, frame.shape[:2])
    padding = (0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0)
    rgb = VideoFrame.from_ndarray(np.pad(frame, padding, mode="edge"), format="rgb24")
    return rgb.reformat(format="bgra") if kind == "webp" else to_yuv(rgb)


def to_yuv(rgb: VideoFrame) -> VideoFrame:
    """Convert an RGB frame to yuv420p, BT.709, limited range."""
    return rgb.reformat(
        format="yuv420p",
        dst_colorspace=BT709,
        dst_color_range=LIMITED,
        dst_color_trc=BT709,
        dst_color_primaries=BT709,
        # more accurate than the default: flat colours are preserved to within 1-2 levels instead of 3
        interpolation="BICUBIC",
    )


def add_stream(container: OutputContainer, kind: str, size: tuple[int, int], rate: Fraction, crf: int | None) -> Any:
    """Add the video stream for frames of (height, width), and configure its encoder, colour tags and quality."""
    encoder = {"gif": "gif", "webp": "libwebp_anim", "webm": "libvpx-vp9"}.get(kind, "libx264")
    stream: Any = container.add_stream(encoder, rate=rate)
    stream.height, stream.width = _stored_size(kind, size)
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


def gif_converter(size: tuple[int, int], rate: Fraction) -> Callable[[ndarray, int], VideoFrame]:
    """Return a function that maps a frame and its index to a VideoFrame with its own palette."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=size[1], height=size[0], format=av.VideoFormat("rgb24"), time_base=1 / rate)
    split = graph.add("split")
    make = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
    use = graph.add("paletteuse", "new=1:dither=bayer:bayer_scale=4")
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(make, 0, 0)
    split.link_to(use, 1, 0)
    make.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()

    def convert(frame: ndarray, index: int) -> VideoFrame:
        rgb = VideoFrame.from_ndarray(frame, format="rgb24")
        rgb.pts, rgb.time_base = index, 1 / rate
        graph.vpush(rgb)
        return graph.vpull()

    return convert
