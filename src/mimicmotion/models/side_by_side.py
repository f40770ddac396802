"""Two computations at the same time, on half of the CPU's threads each.

Two threads that compute one pass of a network wait for each other after each of its thousand operations. Where two
passes do not need each other, each can have a thread of its own: then they wait once, at the end.
"""

from __future__ import annotations

import contextvars
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

S = TypeVar("S")
T = TypeVar("T")


def can_share_cores() -> bool:
    """Whether PyTorch computes on an even number of CPU threads, so that two computations get the same."""
    return torch.get_num_threads() % 2 == 0


def one_after_the_other(first: Callable[[], S], second: Callable[[], T]) -> tuple[S, T]:
    """Results of both."""
    return first(), second()


def side_by_side(first: Callable[[], S], second: Callable[[], T]) -> tuple[S, T]:
    """Results of both; with an odd number of threads one is computed after the other.

    The second runs on a thread of its own, with the caller's gradient mode and context variables. What either raises is
    raised here when both have ended (the first one's error, where both fail).
    """
    if not can_share_cores():
        return one_after_the_other(first, second)
    threads = torch.get_num_threads()
    recording, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def work() -> T:
        torch.set_num_threads(threads // 2)  # of this thread alone
        with torch.inference_mode(inference), torch.set_grad_enabled(recording):
            return second()

    beside = _neighbour().submit(contextvars.copy_context().run, work)
    torch.set_num_threads(threads // 2)
    try:
        mine = first()
    finally:
        wait([beside])
        torch.set_num_threads(threads)
    return mine, beside.result()


@functools.cache
def _neighbour() -> ThreadPoolExecutor:
    """The other thread. It stays: a new one each time would take memory from another of the allocator's arenas."""
    return ThreadPoolExecutor(1, thread_name_prefix="side-by-side")


if hasattr(os, "register_at_fork"):  # a forked process has no such thread
    os.register_at_fork(after_in_child=_neighbour.cache_clear)
