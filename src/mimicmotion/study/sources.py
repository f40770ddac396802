"""Videos of a study: which sequences all folders have, and whether browsers play a file as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mimicmotion.errors import InputError, MediaError
from mimicmotion.video.reader import RELEASED_FPS, VideoReader, open_video

# What every current browser plays in a <video>, by the kind of file.
_PLAYED = {
    ".mp4": ("h264", "vp9", "av1", "libdav1d"),
    ".m4v": ("h264",),
    ".mov": ("h264",),
    ".webm": ("vp8", "vp9", "av1", "libdav1d"),
}
_PIXELS = ("yuv420p", "yuvj420p")


@dataclass(frozen=True, slots=True)
class StudyVideo:
    """A video that can be read, and how it gets into the page.

    Attributes:
        path: file or folder of frames.
        reader: the opened video.
        suffix: of the file to copy; "" if browsers cannot play it and it has to be encoded.
    """

    path: Path
    reader: VideoReader
    suffix: str


def common_sequences(folders: Mapping[str, Mapping[str, Path]], *, skip_missing: bool) -> tuple[list[str], list[str]]:
    """Sequences that all folders have, and a line about each that one lacks.

    Args:
        folders: name of the folder (for messages) -> sequence -> path.
        skip_missing: leave such sequences out instead of refusing.

    Raises:
        InputError: a folder lacks sequences that another has, or no sequence is left.
    """
    every = sorted(set().union(*folders.values()))
    missing = [f"{name} has no {s}" for s in every for name, found in folders.items() if s not in found]
    common = [s for s in every if all(s in found for found in folders.values())]
    if missing and (not skip_missing or not common):
        got = "; ".join(missing[:10]) + (f"; and {len(missing) - 10} more" if len(missing) > 10 else "")
        fix = "add the files, or leave these sequences out with --skip-missing" if common else "name them alike"
        raise InputError(got, "the same names in all folders", fix)
    return common, missing


def open_study_video(path: Path, *, folder_fps: float = RELEASED_FPS) -> StudyVideo:
    """Open a video and decide whether browsers play it as it is.

    Raises:
        MediaError: it cannot be read.
    """
    reader = open_video(path, folder_fps=folder_fps)
    played = path.is_file() and reader.info.codec in _PLAYED.get(path.suffix.lower(), ()) and _plain_pixels(path)
    # QuickTime files with H.264 are MP4 files but for the name
    suffix = path.suffix.lower().replace(".m4v", ".mp4").replace(".mov", ".mp4") if played else ""
    return StudyVideo(path, reader, suffix)


def _plain_pixels(path: Path) -> bool:
    import av

    try:
        with av.open(str(path.absolute())) as container:
            return container.streams.video[0].codec_context.pix_fmt in _PIXELS
    except (av.error.FFmpegError, IndexError) as e:
        raise MediaError(f"{path} cannot be read ({e})", "a video", "check it in a player") from e


def uneven_lengths(sources: Mapping[str, Sequence[tuple[str, StudyVideo]]], tolerance: float = 0.1) -> list[str]:
    """A line about each sequence whose videos differ in length by more than `tolerance`, as a share of the longest."""
    lines = []
    for sequence, videos in sources.items():
        lengths = {name: source.reader.info.duration for name, source in videos}
        if max(lengths.values()) - min(lengths.values()) > tolerance * max(lengths.values()):
            listed = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in lengths.items())
            lines.append(f"{sequence}: {listed}; the shorter one waits on its last frame")
    return lines
