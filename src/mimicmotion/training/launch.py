"""What surrounds a training: the accelerator, agreement between processes."""

from __future__ import annotations

import datetime
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch

from mimicmotion.errors import ConfigError, MimicMotionError
from mimicmotion.settings.training import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")

WAIT = datetime.timedelta(hours=3)
"""How long processes wait for the main one while it validates or saves."""


def quiet_worker(_: int) -> None:
    """A data worker leaves Ctrl-C, which a terminal sends to all, to the process it works for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def build_accelerator(config: TrainConfig) -> Accelerator:
    """Accelerate's view of this process: device, processes, precision.

    Raises:
        ConfigError: Accelerate is not installed, or the precision does not fit the device.
    """
    try:
        from accelerate import Accelerator, InitProcessGroupKwargs
        from accelerate.state import AcceleratorState
    except ImportError as e:
        raise ConfigError("the package accelerate is missing", "it", "pip install 'mimicmotion[train]'") from e
    cpu = config.cpu or not torch.cuda.is_available()
    if config.precision == "fp16" and cpu:
        raise ConfigError("precision=fp16 on a CPU", "bf16 or no", "set precision: bf16")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        # an earlier training of this process may have had another precision
        AcceleratorState._reset_state(reset_partial_state=True)
    else:
        AcceleratorState._reset_state()
    try:
        return Accelerator(
            mixed_precision=config.precision,
            gradient_accumulation_steps=config.optim.accumulation,
            cpu=cpu,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)],
        )
    except ValueError as e:
        raise ConfigError(f"precision={config.precision}: {e}", "one that this device knows", "use no or bf16") from e


def together(accelerator: Accelerator, work: Callable[[], T]) -> T | None:
    """Run `work` on the main process; if it fails there, all processes raise the same error instead of waiting.

    Returns:
        Its result on the main process, None on the others.
    """
    result, error = None, None
    if accelerator.is_main_process:
        try:
            result = work()
        except MimicMotionError as e:
            error = e
        except Exception as e:
            if accelerator.num_processes == 1:
                raise
            error = e
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        sent = [error]
        broadcast_object_list(sent)
        error = error or sent[0]
    if error is not None:
        raise error
    return result


def resume_command(config: TrainConfig, world: int) -> str:
    """The command that goes on with a run."""
    recipe = f"{config.run}/config.yaml"
    if world == 1:
        return f"mimicmotion train {recipe}"
    if "ACCELERATE_MIXED_PRECISION" in os.environ:  # only accelerate's launcher sets it
        return f"accelerate launch --num_processes {world} -m mimicmotion.training {recipe}"
    return f"torchrun --nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', world)} -m mimicmotion.training {recipe}"
