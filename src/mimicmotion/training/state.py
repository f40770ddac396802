"""State of a training run: its samples, learning rate, averaged weights and checkpoints, and checks on resuming."""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mimicmotion.errors import ConfigError, WeightsError
from mimicmotion.runtime.files import write_json, writing
from mimicmotion.runtime.run_folder import atomic_folder, clear_leftovers, differences, flat
from mimicmotion.settings.training import OptimConfig, TrainConfig, as_dict

CHECKPOINT = re.compile(r"step-\d{8,}")
IDENTITY = ("settings", "task", "batches", "parts")
STATE = ("step", "seconds", "params", "average", "buffers", "optimizer", "scaler", "means")
"""Keys of a checkpoint's identity and state."""
HARMLESS = (
    "run",
    "threads",
    "cpu",
    "data.shards",  # their content is part of the task's identity
    "data.cache",
    "data.workers",
    "optim.steps",
    "optim.batch",  # the batch of all processes together is compared instead
    "optim.accumulation",
    "optim.ema_on_cpu",
    "autoencoder",  # used by one stage only, and part of its task's identity
    "detail",
    "warp",
    "gradient_checkpointing",
    "compile",
    "validation",
    "log_every",
    "save_every",
    "keep",
    "trackers",
)
"""Settings that may differ when a run is resumed."""


def sample_numbers(config: TrainConfig, index: int, rank: int, world: int) -> list[int]:
    """Return the global sample numbers of one process in one forward pass.

    All processes and passes of a step together cover consecutive numbers, so that two processes, a batch of twice the
    size and two accumulated passes see the same samples in the same step.

    Args:
        config: settings of the run.
        index: number of the forward pass since the start of the run.
        rank: rank of the process.
        world: number of processes.
    """
    step, part = divmod(index, config.optim.accumulation)
    batch = config.batch(step)
    first = first_number(config, step, world) + (part * world + rank) * batch
    return list(range(first, first + batch))


def first_number(config: TrainConfig, step: int, world: int) -> int:
    """Return the first sample number of a step, counting all samples of earlier phases and steps."""
    count, start = 0, 0
    for phase in config.phases[:-1]:
        end = min(step, phase.until)
        count += (end - start) * phase.batch
        start = end
    return (count + (step - start) * config.batch(step)) * world * config.optim.accumulation


def global_batches(config: TrainConfig, world: int) -> list[list[int]]:
    """Return [end, samples per step] of each phase, for comparison on resuming; without phases, one entry (end 0)."""
    each = world * config.optim.accumulation
    return [[p.until, p.batch * each] for p in config.phases] or [[0, config.optim.batch * each]]


def lr_factor(step: int, config: OptimConfig) -> float:
    """Return the learning rate of `step` (from 0) relative to `config.lr`: linear warm-up, constant, linear decay."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    left = config.steps - step
    cool = min(1.0, max(0.0, left / config.decay)) if config.decay else 1.0
    return min(warm, cool)


def mixed_seed(seed: int, *parts: int) -> int:
    """Combine several numbers into one seed."""
    return int(np.random.SeedSequence([seed, *parts]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Average:
    """Exponential moving average of parameters in float32, with a shorter horizon in the first steps.

    Args:
        params: name to parameter; the average starts as a copy. Sharded parameters give sharded averages.
        decay: decay of the average; with 0 there is no average, and `values` are the parameters themselves.
        on_cpu: keep it in host memory.
    """

    def __init__(self, params: Mapping[str, Tensor], decay: float, *, on_cpu: bool = False) -> None:
        self.decay, self.on_cpu = decay, on_cpu
        self.values = {k: p.detach() if decay == 0 else self._place(p).clone() for k, p in params.items()}

    def _place(self, p: Tensor) -> Tensor:
        p = p.detach().float()
        return p.cpu() if self.on_cpu else p

    @torch.no_grad()
    def update(self, params: Mapping[str, Tensor], step: int) -> None:
        """Update with the parameters after step `step` (from 0)."""
        if self.decay == 0:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        keys = list(self.values)
        torch._foreach_lerp_([self.values[k] for k in keys], [self._place(params[k]) for k in keys], 1 - decay)


def identity(config: TrainConfig, task: Mapping[str, Any], world: int) -> dict[str, Any]:
    """Return what a checkpoint records to identify the run, as plain JSON data."""
    phases = [[p.until, p.frames, p.spacing] for p in config.phases]  # their batch is in `batches`
    data = {
        "settings": {**_compared(flat(as_dict(config))), "phases": phases},
        "task": dict(task),
        "batches": global_batches(config, world),
        "parts": {"processes": world, "batch": config.optim.batch, "accumulation": config.optim.accumulation},
    }
    return json.loads(json.dumps(data))


def _compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in settings.items() if not f"{k}.".startswith(tuple(f"{h}." for h in HARMLESS))}


def check_identity(where: Path, old: Mapping[str, Any], new: Mapping[str, Any], *, allow_changes: bool) -> None:
    """Check that a checkpoint belongs to the run that resumes from it.

    Args:
        where: the checkpoint, for the message.
        old: identity in the checkpoint.
        new: identity of the current run.
        allow_changes: allow settings to differ (but not the task: networks and data).

    Raises:
        ConfigError: the identities differ; the message lists the differences.
    """
    same = "the same as before"
    if changed := differences(old["task"], new["task"]):
        raise ConfigError(f"{where} belongs to another model or data: {', '.join(changed)}", same, "set another 'run'")
    if allow_changes:
        return
    if changed := differences(_compared(old["settings"]), new["settings"]):
        got = f"{where} was made with other settings: {', '.join(changed)}"
        raise ConfigError(got, same, "use the same settings, set another 'run', or allow the changes")
    if old["batches"] != new["batches"]:
        raise ConfigError(
            f"samples per step: {_batch(new)}; {where} was made with {_batch(old)}",
            "the same number of samples per step",
            "keep the product of processes, optim.batch and optim.accumulation, or allow the changes",
        )


def _batch(data: Mapping[str, Any]) -> str:
    p = data["parts"]
    sizes = " then ".join(str(size) for _, size in data["batches"])
    if len(data["batches"]) > 1:
        return f"{sizes} in phases ({p['processes']} processes x accumulation {p['accumulation']})"
    return f"{sizes} ({p['processes']} processes x batch {p['batch']} x accumulation {p['accumulation']})"


def checkpoints(run: Path) -> list[Path]:
    """List the complete checkpoints of a run, oldest first; incomplete ones have other names."""
    folder = run / "checkpoints"
    found = [p for p in folder.iterdir() if CHECKPOINT.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def checkpoint_path(run: Path, step: int) -> Path:
    """Return the path of the checkpoint after `step` steps, RUN/checkpoints/step-N."""
    return run / "checkpoints" / f"step-{step:08d}"


def save_checkpoint(run: Path, step: int, write: Callable[[Path], object], *, keep: int | None) -> Path:
    """Write RUN/checkpoints/step-N, then delete all but the newest `keep` checkpoints.

    Args:
        run: the run folder.
        step: number of steps done.
        write: writes the checkpoint into the given folder.
        keep: number of checkpoints to keep; None keeps all.

    Raises:
        OutputError: it cannot be written; the older checkpoints are kept.
    """
    path = checkpoint_path(run, step)
    with atomic_folder(path) as part, writing(path):
        write(part)
    for old in checkpoints(run)[:-keep] if keep else []:
        # renamed first, so that a kill cannot leave a partial checkpoint under a valid name
        gone = old.with_name(f".{old.name}.part")
        old.replace(gone)
        shutil.rmtree(gone, ignore_errors=True)
    return path


def clear_run(run: Path) -> None:
    """Delete partial files left by a killed process."""
    clear_leftovers(run / "checkpoints")
    clear_leftovers(run, {"best"})


def write_state(folder: Path, state: Mapping[str, Any], run_identity: Mapping[str, Any]) -> None:
    """Write state/trainer.pt and state/identity.json of a checkpoint."""
    (folder / "state").mkdir(exist_ok=True)
    torch.save(dict(state), folder / "state" / "trainer.pt")
    write_json(folder / "state" / "identity.json", run_identity)


def read_identity(checkpoint: Path) -> dict[str, Any]:
    """Read the identity recorded in a checkpoint.

    Raises:
        WeightsError: it is missing or damaged, or was written by an incompatible version of this package.
    """
    return _read(checkpoint / "state" / "identity.json", IDENTITY, lambda p: json.loads(p.read_text(encoding="utf-8")))


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Read the trainer's state in a checkpoint: the entries named in `STATE`.

    Raises:
        WeightsError: it is missing or damaged, or was written by an incompatible version of this package.
    """
    load = functools.partial(torch.load, map_location="cpu", weights_only=True)
    return _read(checkpoint / "state" / "trainer.pt", STATE, load)


def _read(path: Path, keys: Sequence[str], load: Callable[[Path], Any]) -> dict[str, Any]:
    try:
        found = load(path)
        return {key: found[key] for key in keys}
    except Exception as e:  # torch.load raises many types
        checkpoint = path.parents[1]
        fix = f"delete {checkpoint} and resume from the one before, or use the version of this package that wrote it"
        raise WeightsError(f"{path}: {e!r}", "a checkpoint of this trainer", fix) from e
