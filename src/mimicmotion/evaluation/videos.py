"""Videos of sequences: listing folders of them, and streaming real and generated ones as pairs of frames.

Reports and user studies list their folders with these functions, so that a sequence has the same name everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from mimicmotion.arrays import Frame, Frames
from mimicmotion.errors import InputError, MediaError
from mimicmotion.evaluation.cache import ResultCache
from mimicmotion.evaluation.protocols import Protocol, plain_name, plan_fits
from mimicmotion.runtime.files import sha256_file
from mimicmotion.settings.evaluation import EvaluateConfig
from mimicmotion.video.geometry import Fit
from mimicmotion.video.picture import PICTURE_SUFFIXES
from mimicmotion.video.reader import READ_SUFFIXES, RELEASED_FPS, VideoReader, open_video

RATES = "frames per second"
"""Phrase by which the report recognises notes on different frame rates."""
SAME_RATE = 0.01
"""Frame rates that differ by less than this fraction count as equal, such as 29.97 and 30."""
PIXELS_AT_ONCE = 2_000_000
Rename = Callable[[str], str]


def list_videos(folder: Path, *, frames_in: str = "", rename: Rename = str) -> dict[str, Path]:
    """List the videos of a folder: sequence -> video file or folder of frames.

    Args:
        folder: folder to list.
        frames_in: subfolder of a sequence's folder that holds its frames (else they are in the folder itself).
        rename: converts the name of a file (without suffix) or folder to the name of the sequence.

    Raises:
        InputError: the folder does not exist, holds no videos, or holds two of the same name.
    """

    def video(path: Path) -> Path | None:
        if path.is_file():
            return path if path.suffix.lower() in READ_SUFFIXES else None
        places = (path / frames_in, path) if frames_in else (path,)
        return next((p for p in places if p.is_dir() and any(map(named_picture, p.iterdir()))), None)

    return _listed(folder, "videos", video, rename)


def list_pictures(folder: Path) -> dict[str, Path]:
    """List the pictures of a folder: sequence -> picture. Raises the errors of `list_videos`."""
    return _listed(folder, "pictures", lambda path: path if path.is_file() and named_picture(path) else None)


def _listed(folder: Path, what: str, chosen: Callable[[Path], Path | None], rename: Rename = str) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", f"a folder of {what}, one per sequence", "check the path")
    found: dict[str, tuple[Path, Path]] = {}
    for path in sorted(folder.iterdir()):
        source = None if path.name.startswith(".") else chosen(path)
        if source is None:
            continue
        name = rename(path.name if path.is_dir() else path.stem)
        if name in found:
            got = f"{path} and {found[name][1].name} are both sequence {name}"
            raise InputError(got, "one file or folder per sequence", "remove one of them")
        found[name] = source, path
    if not found:
        raise InputError(f"{folder} contains no {what}", f"{what}, one per sequence", "check the path")
    return {name: source for name, (source, _) in found.items()}


def named_picture(path: Path) -> bool:
    """Whether a file has the name of a picture and is not hidden."""
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")


def content_digest(path: Path, chosen: Callable[[Path], bool] = named_picture) -> str:
    """sha256 of a file, or of the names and contents of the chosen files of a folder, by default its pictures.

    Raises:
        InputError: a file cannot be read, or the folder holds no such files.
    """
    if path.is_file():
        return sha256_file(path)
    files = sorted(filter(chosen, path.iterdir()))
    if not files:
        raise MediaError(f"{path} contains no pictures", "a folder of PNG or JPEG frames", "check the path")
    lines = "".join(f"{sha256_file(p)} {p.name}\n" for p in files)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def find_sequences(folder: Path, protocol: Protocol) -> dict[str, Path]:
    """Find the sequences of the protocol in a folder: sequence -> video or folder of frames.

    Raises:
        InputError: the folder does not exist, holds no videos, or holds two of the same name.
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
        """Yield the frames of one side, mapped to the compared pixels.

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
        """Yield the frames in chunks, each as a pair (generated, real)."""
        count = max(1, PIXELS_AT_ONCE // (self.size[0] * self.size[1]))
        both = zip(self.fitted(self.generated), self.fitted(self.real), strict=True)
        while batch := list(islice(both, count)):
            yield np.stack([a for a, _ in batch]), np.stack([b for _, b in batch])

    def key(self, side: Side) -> dict[str, object]:
        """Return the cache key of one side: everything that its fitted frames depend on."""
        fit = [*side.fit.source, *side.fit.target, *side.fit.scale, *side.fit.offset, side.fit.resample]
        return {"video": side.digest, "fps": self.fps, "frames": self.frames, "fit": fit}


def open_pair(
    sequence: str,
    method: str,
    paths: tuple[Path, Path],
    digests: tuple[str, str],
    config: EvaluateConfig,
    protocol: Protocol,
    cache: ResultCache,
) -> VideoPair:
    """Open the real and the generated video, count their frames by decoding, and decide how they are compared.

    Raises:
        MediaError: a video is damaged or cannot be read.
        InputError: lengths differ although the settings are strict, or the crops do not overlap.
    """
    timed = [p for p in paths if p.is_file() or config.folder_fps]  # folders of frames specify no rate
    rate = config.folder_fps or (open_video(timed[0]).info.fps if len(timed) == 1 else RELEASED_FPS)
    readers = open_video(paths[0], folder_fps=rate), open_video(paths[1], folder_fps=rate)
    notes: list[str] = []
    fps = _common_rate(*readers, notes) if len(timed) == 2 else None
    lengths = [_count(r, d, fps, rate, cache) for r, d in zip(readers, digests, strict=True)]
    if fps is not None and not any(r.info.variable_frame_rate for r in readers):
        own = [_count(r, d, None, rate, cache) for r, d in zip(readers, digests, strict=True)]
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
    sides = Side(readers[0], digests[0], fits.real), Side(readers[1], digests[1], fits.generated)
    return VideoPair(sequence, method, *sides, fps, min(lengths), lengths[1], (*notes, *fits.notes))


def _common_rate(real: VideoReader, generated: VideoReader, notes: list[str]) -> float | None:
    """Return the frame rate to resample both videos to; None to compare frame n with frame n."""
    a, b = real.info, generated.info
    if not (a.variable_frame_rate or b.variable_frame_rate) and abs(b.fps / a.fps - 1) < SAME_RATE:
        return None
    notes.append(f"{_rates(real, generated)}: both resampled to {a.fps:g}")
    return a.fps


def _rates(real: VideoReader, generated: VideoReader) -> str:
    return f"real at {real.info.fps:g}, generated at {generated.info.fps:g} {RATES}"


def _count(reader: VideoReader, digest: str, fps: float | None, folder_fps: float, cache: ResultCache) -> int:
    """Count the frames of a video by decoding all of it.

    Raises:
        MediaError: the video is damaged, or has no frames.
    """
    rate = folder_fps if reader.path.is_dir() else None
    key = {"kind": "count", "version": 2, "video": digest, "fps": fps, "rate": rate}
    known = cache.get(key)
    if known is None:
        known = {"frames": reader.count(fps), "damage": reader.damage}
        cache.put(key, known)
    if known["damage"] or not known["frames"]:
        what = known["damage"] or "has no frames"
        raise MediaError(f"{reader.path}: {what}", "a complete video", "create or copy it again")
    return int(known["frames"])
