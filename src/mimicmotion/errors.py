"""The error tree: every error says what was got, what was expected and how to fix it."""

from __future__ import annotations

import errno
import re

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_MEMORY_FULL = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
_MEMORY_FULL += ("Failed to allocate", "Insufficient memory", "bad_alloc", "bad allocation")


def printable(text: str) -> str:
    """Text for a terminal: what would control it, turn the writing direction or is no character is escaped.

    Names of files and what stands in them come from anywhere. Line ends and tabs stay.
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class MimicMotionError(Exception):
    """Base of all errors that this package raises on purpose.

    Args:
        got: what was found, with the name and the value of the thing.
        expected: what would have been accepted.
        fix: what the user can do about it.
    """

    def __init__(self, got: str, expected: str, fix: str) -> None:
        super().__init__(printable(f"{got}\n  expected: {expected}\n  fix: {fix}"))
        self.got, self.expected, self.fix = got, expected, fix

    def __reduce__(self) -> tuple[type[MimicMotionError], tuple[str, str, str]]:
        return type(self), (self.got, self.expected, self.fix)


class InputError(MimicMotionError, ValueError):
    """The caller's input or configuration is wrong."""


class ConfigError(InputError):
    """A setting is unknown, has the wrong type or is out of range."""


class MediaError(InputError):
    """A picture or video is missing, empty, damaged or of a kind that cannot be read."""


def out_of_memory(error: BaseException) -> bool:
    """Whether any library says by this error that memory is full: of the host, of a GPU, or of Apple's."""
    if isinstance(error, MimicMotionError):
        return False
    full = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    return full or any(words in str(error) for words in _MEMORY_FULL)


def memory_error(error: BaseException, what: str = "this") -> ConfigError:
    """What to say of it.

    Args:
        error: the library's error.
        what: what the memory was for.
    """
    said = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
    fix = "close other programs, or make what is asked for smaller or shorter (height and width, duration, processes)"
    return ConfigError(f"the memory that is free is not enough for {what} ({said})", "more free memory", fix)


def system_error(error: BaseException, what: str = "this") -> InputError | None:
    """What to say of an error of the system, wherever it comes up: memory is full, or a path is no good; else None.

    Args:
        error: any error.
        what: what the memory was for.
    """
    if out_of_memory(error):
        return memory_error(error, what)
    if not isinstance(error, OSError) or isinstance(error, MimicMotionError) or not error.strerror:
        return None
    gone = isinstance(error, FileNotFoundError) and error.filename is None
    name = "the working directory" if gone else error.filename
    if name is None:
        return None
    got, expected = f"{str(name)[:500]}: {error.strerror}", "a path that can be read and written"
    return InputError(got, expected, "check the path, its length and its permissions")


class PoseError(InputError):
    """A pose file or pose sequence is malformed, or no usable pose was found where one is needed."""


class NonFiniteError(MimicMotionError, ArithmeticError):
    """A network's output is not a number: going on would waste the time."""


class TrainingError(MimicMotionError):
    """Training cannot go on: the loss or its gradient is not a number."""


class WeightsError(MimicMotionError):
    """Model weights are missing, damaged, of the wrong shape, or cannot be fetched."""


class OutputError(MimicMotionError, OSError):
    """A result cannot be written (permission, full disk, missing folder)."""
