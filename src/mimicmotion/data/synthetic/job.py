"""Make shards of synthetic people."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mimicmotion.runtime.progress import Job, Progress
from mimicmotion.settings.synthetic import SyntheticConfig

if TYPE_CHECKING:
    from mimicmotion.data.shards.writing import ShardProgress, ShardsWritten


@dataclass(frozen=True, slots=True)
class SyntheticResult:
    """What `prepare synthetic` made."""

    written: ShardsWritten
    seconds: float

    def summary(self) -> str:
        """A few lines for a person to read."""
        w = self.written
        kept = f" ({w.kept} were there already)" if w.kept else ""
        return "\n".join(
            [
                ", ".join(f"{n} clips of {split}" for split, n in w.records.items()) + f", {w.frames} frames",
                f"{w.shards} shards{kept}, {w.bytes / 1e6:.1f} MB, {self.seconds:.0f} s",
                f"shards: {w.folder}",
            ]
        )


def prepare_synthetic(config: SyntheticConfig) -> Job[SyntheticResult]:
    """Render synthetic people into shards; an interrupted job goes on where it was.

    Raises:
        InputError: a setting is wrong.
        OutputError: the folder cannot be written, or holds other shards.
    """
    from mimicmotion.data.synthetic.shards import write_synthetic

    start = time.perf_counter()
    job = write_synthetic(
        config.output,
        config.count,
        frames=config.frames,
        size=(config.height, config.width),
        first_seed=config.first_seed,
        held_out=config.held_out,
        store=config.store,
        camera_motion=config.camera_motion,
        mocap=config.mocap,
        truth=config.truth,
        records_per_shard=config.records_per_shard,
        processes=config.processes,
    )
    written = yield from shard_reports("render", job)
    return SyntheticResult(written, time.perf_counter() - start)


def shard_reports(stage: str, job: Generator[ShardProgress, None, ShardsWritten]) -> Job[ShardsWritten]:
    """The reports of `write_shards` as those of a job."""
    with contextlib.closing(job):
        while True:
            try:
                report = next(job)
            except StopIteration as stop:
                return stop.value
            yield Progress(stage, report.done, report.total)
