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
    """One report of a running job.

    Attributes:
        stage: current stage: poses, load, encode, denoise, write, train.
        done: number of finished units (frames or steps).
        total: total number of units; None if unknown.
        note: text to show beside the progress, such as a loss.
    """

    stage: str
    done: int
    total: int | None = None
    note: str = ""


Job = Generator[Progress, None, T]


def finish(job: Job[T], on_progress: Callable[[Progress], object] | None = None) -> T:
    """Run a job to its end and return its result.

    Args:
        job: the job.
        on_progress: sees every report. What it raises ends the job, which keeps what it keeps when interrupted; to
            cancel, from whatever thread asked for it, raise `mimicmotion.Stopped`.

    Raises:
        InputError: a library had no memory (says in which stage), or a path is no good. And whatever the job raises.
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
            if (known := system_error(e, stage)) is None:
                raise
            raise known from e


@dataclass
class Stopwatch:
    """Seconds spent per stage, from the reports that pass through `watch`."""

    seconds: dict[str, float] = field(default_factory=dict)

    def watch(self, job: Job[T]) -> Job[T]:
        """Pass a job's reports on and add up the time until each."""
        last = time.perf_counter()
        stage = "start"
        with contextlib.closing(job):  # it keeps its state before the caller goes on
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
