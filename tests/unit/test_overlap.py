"""Prefetching and background work on threads: order, limits, errors, stopping, and no leaked threads."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicmotion.runtime.threads import in_background, prefetch


class PlantedError(Exception):
    pass


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive(), thread


def counting(made: list[int], stop: int, closed: threading.Event, fail_at: int | None = None) -> Iterator[int]:
    try:
        for i in range(stop):
            if i == fail_at:
                raise PlantedError(str(i))
            made.append(i)
            yield i
    finally:
        closed.set()


@given(items=st.lists(st.integers(), max_size=20), depth=st.integers(1, 5))
def test_items_come_once_and_in_order(items: list[int], depth: int) -> None:
    with prefetch(items, depth) as ahead:
        assert list(ahead) == items
        assert list(ahead) == []
    done: list[int] = []
    with in_background(done.append, depth) as send:
        for item in items:
            send(item)
    assert done == items


def test_reads_ahead_at_once_but_never_more_than_allowed() -> None:
    made, closed, third = [], threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        for i in counting(made, 100, closed):
            if i == 2:
                third.set()
            yield i

    with prefetch(source(), depth=3) as ahead:
        assert third.wait(10)  # nobody asked yet
        for i in range(20):
            assert next(ahead) == i
            assert len(made) <= i + 1 + 3


@pytest.mark.parametrize("fail_at", [0, 3])
def test_the_sources_error_comes_where_its_item_would(fail_at: int) -> None:
    closed, seen = threading.Event(), []
    with pytest.raises(PlantedError, match=str(fail_at)), prefetch(counting([], 9, closed, fail_at)) as ahead:  # noqa: PT012
        for i in ahead:
            seen.append(i)
    assert seen == list(range(fail_at))
    assert closed.is_set()


def test_an_early_end_closes_the_source_on_its_own_thread() -> None:
    closed, made = threading.Event(), []
    where: list[threading.Thread] = []

    def source() -> Iterator[int]:
        try:
            yield from counting(made, 1000, closed)
        finally:
            where.append(threading.current_thread())

    with prefetch(source(), depth=2) as ahead:
        assert next(ahead) == 0
    assert closed.is_set()
    assert where != [threading.current_thread()]
    assert len(made) <= 3
    assert next(ahead, None) is None


@pytest.mark.parametrize("error", [PlantedError, KeyboardInterrupt, GeneratorExit])
def test_an_error_of_the_user_stops_the_reading(error: type[BaseException]) -> None:
    closed = threading.Event()
    with pytest.raises(error), prefetch(counting([], 1000, closed)) as ahead:  # noqa: PT012
        next(ahead)
        raise error
    assert closed.is_set()


def test_work_is_done_on_another_thread_and_finished_at_the_end() -> None:
    gate, done, where = threading.Event(), [], set()

    def work(i: int) -> None:
        gate.wait(10)
        where.add(threading.current_thread())
        done.append(i)

    with in_background(work, depth=4) as send:
        for i in range(4):
            send(i)  # none of them is done: the caller goes on
        assert done == []
        gate.set()
    assert done == [0, 1, 2, 3]
    assert threading.current_thread() not in where


def test_no_more_items_wait_than_allowed() -> None:
    gate, sent = threading.Event(), []

    def give() -> None:
        with in_background(lambda _: gate.wait(10), depth=2) as send:
            for i in range(5):
                send(i)
                sent.append(i)

    giver = threading.Thread(target=give)
    giver.start()
    giver.join(0.2)
    assert sent in ([], [0], [0, 1])  # the third has to wait
    gate.set()
    giver.join(10)
    assert sent == list(range(5))


def test_an_error_of_the_work_is_raised_to_the_caller() -> None:
    def work(i: int) -> None:
        if i == 2:
            raise PlantedError(str(i))

    with pytest.raises(PlantedError, match="2"), in_background(work) as send:  # noqa: PT012
        for i in range(100):
            send(i)
    with pytest.raises(PlantedError, match="2"), in_background(work, depth=5) as send:  # noqa: PT012 at the block's end at the latest
        for i in range(3):
            send(i)


def test_a_caller_who_continues_after_an_error_gets_it_again() -> None:
    def fail(_: int) -> None:
        raise PlantedError

    told = 0
    with pytest.raises(PlantedError), in_background(fail, depth=1) as send:  # noqa: PT012
        for i in range(6):
            try:
                send(i)
            except PlantedError:
                told += 1
    assert told >= 4


def test_if_the_caller_fails_what_waits_is_dropped() -> None:
    gate, done, begun = threading.Event(), [], threading.Event()

    def work(i: int) -> None:
        begun.set()
        gate.wait(10)
        done.append(i)

    def open_soon() -> None:
        time.sleep(0.3)
        gate.set()

    with pytest.raises(PlantedError), in_background(work, depth=8) as send:  # noqa: PT012
        for i in range(8):
            send(i)
        begun.wait(10)
        threading.Thread(target=open_soon).start()
        raise PlantedError
    assert done == [0]
