"""The results that figures compare: named videos, streamed frame by frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from mimicmotion.arrays import Frame
from mimicmotion.errors import InputError
from mimicmotion.generate import inputs
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.runtime.progress import Job, Progress
from mimicmotion.settings import PoseOptions
from mimicmotion.video.reader import VideoReader, open_video

ASPECT_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class Clip:
    """A named video, one of the results that a figure compares.

    Attributes:
        name: shown in the figure.
        reader: the opened video.
        size: (height, width) to which its frames are scaled.
        max_frames: maximum number of frames, from the start.
    """

    name: str
    reader: VideoReader
    size: tuple[int, int]
    max_frames: int | None = None

    def __iter__(self) -> Iterator[Frame]:
        for frame in self.reader.frames(max_frames=self.max_frames):
            if frame.shape[:2] == self.size:
                yield frame
            else:
                shrinks = frame.shape[0] > self.size[0]
                how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
                # pyrefly: ignore [bad-return]
                yield cv2.resize(frame, self.size[::-1], interpolation=how)

    def __str__(self) -> str:
        return f"{self.name} ({self.reader.path})"

    def chosen(self, numbers: Sequence[int]) -> dict[int, Frame]:
        """Return the frames with the given numbers as number -> frame, skipping numbers beyond the end."""
        wanted, found = set(numbers), {}
        for t, frame in enumerate(self):
            if t in wanted:
                found[t] = frame
            if len(found) == len(wanted):
                break
        return found

    def count(self) -> int:
        """Number of frames, counted by decoding, because headers only give an estimate."""
        return sum(1 for _ in self)


def parse_names(texts: Sequence[str]) -> list[tuple[str, Path]]:
    """Split each NAME=PATH into name and path; a plain PATH is named after its file.

    Raises:
        InputError: there are no results, a part is empty, or two names are the same.
    """
    named: list[tuple[str, Path]] = []
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or "/" in name or Path(text).exists():
            name, path = Path(text).stem or text, text
        if not name.strip() or not path:
            raise InputError(f"{text!r}", "NAME=PATH or PATH", "for example progressive=results/dance.mp4")
        named.append((name.strip(), Path(path)))
    if not named:
        raise InputError("no result", "at least one NAME=PATH", "pass the videos or folders of frames to show")
    names = [n for n, _ in named]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        fix = "name each, for example first=a/dance.mp4 second=b/dance.mp4"
        raise InputError(f"two results named {twice!r}", "different names", fix)
    return named


def open_clips(named: Sequence[tuple[str, Path]], *, max_frames: int | None = None, scaled: bool = True) -> list[Clip]:
    """Open the videos that a figure compares.

    Args:
        named: names and paths, from `parse_names`.
        max_frames: maximum number of frames of each.
        scaled: whether to scale all frames to the size of the first result.

    Raises:
        InputError: aspect ratios differ.
        MediaError: a video is missing, empty or damaged.
    """
    clips = [Clip(name, reader, reader.info.size, max_frames) for name, path in named for reader in [open_video(path)]]
    check_shapes(clips)
    return [replace(c, size=clips[0].size) for c in clips] if scaled else clips


def check_same_length(clips: Sequence[Clip], counts: Mapping[str, int], least: int = 2) -> int:
    """Check that all clips have the same number of frames, and return this number.

    Raises:
        InputError: their lengths differ, or are below `least`.
    """
    if len(set(counts.values())) > 1:
        got = "; ".join(f"{c} has {counts[c.name]} frames" for c in clips)
        fewest = min(counts.values())
        raise InputError(got, "equal lengths", f"cut them to the same length with --max-frames {fewest}")
    frames = counts[clips[0].name]
    if frames < least:
        raise InputError(f"{clips[0]} has {frames} frame(s)", f"at least {least}", "use a longer video")
    return frames


def spaced(first: int, last: int, count: int) -> list[int]:
    """Return up to `count` different integers from `first` to `last`, evenly spaced, including both ends."""
    if count < 1 or last < first:
        return []
    if count == 1:
        return [(first + last) // 2]
    return sorted({first + round(i * (last - first) / (count - 1)) for i in range(count)})


def check_frames(wanted: Sequence[int], first: int, frames: int, what: str = "frame") -> list[int]:
    """Check numbers of frames (or borders: b lies between frames b - 1 and b), and return them sorted, without repeats.

    Raises:
        InputError: a number is outside first..frames - 1.
    """
    bad = [t for t in wanted if not first <= t < frames]
    if bad:
        raise InputError(f"{what} {bad[0]} of {frames} frames", f"{first} to {frames - 1}", "number frames from 0")
    return sorted(set(wanted))


def check_shapes(clips: Sequence[Clip], poses: PoseSequence | None = None) -> None:
    """Check that results, and poses if there are any, have the same aspect ratio.

    Raises:
        InputError: aspect ratios differ by more than 2%.
    """
    shapes = {str(c): c.size for c in clips}
    if poses is not None:
        shapes[f"poses ({poses.source or 'given'})"] = poses.size
    ratios = [w / h for h, w in shapes.values()]
    if max(ratios) > min(ratios) * (1 + ASPECT_TOLERANCE):
        got = "; ".join(f"{n} is {w} x {h}" for n, (h, w) in shapes.items())
        raise InputError(got, "one aspect ratio", "crop all results in the same way, and use poses of the same crop")


def estimate(frames: Sequence[Frame]) -> Job[PoseSequence]:
    """Estimate poses with the bundled estimator, without tracking, because the frames are not consecutive."""
    estimator = inputs.find_estimator(PoseOptions())(static=True)
    found = []
    for i, frame in enumerate(frames):
        yield Progress("poses", i, len(frames))
        found.append(estimator.estimate([frame]))
    yield Progress("poses", len(frames), len(frames))
    xy, confidence = np.concatenate([f.xy for f in found]), np.concatenate([f.confidence for f in found])
    return PoseSequence(xy, confidence, found[0].size, source=found[0].source)
