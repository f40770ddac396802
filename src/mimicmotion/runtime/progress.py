"""Progress of long jobs, which are generators that yield `Progress` and return their result."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TypeVar

from mimicmotion.errors import system_error

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """A progress report of a running job.

    Attributes:
        stage: name of the current stage, such as poses, denoise or train.
        done: number of finished units, such as frames or steps.
        total: total number of units; None if unknown.
        note: text to show next to the progress, such as a loss.
    """

    stage: str
    done: int
    total: int | None = None
    note: str = ""


Job = Generator[Progress, None, T]


def finish(job: Job[T], on_progress: Callable[[Progress], object] | None = None) -> T:
    """Run a job to completion and return its result.

    Args:
        job: the job.
        on_progress: called with every report. An exception that it raises is thrown into the job; raise
            `mimicmotion.Stopped` to cancel the job.

    Raises:
        InputError: a library ran out of memory (the message names the stage), or a path is unusable. All other errors
            of the job are passed on.
    """
    stage = "the first stage"
    while True:
        try:
            report = next(job)
            stage = f"stage {report.stage}"
            try:
                if on_progress is not None:
                    on_progress(report)
            except BaseException as e:
                job.throw(e)
        except StopIteration as stop:
            return stop.value
        except Exception as e:
            if (converted := system_error(e, stage)) is None:
                raise
            raise converted from e


@dataclass
class Stopwatch:
    """Seconds spent per stage, measured by `watch`."""

    seconds: dict[str, float] = field(default_factory=dict)

    def watch(self, job: Job[T]) -> Job[T]:
        """Run a job, forwarding its reports and its result, and add up the time of each stage."""
        last = time.perf_counter()
        stage = "start"
        with contextlib.closing(job):  # a stopped job saves its state before the caller continues
            while True:
                try:
                    report = next(job)
                except StopIteration as stop:
                    self._add(stage, last)
                    return stop.value
                stage = report.stage
                last = self._add(stage, last)
                yield report
                last = time.perf_counter()

    def _add(self, stage: str, since: float) -> float:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - since
        return now
