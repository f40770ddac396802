"""The steps of a preparation that run on one video each, in worker processes that may crash."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from mimicmotion.data.prepare.analysis import AnalysisCache, Survey, measure_video, survey
from mimicmotion.data.prepare.plan import WORK
from mimicmotion.errors import ConfigError, MediaError, MimicMotionError, OutputError, WeightsError
from mimicmotion.pose.estimators.open import find_estimator
from mimicmotion.runtime.files import writing
from mimicmotion.runtime.workers import run_parallel
from mimicmotion.settings.prepare import PrepareConfig

logger = logging.getLogger(__name__)

_MARK = "at-work-{}"


@dataclass(frozen=True, slots=True)
class SourceVideo:
    """A file, by its path within the folder of videos, and its checksum."""

    source: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a step for one file; `problem` is empty on success."""

    source: str
    problem: str


VideoStep = Callable[[PrepareConfig, SourceVideo], Generator[int, None, None]]
"""Processes one file, and yields units of work done."""


def survey_step(config: PrepareConfig, file: SourceVideo) -> Generator[int, None, None]:
    """Survey a video and store the result: one unit of work."""
    found = yield from survey(config.videos / file.source, config)
    AnalysisCache(config.output / WORK, config).save_survey(file.sha256, found)
    yield 1


def measure_step(config: PrepareConfig, file: SourceVideo) -> Generator[int, None, None]:
    """Measure a video's scenes and store the result: one unit of work per frame."""
    seen = known_survey(config, file)
    found = yield from measure_video(config.videos / file.source, seen, config, find_estimator(config))
    AnalysisCache(config.output / WORK, config).save_scenes(file.sha256, found)


def known_survey(config: PrepareConfig, file: SourceVideo) -> Survey:
    """The survey of a video, stored by `survey_step`.

    Raises:
        MediaError: it is missing.
    """
    found = AnalysisCache(config.output / WORK, config).load_survey(file.sha256)
    if found is None:
        raise MediaError(f"the survey of {file.source} is missing", f"an unchanged {WORK} folder", "run prepare again")
    return found


def run_steps(
    step: VideoStep, config: PrepareConfig, todo: Sequence[SourceVideo], processes: int
) -> Generator[int | Outcome, None, None]:
    """Run a step on every file. A file that crashes its process (a fault in a decoder) is identified and reported."""
    folder = config.output / WORK
    for mark in folder.glob(_MARK.format("*")):  # left by an earlier run
        mark.unlink()
    work = functools.partial(_guarded, step, config)
    answered: set[str] = set()
    try:
        with contextlib.closing(run_parallel(work, todo, processes)) as reports:
            for report in reports:
                if isinstance(report, Outcome):
                    answered.add(report.source)
                yield report
    except MimicMotionError as e:
        if not isinstance(e.__cause__, BrokenProcessPool):
            raise
    else:
        return
    rest = [f for f in todo if f.source not in answered]
    suspects = [f for f in rest if (folder / _MARK.format(f.sha256)).exists()]
    if not suspects:
        raise MimicMotionError(
            "worker processes crash at startup", "processes that start", "see why with --processes 1"
        )
    logger.warning("a worker process crashed; trying its files one by one")
    for file in suspects:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            try:
                yield pool.submit(_alone, step, config, file).result()
            except BrokenProcessPool:
                problem = "reading it crashes the process (damaged, or too large for the memory)"
                yield Outcome(file.source, problem)
    if unharmed := [f for f in rest if f not in suspects]:
        yield from run_steps(step, config, unharmed, processes)


def _alone(step: VideoStep, config: PrepareConfig, file: SourceVideo) -> Outcome:
    counts = _guarded(step, config, file)
    while True:
        try:
            next(counts)
        except StopIteration as stop:
            return stop.value


def _guarded(step: VideoStep, config: PrepareConfig, file: SourceVideo) -> Generator[int, None, Outcome]:
    """Report problems of a single video, but raise those that affect all."""
    mark = config.output / WORK / _MARK.format(file.sha256)
    with writing(mark):
        mark.touch()
    try:
        yield from step(config, file)
    except (ConfigError, WeightsError, OutputError):
        raise
    except MediaError as e:
        return Outcome(file.source, e.got.replace(str(config.videos / file.source), "it"))
    except Exception as e:
        # a damaged file must not stop the work on all others, whatever a decoder raises
        logger.warning("%s is skipped", file.source, exc_info=True)
        return Outcome(file.source, f"{type(e).__name__}: {e}")
    finally:
        mark.unlink(missing_ok=True)
    return Outcome(file.source, "")
