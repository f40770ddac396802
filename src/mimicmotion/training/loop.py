"""The training loop. A run that is killed at any time and resumed gives the same result as an uninterrupted one.

All random numbers are derived from (seed, sample number) or (seed, step), so the state consists of the weights, their
average, the optimiser's moments and the step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object, send_to_device
from torch import Tensor

from mimicmotion.errors import ConfigError, TrainingError
from mimicmotion.runtime.files import check_writable, write_json, write_text, writing
from mimicmotion.runtime.interrupt import Interrupts, Stopped
from mimicmotion.runtime.progress import Job, Progress, finish
from mimicmotion.runtime.run_folder import FolderLock, atomic_folder
from mimicmotion.settings.training import TrainConfig, as_dict
from mimicmotion.training import state
from mimicmotion.training.processes import (
    Strategy,
    build_accelerator,
    build_optimizer,
    on_main_process,
    quiet_worker,
    resume_command,
)
from mimicmotion.training.task import StepResult, Task, Validation
from mimicmotion.training.tracking import Log, Means, check_trackers, start_trackers

logger = logging.getLogger(__name__)


class Passes(torch.utils.data.Dataset[Any]):
    """The batches of a process, indexed by the number of the forward pass since the start of the run."""

    def __init__(self, config: TrainConfig, task: Task, rank: int, world: int) -> None:
        self.config, self.task, self.rank, self.world = config, task, rank, world

    def __getitem__(self, index: int) -> Any:
        """Return the batch of forward pass `index`. In a worker, return errors too, as raised ones lose their type."""
        numbers = state.sample_numbers(self.config, index, self.rank, self.world)
        try:
            return self.task.batch(index // self.config.optim.accumulation, numbers)
        except Exception as e:
            if torch.utils.data.get_worker_info() is None:
                raise
            return e


class Trainer:
    """Trains a task, alone or as one of several processes started by torchrun or accelerate.

    Args:
        config: settings of the run.
        task: task to train.
        resume: resume from the last checkpoint; False rejects a run folder that has one.
        allow_changes: resume even if settings differ from those of the checkpoint.

    Raises:
        ConfigError: the settings do not match the machine, the task or the checkpoint.
        WeightsError: the last checkpoint is damaged.
        OutputError: the run folder cannot be written.
    """

    def __init__(self, config: TrainConfig, task: Task, *, resume: bool = True, allow_changes: bool = False) -> None:
        self.config, self.task = config, task
        self.run = Path(config.run)
        self.tracker_names = check_trackers(config.trackers)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.accelerator = build_accelerator(config)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        check_writable(self.run / "log.jsonl")
        check_clip_lengths(config, self.accelerator.device)
        names = trained_names(task)
        if config.compile:
            task.compile()
        task.place(self.accelerator.device)
        o = config.optim
        optimizer = build_optimizer(o, list(task.parameters().values()))
        self.strategy = Strategy(self.accelerator, task.model, optimizer, names)
        self.params = self.strategy.params()
        self.average = state.Average(self.params, o.ema, on_cpu=o.ema_on_cpu)
        if self.strategy.sharded and o.ema_on_cpu:
            fix = "set optim.ema_on_cpu: false"
            raise ConfigError("optim.ema_on_cpu with FSDP2", "a sharded average, in GPU memory", fix)
        self.step, self.means, self.seconds = 0, Means(), 0.0
        self.loss: float | None = None
        """Loss of the last step, averaged over all processes."""
        self._logged_at: float | None = None
        self.identity = state.identity(config, task.identity, self.world)
        newest = self._newest()
        if newest and not resume:
            raise ConfigError(f"{newest} exists", "an empty run folder", "delete it, set another 'run', or resume")
        if newest:
            self._restore(newest, allow_changes=allow_changes)
        self._check_consistent()

    def _newest(self) -> Path | None:
        """Return the main process's last checkpoint, or None; raise an error unless all processes can see it."""
        saved = state.checkpoints(self.run)
        name = broadcast_object_list([saved[-1].name if saved else None])[0]
        if name is None:
            return None
        newest = self.run / "checkpoints" / name
        seen = gather_object([newest.is_dir()])
        if not all(seen):
            got = f"{newest}, seen by {sum(seen)} of {len(seen)} processes"
            raise ConfigError(got, "one run folder for all processes", "put 'run' on a disk shared by all machines")
        return newest

    def _check_consistent(self) -> None:
        """Raise an error if processes differ in step, weights, settings or data.

        Gradients would be averaged regardless, and the main process would save a wrong checkpoint.
        """
        if self.world == 1:
            return
        compared = {"settings or data": self.identity, "steps": self.step, "weights": self.strategy.checksum()}
        gathered = gather_object([compared])
        for what, value in gathered[0].items():
            if odd := [rank for rank, other in enumerate(gathered) if other[what] != value]:
                others = ", ".join(map(str, odd))
                got = f"{what} of processes {others} differ from those of process 0, at step {self.step}"
                fix = "start all machines with the same recipe, shards and weights, and put 'run' on a shared disk"
                raise ConfigError(got, "the same in all processes", fix)

    def _restore(self, path: Path, *, allow_changes: bool) -> None:
        state.check_identity(path, state.read_identity(path), self.identity, allow_changes=allow_changes)
        saved = state.read_state(path)
        self.strategy.fill(self.params, saved["params"])
        if self.config.optim.ema:
            # if the checkpoint has no average, it starts from the weights
            self.strategy.fill(self.average.values, saved["average"] or saved["params"])
        buffers = dict(self.strategy.inner.named_buffers())
        for name, value in saved["buffers"].items():
            buffers[name].copy_(value)
        self.strategy.load_optimizer_state(saved["optimizer"])
        if saved["scaler"] and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        self.step, self.seconds = saved["step"], saved["seconds"]
        if self.accelerator.is_main_process:
            self.means.sums = saved["means"]
            logger.info("resuming from %s at step %d", path, self.step)

    def fit(self, stop_at: int | None = None) -> Path:
        """Train to the last step, or to `stop_at`, and return the last checkpoint. See `steps`."""
        return finish(self.steps(stop_at))

    def steps(self, stop_at: int | None = None) -> Job[Path]:
        """Train, yielding progress after each step, and return the last checkpoint.

        Raises:
            TrainingError: the loss or gradient is not finite; the state before that step is saved.
            Stopped: SIGTERM or Ctrl-C was received; the state is saved.
            OutputError: a checkpoint cannot be written; older ones are kept.
            MediaError: a sample cannot be read.
        """
        c = self.config
        last = min(c.optim.steps, stop_at or c.optim.steps)
        log = on_main_process(self.accelerator, self._open_log)
        saved = self.step if state.checkpoints(self.run) else -1
        try:
            with Interrupts() as interrupts, interrupts.deferred(), self._passes(last) as passes:
                while self.step < last:
                    stop = self._train_step(passes, interrupts)
                    ended = stop or self.step == last
                    self._log(log, ended=ended)
                    if c.validation.every and (self.step % c.validation.every == 0 or self.step == c.optim.steps):
                        self._validate(log)
                    if self.step % c.save_every == 0 or ended:
                        self.save()
                        saved = self.step
                    yield Progress("train", self.step, c.optim.steps, f"loss {self.loss:.4f}")
                    if stop and self.step < last:
                        command = resume_command(c, self.world)
                        raise Stopped(f"stopped after step {self.step}, which is saved; resume with: {command}")
        finally:
            if log is not None:
                log.close()
                self._lock.release()
        return state.checkpoint_path(self.run, self.step) if saved == self.step else self.save()

    def _open_log(self) -> Log:
        import yaml

        self.run.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.run / ".lock")
        state.clear_run(self.run)
        write_text(
            self.run / "config.yaml", yaml.safe_dump(json.loads(json.dumps(as_dict(self.config))), sort_keys=False)
        )
        log = Log(self.run, self.step)
        start_trackers(log, self.accelerator, self.config, self.tracker_names, self.step)
        return log

    @contextlib.contextmanager
    def _passes(self, last: int) -> Iterator[Iterator[Any]]:
        """Yield an iterator over the batches from the current step on, which worker processes prefetch."""
        accumulation, workers = self.config.optim.accumulation, self.config.data.workers
        loader = torch.utils.data.DataLoader(
            Passes(self.config, self.task, self.rank, self.world),
            batch_size=None,
            sampler=range(self.step * accumulation, last * accumulation),
            collate_fn=lambda batch: batch,
            num_workers=workers,
            worker_init_fn=quiet_worker,
            multiprocessing_context="fork" if workers else None,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        passes = iter(loader)
        try:
            yield passes
        finally:
            del passes, loader  # stops the workers

    def _train_step(self, passes: Iterator[Any], interrupts: Interrupts) -> bool:
        """Run one optimiser step, and return whether any process was asked to stop."""
        c, optimizer, start = self.config, self.strategy.optimizer, time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = c.optim.lr * state.lr_factor(self.step, c.optim)
        torch.manual_seed(state.mixed_seed(c.seed, self.step, self.rank))  # for dropout layers and the like
        results: list[StepResult] = []
        for _ in range(c.optim.accumulation):
            batch = next(passes)
            if isinstance(batch, Exception):
                raise batch
            with self.accelerator.accumulate(self.strategy.model):
                batch = send_to_device(batch, self.accelerator.device, non_blocking=True)
                result = self.task.loss(self.strategy.model, batch, self.step)
                self.accelerator.backward(result.loss)
            results.append(dataclasses.replace(result, loss=result.loss.detach()))
        norm = self._clip()
        self.loss, stop = self._mean_loss(torch.stack([r.loss for r in results]).mean(), interrupts)
        self._check(self.loss, norm, results)
        optimizer.step()
        optimizer.zero_grad()
        self.average.update(self.params, self.step)
        self.step += 1
        self.seconds += time.monotonic() - start
        for values in ({"loss": self.loss, "norm": norm}, *(r.log for r in results)):
            self.means.add(values)
        return stop

    def _clip(self) -> float:
        """Clip the accumulated gradient of all processes, and return its norm before clipping."""
        norm: Any = self.accelerator.clip_grad_norm_(self.params.values(), self.config.optim.clip or math.inf)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def _mean_loss(self, loss: Tensor, interrupts: Interrupts) -> tuple[float, bool]:
        """Return the mean loss of all processes, and whether any of them was asked to stop."""
        values = torch.stack([loss.detach().float(), loss.new_tensor(float(interrupts.stop_requested)).float()])
        if self.world > 1:
            values = self.accelerator.reduce(values, "sum")
        total, asked = values.tolist()
        return total / self.world, asked > 0

    def _check(self, loss: float, norm: float, results: list[StepResult]) -> None:
        """Raise an error in all processes if the loss or gradient is not finite, before it reaches the weights."""
        # with fp16 an infinite gradient only means that the loss scale was too large; that step is skipped
        bad_norm = not math.isfinite(norm) and self.config.precision != "fp16"
        if math.isfinite(loss) and not bad_norm:
            return
        what = f"loss {loss}" if not math.isfinite(loss) else f"gradient norm {norm}"
        blamed = gather_object([name for r in results for name in bad_samples(r)])
        blamed = blamed or gather_object([name for r in results for name in r.samples])
        self.strategy.optimizer.zero_grad()
        kept = self.save(keep_all=True)
        raise TrainingError(
            f"{what} at step {self.step}, samples {', '.join(map(str, blamed))}; the previous state is saved in {kept}",
            "a finite number",
            "check these samples, or lower optim.lr and resume with changes allowed",
        )

    def _log(self, log: Log | None, *, ended: bool) -> None:
        c = self.config
        if self.step % c.log_every and not (ended and self.step == c.optim.steps):
            return
        parts = gather_object([self.means.sums])
        self.means = Means()
        if log is None:
            return
        count = c.log_every * c.batch(self.step - 1) * c.optim.accumulation * self.world
        values = Means.average(parts) | {
            "lr": c.optim.lr * state.lr_factor(self.step - 1, c.optim),
            "seconds": round(self.seconds, 2),
        }
        now = time.monotonic()
        if self._logged_at is not None:
            values["samples_per_s"] = count / max(now - self._logged_at, 1e-9)
        self._logged_at = now
        if self.accelerator.device.type == "cuda":
            values["gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
        log.write(self.step, values)
        logger.info("step %d of %d: loss %.4f", self.step, c.optim.steps, values["loss"])

    def _validate(self, log: Log | None) -> None:
        weights = self.strategy.gather(self.average.values)

        def work() -> None:
            assert log is not None
            found = self.task.validate(self.step, weights)
            log.write(self.step, {f"validation/{k}": v for k, v in found.scores.items()})
            log.pictures(self.step, found.pictures)
            self._keep_best(found, weights)

        on_main_process(self.accelerator, work)

    def _keep_best(self, found: Validation, weights: Mapping[str, Tensor]) -> None:
        """Write RUN/best/{model,score.json} if these weights are the best so far."""
        best, score = self.run / "best", found.scores.get(found.best)
        if score is None:
            raise ConfigError(
                f"validation.best={found.best}", f"one of {', '.join(found.scores)}", "correct validation.best"
            )
        if not math.isfinite(score):
            return
        with contextlib.suppress(OSError, ValueError, KeyError):
            old = json.loads((best / "score.json").read_text(encoding="utf-8"))
            same = old["name"] == found.best
            if same and (score <= old["score"] if found.higher_is_better else score >= old["score"]):
                return
        with atomic_folder(best) as part, writing(best):
            self.task.export(part / "model", weights)
            about = {"step": self.step, "name": found.best, "score": score, "scores": found.scores}
            write_json(part / "score.json", about)

    def save(self, *, keep_all: bool = False) -> Path:
        """Write a checkpoint. All processes must call it.

        Raises:
            ConfigError: the processes no longer have the same weights.
            OutputError: it cannot be written; raised in all processes. Older checkpoints are kept.
        """
        self._check_consistent()
        means = Means.total(gather_object([self.means.sums]))
        params = self.strategy.gather(self.params)
        average = self.strategy.gather(self.average.values) if self.config.optim.ema else None
        scaler = self.accelerator.scaler
        content = {
            "step": self.step,
            "seconds": self.seconds,
            "params": params,
            "average": average,
            "buffers": {k: b.detach().cpu() for k, b in self.strategy.inner.named_buffers()},
            "optimizer": self.strategy.optimizer_state(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "means": means,
        }

        def write(part: Path) -> None:
            self.task.export(part / "model", average or params)
            state.write_state(part, content, self.identity)

        keep = None if keep_all else self.config.keep
        on_main_process(self.accelerator, lambda: state.save_checkpoint(self.run, self.step, write, keep=keep))
        return state.checkpoint_path(self.run, self.step)

    def dry_run(self) -> dict[str, Any]:
        """Run one forward and backward pass without changing weights or writing files, to check that memory suffices.

        Returns:
            Numbers of parameters and samples, loss, seconds and, on a GPU, peak memory.
        """
        start = time.monotonic()
        batch = Passes(self.config, self.task, self.rank, self.world)[self.step * self.config.optim.accumulation]
        result = self.task.loss(self.strategy.model, send_to_device(batch, self.accelerator.device), self.step)
        self.accelerator.backward(result.loss)
        norm = self._clip()
        self.strategy.optimizer.zero_grad()
        out: dict[str, Any] = {
            "step": self.step,
            "device": str(self.accelerator.device),
            "processes": self.world,
            "trained_parameters": sum(p.numel() for p in self.params.values()),
            "all_parameters": sum(p.numel() for p in self.strategy.inner.parameters()),
            "samples_per_step": self.config.batch(self.step) * self.config.optim.accumulation * self.world,
            "loss": float(result.loss.detach()),
            "norm": norm,
            "seconds": round(time.monotonic() - start, 2),
        }
        if self.accelerator.device.type == "cuda":
            out["gpu_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        return out


def bad_samples(result: StepResult) -> list[str]:
    """Return the samples with a non-finite loss, or all samples if unknown; empty if the batch's loss is finite."""
    if math.isfinite(float(result.loss)):
        return []
    if result.each is None:
        return list(result.samples)
    bad = (~torch.isfinite(result.each)).tolist()
    return [name for name, is_bad in zip(result.samples, bad, strict=True) if is_bad] or list(result.samples)


def check_clip_lengths(config: TrainConfig, device: torch.device) -> None:
    """Raise an error for clips of two frames in bfloat16 on a CPU.

    oneDNN 3.x returns garbage for the bfloat16 weight gradient of a (3, 1, 1) convolution over two frames.
    """
    if device.type != "cpu" or config.precision != "bf16":
        return
    lengths = [p.frames for p in config.phases] or [config.data.sample.num_frames]
    if config.stage == "autoencoder":
        lengths = [config.autoencoder.clip_frames]
    if 2 in lengths:
        got, expected = "clips of 2 frames with bf16 on a CPU", "1 frame, or at least 3"
        raise ConfigError(got, expected, "use 3 frames, or set precision: no")


def trained_names(task: Task) -> dict[str, str]:
    """Make only the task's parameters trainable, in float32, and return their names within the model.

    Raises:
        ConfigError: there are none, or one is not part of the model.
    """
    params = task.parameters()
    inside = {id(p): name for name, p in task.model.named_parameters()}
    if not params:
        raise ConfigError("no parameter to train", "at least one", "correct 'trained'")
    if foreign := [name for name, p in params.items() if id(p) not in inside]:
        raise ConfigError(f"{foreign[0]} is not part of the model", "parameters of task.model", "correct the task")
    task.model.requires_grad_(False)
    for p in params.values():
        p.requires_grad_(True)
        if p.dtype != torch.float32:  # half precision would lose small updates
            p.data = p.data.float()
    return {name: inside[id(p)] for name, p in params.items()}
