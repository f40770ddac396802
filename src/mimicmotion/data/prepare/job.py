"""From a folder of videos to shards for training: resumable, in several processes, the same bytes every time."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimicmotion.data.prepare.analysis import Notebook, Survey, usable_scenes
from mimicmotion.data.prepare.duplicates import near_duplicates
from mimicmotion.data.prepare.plan import (
    WORK,
    VideoReport,
    find_videos,
    judge_video,
    looks_like_video,
    make_records,
    plan_set,
    shard_settings,
)
from mimicmotion.data.prepare.report import JSON, PAGE, count, save_report
from mimicmotion.data.prepare.steps import Outcome, Source, Step, measure_one, note_failure, run_steps, survey_one
from mimicmotion.data.shards.writing import write_shards
from mimicmotion.errors import ConfigError, InputError, MediaError
from mimicmotion.pose.estimators.open import find_estimator
from mimicmotion.runtime.files import atomic_path, check_writable, sha256_file, writing
from mimicmotion.runtime.progress import Job, Progress, Stopwatch
from mimicmotion.runtime.threads import cores
from mimicmotion.settings.prepare import PrepareConfig, result_settings

logger = logging.getLogger(__name__)

_FILES, _SETTINGS, _DONE = "files.json", "settings.json", "done.json"
_INDEX = "index.json"


@dataclass(frozen=True, slots=True)
class PrepareResult:
    """What a preparation made.

    Attributes:
        output: the folder of the shards.
        totals: as in report.json under "summary".
        shards: tar files.
        unused: files that could not be read or are duplicates, one sentence each.
        fresh: False if everything was there already.
        seconds: per stage.
    """

    output: Path
    totals: dict[str, Any]
    shards: int
    unused: list[str]
    fresh: bool
    seconds: dict[str, float]

    def summary(self) -> str:
        """A few lines for a person to read."""
        t = self.totals
        lines = [] if self.fresh else ["nothing new: the shards are complete and up to date"]
        for name, label in (("train", "training"), ("val", "validation")):
            s = t["splits"][name]
            lines.append(
                f"{label}: {s['scenes']} scenes of {s['videos']} videos, {s['frames']} frames, {s['seconds']:.0f} s"
            )
        if not t["splits"]["val"]["scenes"]:
            lines.append("no video was drawn for validation: raise --validation, or try another --seed")
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
    """Make shards of a folder of videos.

    Raises:
        InputError: a setting is wrong, there is no video, or no scene passes the filters.
        OutputError: the output cannot be written.
    """
    watch = Stopwatch()
    result = yield from watch.watch(_Preparation(config).run())
    return dataclasses.replace(result, seconds=watch.seconds)


class _Preparation:
    def __init__(self, config: PrepareConfig) -> None:
        # sums depend on the number of threads; the processes are what uses all cores
        self.config = dataclasses.replace(config, pose_threads=config.pose_threads or 1)
        self.work = config.output / WORK
        self.processes = config.processes or cores()
        self.notebook = Notebook(self.work, self.config)
        self.latents_model: str | None = None

    def run(self) -> Job[PrepareResult]:
        config = self.config
        names = find_videos(config.videos, config.output)
        check_writable(config.output / _INDEX)
        settings = json.loads(json.dumps(result_settings(config), default=str))
        _check_settings(config, settings, self.work)
        sources = yield from self._identify(names)
        stamp = hashlib.sha256(
            json.dumps([settings, [dataclasses.astuple(s) for s in sources]], sort_keys=True).encode()
        ).hexdigest()
        if (finished := self._finished(stamp)) is not None:
            return finished
        (self.work / _DONE).unlink(missing_ok=True)
        _save_json(self.work / _SETTINGS, settings)
        self._open_models()
        reports = yield from self._look(sources)
        return (yield from self._write(reports, settings, stamp))

    def _identify(self, names: Sequence[str]) -> Job[list[Source]]:
        """Checksums of all files; those of files that did not change are known."""
        known = _load_json(self.work / _FILES) or {}
        facts: dict[str, list[Any]] = {}
        for i, name in enumerate(names):
            status = (self.config.videos / name).stat()
            old = known.get(name)
            same = old is not None and old[:2] == [status.st_size, status.st_mtime_ns]
            checksum = old[2] if same else sha256_file(self.config.videos / name)
            facts[name] = [status.st_size, status.st_mtime_ns, checksum]
            yield Progress("files", i + 1, len(names))
        if facts != known:
            _save_json(self.work / _FILES, facts)
        return [Source(name, facts[name][2]) for name in names]

    def _finished(self, stamp: str) -> PrepareResult | None:
        """The result of an earlier run from the same files with the same settings, if all of it is still there."""
        done = _load_json(self.work / _DONE)
        if done is None or done.get("stamp") != stamp:
            return None
        sizes = {p.name: p.stat().st_size for p in self.config.output.glob("*.tar")}
        there = all((self.config.output / name).is_file() for name in (_INDEX, JSON, PAGE))
        if sizes != done["shards"] or not there:
            return None
        return PrepareResult(self.config.output, done["totals"], len(sizes), done["unused"], False, {})

    def _open_models(self) -> None:
        """Find every network before long work."""
        find_estimator(self.config)
        if self.config.latents:
            from mimicmotion.data.shards.encode import SceneEncoder

            encoder = SceneEncoder.open(self.config.latents, self.config.latents_device)
            self.latents_model = encoder.digest

    def _look(self, sources: Sequence[Source]) -> Job[list[VideoReport]]:
        """Survey all files, set duplicates aside, measure the rest, and judge every scene."""
        first: dict[str, str] = {}
        aside: dict[str, VideoReport] = {}
        for s in sources:
            if not _is_utf8(s.source):  # it could not be written into a shard
                aside[s.source] = VideoReport(s.source, s.sha256, "unreadable", "its name is not UTF-8; rename it")
            elif s.sha256 in first:
                aside[s.source] = VideoReport(s.source, s.sha256, "duplicate", f"the same file as {first[s.sha256]}")
            else:
                first[s.sha256] = s.source
        rest = [s for s in sources if s.source not in aside]
        failures = yield from self._survey(rest)
        for s in rest:
            if s.source in failures:
                status = "unreadable" if looks_like_video(s.source) else "no video"
                aside[s.source] = VideoReport(s.source, s.sha256, status, failures[s.source])
        rest = [s for s in rest if s.source not in aside]
        surveys = {s.source: self._known(s) for s in rest}
        prints = [surveys[s.source].fingerprint for s in rest]
        for i, (k, apart) in near_duplicates(prints, self.config.near_duplicates).items():
            s, other = rest[i], rest[k].source
            reason = f"looks like {other}: {apart:.1%} of the picture hash differs"
            aside[s.source] = VideoReport(s.source, s.sha256, "near-duplicate", reason, surveys[s.source])
        rest = [s for s in rest if s.source not in aside]
        failures = yield from self._measure(rest, surveys)
        for i, s in enumerate(rest):
            if s.source in failures:
                aside[s.source] = VideoReport(s.source, s.sha256, "unreadable", failures[s.source])
            else:
                found = judge_video(s.source, s.sha256, surveys[s.source], self.notebook, self.config)
                aside[s.source] = found
            yield Progress("judge", i + 1, len(rest))
        return [aside[s.source] for s in sources]

    def _known(self, source: Source) -> Survey:
        found = self.notebook.load_survey(source.sha256)
        if found is None:
            raise MediaError(f"the notes on {source.source} are gone", "an unchanged .work folder", "run prepare again")
        return found

    def _survey(self, sources: Sequence[Source]) -> Job[dict[str, str]]:
        todo = [s for s in sources if self.notebook.load_survey(s.sha256) is None]
        failures: dict[str, str] = {}
        done = len(sources) - len(todo)
        yield Progress("scenes", done, len(sources))
        for report in self._steps(survey_one, todo):
            if isinstance(report, Outcome):
                done += 1
                note_failure(report, failures)
            yield Progress("scenes", done, len(sources))
        return failures

    def _measure(self, sources: Sequence[Source], surveys: dict[str, Survey]) -> Job[dict[str, str]]:
        frames = {
            s.source: sum(len(surveys[s.source].scenes[i]) for i in usable_scenes(surveys[s.source], self.config))
            for s in sources
        }
        todo = [s for s in sources if frames[s.source] and self.notebook.load_scenes(s.sha256) is None]
        failures: dict[str, str] = {}
        total = sum(frames.values())
        done = total - sum(frames[s.source] for s in todo)
        # the longest first: a long one that begins last would be waited for
        todo.sort(key=lambda s: -frames[s.source])
        yield Progress("poses", done, total)
        for report in self._steps(measure_one, todo):
            if isinstance(report, Outcome):
                note_failure(report, failures)
            else:
                done += report
                yield Progress("poses", min(done, total), total)
        yield Progress("poses", total, total)
        return failures

    def _steps(self, step: Step, todo: Sequence[Source]) -> Iterator[int | Outcome]:
        return run_steps(step, self.config, todo, self.processes)

    def _write(self, reports: list[VideoReport], settings: dict[str, Any], stamp: str) -> Job[PrepareResult]:
        config = self.config
        from mimicmotion.data.prepare.report_page import save_page

        yield Progress("report", 0, 1)
        save_report(config.output, reports, config, settings)
        save_page(config.output, reports, self.notebook, config)
        yield Progress("report", 1, 1)
        plan = plan_set(reports, config)
        unused = [f"{r.source}: {r.status}, {r.reason}" for r in reports if r.status not in ("used", "no video")]
        unused = [u.encode("utf-8", "replace").decode() for u in unused]
        if not plan:
            lines = "; ".join(unused[:5])
            raise InputError(
                f"no scene of {len(reports)} files passes the filters ({lines})",
                "at least one",
                f"look at {config.output / PAGE} and change the thresholds",
            )
        _remove_beyond(config.output, {p.name for p in plan})
        records = functools.partial(make_records, config.videos, self.work, config)
        shared = shard_settings(settings, config, self.latents_model)
        processes = 1 if self._on_gpu() else self.processes
        writer = write_shards(config.output, plan, records, shared, processes=processes)
        written = yield from _as_job(writer)
        totals = count(reports, config)
        sizes = {p.name: p.stat().st_size for p in config.output.glob("*.tar")}
        _save_json(self.work / _DONE, {"stamp": stamp, "shards": sizes, "totals": totals, "unused": unused})
        return PrepareResult(config.output, totals, written.shards, unused, True, {})

    def _on_gpu(self) -> bool:
        if not self.config.latents or self.config.latents_device == "cpu":
            return False
        import torch

        return self.config.latents_device != "auto" or torch.cuda.is_available()


def _as_job(writer: Any) -> Job[Any]:
    with contextlib.closing(writer):
        while True:
            try:
                report = next(writer)
            except StopIteration as stop:
                return stop.value
            yield Progress("shards", report.done, report.total)


def _check_settings(config: PrepareConfig, settings: dict[str, Any], work: Path) -> None:
    """Shards of other settings are never mixed; they go only if the user says so."""
    old = _load_json(work / _SETTINGS)
    shards = sorted(config.output.glob("*.tar"))
    if not shards or old == settings:
        return
    if config.overwrite:
        for path in [config.output / _INDEX, work / _DONE, *shards]:
            with writing(path):
                path.unlink(missing_ok=True)
        return
    if old is None:
        got = f"{config.output} holds shards that were not made by this command, or its {WORK} folder is gone"
        raise ConfigError(got, "a new folder", "choose another folder, or give --overwrite to replace them")
    changed = [f"{k} was {old.get(k)!r}, is {v!r}" for k, v in settings.items() if old.get(k) != v]
    raise ConfigError(
        f"{config.output} was made with other settings: {'; '.join(changed)}",
        "the same settings, or a new folder",
        "choose another folder, or give --overwrite to replace the shards (what was measured is used again)",
    )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _remove_beyond(folder: Path, names: set[str]) -> None:
    """Shards of an earlier, larger set of videos."""
    for path in sorted(folder.glob("*.tar")):
        if path.name not in names:
            logger.info("%s is no part of the set any more and is deleted", path)
            with writing(path):
                path.unlink()


def _save_json(path: Path, data: Any) -> None:
    with atomic_path(path) as part, writing(path):
        part.write_text(json.dumps(data, indent=1), encoding="utf-8")


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
