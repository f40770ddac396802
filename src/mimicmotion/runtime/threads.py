"""Run stages concurrently: fetch items ahead, or process them in the background, on a thread.

Video decoding, drawing, onnxruntime, the networks and the video encoder all release the GIL, so threads are enough.
Order and results are the same as if the stages ran one after the other.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def cores() -> int:
    """Return the number of CPU cores available to this process or, if that is unknown, of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def prefetch(source: Iterable[T], depth: int = 2) -> Iterator[Iterator[T]]:
    """Prefetch `source` on a separate thread, and yield an iterator over its items.

    Items keep their order, and an error of `source` is raised instead of the item. On leaving the block, the thread
    closes `source` if it is a generator, and ends.

    Args:
        source: an iterable; only the thread may use it from now on.
        depth: number of items to fetch ahead of the one in use, including the one in progress.
    """
    items = iter(source)

    def take() -> list[T]:
        return list(islice(items, 1))

    def taken() -> Generator[T]:
        while item := waiting.popleft().result():
            waiting.append(pool.submit(take))
            yield item.pop()  # keep no reference while the caller uses it

    with ThreadPoolExecutor(1, "prefetch") as pool:
        waiting = deque(pool.submit(take) for _ in range(depth))
        try:
            with contextlib.closing(taken()) as ahead:
                yield ahead
        finally:
            for future in waiting:
                future.cancel()
            pool.submit(getattr(items, "close", tuple))


@contextlib.contextmanager
def in_background(work: Callable[[T], object], depth: int = 2) -> Iterator[Callable[[T], None]]:
    """Run `work(item)` on a thread for each submitted item, in order.

    Use it as `with in_background(writer.write) as write: write(frame)`. Leaving the block waits for all items; an error
    in `work` is raised in the block or at its end. If the block fails, the item in progress is finished and the others
    are dropped.

    Args:
        work: called on the thread, with one item at a time.
        depth: number of items that can be waiting or in progress before the caller blocks.
    """
    pool, waiting = ThreadPoolExecutor(1, "background"), deque[Future[object]]()

    def submit(item: T) -> None:
        if len(waiting) == depth:
            waiting[0].result()  # after an error, each later call raises it again
            waiting.popleft()
        waiting.append(pool.submit(work, item))

    try:
        yield submit
        for future in waiting:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)
