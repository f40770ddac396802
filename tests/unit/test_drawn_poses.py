"""Pose frames drawn on demand: the same pictures whichever thread draws them."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from mimicmotion.pose.guidance.skeleton import DrawnPoses, PoseDrawer
from mimicmotion.pose.keypoints import NUM_POINTS, PoseSequence

SIZE, FRAMES = (64, 48), 11


@pytest.fixture(scope="module")
def poses() -> PoseSequence:
    rng = np.random.default_rng(4)
    xy = rng.uniform(0, 48, (FRAMES, NUM_POINTS, 2)).astype(np.float32)
    confidence = rng.uniform(0, 1, (FRAMES, NUM_POINTS)).astype(np.float32)
    confidence[3] = 0  # nobody
    return PoseSequence(xy, confidence, SIZE, 15.0, "planted")


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_threads_draw_the_same_pictures_in_order(poses: PoseSequence, threads: int) -> None:
    one = DrawnPoses(poses, PoseDrawer(SIZE, canvas_short_side=None), threads=1)[:]
    many = DrawnPoses(poses, PoseDrawer(SIZE, canvas_short_side=None), threads=threads)
    assert one.shape == (FRAMES, *SIZE, 3)
    assert not one[3].any()
    assert one[0].any()
    for _ in range(2):  # canvases are used again
        assert np.array_equal(many[:], one)
    for part in (slice(2, 9), slice(1, 2), slice(7, 99), slice(0, None, 3)):
        assert np.array_equal(many[part], one[part])
    assert not np.array_equal(one[0], one[1])


def test_several_threads_draw(poses: PoseSequence, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[threading.Thread] = set()
    meeting = threading.Barrier(3, timeout=30)  # broken unless three draw at the same time
    plain, first = PoseDrawer.draw, threading.local()

    def draw(self: PoseDrawer, *pose: np.ndarray) -> np.ndarray:
        seen.add(threading.current_thread())
        if not hasattr(first, "met"):
            first.met = True
            meeting.wait()
        return plain(self, *pose)

    monkeypatch.setattr(PoseDrawer, "draw", draw)
    DrawnPoses(poses, PoseDrawer(SIZE, canvas_short_side=None), threads=3)[:]
    assert len(seen) == 3
    assert threading.current_thread() not in seen


def test_a_clone_has_its_own_canvas(poses: PoseSequence) -> None:
    drawer = PoseDrawer(SIZE, canvas_short_side=None, stroke=2.0)
    clone = drawer.clone()
    picture = drawer.draw(poses.xy[0], poses.confidence[0])
    assert np.array_equal(clone.draw(poses.xy[0], poses.confidence[0]), picture)
    assert not np.shares_memory(clone._canvas, drawer._canvas)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not say which cores may be used")
def test_no_more_threads_than_cores_that_may_be_used(poses: PoseSequence, monkeypatch: pytest.MonkeyPatch) -> None:
    drawer = PoseDrawer(SIZE, canvas_short_side=None)
    for allowed, threads in (({5}, 1), ({0, 3, 9}, 3), (set(range(64)), 4)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, allowed=allowed: allowed)
        assert DrawnPoses(poses, drawer).threads == threads
