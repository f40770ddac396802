"""The loop that both stages share: step, clip, average, log, save, resume."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mimicmotion.errors import ConfigError
from mimicmotion.training.settings import TrainConfig
from mimicmotion.training.state import (
    Average,
    Log,
    check_finite,
    checkpoints,
    load_checkpoint,
    lr_factor,
    save_checkpoint,
)

logger = logging.getLogger(__name__)

StepLoss = Callable[[int], tuple[Tensor, dict[str, float], object]]
"""From the number of a step: the loss, numbers for the log, and names of the samples."""


class Trainer:
    """Runs an optimisation that can be killed at any moment and resumed exactly.

    Every random number of step n comes from (seed, n), so weights, optimiser and average are the whole state. In a
    process group (torchrun, backend gloo) gradients are averaged over the processes, each of which draws its own
    samples; process 0 logs and saves.

    Args:
        config: the run.
        modules: name to network; all their parameters are saved.
        params: name to parameter that is optimised.
        model: plain data that rebuilds the networks, saved along and compared on resume.
    """

    def __init__(
        self,
        config: TrainConfig,
        modules: Mapping[str, nn.Module],
        params: Mapping[str, nn.Parameter],
        model: Mapping[str, Any],
    ) -> None:
        self.config, self.modules, self.model = config, dict(modules), dict(model)
        self.params = dict(params)
        o = config.optim
        self.optimiser = torch.optim.AdamW(
            list(self.params.values()), lr=o.lr, betas=o.betas, weight_decay=o.weight_decay, fused=True
        )
        self.run_dir = Path(config.run)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.rank, self.world = distributed()
        self.average = Average(self.params, o.ema)
        self.step = 0
        if found := checkpoints(self.run_dir):
            self._restore(found[-1])

    def _restore(self, path: Path) -> None:
        state = load_checkpoint(path)
        if state["model"] != self.model:
            raise ConfigError(f"{path} holds another model", "the model of this config", "use a fresh run folder")
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average.values = state["average"]
        self.step = state["step"]
        logger.info("resumed %s at step %d", path, self.step)

    def save(self) -> Path:
        """Write a checkpoint of this moment."""
        state = {
            "modules": {k: m.state_dict() for k, m in self.modules.items()},
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.values,
            "model": self.model,
        }
        return save_checkpoint(self.run_dir, self.step, state, self.config.keep)

    def fit(self, step_loss: StepLoss, stop_at: int | None = None) -> Path:
        """Train to the last step, or to `stop_at`; returns the last checkpoint.

        Raises:
            ConfigError: the loss is not finite; the last good checkpoint stays.
        """
        c, log = self.config, Log(self.run_dir)
        last = min(c.optim.steps, stop_at or c.optim.steps)
        params = list(self.params.values())
        while self.step < last:
            for group in self.optimiser.param_groups:
                group["lr"] = c.optim.lr * lr_factor(self.step, c.optim)
            loss, numbers, samples = step_loss(self.step)
            check_finite(float(loss.detach()), self.step, samples)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if self.world > 1:
                average_gradients(params, self.world)
            norm = nn.utils.clip_grad_norm_(params, c.optim.clip)
            check_finite(float(norm), self.step, samples, "norm of the gradient")
            self.optimiser.step()
            self.average.update(self.params, self.step)
            self.step += 1
            if self.rank:
                continue
            log.add(loss=float(loss.detach()), norm=float(norm), **numbers)
            if self.step % c.log_every == 0:
                line = log.write(self.step, lr=self.optimiser.param_groups[0]["lr"])
                logger.info("step %d loss %.4f", self.step, line["loss"])
            if self.step % c.save_every == 0 and self.step < last:
                self.save()
        return self.save() if not self.rank else self.run_dir / "not-rank-0"


def distributed() -> tuple[int, int]:
    """Rank and number of processes; (0, 1) without a process group."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def average_gradients(params: list[nn.Parameter], world: int) -> None:
    """Mean of the gradients over all processes, in place, as one message."""
    import torch.distributed as dist

    grads = [p.grad for p in params if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= world
    for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def averaged(state: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """Weights of module `name` of a checkpoint with the averaged values where there are some."""
    weights = dict(state["modules"][name])
    start = f"{name}."
    weights.update({k.removeprefix(start): v for k, v in state["average"].items() if k.startswith(start)})
    return weights
