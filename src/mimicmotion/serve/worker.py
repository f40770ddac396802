"""Worker processes: one per device runs jobs, and others check uploads, which may be malicious."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimicmotion.errors import ConfigError, InputError, MediaError, MimicMotionError
from mimicmotion.generate.outputs import sidecar_path, state_path, write_sidecar
from mimicmotion.runtime.files import write_json
from mimicmotion.runtime.interrupt import Interrupts, Stopped
from mimicmotion.runtime.progress import Job, Progress, Stopwatch
from mimicmotion.runtime.run_folder import FolderLock, clear_leftovers
from mimicmotion.runtime.workers import end_with_parent
from mimicmotion.settings import GenerateConfig

if TYPE_CHECKING:
    from mimicmotion.pipeline import MimicMotionPipeline

logger = logging.getLogger(__name__)

Handler = Callable[[Any], Any]
RECORD, PROGRESS, LOCK = "job.json", "progress.json", "lock"
UNEXPECTED = {"got": "an unexpected error", "expected": "none", "fix": "ask the operator to check the log"}
MAX_FPS = 60
"""Maximum frame rate of a result of the maximum length; at higher rates, it must be shorter."""
POLL_SECONDS, PROGRESS_SECONDS, LOCK_SECONDS = 0.1, 0.25, 30


class DiedError(MimicMotionError):
    """A worker process was killed, or did not respond in time."""


class Worker:
    """A process that handles one request at a time. It starts on first use, and again if it has died.

    Args:
        make: returns the request handler; called in the process.
        arguments: picklable arguments of `make`.
        environment: additional environment variables of the process.
        memory: limit of the address space in bytes; None for no limit.
    """

    def __init__(
        self, make: Callable[..., Handler], *arguments: Any, environment: dict[str, str], memory: int | None = None
    ) -> None:
        self._task = (make, arguments, environment, memory)
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Any = None

    def ask(self, request: Any, timeout: float, stopping: Callable[[], float | None] = lambda: None) -> Any:
        """Send a request and wait for the response.

        Args:
            request: picklable argument of the handler.
            timeout: seconds until the process is killed.
            stopping: polled while waiting. If it returns a number, the process gets SIGTERM, and SIGKILL that many
                seconds later.

        Raises:
            DiedError: the process was killed, or did not respond in time.
            Stopped: `stopping` returned a number.
            MimicMotionError: the handler raised it.
        """
        end = time.monotonic() + timeout
        try:
            process = self._start()
            self._pipe.send(request)
            terminated = False
            while not self._pipe.poll(POLL_SECONDS):
                grace = stopping()
                if grace is not None and not terminated:
                    terminated, end = True, time.monotonic() + grace
                    process.terminate()  # it saves its state and responds
                if time.monotonic() > end:
                    self.kill()
                    if terminated:
                        raise Stopped
                    got = f"no response within {timeout:g} seconds"
                    raise DiedError(got, "a response", "use smaller inputs")
            response = self._pipe.recv()
        except (EOFError, OSError) as e:  # the process has died
            code = self.kill()
            if stopping() is not None:
                raise Stopped from e
            got = f"a worker process ended with exit code {code}"
            raise DiedError(got, "a process that keeps running", "check that there is enough memory") from e
        if isinstance(response, BaseException):
            raise response
        return response

    def kill(self) -> int | None:
        """Kill the process; returns its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        process.join()
        self._pipe.close()
        return process.exitcode

    def _start(self) -> multiprocessing.process.BaseProcess:
        if self._process is not None and self._process.is_alive():
            return self._process
        self.kill()
        context = multiprocessing.get_context("spawn")  # a forked child would inherit the locks of other threads
        self._pipe, theirs = context.Pipe()
        process = context.Process(target=_respond, args=(theirs, *self._task), daemon=True)
        process.start()
        theirs.close()
        self._process = process
        return process


class Workers:
    """A pool of workers, each used by one thread at a time."""

    def __init__(self, workers: list[Worker]) -> None:
        self.all = workers
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()  # the last one used has its model loaded
        for worker in workers:
            self._idle.put(worker)

    @contextlib.contextmanager
    def one(self) -> Iterator[Worker]:
        """Wait for an idle worker and reserve it for the block."""
        worker = self._idle.get()
        try:
            yield worker
        finally:
            self._idle.put(worker)


def _respond(
    pipe: Connection, make: Callable[..., Handler], arguments: Any, environment: dict[str, str], memory: int | None
) -> None:
    """Main function of the process: handle requests until the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent handles it
    end_with_parent()
    os.environ.update(environment)
    if memory is not None:
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    handle = make(*arguments)
    while True:
        try:
            request = pipe.recv()
        except EOFError:  # the parent has ended
            return
        try:
            response = handle(request)
        except KeyboardInterrupt:
            response = Stopped()
        except MimicMotionError as e:
            response = e
        except MemoryError:
            response = MimicMotionError("not enough memory", "a smaller job", "lower the size, or shorten the video")
        except Exception:
            logger.exception("unexpected error; this is a bug in mimicmotion")
            response = MimicMotionError(**UNEXPECTED)
        pipe.send(response)


# --- checking uploads -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checker:
    """Checks the files of a job before it is accepted.

    Attributes:
        max_seconds: maximum length of the result.
        max_result_pixels: maximum number of pixels per frame of the result.
    """

    max_seconds: float
    max_result_pixels: int

    def __call__(self, config: GenerateConfig) -> int:
        """Read the picture, open the driving video, and return the approximate number of frames of the result.

        Raises:
            InputError: a file is invalid, or the result would be too large.
        """
        from mimicmotion.generate.inputs import check_inputs, expected_frames, open_driving, resample_poses
        from mimicmotion.pose.keypoints import PoseSequence

        pixels = (config.height or 0) * (config.width or 0)
        if pixels > self.max_result_pixels:
            raise ConfigError(f"{pixels} pixels per frame", f"at most {self.max_result_pixels}", "lower the size")
        check_inputs(config)
        source = open_driving(config)
        if isinstance(source, PoseSequence):
            frames: int | None = len(resample_poses(source, config))
        else:
            frames = expected_frames(config, source)
        if frames is None:
            fix = "set 'duration', or convert the video to MP4"
            raise MediaError(f"{config.video} does not store its length", "a video that stores its length", fix)
        fps = config.output_fps or config.fps
        written = frames * fps / config.fps
        if written > self.max_seconds * min(fps, MAX_FPS):
            expected = f"at most {self.max_seconds:g} seconds with at most {MAX_FPS} frames each"
            fix = "set 'duration', or lower 'fps'"
            raise InputError(f"a result of {written:.0f} frames at {fps:g} per second", expected, fix)
        return frames


# --- running jobs -----------------------------------------------------------------------------------------------


class Generator:
    """Runs jobs one at a time on one device, keeping the model loaded."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._pipeline: MimicMotionPipeline | None = None
        self._pace: dict[str, dict[str, float]] = {}  # suffix of the output -> stage -> seconds per frame, last job

    def __call__(self, config: GenerateConfig) -> None:
        """Run a job in its folder, resuming from the state saved by an earlier process.

        Args:
            config: settings of the job; an output with the suffix .png is a plan.

        Raises:
            Stopped: SIGTERM was received; the state is kept.
            MimicMotionError: `generate` raised it.
        """
        folder, config = config.output.parent, dataclasses.replace(config, device=self.device)
        lock = _lock(folder)
        try:
            clear_leftovers(folder)
            if not sidecar_path(config.output).exists():  # written last
                frames = max(1, json.loads((folder / RECORD).read_bytes())["frames"])
                kind, resumed = config.output.suffix, state_path(config.output).exists()
                with Interrupts():
                    seconds = _run(self._job(config), folder, frames, self._pace.get(kind, {}))
                if not resumed:
                    self._pace[kind] = {stage: spent / frames for stage, spent in seconds.items() if stage != "load"}
        except InputError:
            raise
        except BaseException:  # weights may have been moved between devices only in part
            self._pipeline = None
            raise
        finally:
            lock.release()

    def _job(self, config: GenerateConfig) -> Job[Any]:
        from mimicmotion.generate.job import generate
        from mimicmotion.generate.plan import plan
        from mimicmotion.generate.setup import load_pipeline

        if self._pipeline is None:
            yield Progress("load", 0, 1)
            self._pipeline = load_pipeline(config)
        self._pipeline.backbone.forget_plan()  # the memory plan of a job must not depend on earlier jobs
        if config.output.suffix == ".png":
            found = yield from plan(config, self._pipeline)
            facts = {"plan": found.summary().replace(f"{config.output.parent}/", "").splitlines()}
            write_sidecar(sidecar_path(config.output), facts)
        else:
            resume = state_path(config.output).exists()
            yield from generate(dataclasses.replace(config, resume=resume), self._pipeline)


def _lock(folder: Path) -> FolderLock:
    """Lock the folder of a job. Waits, because the worker of a killed server may run for a moment longer."""
    for _ in range(LOCK_SECONDS * 10):
        with contextlib.suppress(ConfigError):
            return FolderLock(folder / LOCK)
        time.sleep(0.1)
    return FolderLock(folder / LOCK)


def _run(job: Job[Any], folder: Path, frames: int, pace: dict[str, float]) -> dict[str, float]:
    """Run a job to completion, and record its progress in its folder. Returns the seconds spent in each stage.

    Args:
        job: the job.
        folder: folder of the job.
        frames: number of frames of the result.
        pace: seconds per frame of each stage of an earlier job, in order.
    """
    stage, started, first, written, later = "", 0.0, 0, 0.0, 0.0
    watch, stages = Stopwatch(), list(pace)
    with contextlib.closing(watch.watch(job)) as reports:
        for report in reports:
            now = time.monotonic()
            if report.stage != stage:
                stage, started, first, written = report.stage, now, report.done, 0.0
                after = stages[stages.index(stage) + 1 :] if stage in pace else []
                later = frames * sum(pace[name] for name in after)
            if now - written < PROGRESS_SECONDS and report.done != report.total:
                continue
            written, new = now, report.done - first
            left = (report.total - report.done) * (now - started) / new + later if new and report.total else None
            eta = None if left is None else round(left, 1)
            facts = {"stage": stage, "done": report.done, "total": report.total, "eta": eta}
            write_json(folder / PROGRESS, facts)
    return watch.seconds
