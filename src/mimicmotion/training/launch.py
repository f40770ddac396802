"""Process setup for training: the accelerator, precision, and work shared between processes."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list

from mimicmotion.errors import ConfigError
from mimicmotion.settings.training import TrainConfig

T = TypeVar("T")

WAIT = datetime.timedelta(hours=3)
"""Timeout of processes waiting for the main one while it validates or saves."""


def quiet_worker(_: int) -> None:
    """Make a data worker ignore Ctrl-C, which a terminal sends to all processes; the trainer handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def build_accelerator(config: TrainConfig) -> Accelerator:
    """Accelerate's view of this process: device, processes, precision.

    Raises:
        ConfigError: the precision does not fit the device.
    """
    cpu = config.cpu or not torch.cuda.is_available()
    if config.precision == "fp16" and cpu:
        raise ConfigError("precision=fp16 on a CPU", "bf16 or no", "set precision: bf16")
    # an earlier training of this process may have had another precision
    AcceleratorState._reset_state(reset_partial_state=int(os.environ.get("WORLD_SIZE", "1")) == 1)
    try:
        return Accelerator(
            mixed_precision=config.precision,
            gradient_accumulation_steps=config.optim.accumulation,
            cpu=cpu,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)],
        )
    except ValueError as e:
        got = f"precision={config.precision}: {e}"
        raise ConfigError(got, "a precision that this device supports", "use no or bf16") from e


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Autocast of the run's precision, for computations outside the wrapped model."""
    dtype = torch.float16 if config.precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=config.precision != "no")


def on_main_process(accelerator: Accelerator, work: Callable[[], T]) -> T | None:
    """Run `work` on the main process; if it fails there, all processes raise the same error instead of waiting.

    Returns:
        Its result on the main process, None on the others.
    """
    result, error = None, None
    if accelerator.is_main_process:
        try:
            result = work()
        except Exception as e:
            error = e
    if accelerator.num_processes > 1:
        sent = [error]
        broadcast_object_list(sent)
        error = error or sent[0]
    if error is not None:
        raise error
    return result


@contextlib.contextmanager
def shared(count: int) -> Iterator[range]:
    """This process's share of `count` pieces of work; waits for the other processes at the end."""
    several = dist.is_available() and dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)
    yield range(rank, count, world)
    if several:
        dist.barrier()


def resume_command(config: TrainConfig, world: int) -> str:
    """The command that resumes a run."""
    recipe = f"{config.run}/config.yaml"
    if world == 1:
        return f"mimicmotion train {recipe}"
    if "ACCELERATE_MIXED_PRECISION" in os.environ:  # only accelerate's launcher sets it
        return f"accelerate launch --num_processes {world} -m mimicmotion.training {recipe}"
    return f"torchrun --nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', world)} -m mimicmotion.training {recipe}"
