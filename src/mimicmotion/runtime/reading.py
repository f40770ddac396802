"""Helpers for reading files: limits on declared sizes, and errors that name the file."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from mimicmotion.errors import ConfigError, InputError, MediaError, MimicMotionError, out_of_memory

Limit = Literal["pixels", "video_pixels", "animation", "frames", "seconds", "gap", "bytes"]
LIMITS: dict[Limit, tuple[float, str]] = {
    "pixels": (150e6, "pixels"),  # an 8k frame has 33 million; a picture of 150 million takes 450 MB as RGB
    "video_pixels": (40e6, "pixels a frame"),
    "animation": (1.5e9, "pixels in the frames of an animation"),  # GIF, WebP, APNG are slow: 2400 frames of 1024 x 576
    "frames": (200_000, "frames"),  # nearly an hour at 60 frames per second
    "seconds": (6 * 3600, "seconds"),
    "gap": (600, "seconds between two frames"),
    "bytes": (2**29, "bytes of text or numbers"),  # OpenPose JSON takes 4 kB for each frame and person
}
"""Largest sizes that a picture, video or pose file may declare; a file above them is considered damaged or malicious.

The environment variables MIMICMOTION_MAX_PIXELS, _FRAMES, ... set other limits.
"""


def check_limit(name: Limit, value: float, what: object, kind: type[MimicMotionError] = InputError) -> None:
    """Raise an error if a declared size is above its limit.

    Args:
        name: name of the limit.
        value: the declared size.
        what: what has this size, such as the path, for the error message.
        kind: class of the error.

    Raises:
        InputError: it is above the limit (raised as `kind`), or the environment variable is not a number.
    """
    highest, unit = LIMITS[name]
    variable = f"MIMICMOTION_MAX_{name.upper()}"
    text = os.environ.get(variable)
    if text:
        try:
            highest = float(text)
        except ValueError as e:
            raise ConfigError(f"{variable}={text!r}", "a number", "correct the environment variable") from e
    if not value <= highest:
        fix = f"check the file; if it is fine, set the environment variable {variable} to a higher number"
        raise kind(f"{what} has {value:,.12g} {unit}", f"at most {highest:,.12g}", fix)


@contextlib.contextmanager
def reading(path: object, what: str, fix: str, kind: type[MimicMotionError] = InputError) -> Iterator[None]:
    """Convert errors in the block that reads `path` to an error that names the file.

    Args:
        path: the file.
        what: what the file should be, with an article: "a picture".
        fix: what the user can do if it is something else.
        kind: class of the error.

    Raises:
        InputError: the block raised an error that does not come from this package (raised as `kind`).
    """
    try:
        yield
    except MimicMotionError:
        raise
    except FileNotFoundError as e:
        raise kind(f"{path} does not exist", what, "check the path") from e
    except RecursionError as e:
        raise kind(f"{path} is nested too deeply", what, fix) from e
    except Exception as e:
        if out_of_memory(e):
            got = f"{path} does not fit in memory"
            raise kind(got, f"enough memory for {what}", "close other programs, or scale it down") from e
        if isinstance(e, OSError) and e.strerror and e.errno is not None and 0 < e.errno < 256:
            raise kind(f"{path} cannot be read ({e.strerror})", what, "check the path and its permissions") from e
        reason = next(iter(str(e).splitlines()), "")[:200] or type(e).__name__
        raise kind(f"{path} is damaged or truncated, or not {what} ({reason})", what, fix) from e


def read_json(path: Path, what: str, fix: str, kind: type[MimicMotionError] = InputError) -> Any:
    """Read a JSON file; arguments as for `reading`.

    Raises:
        InputError: it is missing, damaged, too large, or nested too deeply.
    """
    with reading(path, what, fix, kind):
        check_limit("bytes", path.stat().st_size, path, kind)
        return json.loads(path.read_bytes())  # also with a byte order mark or in UTF-16


def check_input_file(path: Path, what: str) -> None:
    """Raise MediaError unless `path` is a readable file that is not empty.

    Args:
        path: the file.
        what: what the file should be, with an article: "a picture".
    """
    if not path.exists():
        if web := re.match(r"(\w\w+:)/+", str(path)):  # a path keeps only one of the two slashes
            got = f"{web[1]}//{str(path)[web.end() :]} is a URL"
            raise MediaError(got, f"{what} file on this computer", "download it first")
        raise MediaError(f"{path} does not exist", f"{what} file", "check the path")
    if path.is_dir():
        raise MediaError(f"{path} is a folder", f"{what} file", "name a file in it")
    if not path.is_file():  # reading a pipe or device might never end
        raise MediaError(f"{path} is a pipe or a device", f"{what} file", "write it to a file first")
    try:
        with path.open("rb") as f:
            empty = not f.read(1)
    except OSError as e:
        raise MediaError(f"{path} cannot be read ({e.strerror})", f"{what} file", "check its permissions") from e
    if empty:
        raise MediaError(f"{path} is empty (0 bytes)", f"{what} file", "copy or download it again")


def is_heif(path: Path) -> bool:
    """Return whether a file is an HEIC or HEIF picture, which FFmpeg can read and Pillow cannot."""
    with path.open("rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:] in (b"heic", b"heix", b"heim", b"heis", b"mif1")
