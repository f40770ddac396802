"""Records in memory with the attributes of `mimicmotion.data.shards.shards`, and small sets of shards on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from mimicmotion.data.shards.writing import RecordData, ShardSettings, ShardsWritten, plan_shards, write_shards
from mimicmotion.pose.keypoints import NUM_POINTS, PoseSequence
from mimicmotion.runtime.progress import finish


def write_records(
    folder: Path,
    shared: ShardSettings,
    train: Sequence[RecordData],
    val: Sequence[RecordData] = (),
    *,
    per_shard: int = 1000,
) -> ShardsWritten:
    """Shards that hold these records."""
    records = [*train, *val]
    numbers = range(len(records))
    plan = plan_shards(numbers[: len(train)], per_shard) + plan_shards(numbers[len(train) :], per_shard, "val")
    return finish(write_shards(folder, plan, lambda i: [records[i]], shared))


@dataclass
class FakeRecord:
    key: str
    video: str
    meta: dict[str, Any]
    poses: PoseSequence
    pictures: ndarray
    decoded: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.poses)

    def frames(self, indices: Sequence[int]) -> ndarray:
        self.decoded += list(indices)
        return self.pictures[list(indices)]


class FakeShards:
    """Two scenes per video; every frame has its own colour, every point its own position."""

    def __init__(
        self,
        lengths: Sequence[int] = (17, 17, 24),
        size: tuple[int, int] = (32, 16),
        stills: int = 1,
        fps: Sequence[float] = (15.0,),
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.size, self.digest = size, "fake"
        self.settings: dict[str, Any] = {}
        self.records: list[FakeRecord] = []
        self.videos: dict[str, list[int]] = {}
        self.fps = [float(fps[i % len(fps)]) for i in range(len(lengths))]
        for i, n in enumerate(lengths):
            xy = (rng.random((n, NUM_POINTS, 2)) * size[::-1]).astype(np.float32)
            confidence = rng.uniform(0.05, 1, (n, NUM_POINTS)).astype(np.float32)
            confidence[:, 92:] = confidence[:, 92:93] * 0.5 + 0.5  # whole hands are reliable in many frames
            poses = PoseSequence(xy, confidence, size, self.fps[i])
            pictures = rng.integers(0, 256, (n, *size, 3), np.uint8)
            record = FakeRecord(f"v{i // 2}-{i % 2:03d}", f"v{i // 2}", {"fps": self.fps[i]}, poses, pictures)
            self.records.append(record)
            self.videos.setdefault(record.video, []).append(i)
        self.keys = [r.key for r in self.records]
        self.num_frames = [len(r) for r in self.records]
        self.stills = [stills] * len(self.records)
        self.sums = ["0" * 64] * len(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> FakeRecord:
        return self.records[i]
