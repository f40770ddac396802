"""What a folder of results holds: one video (a file, or a folder of frames) or one picture for each sequence.

Reports, user studies and references all list folders here, so that a sequence has the same name in all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mimicmotion.errors import InputError
from mimicmotion.video.picture import PICTURE_SUFFIXES

_SUFFIXES = "mp4 m4v mov mkv webm avi gif webp apng ts mts m2ts mpg mpeg mpe wmv asf flv ogv 3gp y4m"
VIDEO_SUFFIXES = frozenset(f".{s}" for s in _SUFFIXES.split())

Rename = Callable[[str], str]


def list_videos(folder: Path, *, frames_in: str = "", rename: Rename = str) -> dict[str, Path]:
    """Sequence -> video file, or folder of frames.

    Args:
        folder: where.
        frames_in: frames of a sequence lie in SEQUENCE/THIS (or in SEQUENCE).
        rename: makes the sequence's name of the file's (without suffix) or the folder's.

    Raises:
        InputError: no such folder, no video in it, or two of one name.
    """

    def video(path: Path) -> Path | None:
        if path.is_file():
            return path if path.suffix.lower() in VIDEO_SUFFIXES else None
        places = (path / frames_in, path) if frames_in else (path,)
        return next((p for p in places if p.is_dir() and any(map(named_picture, p.iterdir()))), None)

    return _listed(folder, "videos", video, rename)


def list_pictures(folder: Path, *, rename: Rename = str) -> dict[str, Path]:
    """Sequence -> picture; raises as `list_videos`."""
    return _listed(folder, "pictures", lambda path: path if path.is_file() and named_picture(path) else None, rename)


def _listed(folder: Path, what: str, chosen: Callable[[Path], Path | None], rename: Rename) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder", f"a folder of {what}, one for each sequence", "check the path")
    found: dict[str, Path] = {}
    of: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        source = None if path.name.startswith(".") else chosen(path)
        if source is None:
            continue
        name = rename(path.name if path.is_dir() else path.stem)
        if name in found:
            got = f"{path} and {of[name].name} are both sequence {name}"
            raise InputError(got, "one for each sequence", "leave one of them there")
        found[name], of[name] = source, path
    if not found:
        raise InputError(f"{folder} holds no {what}", f"{what}, one for each sequence", "check the path")
    return found


def named_picture(path: Path) -> bool:
    """Whether this is a picture by its name, and not a hidden file."""
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")
