"""Results to compare: named videos, walked through frame by frame and never held as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mimicmotion.arrays import Frame
from mimicmotion.errors import InputError
from mimicmotion.video.reader import RELEASED_FPS, VideoReader, open_video

if TYPE_CHECKING:
    from mimicmotion.settings import FusionConfig


@dataclass(frozen=True, slots=True)
class Clip:
    """One result.

    Attributes:
        name: as the figure shows it.
        reader: the opened video.
        size: (height, width) in which its frames come.
        max_frames: take only so many from the beginning.
    """

    name: str
    reader: VideoReader
    size: tuple[int, int]
    max_frames: int | None = None

    def __iter__(self) -> Iterator[Frame]:
        import cv2

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
        """The frames of these numbers, those that there are."""
        wanted, found = set(numbers), {}
        for t, frame in enumerate(self):
            if t in wanted:
                found[t] = frame
            if len(found) == len(wanted):
                break
        return found

    def count(self) -> int:
        """Frames, counted: headers only estimate it."""
        return sum(1 for _ in self)


def parse_names(texts: Sequence[str]) -> list[tuple[str, Path]]:
    """Take NAME=PATH apart; of a mere PATH the name is the file's.

    Raises:
        InputError: nothing given, an empty part, or a name twice.
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
        raise InputError("no result", "at least one NAME=PATH", "name the videos or folders of frames to show")
    names = [n for n, _ in named]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        fix = "call them apart: first=a/dance.mp4 second=b/dance.mp4"
        raise InputError(f"two results named {twice!r}", "one name each", fix)
    return named


def open_clips(
    named: Sequence[tuple[str, Path]],
    *,
    resize: bool = False,
    same_size: bool = True,
    max_frames: int | None = None,
    folder_fps: float = RELEASED_FPS,
) -> list[Clip]:
    """Open results of one size.

    Args:
        named: names and paths, as `parse_names` gives them.
        resize: scale the frames of the others to the size of the first.
        same_size: refuse other sizes; False leaves sizes as they are.
        max_frames: take only so many frames of each.
        folder_fps: frames per second of folders of frames.

    Raises:
        InputError: sizes differ.
        MediaError: a video is missing, empty or damaged.
    """
    readers = [(name, open_video(path, folder_fps=folder_fps)) for name, path in named]
    first = readers[0][1].info.size
    sizes = {r.info.size for _, r in readers}
    if same_size and not resize and len(sizes) > 1:
        got = "; ".join(f"{n} ({r.path}) is {r.info.width} x {r.info.height}" for n, r in readers)
        raise InputError(got, "one size", "scale them to the size of the first with --resize")
    return [Clip(n, r, first if resize else r.info.size, max_frames) for n, r in readers]


def check_lengths(clips: Sequence[Clip], counts: Mapping[str, int], least: int = 2) -> int:
    """The number of frames that all clips have.

    Raises:
        InputError: they differ, or there are fewer than `least`.
    """
    if len(set(counts.values())) > 1:
        got = "; ".join(f"{c} has {counts[c.name]} frames" for c in clips)
        fewest = min(counts.values())
        raise InputError(got, "one length", f"cut them alike with --max-frames {fewest}, or render them again")
    frames = counts[clips[0].name]
    if frames < least:
        raise InputError(f"{clips[0]} has {frames} frame(s)", f"at least {least}", "give a longer video")
    return frames


def spaced(first: int, last: int, count: int) -> list[int]:
    """Up to `count` different whole numbers from `first` to `last`, evenly spaced and with both ends."""
    if count < 1 or last < first:
        return []
    if count == 1:
        return [(first + last) // 2]
    return sorted({first + round(i * (last - first) / (count - 1)) for i in range(count)})


def check_frames(wanted: Sequence[int], first: int, frames: int) -> list[int]:
    """Frame numbers in order, each once.

    Raises:
        InputError: one lies outside first..frames - 1.
    """
    bad = [t for t in wanted if not first <= t < frames]
    if bad:
        raise InputError(f"frame {bad[0]} of {frames} frames", f"{first} to {frames - 1}", "frames count from 0")
    return sorted(set(wanted))


def check_borders(borders: Sequence[int], frames: int) -> list[int]:
    """Borders in order; b lies between the frames b - 1 and b.

    Raises:
        InputError: one lies outside 1..frames - 1.
    """
    bad = [b for b in borders if not 1 <= b < frames]
    if bad:
        got = f"border {bad[0]} of {frames} frames"
        raise InputError(got, f"1 to {frames - 1}", "give the first frames of new segments, from 0")
    return sorted(set(borders))


def planned_borders(frames: int, config: FusionConfig) -> list[int]:
    """The first frames of all segments but the first."""
    from mimicmotion.diffusion.fusion import plan_segments

    return sorted({s.start for s in plan_segments(frames, config)} - {0})
