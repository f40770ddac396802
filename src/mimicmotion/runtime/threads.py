"""Stages that run at the same time: a thread that reads ahead, and a thread that works behind.

Video decoding, drawing, onnxruntime, the networks and the video encoder all let go of Python's lock while they work, so
a thread is enough. Order and results are those of one stage after the other; only the waiting differs.
"""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def cores() -> int:
    """CPU cores that this process may use, where the system says which; else those there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Shared:
    """What a thread and its user both hold; the thread never holds the user's end, so that can be collected."""

    def __init__(self, depth: int) -> None:
        self.free = threading.Semaphore(depth)
        self.items: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True
        self.free.release()  # wakes a thread that waits for room
        self.items.put(("end", None))  # wakes a thread that waits for work


class Prefetch(Iterator[T], Generic[T]):
    """An iterator that reads `source` ahead on a thread, at most `depth` items; see `prefetch`."""

    def __init__(self, source: Iterable[T], depth: int = 2) -> None:
        if depth < 1:
            raise ValueError(f"depth={depth}: at least one item must be read ahead")
        self._shared = _Shared(depth)
        self._done = False
        self._thread = threading.Thread(target=_read, args=(source, self._shared), name="prefetch", daemon=True)
        self._thread.start()
        # A user who forgets the iterator half-way leaves no thread behind.
        self._forget = weakref.finalize(self, self._shared.stop)

    def __next__(self) -> T:
        if self._done:
            raise StopIteration
        kind, value = self._shared.items.get()
        self._shared.free.release()
        if kind == "item":
            return value
        self.close()
        if kind == "error":
            raise value
        raise StopIteration

    def close(self) -> None:
        """Stop reading, close the source if it is a generator (on its own thread), and wait for the thread."""
        self._done = True
        self._forget()
        self._thread.join()

    def __enter__(self) -> Prefetch[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prefetch(source: Iterable[T], depth: int = 2) -> Prefetch[T]:
    """Read `source` ahead on a thread of its own, from now on.

    Items come in their order; what `source` raises is raised here where its item would have come. Use it in a `with`
    block (or `contextlib.closing`): leaving the block, by whatever way, stops and joins the thread.

    Args:
        source: anything to iterate over; only the thread touches it from now on.
        depth: items that may be made ahead of the one in use, the one in work included.
    """
    return Prefetch(source, depth)


def _read(source: Iterable[Any], shared: _Shared) -> None:
    last: tuple[str, Any] = ("end", None)
    try:
        items = iter(source)
        try:
            while True:
                shared.free.acquire()
                if shared.stopped:
                    break
                try:
                    item = next(items)
                except StopIteration:
                    break
                shared.items.put(("item", item))
                del item
        finally:
            close: Callable[[], object] | None = getattr(items, "close", None)
            if close is not None:
                close()
    except BaseException as error:  # handed over, to be raised where the items are used
        last = ("error", error)
    shared.items.put(last)


class Behind(Generic[T]):
    """Work done on a thread behind the caller, in order: see `behind`."""

    def __init__(self, work: Callable[[T], object], depth: int = 2) -> None:
        if depth < 1:
            raise ValueError(f"depth={depth}: at least one item must be allowed to wait")
        self._shared = _Shared(depth)
        self._error: list[BaseException] = []
        self._thread = threading.Thread(
            target=_work, args=(work, self._shared, self._error), name="behind", daemon=True
        )
        self._thread.start()
        self._forget = weakref.finalize(self, self._shared.stop)

    def __call__(self, item: T) -> None:
        """Hand over an item; waits while `depth` items are not done, raises what the work raised."""
        self._shared.free.acquire()
        if self._error:
            self._shared.free.release()  # not the last one to be told
        self._check()
        self._shared.items.put(("item", item))

    def __enter__(self) -> Behind[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:  # the caller failed or was stopped: what waits is not done any more
            self._forget()
            self._thread.join()
            return
        self._shared.items.put(("end", None))
        try:
            self._thread.join()
        except BaseException:  # Ctrl-C: what waits is dropped, but nothing is at work any more when the block is left
            self._forget()
            self._thread.join()
            raise
        self._forget()
        self._check()

    def _check(self) -> None:
        if self._error:
            raise self._error[0]


def behind(work: Callable[[T], object], depth: int = 2) -> Behind[T]:
    """Do `work(item)` on a thread for each item that is handed over, in order.

    A context manager: `with behind(writer.write) as write: write(frame)`. Leaving the block waits until all is done;
    an error of the work is raised in the block or at its end. If the block itself fails, the item in work is finished
    and the others are dropped.

    Args:
        work: called on the thread, with one item at a time.
        depth: items that may wait or be in work; more make the caller wait.
    """
    return Behind(work, depth)


def _work(work: Callable[[Any], object], shared: _Shared, error: list[BaseException]) -> None:
    try:
        while True:
            kind, item = shared.items.get()
            if kind == "end" or shared.stopped:
                return
            work(item)
            del item
            shared.free.release()
    except BaseException as e:  # handed over, to be raised in the caller's thread
        error.append(e)
    finally:
        shared.stopped = True
        shared.free.release()  # nobody waits for a thread that is gone
