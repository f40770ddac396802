"""What a process runs to die at once: a module without imports that take time."""

from __future__ import annotations

import os
import signal


def die(*_: object) -> None:
    """End this process as the system does when memory is full."""
    os.kill(os.getpid(), signal.SIGKILL)
