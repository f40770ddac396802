"""The driving video's sound, taken along into the result: copied where the file takes it as it is, else re-encoded."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimicmotion.video.sources import open_media

if TYPE_CHECKING:
    from av.audio.resampler import AudioResampler
    from av.container import InputContainer, OutputContainer

logger = logging.getLogger(__name__)

# A moment of the result, and what gives the packets that belong there.
_Pending = tuple[Fraction, Callable[[], list[Any]]]
# Sound that can be copied into each kind of file and that common players understand there.
COPIED = {
    "mov": frozenset({"aac", "mp3", "ac3"}),
    "mkv": frozenset({"aac", "mp3", "ac3", "opus", "vorbis", "flac"}),
    "webm": frozenset({"opus", "vorbis"}),
}


class AudioTrack:
    """Feeds the sound of one file into a muxer, never further than the frames have come."""

    @classmethod
    def open(
        cls, path: str | os.PathLike[str] | None, output: OutputContainer, kind: str, start: float
    ) -> AudioTrack | None:
        """The track, or None where there is no sound to take: no file, a folder, a silent or unreadable one."""
        import av

        if path is None or not Path(path).is_file():
            return None
        try:
            source = open_media(path)
        except av.error.FFmpegError as e:
            logger.warning("no sound taken from %s (%s)", path, e)
            return None
        if not source.streams.audio or source.streams.audio[0].codec_context is None:
            source.close()
            return None
        return cls(source, output, kind, Fraction(start))

    def __init__(self, source: InputContainer, output: OutputContainer, kind: str, start: Fraction) -> None:
        from av.audio.resampler import AudioResampler

        self._source, self._output = source, output
        stream = self._input = source.streams.audio[0]
        video = source.streams.video[0] if source.streams.video else stream
        # where the picture starts is zero, so that lips stay with the voice
        begin = Fraction((video.start_time or 0) * (video.time_base or 0))
        self._start = start + begin
        self._resampler: AudioResampler | None = None
        self._until = Fraction(0)
        if stream.codec_context.name in COPIED[kind]:
            self._stream: Any = output.add_stream_from_template(stream)
            self._pending = self._copied()
        else:
            rate = 48000 if kind == "webm" else stream.codec_context.sample_rate
            layout = "mono" if stream.codec_context.channels == 1 else "stereo"
            self._stream = output.add_stream("libopus" if kind == "webm" else "aac", rate=rate, layout=layout)
            self._resampler = AudioResampler("flt" if kind == "webm" else "fltp", layout, rate)
            self._pending = self._encoded(self._resampler, rate)
        self._next: _Pending | None = None

    def advance(self, until: Fraction) -> None:
        """Write the sound up to second `until` of the result."""
        while True:
            if self._next is None:
                self._next = next(self._pending, None)
            if self._next is None or self._next[0] >= until:
                return
            self._mux(self._next[1]())
            self._next = None

    def finish(self) -> None:
        """Flush the encoder; the sound stops with the last frame."""
        if self._resampler is not None:
            self._mux(self._stream.encode(None))
        self.close()

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.stream = self._stream
            self._output.mux(packet)

    def _copied(self) -> Iterator[_Pending]:
        import av

        try:
            for packet in self._source.demux(self._input):
                if packet.pts is None or packet.time_base is None:
                    continue
                time = packet.pts * packet.time_base - self._start
                if time >= 0:
                    packet.pts -= round(self._start / packet.time_base)
                    packet.dts = packet.pts
                    yield time, partial(list, [packet])
        except av.error.FFmpegError as e:
            logger.warning("the sound ends early: %s", e)

    def _encoded(self, resampler: AudioResampler, rate: int) -> Iterator[_Pending]:
        import av

        samples: int | None = None
        try:
            for frame in self._source.decode(self._input):
                if frame.pts is None or frame.time_base is None:
                    continue
                time = frame.pts * frame.time_base - self._start
                if time < 0:
                    continue
                if samples is None:  # sound that sets in after the picture keeps its distance
                    samples = round(time * rate)
                frame.pts = None
                for part in resampler.resample(frame):
                    part.pts, part.time_base = samples, Fraction(1, rate)
                    yield Fraction(samples, rate), partial(self._stream.encode, part)
                    samples += part.samples
        except av.error.FFmpegError as e:
            logger.warning("the sound ends early: %s", e)
