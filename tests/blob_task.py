"""A task small enough to train in tests: a conv net learns to undo noise. Runs in other processes, too."""

from __future__ import annotations

import dataclasses
import multiprocessing as mp
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mimicmotion.settings.training import TrainConfig
from mimicmotion.training.loop import Trainer
from mimicmotion.training.state import mixed_seed
from mimicmotion.training.task import StepResult, Task, Validation


class BlobTask(Task):
    """Blobs at random positions; the network sees them with noise."""

    def __init__(
        self,
        seed: int = 0,
        *,
        nan_at: int | None = None,
        kill_at: int | None = None,
        drift_at: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        torch.manual_seed(mixed_seed(seed, 1))
        self.seed, self.nan_at, self.kill_at, self.drift_at = seed, nan_at, kill_at, drift_at
        self.model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(8, 1, 3, padding=1),
            nn.Conv2d(1, 1, 1),  # not trained
        )
        self.identity: dict[str, Any] = {"network": "micro", "sizes": (1, 8)}

    def parameters(self) -> dict[str, nn.Parameter]:
        return {f"net.{k}": p for k, p in self.model.named_parameters() if not k.startswith("4.")}

    def batch(self, step: int, numbers: Sequence[int]) -> dict[str, Any]:
        pictures = []
        for number in numbers:
            rng = np.random.default_rng([self.seed, number])
            y, x = rng.integers(0, 6, 2)
            picture = np.zeros((1, 8, 8), np.float32)
            picture[0, y : y + 3, x : x + 3] = 1
            if number == self.nan_at:
                picture[:] = np.nan
            pictures.append(torch.from_numpy(picture))
        return {"x": torch.stack(pictures), "numbers": list(numbers)}

    def loss(self, model: nn.Module, batch: dict[str, Any], step: int) -> StepResult:
        if step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self.drift_at and os.environ.get("RANK") == "1":
            with torch.no_grad():
                self.model.get_parameter("0.bias").mul_(1.0001)
        x = batch["x"]
        noise = [torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(n)) for n in batch["numbers"]]
        each = (model(x + torch.stack(noise)) - x).float().square().flatten(1).mean(1)
        names = [f"blob-{n}" for n in batch["numbers"]]
        return StepResult(each.mean(), {"first": float(each[0].detach())}, names, each.detach())

    def export(self, folder: Path, weights: Mapping[str, Tensor]) -> Path:
        folder.mkdir()
        torch.save(dict(weights), folder / "weights.pt")
        return folder

    def validate(self, step: int, weights: Mapping[str, Tensor]) -> Validation:
        total = sum(float(w.square().sum()) for w in weights.values())
        picture = np.full((6, 8, 3), step % 256, np.uint8)
        return Validation({"norm": total, "loss": -total}, {"grid": picture}, best="loss")


def train_alone(config: TrainConfig, **task: Any) -> Path:
    """Train in this process."""
    return Trainer(config, BlobTask(config.seed, **task)).fit()


def prepare_sharded(accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
    """Do what Accelerate does for FSDP2, but only on GPUs."""
    from torch.distributed.fsdp import fully_shard

    fully_shard(model)
    optimizer.param_groups[0]["params"] = [p for p in model.parameters() if p.requires_grad]
    return model, accelerator.prepare_optimizer(optimizer)


def free_port() -> str:
    """A port for processes to meet at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def child(config: TrainConfig, task: Mapping[str, Any], rank: int, world: int, port: str) -> None:
    """One of `world` processes; what went wrong is written to RUN/error-RANK.

    With `apart` in `task`, all but the first have separate run folders, as on machines that share no disk.
    """
    from accelerate.state import AcceleratorState

    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # accelerate warns where it is not set, and warnings are errors here
    AcceleratorState._reset_state(reset_partial_state=True)
    if world > 1:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.environ.update(address, WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    task, errors = dict(task), Path(config.run)
    if task.pop("apart", False) and rank:
        config = dataclasses.replace(config, run=f"{config.run}-{rank}")
    if task.pop("shard", False):
        Accelerator.prepare = prepare_sharded  # type: ignore[method-assign]
    try:
        train_alone(config, **task)
    except BaseException as e:
        (errors / f"error-{rank}").write_text("".join(traceback.format_exception_only(e)) + traceback.format_exc())
        sys.exit(3)


def start(config: TrainConfig, world: int = 1, **task: Any) -> list[mp.process.BaseProcess]:
    """Start a training in separate processes."""
    port = free_port()
    Path(config.run).mkdir(parents=True, exist_ok=True)
    context = mp.get_context("fork")
    found = [context.Process(target=child, args=(config, task, rank, world, port)) for rank in range(world)]
    for process in found:
        process.start()
    return found


def train_apart(config: TrainConfig, world: int = 1, **task: Any) -> list[int | None]:
    """Train in separate processes; returns their exit codes."""
    found = start(config, world, **task)
    return wait(found)


def wait(processes: list[mp.process.BaseProcess]) -> list[int | None]:
    """Exit codes; `join` would also wait for the data workers that a killed process leaves for some seconds."""
    while any(process.exitcode is None for process in processes):
        time.sleep(0.01)
    return [process.exitcode for process in processes]
