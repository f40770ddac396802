"""Concurrent stages: a thread that prefetches, and a thread that works in the background.

Video decoding, drawing, onnxruntime, the networks and the video encoder all let go of Python's lock while they work, so
a thread is enough. Order and results are those of one stage after the other; only the waiting differs.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def cores() -> int:
    """CPU cores available to this process or, if unknown, to the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def prefetch(source: Iterable[T], depth: int = 2) -> Iterator[Iterator[T]]:
    """Prefetch `source` on a separate thread; the block gets an iterator.

    Items come in their order; what `source` raises is raised where its item would have come. Leaving the block, by
    whatever way, stops the thread; it closes the source, if that is a generator, and is waited for.

    Args:
        source: anything to iterate over; only the thread touches it from now on.
        depth: items that may be made ahead of the one in use, the one in work included.
    """
    room, stopped = _room(depth), threading.Event()
    ready: queue.SimpleQueue[tuple[list[T], BaseException | None]] = queue.SimpleQueue()

    def read() -> None:
        error = None
        try:
            items = iter(source)
            try:
                room.acquire()
                for item in items:
                    ready.put(([item], None))
                    del item
                    room.acquire()
                    if stopped.is_set():
                        break
            finally:
                close: Any = getattr(items, "close", None)
                if close is not None:
                    close()
        except BaseException as e:
            error = e
        ready.put(([], error))

    def taken() -> Generator[T, None, None]:
        while True:
            item, error = ready.get()
            room.release()
            if error is not None:
                raise error
            if not item:
                return
            yield item.pop()  # nothing here holds it while it is used

    thread = threading.Thread(target=read, name="prefetch", daemon=True)
    thread.start()
    try:
        with contextlib.closing(taken()) as ahead:
            yield ahead
    finally:
        stopped.set()
        room.release()
        thread.join()


@contextlib.contextmanager
def behind(work: Callable[[T], object], depth: int = 2) -> Iterator[Callable[[T], None]]:
    """Run `work(item)` on a thread for each submitted item, in order.

    `with behind(writer.write) as write: write(frame)`. Leaving the block waits until all is done; an error of the work
    is raised in the block or at its end. If the block itself fails, the item in work is finished and the others are
    dropped.

    Args:
        work: called on the thread, with one item at a time.
        depth: items that may wait or be in work; more make the caller wait.
    """
    room, pool = _room(depth), ThreadPoolExecutor(1, "behind")
    errors: list[BaseException] = []

    def do(item: T) -> None:
        try:
            if not errors:
                work(item)
        except BaseException as e:  # raised in the caller's thread
            errors.append(e)
        finally:
            room.release()

    def hand_over(item: T) -> None:
        room.acquire()
        if errors:
            room.release()  # not the last one to be told
            raise errors[0]
        pool.submit(do, item)

    try:
        yield hand_over
        pool.shutdown()
    finally:  # the block failed, or Ctrl-C came: what waits is dropped
        pool.shutdown(cancel_futures=True)
    if errors:
        raise errors[0]


def _room(depth: int) -> threading.Semaphore:
    if depth < 1:
        raise ValueError(f"depth={depth}: at least one item must be made ahead or wait")
    return threading.Semaphore(depth)
