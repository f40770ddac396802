"""Graceful handling of Ctrl-C and SIGTERM in long-running jobs."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Work was stopped on request, without losing results. The message, if any, explains how to resume."""


class Interrupts:
    """Context manager in which SIGTERM acts like Ctrl-C.

    Inside `deferred`, the first signal only sets `stop_requested`, and the second interrupts. This has no effect
    outside the main thread, or on signals that are ignored (as under nohup).
    """

    def __init__(self) -> None:
        self.stop_requested = False
        self._deferred, self._notice = False, ""
        self._old: dict[int, Any] = {}
        self._pid = os.getpid()

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            wanted = [s for s in SIGNALS if signal.getsignal(s) not in (signal.SIG_IGN, None)]
            self._old = {s: signal.signal(s, self._handle) for s in wanted}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old = {}

    @contextlib.contextmanager
    def deferred(self, notice: str = "") -> Iterator[None]:
        """Defer interrupts while the block runs, which checks `stop_requested`; the first signal logs `notice`."""
        self._deferred, self._notice = True, notice
        try:
            yield
        finally:
            self._deferred = False

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._pid or self.stop_requested or not self._deferred:
            raise KeyboardInterrupt
        self.stop_requested = True
        if self._notice:
            logger.warning(self._notice)
