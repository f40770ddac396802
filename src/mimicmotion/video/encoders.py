"""Setting up FFmpeg's muxers and encoders for each kind of result."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy import ndarray

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.frame import VideoFrame

BT709 = 1
LIMITED = 1
# Constant quality that the eye cannot tell from the frames, at the scales of VP9 and H.264.
_CRF_VP9, _CRF_H264 = 24, 16


def stored_size(kind: str, size: tuple[int, int]) -> tuple[int, int]:
    """The stored (height, width): even where the pixel format halves the colour."""
    return size if kind in ("gif", "webp") else (size[0] + size[0] % 2, size[1] + size[1] % 2)


def open_container(path: Path, kind: str) -> OutputContainer:
    """Open the muxer for a file of kind `mov`, `mkv`, `webm`, `gif` or `webp`, set for the same bytes each time."""
    import av

    options = {"fflags": "+bitexact"}  # no version string, no date: same frames, same bytes
    if kind == "mov":
        options["movflags"] = "+faststart"
    if kind in ("gif", "webp"):
        options["loop"] = "0"  # for ever
    return av.open(str(path.absolute()), "w", options=options)


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
    context.gop_size = max(1, round(2 * rate))  # a key frame every 2 s: players can jump
    context.thread_count = 4  # fixed: x264's result depends on it
    if kind == "webm":
        context.bit_rate = 0
        quality = str(_CRF_VP9 if crf is None else crf)
        stream.options = {"crf": quality, "deadline": "good", "cpu-used": "4", "row-mt": "1"}
    else:
        # With macroblock trees x264 165 reads memory that nobody wrote (seen at a width of 64): now and then other
        # bytes for the same frames.
        quality = str(_CRF_H264 if crf is None else crf)
        stream.options = {"crf": quality, "preset": "medium", "x264-params": "mbtree=0"}
    return stream


class GifPalette:
    """A palette of its own for every frame, so that nothing but the frame at hand is held."""

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
        """One uint8 RGB frame as a palette frame; `index` counts frames."""
        from av.video.frame import VideoFrame

        rgb = VideoFrame.from_ndarray(frame, format="rgb24")
        rgb.pts, rgb.time_base = index, self._time_base
        self._source.push(rgb)
        result: Any = self._sink.pull()
        return result
