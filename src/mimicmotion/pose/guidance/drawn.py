"""Poses of a whole video as pictures, drawn when they are asked for."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mimicmotion.arrays import Frame, Frames
from mimicmotion.pose.guidance.skeleton import PoseDrawer
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.runtime.threads import cores

MAX_THREADS, FRAMES_PER_THREAD = 4, 2
"""A canvas has 25 MB; half of the work is Python's own."""


class DrawnPoses:
    """Pose frames that are drawn when they are asked for: `[a:b]` gives uint8 (b - a, height, width, 3).

    Args:
        poses: in pixels of the pictures.
        drawer: draws them.
        threads: of so many, each draws its share of a slice with a canvas of its own.
    """

    def __init__(self, poses: PoseSequence, drawer: PoseDrawer, threads: int | None = None) -> None:
        self.poses, self.drawer = poses, drawer
        self.threads = min(cores(), MAX_THREADS) if threads is None else threads
        self._drawers, self._lock = [drawer], threading.Lock()

    def __len__(self) -> int:
        return len(self.poses)

    def __getitem__(self, index: slice, /) -> Frames:
        rows = range(*index.indices(len(self)))
        with self._lock:  # a drawer has one canvas
            return np.stack(self._frames(rows))

    def _frames(self, rows: range) -> list[Frame]:
        """Each thread draws its share with a canvas of its own."""
        threads = min(self.threads, len(rows) // FRAMES_PER_THREAD)
        if threads < 2:
            return self._draw(self.drawer, rows)
        while len(self._drawers) < threads:
            self._drawers.append(self.drawer.twin())
        with ThreadPoolExecutor(threads) as pool:
            shares = pool.map(self._draw, self._drawers, [rows[i::threads] for i in range(threads)])
            drawn = list(shares)
        return [drawn[i % threads][i // threads] for i in range(len(rows))]

    def _draw(self, drawer: PoseDrawer, rows: range) -> list[Frame]:
        return [drawer.draw(self.poses.xy[i], self.poses.confidence[i]) for i in rows]
