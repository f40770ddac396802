"""Process setup for training: the accelerator, precision, and work shared between processes.

`Strategy` gives weights and optimiser state as full tensors, regardless of how Accelerate distributes them.

A single process and DDP hold them in full. FSDP2 shards them (DTensor); they are gathered for saving and sharded again
on loading, so a checkpoint can be resumed with any number of processes. FSDP1, which flattens parameters, and
DeepSpeed, whose engine owns the optimiser and casts the network's inputs, are refused.

Tests cover a single process, DDP, and FSDP2's shards in two CPU processes. Not tested, because they need GPUs: NCCL,
Accelerate's own wrapping for FSDP2, and 8-bit AdamW.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from mimicmotion.errors import ConfigError
from mimicmotion.settings.training import OptimConfig, TrainConfig

T = TypeVar("T")

WAIT = datetime.timedelta(hours=3)
"""Timeout of processes waiting for the main one while it validates or saves."""


def quiet_worker(_: int) -> None:
    """Make a data worker ignore Ctrl-C, which a terminal sends to all processes; the trainer handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def build_accelerator(config: TrainConfig) -> Accelerator:
    """Create the `Accelerator` with the device, precision and accumulation of the run.

    Raises:
        ConfigError: the precision does not fit the device.
    """
    cpu = config.cpu or not torch.cuda.is_available()
    if config.precision == "fp16" and cpu:
        raise ConfigError("precision=fp16 on a CPU", "bf16 or no", "set precision: bf16")
    # an earlier run in this process may have used another precision
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
    """Return an autocast context with the run's precision, for computations outside the wrapped model."""
    dtype = torch.float16 if config.precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=config.precision != "no")


def on_main_process(accelerator: Accelerator, work: Callable[[], T]) -> T | None:
    """Run `work` on the main process; if it fails there, all processes raise the same error instead of waiting.

    Returns:
        The result of `work` on the main process, None on the others.
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
    """Yield the indices of this process's share of `count` tasks; at the end, wait for the other processes."""
    distributed = dist.is_available() and dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
    yield range(rank, count, world)
    if distributed:
        dist.barrier()


def resume_command(config: TrainConfig, world: int) -> str:
    """Return the shell command that resumes a run."""
    recipe = f"{config.run}/config.yaml"
    if world == 1:
        return f"mimicmotion train {recipe}"
    if "ACCELERATE_MIXED_PRECISION" in os.environ:  # only accelerate's launcher sets it
        return f"accelerate launch --num_processes {world} -m mimicmotion.training {recipe}"
    return f"torchrun --nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', world)} -m mimicmotion.training {recipe}"


class Strategy:
    """Model and optimiser, with the same interface for one process, DDP and FSDP2.

    Args:
        accelerator: wraps model and optimiser.
        model: model in which only the trained parameters have a gradient.
        optimizer: optimiser of the trained parameters.
        names: name of each trained parameter -> its name within `model`.

    Raises:
        ConfigError: Accelerate is set to FSDP1 or DeepSpeed.
    """

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, names: Mapping[str, str]
    ) -> None:
        kind = accelerator.distributed_type.value
        if kind == "DEEPSPEED" or (kind == "FSDP" and not accelerator.is_fsdp2):
            got = "DeepSpeed" if kind == "DEEPSPEED" else "FSDP version 1"
            raise ConfigError(got, "FSDP2 (fsdp_version: 2)", "change it with 'accelerate config'")
        self.accelerator, self.names = accelerator, dict(names)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.inner: nn.Module = accelerator.unwrap_model(self.model)

    @property
    def sharded(self) -> bool:
        """Whether parameters are sharded (FSDP2)."""
        from torch.distributed.tensor import DTensor

        return any(isinstance(p, DTensor) for p in self.inner.parameters())

    def params(self) -> dict[str, Tensor]:
        """Return the trained parameters in this process, looked up on each call because sharding replaces them."""
        parameters = dict(self.inner.named_parameters())
        return {name: parameters[inside] for name, inside in self.names.items()}

    def checksum(self) -> int:
        """Compute a checksum of all weights and moments that are not sharded, for comparing processes."""
        moments = (v for state in self.optimizer.state_dict()["state"].values() for v in state.values())
        tensors = [*self.inner.parameters(), *(m for m in moments if isinstance(m, Tensor))]
        sums = [
            t.detach().contiguous().view(getattr(torch, f"int{8 * t.element_size()}")).sum(dtype=torch.int64)
            for t in tensors
            if not hasattr(t, "full_tensor")
        ]
        return hash(tuple(int(s) for s in sums))

    def gather(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gather parameters or averages as full float32 CPU tensors on the main process; the others get {}.

        All processes must call it.
        """
        out = {}
        for name, value in values.items():
            full = value.full_tensor() if hasattr(value, "full_tensor") else value
            if self.accelerator.is_main_process:  # copied, because on a CPU the next step would change it
                out[name] = full.detach().to("cpu", torch.float32, copy=True)
        return out

    @torch.no_grad()
    def fill(self, targets: Mapping[str, Tensor], full: Mapping[str, Tensor]) -> None:
        """Copy full tensors into this process's parameters or averages."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        for name, value in targets.items():
            source = full[name].to(value.device, value.dtype)
            if isinstance(value, DTensor):
                source = distribute_tensor(source, value.device_mesh, value.placements)
            value.copy_(source)

    def optimizer_state(self) -> dict[str, dict[str, Any]]:
        """Return the moments of each trained parameter by name, as full tensors (if sharded, on the main process only).

        The format is the same for all strategies, so that a run can switch between them. All processes must call it.
        """
        if not self.sharded:
            state = self.optimizer.state_dict()["state"]
            return {name: state[i] for i, name in enumerate(self.names) if i in state}
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        full: Any = get_optimizer_state_dict(self.model, self._plain_optimizer(), options=options)
        state = full.get("state", {})  # empty except on the main process
        return {name: state[inside] for name, inside in self.names.items() if inside in state}

    def load_optimizer_state(self, moments: Mapping[str, dict[str, Any]]) -> None:
        """Load the result of `optimizer_state`, from any strategy and number of processes."""
        if not self.sharded:
            state = {i: moments[name] for i, name in enumerate(self.names) if name in moments}
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
            return
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

        plain = self._plain_optimizer()
        # one group, as created by `build_optimizer`
        group = {k: v for k, v in plain.param_groups[0].items() if k != "params"}
        full: Any = {
            "state": {self.names[name]: state for name, state in moments.items()},
            "param_groups": [{**group, "params": list(self.names.values())}],
        }
        set_optimizer_state_dict(self.model, plain, full, options=StateDictOptions(full_state_dict=True))

    def _plain_optimizer(self) -> torch.optim.Optimizer:
        return getattr(self.optimizer, "optimizer", self.optimizer)


def build_optimizer(config: OptimConfig, params: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Create the optimiser that the settings select.

    Raises:
        ConfigError: 8-bit AdamW is selected without its package or without a GPU.
    """
    kind, options = config.optimizer, {n: getattr(config, n) for n in ("lr", "betas", "weight_decay")}
    if kind != "adamw-8bit":
        return torch.optim.AdamW(params, fused=kind == "adamw-fused", **options)
    if not torch.cuda.is_available():
        raise ConfigError("optim.optimizer=adamw-8bit without a GPU", "a CUDA GPU", "use adamw-fused")
    try:
        from bitsandbytes.optim import AdamW8bit  # pyrefly: ignore
    except ImportError as e:
        fix = "pip install bitsandbytes, or use adamw-fused"
        raise ConfigError("optim.optimizer=adamw-8bit", "the bitsandbytes package", fix) from e
    return AdamW8bit(params, **options)
