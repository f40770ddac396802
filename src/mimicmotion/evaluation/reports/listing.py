"""Listing folders of results: one video (a file, or a folder of frames) or one picture per sequence.

Reports, user studies and reference pictures are all listed here, so that a sequence has the same name everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mimicmotion.errors import InputError
from mimicmotion.video.picture import PICTURE_SUFFIXES
from mimicmotion.video.reader import READ_SUFFIXES

Rename = Callable[[str], str]


def list_videos(folder: Path, *, frames_in: str = "", rename: Rename = str) -> dict[str, Path]:
    """Sequence -> video file, or folder of frames.

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
    """Sequence -> picture; raises as `list_videos`."""
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
