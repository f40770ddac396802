"""What a run carries from step to step: learning rate, averaged weights, identity, and checkpoints that are whole."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from mimicmotion.errors import ConfigError, OutputError, WeightsError
from mimicmotion.runtime.files import output_error
from mimicmotion.settings.training import OptimConfig, TrainConfig, as_dict
from mimicmotion.training.order import global_batches

CHECKPOINT = re.compile(r"step-(\d{8,})")
FAILED_WRITE = re.compile(r"inline_container|PytorchStreamWriter|file write failed|I/O error|No space left")
"""How torch.save and safetensors, whose writers raise no OSError, speak of a full disk."""
HARMLESS = (
    "run",
    "threads",
    "cpu",
    "data.shards",  # what is in them is part of the task's identity
    "data.cache",
    "data.workers",
    "optim.steps",
    "optim.batch",  # the batch of all processes together is compared instead
    "optim.accumulation",
    "optim.ema_on_cpu",
    "phases",  # compared apart from their batch
    "gradient_checkpointing",
    "compile",
    "validation",
    "log_every",
    "save_every",
    "keep",
    "trackers",
)
"""Settings that may differ when a run goes on."""


def lr_factor(step: int, config: OptimConfig) -> float:
    """Learning rate of step `step` (from 0) as a share of `config.lr`: linear warm-up, constant, linear decay."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    left = config.steps - step
    cool = min(1.0, max(0.0, left / config.decay)) if config.decay else 1.0
    return min(warm, cool)


def mixed_seed(seed: int, *parts: int) -> int:
    """One seed from several numbers below 2^20 or so; neighbours give unlike generators."""
    import numpy as np

    return int(np.random.SeedSequence([seed, *parts]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seeded(seed: int, *parts: int) -> torch.Generator:
    """A CPU generator for (seed, parts): a resumed run needs no generator state, only the number of its sample."""
    return torch.Generator().manual_seed(mixed_seed(seed, *parts))


class Average:
    """Exponential moving average of parameters in float32, with less memory in the first steps.

    Args:
        params: name to parameter; the average starts as their copy. Sharded parameters give sharded averages.
        decay: of the average; 0 keeps nothing, `values` are then the parameters themselves.
        on_cpu: keep it in main memory.
    """

    def __init__(self, params: Mapping[str, Tensor], decay: float, *, on_cpu: bool = False) -> None:
        self.decay, self.on_cpu = decay, on_cpu
        self.values = {k: p.detach() if decay == 0 else self._place(p).clone() for k, p in params.items()}

    def _place(self, p: Tensor) -> Tensor:
        p = p.detach().float()
        return p.cpu() if self.on_cpu else p

    @torch.no_grad()
    def update(self, params: Mapping[str, Tensor], step: int) -> None:
        """Take in the parameters after step `step` (from 0)."""
        if self.decay == 0:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        keys = list(self.values)
        torch._foreach_lerp_([self.values[k] for k in keys], [self._place(params[k]) for k in keys], 1 - decay)


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} to {"a.b": 1}."""
    out: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def identity(config: TrainConfig, task: Mapping[str, Any], world: int) -> dict[str, Any]:
    """What a checkpoint says about the run that made it, as plain JSON data."""
    settings = {k: v for k, v in flat(as_dict(config)).items() if not any(_within(k, h) for h in HARMLESS)}
    phases = [[p.until, p.frames, p.spacing] for p in config.phases]
    data = {
        "settings": {**settings, "phases": phases},
        "task": dict(task),
        "batches": global_batches(config, world),
        "parts": {"processes": world, "batch": config.optim.batch, "accumulation": config.optim.accumulation},
    }
    return json.loads(json.dumps(data))


def _within(key: str, group: str) -> bool:
    return key == group or key.startswith(f"{group}.")


def check_identity(where: Path, old: Mapping[str, Any], new: Mapping[str, Any], *, allow_changes: bool) -> None:
    """Refuse to go on with a run that would no longer be the same run.

    Args:
        where: the checkpoint, for the message.
        old: identity in the checkpoint.
        new: identity of this start.
        allow_changes: settings may differ (not the task: networks and data).

    Raises:
        ConfigError: naming what differs.
    """
    again = "use these settings, name another 'run'"
    if differ := _differences(old["task"], new["task"]):
        raise ConfigError(f"{where} is of another model or other data: {differ}", "the same as before", again)
    if allow_changes:
        return
    if differ := _differences(old["settings"], new["settings"]):
        raise ConfigError(
            f"{where} was made with other settings: {differ}", "the same as before", f"{again}, or allow the changes"
        )
    if old["batches"] != new["batches"]:
        raise ConfigError(
            f"samples per step: {_batch(new)}; {where} was made with {_batch(old)}",
            "the same number, however it is divided",
            "change the processes, optim.batch or optim.accumulation so that their product stays, or allow the changes",
        )


def _batch(data: Mapping[str, Any]) -> str:
    p = data["parts"]
    sizes = " then ".join(str(size) for _, size in data["batches"])
    if len(data["batches"]) > 1:
        return f"{sizes} in phases ({p['processes']} processes x accumulation {p['accumulation']})"
    return f"{sizes} ({p['processes']} processes x batch {p['batch']} x accumulation {p['accumulation']})"


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], most: int = 8) -> str:
    a, b = flat(old), flat(new)
    keys = [k for k in sorted({*a, *b}) if a.get(k) != b.get(k)]
    more = [f"and {len(keys) - most} more"] if len(keys) > most else []
    return ", ".join([*(f"{k} was {a.get(k)!r}, is {b.get(k)!r}" for k in keys[:most]), *more])


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first; a checkpoint gets its name only when it is complete."""
    folder = run / "checkpoints"
    found = [p for p in folder.iterdir() if CHECKPOINT.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Steps done at a checkpoint."""
    match = CHECKPOINT.fullmatch(checkpoint.name)
    if match is None:
        raise WeightsError(f"{checkpoint}", "a folder step-N of a run", "name a checkpoint")
    return int(match[1])


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A hidden folder that becomes `path` when it is complete and on disk; what was there before is replaced.

    Raises:
        OutputError: the disk is full, or it cannot be written; nothing of it is left.
    """
    part, old = (path.with_name(f".{path.name}.{end}") for end in ("part", "old"))
    try:
        for leftover in (part, old):
            if leftover.exists():
                shutil.rmtree(leftover)  # of a process that was killed
        part.mkdir(parents=True)
        yield part
        _sync(part)
        if path.exists():
            path.replace(old)
        part.replace(path)
        _sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OutputError:
        raise
    except OSError as e:
        raise output_error(path, e) from e
    except Exception as e:
        if not FAILED_WRITE.search(str(e)):
            raise
        reason = f"{path} cannot be written (is the disk full? {e})"
        raise OutputError(reason, "a writable place with enough room", "free some space and resume") from e
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Wait until files are on the disk: a name must not outlive a power cut with half of the contents."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with (Path(parent) / name).open("rb") as f:
                os.fsync(f.fileno())
        _sync_folder(Path(parent))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_checkpoint(run: Path, step: int, write: Callable[[Path], object], *, keep: int | None) -> Path:
    """Make RUN/checkpoints/step-N, then delete all but the newest `keep` (None deletes none).

    Args:
        run: the run folder.
        step: steps done.
        write: fills the folder it is given.
        keep: checkpoints that stay.

    Raises:
        OutputError: it cannot be written; the older checkpoints stay.
    """
    path = run / "checkpoints" / f"step-{step:08d}"
    with whole_folder(path) as part:
        write(part)
    for old in checkpoints(run)[:-keep] if keep else []:
        # renamed first: a kill in the middle must not leave half a checkpoint under a good name
        gone = old.with_name(f".{old.name}.part")
        old.replace(gone)
        shutil.rmtree(gone, ignore_errors=True)
    return path


def lock(run: Path) -> IO[str]:
    """Keep other processes from training into the same folder, until the file is closed or the process ends.

    Raises:
        ConfigError: another process does.
    """
    file = (run / ".lock").open("w", encoding="utf-8")
    with contextlib.suppress(ImportError):  # Windows
        import fcntl

        try:
            # of the process alone: a data worker that outlives a killed trainer holds nothing
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as e:
            file.close()
            raise ConfigError(
                f"{run} is in use by another training", "a run of its own", "stop it, or name another 'run'"
            ) from e
        except OSError:  # a file system without locks
            pass
    return file


def clear_leftovers(run: Path) -> None:
    """Delete what a killed process left half-written."""
    for leftover in [*run.glob("checkpoints/.step-*"), *run.glob(".best.*")]:
        shutil.rmtree(leftover, ignore_errors=True)


def write_state(folder: Path, state: Mapping[str, Any], who: Mapping[str, Any]) -> None:
    """Write state/trainer.pt and state/identity.json of a checkpoint."""
    (folder / "state").mkdir(exist_ok=True)
    torch.save(dict(state), folder / "state" / "trainer.pt")
    (folder / "state" / "identity.json").write_text(json.dumps(who, indent=1) + "\n", encoding="utf-8")


def read_identity(checkpoint: Path) -> dict[str, Any]:
    """The identity that a checkpoint was written with.

    Raises:
        WeightsError: it is missing or damaged.
    """
    path = checkpoint / "state" / "identity.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise _damaged(path, e) from e


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The trainer's state in a checkpoint: step, params, average, buffers, optimizer (moments by name), ...

    Raises:
        WeightsError: it is missing or damaged.
    """
    path = checkpoint / "state" / "trainer.pt"
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch.load raises many kinds
        raise _damaged(path, e) from e


def _damaged(path: Path, error: Exception) -> WeightsError:
    checkpoint = path.parents[1]
    return WeightsError(
        f"{path}: {error}", "a checkpoint of this trainer", f"delete {checkpoint} and resume from the one before"
    )
