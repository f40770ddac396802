"""Which samples a step sees: global numbers that depend neither on processes nor on how a batch is split."""

from __future__ import annotations

from mimicmotion.settings.training import TrainConfig


def sample_numbers(
    step: int, rank: int, world: int, batch: int, accumulation: int, *, first: int | None = None
) -> list[int]:
    """Global sample numbers of one process in one step, in the order of its forward passes.

    All processes and passes together cover a row of world x batch x accumulation neighbouring numbers, so that two
    processes, a batch of twice the size and two accumulated passes see the same samples in the same step.

    Args:
        step: from 0.
        rank: of this process.
        world: number of processes.
        batch: samples per process and forward pass.
        accumulation: forward passes per step.
        first: first number of the step; by default all steps before had the same size.
    """
    start = step * world * batch * accumulation if first is None else first
    return [start + (a * world + rank) * batch + i for a in range(accumulation) for i in range(batch)]


def first_number(config: TrainConfig, step: int, world: int) -> int:
    """First sample number of a step: the count of all samples before it, over phases of different batch."""
    per_clip = world * config.optim.accumulation
    if not config.phases:
        return step * config.optim.batch * per_clip
    count, since = 0, 0
    for phase in config.phases[:-1]:
        until = min(step, phase.until)
        count += (until - since) * phase.batch
        since = until
    return (count + (step - since) * config.phases[-1].batch) * per_clip


def global_batches(config: TrainConfig, world: int) -> list[list[int]]:
    """[first step after, samples per step] of each phase; what must stay the same for a run to stay the same."""
    per_clip = world * config.optim.accumulation
    if not config.phases:
        return [[0, config.optim.batch * per_clip]]
    return [[p.until, p.batch * per_clip] for p in config.phases]
