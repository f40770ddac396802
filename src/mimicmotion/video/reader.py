"""Stream the frames of driving videos as upright RGB, sampled at a frame rate or with a stride."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from fractions import Fraction
from itertools import islice
from pathlib import Path

from mimicmotion.arrays import Frame
from mimicmotion.errors import ConfigError, MediaError
from mimicmotion.runtime.reading import check_input_file, reading
from mimicmotion.video.picture import AnimationSource, FolderSource, is_picture
from mimicmotion.video.sources import AvSource, VideoInfo
from mimicmotion.video.timing import every, exact_rate, resample

__all__ = ["VideoInfo", "VideoReader", "open_video"]

RELEASED_FPS = 15.0
"""Frame rate of the published code's results, regardless of that of the driving video."""
READ_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".webp", ".apng", ".wmv", ".asf", ".flv", ".mpg", ".mpeg",
    ".mpe", ".ts", ".mts", ".m2ts", ".vob", ".3gp", ".ogv", ".mxf", ".y4m",
})  # fmt: skip
"""Suffixes that identify videos in folders of mixed files; `open_video` checks the content instead."""


class VideoReader:
    """A video that can be iterated repeatedly and is never entirely in memory.

    Args:
        path: a video file that FFmpeg can read, an animated GIF, WebP or APNG, a single picture, or a folder of
            numbered pictures.
        folder_fps: frames per second of a folder of pictures.

    Attributes:
        path: path of the file or folder.
        info: size, frame rate, duration and other properties.

    Raises:
        MediaError: the file is missing, empty, not a video, or has no decodable frames.
    """

    def __init__(self, path: str | os.PathLike[str], *, folder_fps: float = RELEASED_FPS) -> None:
        self.path = Path(path)
        self._source: AvSource | AnimationSource | FolderSource
        with self._reading():
            if self.path.is_dir():
                self._source = FolderSource(self.path, exact_rate(folder_fps))
            else:
                check_input_file(self.path, "a video or picture")
                self._source = (AnimationSource if is_picture(self.path) else AvSource)(self.path)
        self.info: VideoInfo = self._source.info

    def frames(
        self,
        fps: float | Fraction | None = None,
        *,
        stride: int = 1,
        start: float = 0.0,
        end: float = math.inf,
        max_frames: int | None = None,
    ) -> Iterator[Frame]:
        """Yield uint8 RGB frames of size `info.size`. If a frame is repeated, the same array is yielded again.

        Args:
            fps: frame rate at which to sample the video by time, which preserves its duration even if its own frame
                rate varies; None takes every `stride`-th frame instead.
            stride: see `fps`; `released_stride` returns that of the published code.
            start: start in seconds from the beginning of the video.
            end: end in seconds from the beginning of the video.
            max_frames: maximum number of frames.

        Raises:
            ConfigError: an argument is out of range, or both `fps` and `stride` are given.
            MediaError: `start` is beyond the end of the video, or the pictures of a folder differ in size.
        """
        if fps is not None and stride != 1:
            raise ConfigError(f"fps={fps} and stride={stride}", "only one of the two", "leave one of them out")
        if stride < 1:
            raise ConfigError(f"stride={stride}", "at least 1", "1 takes every frame")
        if not 0 <= start < end:
            raise ConfigError(f"start={start} with end={end}", "0 <= start < end, in seconds", "correct them")
        if max_frames is not None and max_frames < 1:
            raise ConfigError(f"max_frames={max_frames}", "at least 1", "leave it out to take all frames")
        if fps is None:
            picked = every(self._source, stride, start, end)
        else:
            picked = resample(self._source, exact_rate(fps), start, end)
        return self._convert(islice(picked, max_frames), start)

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def count(self, fps: float | None = None) -> int:
        """Count the frames that `frames(fps)` yields. Decodes the whole file, but without converting frames to RGB."""
        with self._reading():
            return sum(1 for _ in (self._source if fps is None else resample(self._source, fps)))

    def _reading(self) -> AbstractContextManager[None]:
        return reading(self.path, "a video or picture", "check it in a player, or convert it to MP4", MediaError)

    @property
    def damage(self) -> str:
        """Description of errors found when the file was last read to the end; empty if there were none."""
        return self._source.damage

    def _convert(self, picked: Iterator[Callable[[], Frame]], start: float) -> Iterator[Frame]:
        last: tuple[Callable[[], Frame], Frame] | None = None
        with self._reading():
            for to_rgb in picked:
                if last is None or to_rgb is not last[0]:
                    last = None  # at most one frame is in memory
                    last = to_rgb, to_rgb()
                yield last[1]
        if last is None:
            raise MediaError(
                f"{self.path} has no frame after {start:g} s (it lasts {self.info.duration:.2f} s)",
                "a start before the end of the video",
                "lower start",
            )


def open_video(path: str | os.PathLike[str], *, folder_fps: float = RELEASED_FPS) -> VideoReader:
    """Open a driving video; see `VideoReader`."""
    return VideoReader(path, folder_fps=folder_fps)
