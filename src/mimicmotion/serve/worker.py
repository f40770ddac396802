"""Processes of their own for what is heavy or may go wrong: one for each device, and those that look at uploads."""

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
from mimicmotion.runtime.files import atomic_path
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
FRAME_RATE = 60
"""Frames of each second of a result that the limit of seconds allows."""
POLL, TELL_SECONDS, OWN_SECONDS = 0.1, 0.25, 30


class DiedError(MimicMotionError):
    """A worker process was killed or did not answer in time."""


class Worker:
    """A process that answers one request at a time; it is started when first needed, and again after it died.

    Args:
        make: gives what answers requests; called in the process.
        arguments: of `make`, picklable.
        environment: variables that the process gets in addition.
        memory: bytes of address space that it may have; None sets no limit.
    """

    def __init__(
        self, make: Callable[..., Handler], *arguments: Any, environment: dict[str, str], memory: int | None = None
    ) -> None:
        self._task = (make, arguments, environment, memory)
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Any = None

    def ask(self, request: Any, patience: float, give_up: Callable[[], float | None] = lambda: None) -> Any:
        """Send a request and wait for the answer.

        Args:
            request: what `make`'s result is called with; picklable.
            patience: seconds until the process is killed.
            give_up: looked at while waiting; seconds mean that the process gets SIGTERM, and so much later SIGKILL.

        Raises:
            DiedError: the process was killed.
            Stopped: `give_up` said so.
            MimicMotionError: that the process raised.
        """
        end = time.monotonic() + patience
        try:
            process = self._start()
            self._pipe.send(request)
            given_up = False
            while not self._pipe.poll(POLL):
                grace = give_up()
                if grace is not None and not given_up:
                    given_up, end = True, time.monotonic() + grace
                    process.terminate()  # it saves its state and answers
                if time.monotonic() > end:
                    self.kill()
                    if given_up:
                        raise Stopped
                    got = f"no answer within {patience:g} seconds"
                    raise DiedError(got, "an answer", "send something smaller")
            answer = self._pipe.recv()
        except (EOFError, OSError) as e:  # the process is gone
            code = self.kill()
            if give_up() is not None:
                raise Stopped from e
            raise DiedError(f"a worker process ended with {code}", "one that lives", "is the memory too small?") from e
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def kill(self) -> int | None:
        """End the process; gives its exit code."""
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
        context = multiprocessing.get_context("spawn")  # a fork would inherit the locks of other threads
        self._pipe, theirs = context.Pipe()
        process = context.Process(target=_answer, args=(theirs, *self._task), daemon=True)
        process.start()
        theirs.close()
        self._process = process
        return process


class Workers:
    """Several workers, each of which does one thing at a time."""

    def __init__(self, workers: list[Worker]) -> None:
        self.all = workers
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()  # the last one is warm
        for worker in workers:
            self._idle.put(worker)

    @contextlib.contextmanager
    def one(self) -> Iterator[Worker]:
        """The next worker that has nothing to do; waits for it."""
        worker = self._idle.get()
        try:
            yield worker
        finally:
            self._idle.put(worker)


def _answer(
    pipe: Connection, make: Callable[..., Handler], arguments: Any, environment: dict[str, str], memory: int | None
) -> None:
    """Answer requests until the parent is gone; in the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent says what is to be done
    end_with_parent()
    os.environ.update(environment)
    if memory is not None:
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    handle = make(*arguments)
    while True:
        try:
            request = pipe.recv()
        except EOFError:  # the parent is gone
            return
        try:
            answer = handle(request)
        except KeyboardInterrupt:
            answer = Stopped()
        except MimicMotionError as e:
            answer = e
        except MemoryError:
            answer = MimicMotionError("not enough memory", "a smaller job", "lower the size, or shorten the video")
        except Exception:
            logger.exception("an unexpected error; this is a bug of mimicmotion")
            answer = MimicMotionError("an unexpected error", "none", "ask who runs the service to look at its log")
        pipe.send(answer)


# --- looking at uploads -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checker:
    """Looks at the files of a job before it is accepted.

    Attributes:
        max_seconds: of a result.
        max_result_pixels: of a frame of it.
    """

    max_seconds: float
    max_result_pixels: int

    def __call__(self, config: GenerateConfig) -> int:
        """Read the picture and open the driving video; gives the number of frames of the result, about.

        Raises:
            InputError: something is wrong with them, or the result would be larger than allowed.
        """
        from mimicmotion.generate.inputs import check_inputs, expected_frames, open_driving, resample_poses
        from mimicmotion.pose.keypoints import PoseSequence

        pixels = (config.height or 0) * (config.width or 0)
        if pixels > self.max_result_pixels:
            raise ConfigError(f"{pixels} pixels", f"at most {self.max_result_pixels}", "lower 'height' and 'width'")
        check_inputs(config)
        source = open_driving(config)
        if isinstance(source, PoseSequence):
            frames: int | None = len(resample_poses(source, config))
        else:
            frames = expected_frames(config, source)
        if frames is None:
            fix = "set 'duration', or convert the video to MP4"
            raise MediaError(f"{config.video} does not say how long it is", "a video that does", fix)
        fps = config.output_fps or config.fps
        written = frames * fps / config.fps
        if written > self.max_seconds * min(fps, FRAME_RATE):
            expected = f"at most {self.max_seconds:g} seconds and {FRAME_RATE} frames in each"
            fix = "set 'duration', or lower 'fps'"
            raise InputError(f"a result of {written:.0f} frames at {fps:g} per second", expected, fix)
        return frames


# --- making results ---------------------------------------------------------------------------------------------


class Generator:
    """Makes results, one after the other, on one device, with a model that stays loaded."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._pipeline: MimicMotionPipeline | None = None
        self._paces: dict[str, dict[str, float]] = {}  # of the last job of each kind: seconds a frame of each stage

    def __call__(self, config: GenerateConfig) -> None:
        """Make the result of a job in its folder, from the state that an earlier process left there.

        Args:
            config: of the job; an output .png asks for the plan.

        Raises:
            Stopped: SIGTERM came; the state is kept.
            MimicMotionError: as `generate`.
        """
        folder, config = config.output.parent, dataclasses.replace(config, device=self.device)
        lock = _own(folder)
        try:
            clear_leftovers(folder)
            if not sidecar_path(config.output).exists():  # it is written last
                frames = max(1, json.loads((folder / RECORD).read_text(encoding="utf-8"))["frames"])
                kind, resumed = config.output.suffix, state_path(config.output).exists()
                with Interrupts():
                    seconds = _follow(self._job(config), folder, frames, self._paces.get(kind, {}))
                if not resumed:
                    self._paces[kind] = {stage: spent / frames for stage, spent in seconds.items() if stage != "load"}
        except InputError:
            raise
        except BaseException:  # weights may lie half here, half there
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
        self._pipeline.backbone.forget_plan()  # each job is planned by itself, as if it were the only one
        if config.output.suffix == ".png":
            found = yield from plan(config, self._pipeline)
            facts = {"plan": found.summary().replace(f"{config.output.parent}/", "").splitlines()}
            write_sidecar(sidecar_path(config.output), facts)
        else:
            resume = state_path(config.output).exists()
            yield from generate(dataclasses.replace(config, resume=resume), self._pipeline)


def _own(folder: Path) -> FolderLock:
    """Wait for the folder of a job: the worker of a killed server may live a moment longer."""
    for _ in range(OWN_SECONDS * 10):
        try:
            return FolderLock(folder / LOCK)
        except ConfigError:
            time.sleep(0.1)
    return FolderLock(folder / LOCK)


def _follow(job: Job[Any], folder: Path, frames: int, pace: dict[str, float]) -> dict[str, float]:
    """Run a job to its end; its folder says how far it is.

    Args:
        job: what to run.
        folder: of the job.
        frames: of the result.
        pace: seconds a frame that each stage took in an earlier job, in their order.

    Returns:
        Seconds of each stage.
    """
    stage, since, first, told, later = "", 0.0, 0, 0.0, 0.0
    watch, stages = Stopwatch(), list(pace)
    with contextlib.closing(watch.watch(job)) as reports:
        for report in reports:
            now = time.monotonic()
            if report.stage != stage:
                stage, since, first, told = report.stage, now, report.done, 0.0
                after = stages[stages.index(stage) + 1 :] if stage in pace else []
                later = frames * sum(pace[name] for name in after)
            if now - told < TELL_SECONDS and report.done != report.total:
                continue
            told, new = now, report.done - first
            left = (report.total - report.done) * (now - since) / new + later if new and report.total else None
            eta = None if left is None else round(left, 1)
            facts = {"stage": stage, "done": report.done, "total": report.total, "eta": eta}
            with atomic_path(folder / PROGRESS) as part:
                part.write_text(json.dumps(facts), encoding="utf-8")
    return watch.seconds
