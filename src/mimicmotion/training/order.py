"""Which samples a step sees: global numbers that depend neither on processes nor on how a batch is split."""

from __future__ import annotations

from mimicmotion.settings.training import TrainConfig


def sample_numbers(rank: int, world: int, batch: int, accumulation: int, first: int) -> list[int]:
    """Global sample numbers of one process in one step, in the order of its forward passes.

    All processes and passes together cover a row of world x batch x accumulation neighbouring numbers, so that two
    processes, a batch of twice the size and two accumulated passes see the same samples in the same step.

    Args:
        rank: of this process.
        world: number of processes.
        batch: samples per process and forward pass.
        accumulation: forward passes per step.
        first: first number of the step.
    """
    return [first + (a * world + rank) * batch + i for a in range(accumulation) for i in range(batch)]


def first_number(config: TrainConfig, step: int, world: int) -> int:
    """First sample number of a step: the count of all samples before it, over phases of different batch."""
    count, since = 0, 0
    for phase in config.phases[:-1]:
        until = min(step, phase.until)
        count += (until - since) * phase.batch
        since = until
    return (count + (step - since) * config.batch(step)) * world * config.optim.accumulation


def global_batches(config: TrainConfig, world: int) -> list[list[int]]:
    """[first step after, samples per step] of each phase; what must stay the same for a run to stay the same."""
    each = world * config.optim.accumulation
    return [[p.until, p.batch * each] for p in config.phases] or [[0, config.optim.batch * each]]
