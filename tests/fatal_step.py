"""A preparation step that crashes its process, like a fault in a decoder."""

from __future__ import annotations

import os
from collections.abc import Generator

from mimicmotion.data.prepare.job import SourceVideo
from mimicmotion.settings.prepare import PrepareConfig


def dies_on_b(config: PrepareConfig, file: SourceVideo) -> Generator[int, None, None]:
    """Works for all files but b.mp4."""
    yield 1
    if file.source == "b.mp4":
        os._exit(11)
