"""Run tasks in worker processes that report progress, stop on request, and end with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from mimicmotion.errors import MimicMotionError
from mimicmotion.runtime.interrupt import Stopped

T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[T], Generator[int, None, R]]


_shared: dict[str, Any] = {}  # per worker process


def run_parallel(work: Work[T, R], tasks: Sequence[T], processes: int) -> Generator[int | R, None, None]:
    """Run the generator `work(task)` for each task, yielding the integers that it yields and its result.

    Results are yielded in the order of completion. Closing this generator (as Ctrl-C does) stops the workers at their
    next yield. The first error stops all tasks and is raised.

    Args:
        work: generator function that runs one task; must be picklable for several processes.
        tasks: arguments of `work`, one per call; must be picklable for several processes.
        processes: 1 runs the tasks in this process, without a pool.

    Raises:
        MimicMotionError: a worker was killed. Errors of `work` are passed on.
    """
    if processes <= 1 or len(tasks) <= 1:
        for task in tasks:
            yield (yield from work(task))
        return
    # spawn: a forked child would inherit the locks of other threads (numba, OpenCV, FFmpeg)
    context = multiprocessing.get_context("spawn")
    reports: Any = context.SimpleQueue()
    stop = context.Event()
    pool = ProcessPoolExecutor(min(processes, len(tasks)), context, initializer=_start, initargs=(reports, stop))
    try:
        waiting: set[Future[R]] = {pool.submit(_run, work, t) for t in tasks}
        while waiting:
            finished, waiting = wait(waiting, timeout=0.1, return_when=FIRST_COMPLETED)
            while not reports.empty():
                yield reports.get()
            for future in finished:
                yield future.result()
    except BrokenProcessPool as e:
        raise MimicMotionError(
            "a worker process was killed", "all workers to finish", "if memory ran out, use fewer processes"
        ) from e
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _start(reports: Any, stop: Any) -> None:
    # Ctrl-C sends SIGINT to the whole process group; the parent handles it and stops the workers cleanly
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _shared.update(reports=reports, stop=stop)
    end_with_parent()


def end_with_parent() -> None:
    """Make this worker process exit when its parent does, for any reason."""
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _run(work: Work[Any, R], task: Any) -> R:
    steps = work(task)
    try:
        while True:
            try:
                report = next(steps)
            except StopIteration as end:
                return end.value
            if _shared["stop"].is_set():
                raise Stopped
            _shared["reports"].put(report)
    finally:
        steps.close()
