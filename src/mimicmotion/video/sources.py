"""Decode video files to frames with timestamps, using FFmpeg (PyAV)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from mimicmotion.arrays import Frame
from mimicmotion.errors import MediaError
from mimicmotion.runtime.extras import install_command
from mimicmotion.runtime.reading import Limit, check_limit, is_heif
from mimicmotion.video.timing import Timed

logger = logging.getLogger(__name__)

# Frames are converted to RGB on demand: for a 60 fps video sampled at 15 fps, that saves three of four conversions.
Lazy = Timed[Callable[[], Frame]]
# FFmpeg demuxers that render text as video, or that open other files than the given one.
_REFUSED_FORMATS = frozenset({"tty", "bin", "concat", "hls", "dash", "ffmetadata", "image2"})
_PROBE_PACKETS = 240
PAUSE = 10
"""Gaps of more than this many frame durations indicate a variable frame rate rather than dropped frames."""
COMPLETE = 0.9
"""Videos shorter than this fraction of the duration in their header count as truncated."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """Properties of a video, determined from its header and first frames.

    Attributes:
        width: width in pixels, after applying the rotation in the metadata and converting to square pixels.
        height: height in pixels, after the same conversions.
        fps: average frames per second.
        duration: duration in seconds.
        num_frames: number of frames, estimated from the duration if the header does not contain it.
        codec: FFmpeg's name of the codec, the suffix of a picture or animation, or `pictures` for a folder.
        has_audio: whether there is an audio track.
        variable_frame_rate: whether the durations of the first frames differ.
    """

    width: int
    height: int
    fps: float
    duration: float
    num_frames: int
    codec: str
    has_audio: bool = False
    variable_frame_rate: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width


class AvSource:
    """A video file decoded with FFmpeg. Each iteration opens the file again and keeps one frame in memory."""

    damage = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as container:
            stream = _video_stream(container, path)
            if (tiles := len(container.streams.video)) > 1 and is_heif(path):  # FFmpeg does not assemble tiles
                fix = f"{install_command('heic')}, or convert it to JPEG or PNG"
                raise MediaError(f"{path} is an HEIF file of {tiles} pictures or tiles", "one picture", fix)
            self._limit: Limit = "pixels" if is_heif(path) else "video_pixels"
            check_limit(self._limit, stream.codec_context.width * stream.codec_context.height, path, MediaError)
            has_audio = bool(container.streams.audio)
            codec = stream.codec_context.name
            header_frames, header_duration = stream.frames, Fraction(container.duration or 0, 1_000_000)
            if stream.duration and stream.time_base:
                header_duration = Fraction(stream.duration * stream.time_base)
            rate = stream.average_rate or stream.guessed_rate
            tick = Fraction(stream.time_base or 0)
            # the header of an unfinalised recording has no duration, so all packets are read
            times = _packet_times(container, stream, _PROBE_PACKETS if header_duration else None)
        gaps = [b - a for a, b in pairwise(times) if b > a]
        check_limit("gap", float(max(gaps, default=0)), path, MediaError)
        step = sorted(gaps)[len(gaps) // 2] if gaps else Fraction(0)
        if not rate:
            rate = 1 / step if step else Fraction(25)
        # a difference of one tick of the time base is rounding
        uneven = sum(abs(g - step) > max(step / 4, tick) for g in gaps)
        self.rate = Fraction(rate)
        self._expected = header_duration
        duration = header_duration or (times[-1] - times[0] + (step or 1 / self.rate) if times else 0)
        duration = float(duration) or header_frames / float(self.rate) or 1 / float(self.rate)
        check_limit("seconds", duration, path, MediaError)
        first = next(iter(self), None)
        if first is None:
            raise MediaError(
                f"{path} contains no frame that can be decoded ({codec})", "a video with frames", "check it in a player"
            )
        height, width = first.item().shape[:2]
        self.info = VideoInfo(
            width=width,
            height=height,
            fps=float(self.rate),
            duration=duration,
            num_frames=max(1, header_frames or round(duration * float(self.rate))),
            codec=codec,
            has_audio=has_audio,
            variable_frame_rate=uneven > max(1, len(gaps) // 50) or max(gaps, default=0) > PAUSE * step,
        )

    def __iter__(self) -> Iterator[Lazy]:
        zero: Fraction | None = None
        last = Fraction(-1)
        count = broken = corrupt = 0
        end = Fraction(0)
        has_keyframe = False
        size: tuple[int, int] | None = None
        angle: object = "unknown"
        turn = _Turn()
        with self._open() as container:
            stream = _video_stream(container, self.path)
            stream.thread_type = "AUTO"
            nominal = 1 / self.rate
            begin = Fraction(container.start_time or 0, 1_000_000)
            if stream.duration and stream.time_base:
                begin = (stream.start_time or 0) * stream.time_base
            try:
                for packet in container.demux():
                    is_video = packet.stream.index == stream.index
                    # the duration of a container without one for the stream includes the audio
                    if packet.pts is not None and packet.time_base and (is_video or not stream.duration):
                        end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
                    if not is_video:
                        continue
                    try:
                        frames: Any = packet.decode()
                    except av.error.InvalidDataError:
                        broken += 1
                        continue
                    for frame in frames:
                        tick = Fraction(frame.time_base or stream.time_base or 1)
                        time = frame.pts * tick if frame.pts is not None else None
                        if zero is None:
                            zero = time or Fraction(0)
                        relative = last + nominal if time is None else time - zero
                        # damaged or concatenated files have repeated or decreasing timestamps
                        previous, last = last, relative if relative > last else last + nominal
                        check_limit("gap", float(last - previous), self.path, MediaError)
                        # frames before the first keyframe refer to missing ones: that is not damage
                        has_keyframe = has_keyframe or frame.key_frame
                        corrupt += has_keyframe and frame.is_corrupt
                        check_limit(self._limit, frame.width * frame.height, self.path, MediaError)
                        length = frame.duration * tick if frame.duration else nominal
                        # reading side data creates a reference cycle that keeps the pixels in memory until the
                        # garbage collector runs, hundreds of frames later, so read it only if the rotation changes
                        if getattr(frame, "rotation", None) != angle:
                            angle, turn = getattr(frame, "rotation", None), _orientation(frame)
                        # if the size changes mid-stream, frames are scaled to the size of the first
                        size = size or _upright_size(frame, stream, turn)
                        count += 1
                        yield Timed(last, length, partial(_to_rgb, frame, turn, size))
            except av.error.FFmpegError as e:
                if isinstance(e, MemoryError):
                    raise
                broken += 1
                logger.debug("%s: %s", self.path, e)
        self._assess_damage(count, broken, corrupt, end - begin)

    def _assess_damage(self, count: int, broken: int, corrupt: int, duration: Fraction) -> None:
        """Set `damage` if there were decoder errors, or the file is shorter than its header specifies.

        The number of frames in the header is unreliable: in AVI, it includes dropped frames, and in other formats,
        frames removed by an edit list.
        """
        problems = {
            f"{broken} broken packets": broken,
            f"{corrupt} frames with errors": corrupt,
            f"{float(duration):.2f} of {float(self._expected):.2f} s": duration < COMPLETE * self._expected,
        }
        self.damage = ""
        if count and any(problems.values()):
            details = ", ".join([f"{count} frames", *(text for text, occurred in problems.items() if occurred)])
            self.damage = f"damaged or truncated: {details}"
            logger.warning("%s is damaged or truncated: continuing with %s", self.path, details)

    def _open(self) -> InputContainer:
        try:
            container = open_media(self.path)
        except av.error.FFmpegError as e:
            if isinstance(e, MemoryError):
                raise
            raise MediaError(
                f"{self.path} is not a video that can be read ({e.strerror or e})",
                "a video file such as MP4, MOV, MKV, WebM or GIF",
                "check it in a player, or convert it: ffmpeg -i IN -c:v libx264 OUT.mp4",
            ) from e
        if _REFUSED_FORMATS & set(container.format.name.split(",")):
            name = container.format.name
            container.close()
            raise MediaError(f"{self.path} is a {name} file", "a video file", "pass the video itself")
        return container


def open_media(path: str | os.PathLike[str]) -> InputContainer:
    """Open a video or audio file with FFmpeg, regardless of the encoding of its metadata.

    Raises:
        av.error.FFmpegError: the file cannot be opened.
    """
    # an absolute path is never mistaken for a URL, and disguised playlists must not fetch other files
    options = {"protocol_whitelist": "file"}
    return av.open(str(Path(path).absolute()), options=options, metadata_errors="replace")


@dataclass(frozen=True, slots=True)
class _Turn:
    """Transpose and subsequent flips that make a frame upright."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False


def _orientation(frame: VideoFrame) -> _Turn:
    """Derive the orientation, including mirroring, from the display matrix (x' = a x + c y, y' = b x + d y)."""
    side: Any = frame.side_data.get("DISPLAYMATRIX")
    if side is None:
        return _Turn()
    a, b, _, c, d = np.frombuffer(bytes(side), np.int32)[:5]
    if abs(int(a)) >= abs(int(b)):
        return _Turn(False, bool(a < 0), bool(d < 0))
    return _Turn(True, bool(c < 0), bool(b < 0))


def _to_rgb(frame: VideoFrame, turn: _Turn, size: tuple[int, int]) -> Frame:
    """Convert a decoded frame to upright RGB with square pixels.

    swscale uses the colour matrix and range in the frame's tags. Untagged frames are treated as limited-range BT.601,
    which FFmpeg and most other tools write without tags.
    """
    height, width = size[::-1] if turn.transpose else size
    alpha = frame.format.name in ("rgba", "bgra", "argb", "abgr", "ya8") or frame.format.name.startswith(
        ("yuva", "gbrap")
    )
    pixels = frame.to_ndarray(format="rgba" if alpha else "rgb24", width=width, height=height)
    if alpha:  # on white, like pictures
        cover = pixels[..., 3:].astype(np.uint16)
        pixels = ((pixels[..., :3] * cover + 255 * (255 - cover) + 127) // 255).astype(np.uint8)
    if turn.transpose:
        pixels = pixels.transpose(1, 0, 2)
    pixels = pixels[:: -1 if turn.flip_y else 1, :: -1 if turn.flip_x else 1]
    return np.ascontiguousarray(pixels)


def _upright_size(frame: VideoFrame, stream: VideoStream, turn: _Turn) -> tuple[int, int]:
    """Return (height, width) after rotation and conversion of anamorphic video to square pixels."""
    aspect = stream.sample_aspect_ratio
    width = max(1, round(frame.width * aspect)) if aspect and 0.1 < aspect < 10 else frame.width
    return (width, frame.height) if turn.transpose else (frame.height, width)


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    # the cover art of a music file is a video stream, too
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams or streams[0].codec_context is None:
        kinds = sorted({s.type for s in container.streams}) or ["nothing"]
        raise MediaError(f"{path} has no video stream ({', '.join(kinds)} only)", "a video", "pass a video file")
    return streams[0]


def _packet_times(container: InputContainer, stream: VideoStream, limit: int | None) -> list[Fraction]:
    """Return the sorted presentation times of the first `limit` packets (None: of all) without decoding them."""
    times: list[Fraction] = []
    try:
        for packet in container.demux(stream):
            if packet.pts is not None and packet.time_base:
                times.append(Fraction(packet.pts * packet.time_base))
            if len(times) == limit:
                break
    except av.error.FFmpegError:
        pass  # a truncated file: use what was read
    # packets are not in display order, so frames shown between the last ones may be missing
    return sorted(times)[: max(2, len(times) - 8)] if len(times) == limit else sorted(times)
