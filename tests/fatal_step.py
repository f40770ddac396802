"""A step of a preparation that brings its process down, as a fault in a decoder does."""

from __future__ import annotations

import os
from collections.abc import Generator

from mimicmotion.data.prepare.steps import Outcome, Source, guarded
from mimicmotion.settings.prepare import PrepareConfig


def dies_on_b(config: PrepareConfig, task: Source) -> Generator[int, None, Outcome]:
    """Well for all files but b.mp4."""

    def work() -> Generator[int, None, None]:
        yield 1
        if task.source == "b.mp4":
            os._exit(11)

    return (yield from guarded(config, task, work()))
