"""Where timed frames come from: FFmpeg (PyAV), animated pictures (Pillow), or a folder of pictures."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mimicmotion.arrays import Frame
from mimicmotion.errors import MediaError
from mimicmotion.video.picture import PICTURE_SUFFIXES, PILLOW_ERRORS, check_input_file, picture_to_rgb, read_picture
from mimicmotion.video.timing import Timed

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

logger = logging.getLogger(__name__)

# Frames are converted to RGB when asked for: of a 60 fps video shown at 15, three of four never are.
Lazy = Timed[Callable[[], Frame]]
# Demuxers of FFmpeg that make a "video" out of text or open other files than the one named.
_REFUSED_FORMATS = frozenset({"tty", "bin", "concat", "hls", "dash", "ffmetadata", "image2"})
_PROBE_PACKETS = 240


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video is, as far as its header and first frames tell.

    Attributes:
        width: pixels, upright (after rotation metadata) and with square pixels.
        height: the same.
        fps: average frames per second.
        duration: seconds.
        num_frames: frames, an estimate from header or duration where the file does not say.
        codec: FFmpeg's name of the codec, or `pictures`.
        has_audio: whether there is a sound track.
        variable_frame_rate: whether the first seconds show frames of unequal duration.
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
    """A video file, decoded by FFmpeg; every iteration opens it afresh and holds one frame at a time."""

    def __init__(self, path: Path) -> None:
        check_input_file(path, "a video")
        self.path = path
        with self._open() as container:
            stream = _video_stream(container, path)
            has_audio = bool(container.streams.audio)
            codec = stream.codec_context.name
            header_frames, header_duration = stream.frames, _duration(container, stream)
            rate = stream.average_rate or stream.guessed_rate
            tick = Fraction(stream.time_base or 0)
            times = _packet_times(container, stream)
        gaps = [b - a for a, b in pairwise(times) if b > a]
        step = sorted(gaps)[len(gaps) // 2] if gaps else Fraction(0)
        if not rate:
            rate = 1 / step if step else Fraction(25)
        # one tick of the time base is rounding, a quarter of a frame is not
        uneven = sum(abs(g - step) > max(step / 4, tick) for g in gaps)
        self.rate = Fraction(rate)
        self.expected = header_frames or round(float(header_duration * self.rate))
        first = next(iter(self), None)
        if first is None:
            raise MediaError(
                f"{path} holds no frame that can be decoded ({codec})", "a video with frames", "check it in a player"
            )
        height, width = first.item().shape[:2]
        duration = float(header_duration) or self.expected / float(self.rate) or 1 / float(self.rate)
        self.info = VideoInfo(
            width=width,
            height=height,
            fps=float(self.rate),
            duration=duration,
            num_frames=max(1, self.expected),
            codec=codec,
            has_audio=has_audio,
            variable_frame_rate=uneven > max(1, len(gaps) // 50),
        )

    def __iter__(self) -> Iterator[Lazy]:
        import av

        zero: Fraction | None = None
        last = Fraction(-1)
        count = broken = 0
        size: tuple[int, int] | None = None
        angle: object = "unknown"
        turn = _Turn()
        with self._open() as container:
            stream = _video_stream(container, self.path)
            stream.thread_type = "AUTO"
            nominal = 1 / self.rate
            try:
                for packet in container.demux(stream):
                    try:
                        frames = packet.decode()
                    except av.error.InvalidDataError:
                        broken += 1
                        continue
                    for frame in frames:
                        tick = Fraction(frame.time_base or stream.time_base or 1)
                        time = frame.pts * tick if frame.pts is not None else None
                        if zero is None:
                            zero = time or Fraction(0)
                        since = last + nominal if time is None else time - zero
                        # damaged or joined files repeat or turn back time stamps
                        last = since if since > last else last + nominal
                        length = frame.duration * tick if frame.duration else nominal
                        # looking at side data ties frame and data into a cycle, which keeps the pixels in memory
                        # until the collector runs, hundreds of frames later: look only where something changes
                        if getattr(frame, "rotation", None) != angle:
                            angle, turn = getattr(frame, "rotation", None), _orientation(frame)
                        # a stream that changes its size in the middle keeps the first frame's
                        size = size or _upright_size(frame, stream, turn)
                        count += 1
                        yield Timed(last, length, partial(_to_rgb, frame, turn, size))
            except av.error.FFmpegError as e:
                broken += 1
                logger.debug("%s: %s", self.path, e)
        self.damage = ""
        if count and (broken or count < 0.9 * self.expected):
            found = f"{count} frames (about {self.expected} expected, {broken} packets broken)"
            self.damage = f"damaged or truncated: {found}"
            logger.warning("%s is damaged or truncated: going on with %s", self.path, found)

    damage = ""

    def _open(self) -> InputContainer:
        import av

        try:
            # an absolute path is never taken for a URL; a playlist in disguise must not fetch anything
            container = av.open(str(self.path.absolute()), options={"protocol_whitelist": "file"})
        except av.error.FFmpegError as e:
            raise MediaError(
                f"{self.path} is not a video that can be read ({e.strerror or e})",
                "a video file such as MP4, MOV, MKV, WebM or GIF",
                "check it in a player, or convert it: ffmpeg -i IN -c:v libx264 OUT.mp4",
            ) from e
        if _REFUSED_FORMATS & set(container.format.name.split(",")):
            name = container.format.name
            container.close()
            raise MediaError(f"{self.path} is a {name} file", "a video file", "name the video itself")
        return container


class AnimationSource:
    """GIF, WebP, APNG and still pictures, by Pillow: FFmpeg reads no animated WebP."""

    damage = ""

    def __init__(self, path: Path) -> None:
        check_input_file(path, "a video or picture")
        self.path = path
        first = read_picture(path)  # finds what is missing, empty or not a picture
        durations = [timed.duration for timed in self]
        total = sum(durations, Fraction(0))
        self.info = VideoInfo(
            width=first.shape[1],
            height=first.shape[0],
            fps=float(len(durations) / total),
            duration=float(total),
            num_frames=len(durations),
            codec=path.suffix.lower().lstrip("."),
            variable_frame_rate=len(set(durations)) > 2,  # 15 fps is 6 and 7 hundredths in a GIF
        )

    def __iter__(self) -> Iterator[Lazy]:
        from PIL import Image

        with Image.open(self.path) as image:
            time, index = Fraction(0), 0
            while True:
                try:
                    image.seek(index)
                    image.load()
                except EOFError:
                    return
                except PILLOW_ERRORS as e:
                    self.damage = f"damaged or truncated: {index} frames decoded ({e})"
                    logger.warning("%s is %s", self.path, self.damage)
                    return
                # browsers show frames of "0" or "1" hundredth for a tenth of a second, and so do we
                milliseconds = float(image.info.get("duration", 0) or 0)
                duration = Fraction(milliseconds if milliseconds > 10 else 100).limit_denominator(1000) / 1000
                yield Timed(time, duration, partial(picture_to_rgb, image.copy()))
                time, index = time + duration, index + 1


class FolderSource:
    """A folder of numbered pictures, in natural order (2 before 10), shown at a given rate."""

    damage = ""  # a picture that cannot be read is an error at once

    def __init__(self, path: Path, fps: Fraction) -> None:
        self.path, self.rate = path, fps
        self.files = sorted(
            (p for p in path.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and not p.name.startswith(".")),
            key=lambda p: [int(s) if s.isdigit() else s.lower() for s in re.split(r"(\d+)", p.name)],
        )
        if not self.files:
            raise MediaError(f"{path} holds no pictures", "a folder of PNG or JPEG frames", "check the path")
        first = read_picture(self.files[0])
        self.info = VideoInfo(
            width=first.shape[1],
            height=first.shape[0],
            fps=float(fps),
            duration=float(len(self.files) / fps),
            num_frames=len(self.files),
            codec="pictures",
        )

    def __iter__(self) -> Iterator[Lazy]:
        for i, file in enumerate(self.files):
            yield Timed(i / self.rate, 1 / self.rate, partial(self._read, file))

    def _read(self, file: Path) -> Frame:
        pixels = read_picture(file)
        if pixels.shape[:2] != self.info.size:
            raise MediaError(
                f"{file} is {pixels.shape[1]} x {pixels.shape[0]} pixels",
                f"{self.info.width} x {self.info.height} like {self.files[0].name}",
                "put only the frames of one video into the folder",
            )
        return pixels


@dataclass(frozen=True, slots=True)
class _Turn:
    """One of the eight ways to lay a frame upright: transpose first, then flip."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False


def _orientation(frame: VideoFrame) -> _Turn:
    """From the display matrix (x' = a x + c y, y' = b x + d y), which also knows mirrored recordings."""
    side: Any = frame.side_data.get("DISPLAYMATRIX")
    if side is None:
        return _Turn()
    a, b, _, c, d = np.frombuffer(bytes(side), np.int32)[:5]
    if abs(int(a)) >= abs(int(b)):
        return _Turn(False, bool(a < 0), bool(d < 0))
    return _Turn(True, bool(c < 0), bool(b < 0))


def _to_rgb(frame: VideoFrame, turn: _Turn, size: tuple[int, int]) -> Frame:
    """Decoded frame -> upright RGB with square pixels.

    swscale converts by the frame's own matrix and range. Frames without a colour tag count as BT.601 limited, which
    is what FFmpeg, and most tools that make videos from RGB frames, write when they write no tag.
    """
    height, width = size[::-1] if turn.transpose else size
    alpha = frame.format.name in ("rgba", "bgra", "argb", "abgr", "ya8") or frame.format.name.startswith(
        ("yuva", "gbrap")
    )
    pixels = frame.to_ndarray(format="rgba" if alpha else "rgb24", width=width, height=height)
    if alpha:  # over white, as pictures are
        cover = pixels[..., 3:].astype(np.uint16)
        pixels = ((pixels[..., :3] * cover + 255 * (255 - cover) + 127) // 255).astype(np.uint8)
    if turn.transpose:
        pixels = pixels.transpose(1, 0, 2)
    pixels = pixels[:: -1 if turn.flip_y else 1, :: -1 if turn.flip_x else 1]
    return np.ascontiguousarray(pixels)


def _upright_size(frame: VideoFrame, stream: VideoStream, turn: _Turn) -> tuple[int, int]:
    """(height, width) after making the pixels square (anamorphic video) and turning."""
    aspect = stream.sample_aspect_ratio
    width = max(1, round(frame.width * aspect)) if aspect and 0.1 < aspect < 10 else frame.width
    return (width, frame.height) if turn.transpose else (frame.height, width)


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    # cover art of a music file is a video stream too, of one picture
    streams = [s for s in container.streams.video if not _is_cover(s)]
    if not streams or streams[0].codec_context is None:
        kinds = sorted({s.type for s in container.streams}) or ["nothing"]
        raise MediaError(f"{path} has no video stream ({', '.join(kinds)} only)", "a video", "name a video file")
    return streams[0]


def _is_cover(stream: VideoStream) -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def _duration(container: InputContainer, stream: VideoStream) -> Fraction:
    if stream.duration and stream.time_base:
        return Fraction(stream.duration * stream.time_base)
    return Fraction(container.duration or 0, 1_000_000)


def _packet_times(container: InputContainer, stream: VideoStream) -> list[Fraction]:
    """Presentation times of the first packets, in order; nothing is decoded."""
    import av

    times: list[Fraction] = []
    try:
        for packet in container.demux(stream):
            if packet.pts is not None and packet.time_base:
                times.append(Fraction(packet.pts * packet.time_base))
            if len(times) >= _PROBE_PACKETS:
                break
    except av.error.FFmpegError:
        pass  # a truncated file: the times that are there will do
    # the last packets' neighbours may not have come yet: they are reordered for display
    return sorted(times)[: max(2, len(times) - 8)] if len(times) == _PROBE_PACKETS else sorted(times)
