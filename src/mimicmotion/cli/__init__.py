"""The command line, with one module per group of commands. Heavy dependencies are only imported when a command runs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from mimicmotion.cli import data, doctor, evaluate, generate, serve, study, train, weights  # noqa: F401 - each adds commands
from mimicmotion.cli.options import app
from mimicmotion.errors import InputError, MimicMotionError, printable, system_error


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


TRACEBACK = "MIMICMOTION_TRACEBACK"
"""Environment variable that, if set, shows the traceback of unexpected errors."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 success, 1 failure, 2 invalid input or usage, 130 interrupted."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        result = app(argv, exit_on_error=True, result_action="return_value")
        return result if isinstance(result, int) else 0
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except MimicMotionError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as e:
        print(str(e) or "interrupted; no partial files are left", file=sys.stderr)
        return 130
    except Exception as e:
        if (error := system_error(e)) is not None:
            print(f"error: {error}", file=sys.stderr)
            return 2
        if os.environ.get(TRACEBACK):
            raise
        message = next(iter(str(e).splitlines()), "")[:500]
        fix = f"run it again with {TRACEBACK}=1 in the environment, and report it with the traceback"
        print(f"error: {type(e).__name__}: {message}\n  this is a bug in mimicmotion: {fix}", file=sys.stderr)
        return 1
