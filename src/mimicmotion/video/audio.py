"""Add the audio of the driving video to the result: copied if the format allows it, otherwise re-encoded."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av import Codec
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import InputContainer, OutputContainer
from jaxtyping import Float32
from numpy import ndarray

from mimicmotion.video.sources import open_media

logger = logging.getLogger(__name__)

# Audio codecs that can be copied into each container format and are widely supported by players.
COPIED = {
    "mov": frozenset({"aac", "mp3", "ac3"}),
    "mkv": frozenset({"aac", "mp3", "ac3", "opus", "vorbis", "flac"}),
    "webm": frozenset({"opus", "vorbis"}),
}
RATE = 48000
"""Sample rate in Hz to use if the encoder does not support the source's."""
JITTER = 0.02
"""Timestamps may deviate from the sample count by this many seconds, since some files round them."""


class AudioTrack:
    """Muxes the audio of a file into an output, in step with the video frames."""

    @classmethod
    def open(
        cls, path: str | os.PathLike[str] | None, output: OutputContainer, kind: str, start: float
    ) -> AudioTrack | None:
        """Open the audio track of a file; return None if there is no file, or it has no audio or cannot be read."""
        if path is None or not Path(path).is_file():
            return None
        try:
            source = open_media(path)
        except av.error.FFmpegError as e:
            logger.warning("the sound of %s cannot be used (%s)", path, e)
            return None
        if not source.streams.audio or source.streams.audio[0].codec_context is None:
            source.close()
            return None
        return cls(source, output, kind, Fraction(start))

    def __init__(self, source: InputContainer, output: OutputContainer, kind: str, start: Fraction) -> None:
        self._source, self._output = source, output
        stream = self._input = source.streams.audio[0]
        video = source.streams.video[0] if source.streams.video else stream
        # times are relative to the start of the video stream, for lip sync
        self._start = start + Fraction((video.start_time or 0) * (video.time_base or 0))
        codec = stream.codec_context
        self._packets: Iterator[tuple[Fraction, Any]] | None = None
        self._next: tuple[Fraction, Any] | None = None
        if codec.name in COPIED[kind]:
            self._stream: Any = output.add_stream_from_template(stream)
            self._packets = self._copied()
            return
        name, self._format = ("libopus", "flt") if kind == "webm" else ("aac", "fltp")
        supported = () if kind == "webm" else Codec(name, "w").audio_rates or ()
        self._rate = codec.sample_rate if codec.sample_rate in supported else RATE
        self._layout = "mono" if codec.channels == 1 else "stereo"
        self._stream = output.add_stream(name, rate=self._rate, layout=self._layout)
        self._pending, self._written = self._samples(), 0
        self._buffer = np.zeros((1 if self._layout == "mono" else 2, 0), np.float32)

    def advance(self, until: Fraction) -> None:
        """Write the audio of the first `until` seconds of the result, except what is already written."""
        if self._packets is None:
            self._encode(round(until * self._rate) - self._written)
            return
        while True:
            self._next = self._next or next(self._packets, None)
            if self._next is None or self._next[0] >= until:
                return
            self._mux([self._next[1]])
            self._next = None

    def finish(self) -> None:
        """Flush the encoder and close the source file; the audio ends with the last frame."""
        if self._packets is None:
            self._mux(self._stream.encode(None))
        self.close()

    def close(self) -> None:
        """Close the source file."""
        self._source.close()

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.stream = self._stream
            self._output.mux(packet)

    def _copied(self) -> Iterator[tuple[Fraction, Any]]:
        """Yield the packets to copy, each with its time in the result in seconds; gaps are preserved."""
        last = None
        try:
            for packet in self._source.demux(self._input):
                if packet.pts is None or packet.time_base is None:
                    continue
                time = packet.pts * packet.time_base - self._start
                if time >= 0 and (last is None or packet.pts > last):  # muxers need increasing timestamps
                    last = packet.pts
                    packet.pts -= round(self._start / packet.time_base)
                    packet.dts = packet.pts
                    yield time, packet
        except av.error.FFmpegError as e:
            logger.warning("the sound ends early: %s", e)

    def _encode(self, count: int) -> None:
        """Encode the next `count` samples, with silence after the end of the source."""
        while self._buffer.shape[1] < count and (part := next(self._pending, None)) is not None:
            self._buffer = np.concatenate([self._buffer, part], 1)
        part, self._buffer = self._buffer[:, :count], self._buffer[:, count:]
        part = np.pad(part, ((0, 0), (0, count - part.shape[1])))
        if not count:
            return
        data = np.ascontiguousarray(part if self._format == "fltp" else part.T.reshape(1, -1))
        frame = AudioFrame.from_ndarray(data, format=self._format, layout=self._layout)
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._written, Fraction(1, self._rate)
        self._written += count
        self._mux(self._stream.encode(frame))

    def _samples(self) -> Iterator[Float32[ndarray, "channels n"]]:
        """Yield samples at the encoder's rate from the start of the result, with silence in gaps of the source."""
        done = 0
        for first, part in self._blocks():
            for gap in range(done, first, self._rate):  # one second at a time, as wrong timestamps may cause huge gaps
                yield np.zeros((len(part), min(self._rate, first - gap)), np.float32)
            yield part[:, max(done - first, 0) :]
            done = max(done, first + part.shape[1])

    def _blocks(self) -> Iterator[tuple[int, Float32[ndarray, "channels n"]]]:
        """Yield blocks of samples at the encoder's rate, each with the index of its first sample in the result."""
        resampler: AudioResampler | None = None
        kind, first, expected = None, 0, Fraction(0)

        def resampled(frame: Any) -> Iterator[tuple[int, Float32[ndarray, "channels n"]]]:
            nonlocal first
            for part in resampler.resample(frame) if resampler else ():
                yield first, part.to_ndarray()
                first += part.samples

        try:
            for frame in self._source.decode(self._input):
                time = expected
                if frame.pts is not None and frame.time_base is not None:
                    time = frame.pts * frame.time_base - self._start
                if resampler is None or kind != _kind(frame) or abs(time - expected) > JITTER:
                    yield from resampled(None)
                    resampler, kind = AudioResampler("fltp", self._layout, self._rate), _kind(frame)
                    first, expected = round(time * self._rate), time
                expected += Fraction(frame.samples, frame.sample_rate)
                frame.pts = None
                yield from resampled(frame)
            yield from resampled(None)
        except av.error.FFmpegError as e:
            logger.warning("the sound ends early: %s", e)


def _kind(frame: Any) -> tuple[int, str, str]:
    return frame.sample_rate, frame.layout.name, frame.format.name
