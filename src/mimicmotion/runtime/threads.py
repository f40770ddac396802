"""Concurrent stages: a thread that prefetches, and a thread that works in the background.

Video decoding, drawing, onnxruntime, the networks and the video encoder all release the GIL, so threads are enough.
Order and results are the same as with one stage after the other.
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
    """Prefetch `source` on a separate thread, and give an iterator over its items.

    Items keep their order, and errors of `source` are raised in place of the item. Leaving the block stops the thread,
    which closes the source if it is a generator, and waits for it.

    Args:
        source: an iterable, which only the thread may use from now on.
        depth: number of items made ahead of the one in use, including the one in progress.
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
            yield item.pop()  # keep no reference while it is used

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

    Use it as `with behind(writer.write) as write: write(frame)`. Leaving the block waits for all items; an error of the
    work is raised in the block or at its end. If the block fails, the current item is finished and the others are
    dropped.

    Args:
        work: called on the thread, with one item at a time.
        depth: number of items that can be waiting or in progress before the caller blocks.
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
    finally:  # if the block failed or was interrupted, waiting items are dropped
        pool.shutdown(cancel_futures=True)
    if errors:
        raise errors[0]


def _room(depth: int) -> threading.Semaphore:
    if depth < 1:
        raise ValueError(f"depth={depth}: at least one item must be made ahead or wait")
    return threading.Semaphore(depth)
