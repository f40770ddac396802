"""What a run carries from step to step: learning rate, averaged weights, atomic checkpoints, the log."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mimicmotion.errors import ConfigError, OutputError, WeightsError
from mimicmotion.training.settings import OptimConfig


def lr_factor(step: int, config: OptimConfig) -> float:
    """Learning rate of step `step` (from 0) as a share of `config.lr`: linear warm-up, constant, linear decay."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    left = config.steps - step
    cool = min(1.0, max(0.0, left / config.decay)) if config.decay else 1.0
    return min(warm, cool)


class Average:
    """Exponential moving average of parameters, with less memory in the first steps.

    Args:
        params: name to parameter; the average starts as their copy.
        decay: of the average, 0 keeps the last value.
    """

    def __init__(self, params: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.values = {k: p.detach().clone() for k, p in params.items()}

    @torch.no_grad()
    def update(self, params: Mapping[str, Tensor], step: int) -> None:
        """Take in the parameters after step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        keys = list(self.values)
        torch._foreach_lerp_([self.values[k] for k in keys], [params[k].detach() for k in keys], 1 - decay)


def seeded(seed: int, step: int, purpose: int = 0) -> torch.Generator:
    """The random generator of one step: a resumed run needs no generator state, only the number of its step."""
    mixed = (seed * 1_000_003 + step) * 16 + purpose
    return torch.Generator().manual_seed(mixed % (1 << 63))


def trained_parameters(modules: Mapping[str, nn.Module], skip: Iterable[str] = ()) -> dict[str, nn.Parameter]:
    """Name ("module.parameter") to parameter of all modules, in a fixed order, without the names in `skip`."""
    left_out = set(skip)
    named = {f"{m}.{n}": p for m, module in modules.items() for n, p in module.named_parameters()}
    return {k: p for k, p in named.items() if k not in left_out}


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(run.glob("step-*.pt"))


def save_checkpoint(run: Path, step: int, state: Mapping[str, Any], keep: int) -> Path:
    """Write `step-N.pt` so that it appears only when complete, then delete all but the newest `keep`.

    Raises:
        OutputError: the file cannot be written; the older checkpoints stay.
    """
    path = run / f"step-{step:08d}.pt"
    part = path.with_name(f".{path.name}.part")
    try:
        torch.save({"step": step, **state}, part)
        part.replace(path)
    except (OSError, RuntimeError) as e:
        part.unlink(missing_ok=True)
        raise OutputError(f"{path}: {e}", "a writable folder with free space", "free some space and resume") from e
    for old in checkpoints(run)[:-keep]:
        old.unlink()
    return path


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        WeightsError: it is missing or damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch.load raises many kinds
        raise WeightsError(
            f"{path}: {e}", "a checkpoint of this trainer", "delete it and resume from the one before"
        ) from e


class Log:
    """Appends one JSON object a line to `log.jsonl`: means of what was added since the last line."""

    def __init__(self, run: Path) -> None:
        self.path = run / "log.jsonl"
        self.sums: dict[str, list[float]] = {}
        self.start = time.monotonic()

    def add(self, **values: float) -> None:
        """Collect values of one step."""
        for key, value in values.items():
            self.sums.setdefault(key, []).append(float(value))

    def write(self, step: int, **values: float) -> dict[str, float]:
        """Write the means and `values`; returns the line."""
        line: dict[str, float] = {"step": step, **{k: sum(v) / len(v) for k, v in self.sums.items()}, **values}
        line["seconds"] = round(time.monotonic() - self.start, 2)
        line["time"] = round(time.time(), 1)
        self.sums.clear()
        with self.path.open("a", encoding="utf-8") as f:
            f.write(json.dumps({k: float(f"{v:.6g}") if k != "time" else v for k, v in line.items()}) + "\n")
        return line


def check_finite(value: float, step: int, samples: object, name: str = "loss") -> None:
    """Stop on a loss or gradient that is not a number, before it reaches the weights.

    Raises:
        ConfigError: with the samples of the step; the last checkpoint is untouched.
    """
    if not math.isfinite(value):
        raise ConfigError(
            f"{name} {value} at step {step}, samples {samples}",
            "a finite number",
            "lower optim.lr, look at these samples, then resume from the last checkpoint",
        )
