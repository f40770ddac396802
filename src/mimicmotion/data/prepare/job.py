"""Prepare training shards from a folder of videos: resumable, in several processes, reproducible to the byte."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import multiprocessing
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimicmotion.data.prepare.analysis import AnalysisCache, Survey, measure_video, survey
from mimicmotion.data.prepare.duplicates import near_duplicates
from mimicmotion.data.prepare.filters import usable_scenes
from mimicmotion.data.prepare.plan import WORK, VideoReport, find_videos, judge_video, make_records, plan_set
from mimicmotion.data.prepare.report import JSON, PAGE, count, save_page, save_report
from mimicmotion.data.shards.index import INDEX, shard_files
from mimicmotion.data.shards.writing import ShardSettings, write_shards
from mimicmotion.errors import ConfigError, InputError, MediaError, MimicMotionError, OutputError, WeightsError
from mimicmotion.pose.estimators.open import find_estimator
from mimicmotion.runtime.files import check_writable, sha256_file, write_json, writing
from mimicmotion.runtime.progress import Job, Progress, Stopwatch
from mimicmotion.runtime.threads import cores
from mimicmotion.runtime.workers import run_parallel
from mimicmotion.settings.prepare import PrepareConfig, result_settings
from mimicmotion.video.reader import READ_SUFFIXES

logger = logging.getLogger(__name__)

_MARK = "at-work-{}"
_FILES, _SETTINGS, _DONE = "files.json", "settings.json", "done.json"


@dataclass(frozen=True, slots=True)
class SourceVideo:
    """A file: its path within the folder of videos, and its checksum."""

    source: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a step for one file; `problem` is empty on success."""

    source: str
    problem: str


VideoStep = Callable[[PrepareConfig, SourceVideo], Generator[int, None, None]]
"""A function that processes one file, and yields the number of units of work done since the last yield."""


@dataclass(frozen=True, slots=True)
class PrepareResult:
    """Result of `prepare`.

    Attributes:
        output: folder of the shards.
        totals: content of report.json under "summary".
        shards: number of tar files.
        unused: a line of text for each video that is unreadable, a duplicate, or without suitable scenes.
        fresh: False if everything already existed.
        seconds: seconds per stage.
    """

    output: Path
    totals: dict[str, Any]
    shards: int
    unused: list[str]
    fresh: bool
    seconds: dict[str, float]

    def summary(self) -> str:
        """Return a summary to show to the user."""
        t = self.totals
        lines = [] if self.fresh else ["nothing new: the shards are complete and up to date"]
        for name, label in (("train", "training"), ("val", "validation")):
            s = t["splits"][name]
            lines.append(
                f"{label}: {s['scenes']} scenes of {s['videos']} videos, {s['frames']} frames, {s['seconds']:.0f} s"
            )
        if not t["splits"]["val"]["scenes"]:
            lines.append("no video was chosen for validation: raise --validation, or try another --seed")
        if t["left_out"]:
            why = ", ".join(f"{name} {number}" for name, number in t["left_out"].items())
            lines.append(f"{t['scenes'] - t['used']} of {t['scenes']} scenes left out ({why})")
        if t["damaged"]:
            lines.append(f"{t['damaged']} videos are damaged or truncated; what could be decoded was used")
        lines += [f"not used: {u}" for u in self.unused[:20]]
        if len(self.unused) > 20:
            lines.append(f"and {len(self.unused) - 20} more files, see {JSON}")
        if self.fresh:
            lines.append("seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in self.seconds.items()))
        return "\n".join([*lines, f"shards: {self.output} ({self.shards})", f"report: {self.output / PAGE}"])


def prepare(config: PrepareConfig) -> Job[PrepareResult]:
    """Make training shards and a report from a folder of videos.

    Raises:
        InputError: a setting is invalid, there is no video, or no scene passes the filters.
        OutputError: the output cannot be written.
    """
    watch = Stopwatch()
    result = yield from watch.watch(_Preparation(config).run())
    return dataclasses.replace(result, seconds=watch.seconds)


class _Preparation:
    def __init__(self, config: PrepareConfig) -> None:
        self.config = config
        self.work = config.output / WORK
        self.processes = config.processes or cores()
        self.cache = AnalysisCache(self.work, self.config)

    def run(self) -> Job[PrepareResult]:
        config = self.config
        names = find_videos(config.videos, config.output)
        check_writable(config.output / INDEX)
        settings = result_settings(config)
        _check_settings(config, settings, self.work)
        files = yield from self._identify(names)
        facts = [settings, [dataclasses.astuple(f) for f in files]]
        stamp = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        if (finished := self._finished(stamp)) is not None:
            return finished
        (self.work / _DONE).unlink(missing_ok=True)
        write_json(self.work / _SETTINGS, settings)
        find_estimator(config)  # fails early if anything is missing
        reports = yield from self._analyse(files)
        shared = ShardSettings(size=config.size, store=config.store, settings=settings)
        return (yield from self._write(reports, shared, stamp))

    def _identify(self, names: Sequence[str]) -> Job[list[SourceVideo]]:
        """Compute the checksums of all files, reusing those of unchanged ones."""
        known = _load_json(self.work / _FILES) or {}
        facts: dict[str, list[Any]] = {}
        for i, name in enumerate(names):
            path = self.config.videos / name
            state = [path.stat().st_size, path.stat().st_mtime_ns]
            old = known.get(name)
            facts[name] = old if old is not None and old[:2] == state else [*state, sha256_file(path)]
            yield Progress("files", i + 1, len(names))
        if facts != known:
            write_json(self.work / _FILES, facts)
        return [SourceVideo(name, facts[name][2]) for name in names]

    def _finished(self, stamp: str) -> PrepareResult | None:
        """Return the result of an earlier run on the same files with the same settings, if it is still complete."""
        done = _load_json(self.work / _DONE)
        complete = all((self.config.output / name).is_file() for name in (INDEX, JSON, PAGE))
        if done is None or done.get("stamp") != stamp or done["shards"] != self._shard_sizes() or not complete:
            return None
        return PrepareResult(self.config.output, done["totals"], len(done["shards"]), done["unused"], False, {})

    def _shard_sizes(self) -> dict[str, int]:
        return {p.name: p.stat().st_size for p in shard_files(self.config.output)}

    def _analyse(self, files: Sequence[SourceVideo]) -> Job[list[VideoReport]]:
        """Survey all files, exclude duplicates, measure the rest, and judge every scene."""
        config = self.config
        reports: dict[str, VideoReport] = {}
        surveys: dict[str, Survey] = {}

        def exclude(file: SourceVideo, status: str, reason: str) -> None:
            known = surveys.get(file.source)
            reports[file.source] = VideoReport(file.source, file.sha256, status, reason, known)

        def remaining() -> list[SourceVideo]:
            return [f for f in files if f.source not in reports]

        first: dict[str, str] = {}
        for f in files:
            if f.source.encode("utf-8", "replace").decode() != f.source:
                exclude(f, "unreadable", "its name is not UTF-8; rename it")  # shards store names as UTF-8
            elif (same := first.setdefault(f.sha256, f.source)) != f.source:
                exclude(f, "duplicate", f"the same file as {same}")
        todo = [f for f in remaining() if self.cache.load_survey(f.sha256) is None]
        failures = yield from self._run(survey_step, todo, "scenes", {f.source: 1 for f in remaining()})
        for f in remaining():
            if f.source in failures:
                named = Path(f.source).suffix.lower() in READ_SUFFIXES
                exclude(f, "unreadable" if named else "no video", failures[f.source])
        surveys |= {f.source: known_survey(config, f) for f in remaining()}
        unique = remaining()
        prints = [(s.num_frames / s.fps, s.hashes) for s in (surveys[f.source] for f in unique)]
        for i, (k, distance) in near_duplicates(prints, config.near_duplicates).items():
            reason = f"looks like {unique[k].source}: {distance:.1%} of the picture hash differs"
            exclude(unique[i], "near-duplicate", reason)
        frames = {}
        for f in remaining():
            scenes = surveys[f.source].scenes
            frames[f.source] = sum(len(scenes[i]) for i in usable_scenes(surveys[f.source], config))
        # longest first, so that no long video runs alone at the end
        todo = sorted(remaining(), key=lambda f: -frames[f.source])
        todo = [f for f in todo if frames[f.source] and self.cache.load_scenes(f.sha256) is None]
        failures = yield from self._run(measure_step, todo, "poses", frames)
        for f in remaining():
            if f.source in failures:
                del surveys[f.source]
                exclude(f, "unreadable", failures[f.source])
            else:
                reports[f.source] = judge_video(f.source, f.sha256, surveys[f.source], self.cache, config)
            yield Progress("judge", len(reports), len(files))
        return [reports[f.source] for f in files]

    def _run(
        self, step: VideoStep, todo: Sequence[SourceVideo], stage: str, units: Mapping[str, int]
    ) -> Job[dict[str, str]]:
        """Run a step on the files that need it, and return problems by file; `units` is the work of each file."""
        failures: dict[str, str] = {}
        total = sum(units.values())
        done = total - sum(units[f.source] for f in todo)
        yield Progress(stage, done, total)
        for report in run_steps(step, self.config, todo, self.processes):
            if isinstance(report, int):
                done += report
            elif report.problem:
                failures[report.source] = report.problem
            yield Progress(stage, min(done, total), total)
        yield Progress(stage, total, total)
        return failures

    def _write(self, reports: list[VideoReport], shared: ShardSettings, stamp: str) -> Job[PrepareResult]:
        config = self.config
        yield Progress("report", 0, 1)
        save_report(config.output, reports, config)
        save_page(config.output, reports, self.cache, config)
        yield Progress("report", 1, 1)
        plan = plan_set(reports, config)
        unused = [f"{r.source}: {r.status}, {r.reason}" for r in reports if r.status not in ("used", "no video")]
        unused = [u.encode("utf-8", "replace").decode() for u in unused]
        if not plan:
            lines = "; ".join(unused[:5])
            raise InputError(
                f"no scene in {len(reports)} files passes the filters ({lines})",
                "at least one scene",
                f"see {config.output / PAGE} and change the thresholds",
            )
        for path in shard_files(config.output):  # left by an earlier, larger set of videos
            if path.name not in {p.name for p in plan}:
                logger.info("deleting %s, which is no longer part of the set", path)
                with writing(path):
                    path.unlink()
        make = functools.partial(make_records, config)
        written = yield from write_shards(config.output, plan, make, shared, processes=self.processes)
        totals, sizes = count(reports, config), self._shard_sizes()
        write_json(self.work / _DONE, {"stamp": stamp, "shards": sizes, "totals": totals, "unused": unused})
        return PrepareResult(config.output, totals, written.shards, unused, True, {})


def _check_settings(config: PrepareConfig, settings: dict[str, Any], work: Path) -> None:
    """Raise an error if existing shards were made with different settings; with `overwrite`, delete them instead."""
    old = _load_json(work / _SETTINGS)
    shards = shard_files(config.output)
    if not shards or old == settings:
        return
    if config.overwrite:
        for path in [config.output / INDEX, work / _DONE, *shards]:
            with writing(path):
                path.unlink(missing_ok=True)
        return
    if old is None:
        got = f"{config.output} contains shards that this command did not make, or its {WORK} folder is missing"
        raise ConfigError(got, "a new folder", "choose another folder, or use --overwrite to replace them")
    changed = [f"{k} was {old.get(k)!r}, is {v!r}" for k, v in settings.items() if old.get(k) != v]
    raise ConfigError(
        f"{config.output} was made with other settings: {'; '.join(changed)}",
        "the same settings, or a new folder",
        "choose another folder, or use --overwrite to replace the shards (measurements are reused)",
    )


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def survey_step(config: PrepareConfig, file: SourceVideo) -> Generator[int, None, None]:
    """Survey a video and store the result; the whole video is one unit of work."""
    found = yield from survey(config.videos / file.source, config)
    AnalysisCache(config.output / WORK, config).save_survey(file.sha256, found)
    yield 1


def measure_step(config: PrepareConfig, file: SourceVideo) -> Generator[int, None, None]:
    """Measure a video's scenes and store the result; each frame is one unit of work."""
    path, known = config.videos / file.source, known_survey(config, file)
    estimator = find_estimator(config, threads=1)  # the processes use all cores
    found = yield from measure_video(path, known, usable_scenes(known, config), config, estimator)
    AnalysisCache(config.output / WORK, config).save_scenes(file.sha256, found)


def known_survey(config: PrepareConfig, file: SourceVideo) -> Survey:
    """Load the survey of a video that `survey_step` stored.

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
    """Run a step on every file; if a decoder crashes the process, identify the file and report it."""
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
    unfinished = [f for f in todo if f.source not in answered]
    suspects = [f for f in unfinished if (folder / _MARK.format(f.sha256)).exists()]
    if not suspects:
        raise MimicMotionError(
            "worker processes crash at startup", "processes that start", "run with --processes 1 to see why"
        )
    logger.warning("a worker process crashed; trying its files one by one")
    for file in suspects:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            try:
                yield pool.submit(_alone, step, config, file).result()
            except BrokenProcessPool:
                problem = "reading it crashes the process (damaged, or too large for the memory)"
                yield Outcome(file.source, problem)
    if others := [f for f in unfinished if f not in suspects]:
        yield from run_steps(step, config, others, processes)


def _alone(step: VideoStep, config: PrepareConfig, file: SourceVideo) -> Outcome:
    counts = _guarded(step, config, file)
    while True:
        try:
            next(counts)
        except StopIteration as stop:
            return stop.value


def _guarded(step: VideoStep, config: PrepareConfig, file: SourceVideo) -> Generator[int, None, Outcome]:
    """Run a step on one file; return problems with this file, but raise those that affect all files."""
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
        # whatever a decoder raises for a damaged file must not stop the work on the others
        logger.warning("%s is skipped", file.source, exc_info=True)
        return Outcome(file.source, f"{type(e).__name__}: {e}")
    finally:
        mark.unlink(missing_ok=True)
    return Outcome(file.source, "")
