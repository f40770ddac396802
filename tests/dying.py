"""Ways for work to end: processes that die, and signals to this one. Imports nothing heavy."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def die(*_: object) -> None:
    """Kill this process as the system does when memory is full."""
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def terminated_when(begun: Callable[[], bool]) -> Iterator[None]:
    """Send SIGTERM to this process once `begun()` is true, unless the context has ended by then."""
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(0.02):
            if begun():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def fail(*_: object) -> None:
        raise AssertionError("SIGTERM came when nothing waited for it")

    sender, before = threading.Thread(target=send), signal.signal(signal.SIGTERM, fail)
    sender.start()
    try:
        yield
    finally:
        ended.set()
        sender.join()
        signal.signal(signal.SIGTERM, before)
