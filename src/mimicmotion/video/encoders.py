"""Setting up FFmpeg's muxers and encoders for each kind of result."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy import ndarray

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.frame import VideoFrame

BT709 = 1
LIMITED = 1
ENCODERS = {"h264": "libx264", "hevc": "libx265", "vp9": "libvpx-vp9"}
# Constant quality that the eye cannot tell from the frames, at each encoder's own scale.
_CRF = {"h264": 16, "hevc": 20, "vp9": 24}


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """What will be written where: the kind is `mov`, `mkv`, `webm`, `gif`, `webp` or `folder`."""

    path: Path
    kind: str
    codec: str

    @property
    def sound(self) -> bool:
        """Whether this kind of file can hold a sound track."""
        return self.kind in ("mov", "mkv", "webm")


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """What an encoder needs to know; `part` is the temporary name it writes to, `size` (height, width)."""

    part: Path
    target: OutputPlan
    size: tuple[int, int]
    rate: Fraction
    crf: int | None
    preset: str

    @property
    def even_size(self) -> tuple[int, int]:
        """The stored (height, width): even where the pixel format halves the colour."""
        if self.target.kind in ("gif", "webp"):
            return self.size
        return self.size[0] + self.size[0] % 2, self.size[1] + self.size[1] % 2


def open_container(s: EncoderSettings) -> OutputContainer:
    """Open the muxer, set for the same bytes each time."""
    import av

    options = {"fflags": "+bitexact"}  # no version string, no date: same frames, same bytes
    if s.target.kind == "mov":
        options["movflags"] = "+faststart"
    if s.target.kind in ("gif", "webp"):
        options["loop"] = "0"  # for ever
    return av.open(str(s.part.absolute()), "w", options=options)


def to_yuv(rgb: VideoFrame) -> VideoFrame:
    """A frame as most codecs want it: 4:2:0, BT.709, limited range."""
    return rgb.reformat(
        format="yuv420p",
        dst_colorspace=BT709,
        dst_color_range=LIMITED,
        dst_color_trc=BT709,
        dst_color_primaries=BT709,
        # accurate rounding: flat colours come back within 1-2 levels instead of 3
        interpolation="BICUBIC",
    )


def add_stream(container: OutputContainer, s: EncoderSettings) -> Any:
    """Add the video stream with its encoder, colour tags and quality."""
    kind, codec = s.target.kind, s.target.codec
    encoder = {"gif": "gif", "webp": "libwebp_anim"}.get(kind, ENCODERS[codec])
    stream: Any = container.add_stream(encoder, rate=s.rate)
    stream.height, stream.width = s.even_size
    stream.time_base = 1 / s.rate
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
    context.gop_size = max(1, round(2 * s.rate))  # a key frame every 2 s: players can jump
    context.thread_count = 4  # fixed: x264's result depends on it
    crf = str(_CRF[codec] if s.crf is None else s.crf)
    if codec == "vp9":
        context.bit_rate = 0
        stream.options = {"crf": crf, "deadline": "good", "cpu-used": "4", "row-mt": "1"}
    else:
        stream.options = {"crf": crf, "preset": s.preset}
    if codec == "h264":
        # With macroblock trees x264 165 reads memory that nobody wrote (seen at a width of 64): now and then other
        # bytes for the same frames.
        stream.options |= {"x264-params": "mbtree=0"}
    if codec == "hevc":
        stream.options |= {"x265-params": "log-level=error:pools=4:frame-threads=1"}
        if kind == "mov":
            context.codec_tag = "hvc1"  # what Apple's players ask for
    return stream


class GifPalette:
    """A palette of its own for every frame, so that nothing but the frame at hand is held."""

    def __init__(self, s: EncoderSettings) -> None:
        import av

        self._time_base = 1 / s.rate
        graph = self._graph = av.filter.Graph()
        rgb = av.VideoFormat("rgb24")
        height, width = s.size
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
        """One uint8 RGB frame as a palette frame; `index` counts frames."""
        from av.video.frame import VideoFrame

        rgb = VideoFrame.from_ndarray(frame, format="rgb24")
        rgb.pts, rgb.time_base = index, self._time_base
        self._source.push(rgb)
        result: Any = self._sink.pull()
        return result
