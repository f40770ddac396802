"""The steps of a preparation that run on one video each, in processes that may die of it."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from mimicmotion.data.prepare.analysis import Notebook, measure_video, survey
from mimicmotion.data.prepare.plan import WORK
from mimicmotion.errors import ConfigError, MediaError, MimicMotionError, OutputError, WeightsError
from mimicmotion.pose.estimators.open import find_estimator
from mimicmotion.runtime.files import writing
from mimicmotion.runtime.workers import run_parallel
from mimicmotion.settings.prepare import PrepareConfig

logger = logging.getLogger(__name__)

_MARK = "at-work-{}"


@dataclass(frozen=True, slots=True)
class Source:
    """A file: its path within the folder of videos, and its checksum."""

    source: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step says of one file; `problem` is empty if all went well."""

    source: str
    problem: str


Step = Callable[[PrepareConfig, Source], Generator[int, None, Outcome]]


def run_steps(step: Step, config: PrepareConfig, todo: Sequence[Source], processes: int) -> Iterator[int | Outcome]:
    """Run a step on every file. One that brings its process down (a fault in a decoder) is found and named."""
    work = config.output / WORK
    for mark in work.glob(_MARK.format("*")):  # of an earlier run
        mark.unlink()
    answered: set[str] = set()
    try:
        with contextlib.closing(run_parallel(functools.partial(step, config), todo, processes)) as reports:
            for report in reports:
                if isinstance(report, Outcome):
                    answered.add(report.source)
                yield report
    except MimicMotionError as e:
        if not isinstance(e.__cause__, BrokenProcessPool):
            raise
    else:
        return
    rest = [s for s in todo if s.source not in answered]
    suspects = [s for s in rest if (work / _MARK.format(s.sha256)).exists()]
    if not suspects:
        raise MimicMotionError(
            "worker processes die before they begin", "processes that can work", "use --processes 1 to see the reason"
        )
    logger.warning("a worker process died; trying its files one by one")
    for s in suspects:
        yield _alone(functools.partial(step, config), s)
    if unharmed := [s for s in rest if s not in suspects]:
        yield from run_steps(step, config, unharmed, processes)


def note_failure(outcome: Outcome, failures: dict[str, str]) -> None:
    """Keep what went wrong with a file."""
    if outcome.problem:
        failures[outcome.source] = outcome.problem


def survey_one(config: PrepareConfig, task: Source) -> Generator[int, None, Outcome]:
    """Walk through a video and keep its survey."""

    def work() -> Generator[int, None, None]:
        found = yield from survey(config.videos / task.source, config)
        Notebook(config.output / WORK, config).save_survey(task.sha256, found)

    return (yield from guarded(config, task, work()))


def measure_one(config: PrepareConfig, task: Source) -> Generator[int, None, Outcome]:
    """Find and keep the poses and measures of a video's scenes."""

    def work() -> Generator[int, None, None]:
        notebook = Notebook(config.output / WORK, config)
        seen = notebook.load_survey(task.sha256)
        if seen is None:
            raise MediaError("its survey is gone", "an unchanged .work folder", "run prepare again")
        found = yield from measure_video(config.videos / task.source, seen, config, find_estimator(config))
        notebook.save_scenes(task.sha256, found)

    return (yield from guarded(config, task, work()))


def guarded(config: PrepareConfig, task: Source, work: Generator[int, None, None]) -> Generator[int, None, Outcome]:
    """Run `work`; what is wrong with one video is said of it, what would be wrong with all is raised."""
    mark = config.output / WORK / _MARK.format(task.sha256)
    with writing(mark):
        mark.touch()
    try:
        yield from work
    except (ConfigError, WeightsError, OutputError):
        raise
    except MediaError as e:
        return Outcome(task.source, e.got.replace(str(config.videos / task.source), "it"))
    except Exception as e:
        # whatever a decoder makes of a damaged file must not end the work on all others
        logger.warning("%s is passed over", task.source, exc_info=True)
        return Outcome(task.source, f"{type(e).__name__}: {e}")
    finally:
        mark.unlink(missing_ok=True)
    return Outcome(task.source, "")


def _alone(work: Callable[[Source], Generator[int, None, Outcome]], task: Source) -> Outcome:
    """Run a step on one file in a process of its own, which may die."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_to_end, work, task).result()
        except BrokenProcessPool:
            return Outcome(task.source, "reading it brings the process down (damaged, or too large for the memory)")


def _to_end(work: Callable[[Source], Generator[int, None, Outcome]], task: Source) -> Outcome:
    steps = work(task)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value
