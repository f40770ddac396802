"""Exceptions of this package. Each message states what was wrong, what was expected, and how to fix it."""

from __future__ import annotations

import errno
import re

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_MEMORY_FULL = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
_MEMORY_FULL += ("Failed to allocate", "Insufficient memory", "bad_alloc", "bad allocation")


def printable(text: str) -> str:
    """Escape control characters, bidirectional marks and lone surrogates in untrusted text, for printing on a terminal.

    Newlines and tabs are kept.
    """
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class MimicMotionError(Exception):
    """Base class of all errors that this package raises deliberately.

    Args:
        got: what was wrong, such as the name and value of an argument.
        expected: values that are accepted.
        fix: what the user can do about it.
    """

    def __init__(self, got: str, expected: str, fix: str) -> None:
        super().__init__(printable(f"{got}\n  expected: {expected}\n  fix: {fix}"))
        self.got, self.expected, self.fix = got, expected, fix

    def __reduce__(self) -> tuple[type[MimicMotionError], tuple[str, str, str]]:
        return type(self), (self.got, self.expected, self.fix)


class InputError(MimicMotionError, ValueError):
    """The input or configuration is invalid."""


class ConfigError(InputError):
    """A setting is unknown, of the wrong type, or out of range."""


class MediaError(InputError):
    """A picture or video is missing, empty, damaged, or in an unsupported format."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether an exception from any library means that the host or an accelerator is out of memory."""
    if isinstance(error, MimicMotionError):
        return False
    full = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    return full or any(words in str(error) for words in _MEMORY_FULL)


def system_error(error: BaseException, what: str = "this") -> InputError | None:
    """Convert an out-of-memory or file system error to an error with a suggested fix; return None for any other error.

    Args:
        error: any exception.
        what: name of the task that needed the memory, used in the message.
    """
    if out_of_memory(error):
        message = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
        fix = "close other programs, lower the resolution or the number of processes, or shorten the video"
        return ConfigError(f"not enough free memory for {what} ({message})", "more free memory", fix)
    if not isinstance(error, OSError) or isinstance(error, MimicMotionError) or not error.strerror:
        return None
    deleted = isinstance(error, FileNotFoundError) and error.filename is None
    name = "the working directory" if deleted else error.filename
    if name is None:
        return None
    got, expected = f"{str(name)[:500]}: {error.strerror}", "a path that can be read and written"
    return InputError(got, expected, "check the path, its length and its permissions")


class PoseError(InputError):
    """Poses are malformed, or no person was detected."""


class NonFiniteError(MimicMotionError, ArithmeticError):
    """The output of a network contains NaN or infinity."""


class TrainingError(MimicMotionError):
    """Training cannot continue because the loss or its gradient is NaN or infinite."""


class WeightsError(MimicMotionError):
    """Model weights are missing, damaged, of the wrong shape, or cannot be downloaded."""


class OutputError(MimicMotionError, OSError):
    """A result cannot be written, for example because of permissions or a full disk."""
