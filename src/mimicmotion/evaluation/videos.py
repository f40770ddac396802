"""Real and generated videos of a sequence, streamed as pairs of frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from mimicmotion.arrays import Frame, Frames
from mimicmotion.errors import InputError, MediaError
from mimicmotion.evaluation.cache import ResultCache
from mimicmotion.evaluation.protocols import Protocol, plain_name, plan_fits
from mimicmotion.evaluation.reports.listing import list_videos
from mimicmotion.settings.evaluation import EvaluateConfig
from mimicmotion.video.geometry import Fit
from mimicmotion.video.reader import RELEASED_FPS, VideoReader, open_video

RATES = "frames per second"
"""Part of all notes on different frame rates."""
SAME_RATE = 0.01
"""Frame rates that differ by less than this share count as equal, such as 29.97 and 30."""
PIXELS_AT_ONCE = 2_000_000


def find_sequences(folder: Path, protocol: Protocol) -> dict[str, Path]:
    """Sequence -> video or folder of frames, for the sequences of the protocol.

    Raises:
        InputError: the folder does not exist, holds no sequence, or holds two of the same name.
    """
    found = list_videos(folder, frames_in=protocol.frames_in, rename=plain_name if protocol.sequences else str)
    wanted = {plain_name(s) for s in protocol.sequences}
    return {k: v for k, v in found.items() if k in wanted} if wanted else found


def missing(real: Mapping[str, Path], methods: Mapping[str, Mapping[str, Path]], wanted: tuple[str, ...]) -> list[str]:
    """Notes on sequences that a folder lacks, and on videos without a real counterpart."""
    lines = [f"real: no sequence {s}" for s in map(plain_name, wanted) if s not in real]
    for name, found in methods.items():
        lines += [f"{name}: no sequence {s}" for s in real if s not in found]
        lines += [f"{name}: {s} has no real video, left out" for s in found if s not in real]
    return lines


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A video and its checksum."""

    path: Path
    digest: str

    def open(self, folder_fps: float = RELEASED_FPS) -> VideoReader:
        """Open the video; raises MediaError if it cannot be read."""
        return open_video(self.path, folder_fps=folder_fps)

    def is_timed(self, config: EvaluateConfig) -> bool:
        """Whether the video specifies its frame rate."""
        return self.path.is_file() or config.folder_fps is not None


@dataclass(frozen=True, slots=True)
class Side:
    """The real or the generated video of a pair: its reader, its checksum, and the map to the compared pixels."""

    reader: VideoReader
    digest: str
    fit: Fit


@dataclass(frozen=True, slots=True)
class VideoPair:
    """A real and a generated video of one sequence, and how their frames are matched.

    Attributes:
        sequence: name of the sequence.
        method: name of the method.
        real: real video.
        generated: generated video.
        fps: rate to which both are resampled by time; None compares frame n with frame n.
        frames: number of compared frames.
        made: number of frames of the generated video.
        notes: notes for the report.
    """

    sequence: str
    method: str
    real: Side
    generated: Side
    fps: float | None
    frames: int
    made: int
    notes: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the compared pixels."""
        return self.real.fit.target

    def fitted(self, side: Side) -> Iterator[Frame]:
        """The frames of one side, mapped to the compared pixels.

        Raises:
            MediaError: the file has changed since it was opened, or cannot be read.
        """
        count = 0
        for frame in side.reader.frames(fps=self.fps, max_frames=self.frames):
            count += 1
            yield side.fit.apply(frame)
        if count < self.frames:
            raise MediaError(f"{side.reader.path} has {count} frames", f"{self.frames}", "the file changed: run again")

    def chunks(self) -> Iterator[tuple[Frames, Frames]]:
        """(generated, real) frames in chunks."""
        count = max(1, PIXELS_AT_ONCE // (self.size[0] * self.size[1]))
        both = zip(self.fitted(self.generated), self.fitted(self.real), strict=True)
        while held := list(islice(both, count)):
            yield np.stack([a for a, _ in held]), np.stack([b for _, b in held])

    def key(self, side: Side) -> dict[str, object]:
        """Cache key: everything that the fitted frames of one side depend on."""
        fit = [*side.fit.source, *side.fit.target, *side.fit.scale, *side.fit.offset, side.fit.resample]
        return {"video": side.digest, "fps": self.fps, "frames": self.frames, "fit": fit}


def open_pair(
    sequence: str,
    method: str,
    real: VideoFile,
    generated: VideoFile,
    config: EvaluateConfig,
    protocol: Protocol,
    cache: ResultCache,
) -> VideoPair:
    """Decode both videos completely, and decide how they are compared.

    Raises:
        MediaError: a video is damaged or cannot be read.
        InputError: rates or lengths differ, which the settings do not allow, or the crops do not overlap.
    """
    rate = _folder_rate(real, generated, config)
    readers = real.open(rate), generated.open(rate)
    timed = real.is_timed(config) and generated.is_timed(config)
    notes: list[str] = []
    fps = _common_rate(*readers, notes) if timed else None
    lengths = [_count(s, r, fps, rate, cache) for s, r in zip((real, generated), readers, strict=True)]
    if fps is not None and not any(r.info.variable_frame_rate for r in readers):
        own = [_count(s, r, None, rate, cache) for s, r in zip((real, generated), readers, strict=True)]
        if own[0] == own[1]:  # the same frames under another nominal rate
            fps, lengths, notes = None, own, [f"{_rates(*readers)}, {own[0]} frames each: compared frame by frame"]
    if lengths[0] != lengths[1]:
        text = f"{lengths[0]} real and {lengths[1]} generated frames"
        if config.strict:
            raise InputError(f"{sequence}, {method}: {text}", "equal lengths", "cut one of them, or leave out --strict")
        notes.append(f"{text}: the first {min(lengths)} are compared")
    fits = plan_fits(protocol, method, readers[0].info.size, readers[1].info.size)
    own, size = readers[1].info.size, fits.real.target
    if own != size and not fits.notes:
        notes.append(f"frames of {own[1]} x {own[0]} compared at {size[1]} x {size[0]}")
    sides = Side(readers[0], real.digest, fits.real), Side(readers[1], generated.digest, fits.generated)
    return VideoPair(sequence, method, *sides, fps, min(lengths), lengths[1], (*notes, *fits.notes))


def _folder_rate(real: VideoFile, generated: VideoFile, config: EvaluateConfig) -> float:
    """Frames per second of a folder of frames: the setting, or else the other video's rate."""
    if config.folder_fps:
        return config.folder_fps
    timed = [v for v in (real, generated) if v.is_timed(config)]
    return timed[0].open().info.fps if len(timed) == 1 else RELEASED_FPS


def _common_rate(real: VideoReader, generated: VideoReader, notes: list[str]) -> float | None:
    """The frame rate to which both are resampled; None to compare frame n with frame n."""
    a, b = real.info, generated.info
    if not (a.variable_frame_rate or b.variable_frame_rate) and abs(b.fps / a.fps - 1) < SAME_RATE:
        return None
    notes.append(f"{_rates(real, generated)}: both resampled to {a.fps:g}")
    return a.fps


def _rates(real: VideoReader, generated: VideoReader) -> str:
    return f"real at {real.info.fps:g}, generated at {generated.info.fps:g} {RATES}"


def _count(source: VideoFile, reader: VideoReader, fps: float | None, folder_fps: float, cache: ResultCache) -> int:
    """Count the frames of a video by decoding all of it.

    Raises:
        MediaError: the video is damaged, or has no frames.
    """
    rate = folder_fps if source.path.is_dir() else None
    key = {"kind": "count", "version": 2, "video": source.digest, "fps": fps, "rate": rate}
    known = cache.get(key)
    if known is None:
        known = {"frames": reader.count(fps), "damage": reader.damage}
        cache.put(key, known)
    if known["damage"] or not known["frames"]:
        what = known["damage"] or "has no frames"
        raise MediaError(f"{source.path}: {what}", "a complete video", "create or copy it again")
    return int(known["frames"])
