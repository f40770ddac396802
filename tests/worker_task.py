"""The task of the worker processes in tests/unit/test_serve_parts.py."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from mimicmotion.errors import ConfigError


def task() -> Callable[[str], object]:
    def handle(request: str) -> object:
        if request == "die":
            os._exit(3)
        if request == "sleep":
            time.sleep(60)
        if request == "grow":
            return len(bytearray(8 << 30))
        if request == "fail":
            raise ConfigError("a", "b", "c")
        if request == "bug":
            raise ZeroDivisionError("secret")
        return os.getpid() if request == "pid" else os.environ.get(request)

    return handle
