"""Run a training from a recipe or settings."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimicmotion.runtime.extras import import_extra
from mimicmotion.runtime.progress import Job, Progress
from mimicmotion.settings.training import TrainConfig, load_config

if TYPE_CHECKING:
    from mimicmotion.training.loop import Trainer
    from mimicmotion.training.task import Task


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Result of a training run.

    Attributes:
        checkpoint: last checkpoint, whose folder `model` is loaded for inference; None after a dry run.
        best: folder of the best validated weights; None without validation.
        loss: loss of the last step; None if the run was already complete.
        plan: result of a dry run (see `Trainer.dry_run`).
    """

    checkpoint: Path | None
    best: Path | None = None
    loss: float | None = None
    plan: dict[str, Any] | None = None

    def summary(self) -> str:
        """Return a summary to show to the user."""
        if self.plan is not None:
            return "\n".join(f"{k}: {v}" for k, v in self.plan.items())
        lines = [f"loss of the last step: {self.loss:.4f}"] if self.loss is not None else ["nothing was left to do"]
        lines.append(f"checkpoint: {self.checkpoint}")
        lines.append(f"model: {self.checkpoint / 'model' if self.checkpoint else None}")
        if self.best is not None:
            score = json.loads((self.best / "score.json").read_text(encoding="utf-8"))
            lines.append(f"best: {self.best / 'model'} (step {score['step']}, {score['name']} {score['score']:.4g})")
        return "\n".join(lines)


def train(
    config: str | Path,
    *,
    resume: bool = True,
    allow_changes: bool = False,
    overfit_one_clip: bool = False,
    dry_run: bool = False,
    overrides: Sequence[str] = (),
) -> Job[TrainResult]:
    """Train to the last step.

    Args:
        config: path of a recipe (YAML), or the name of a bundled one.
        resume: resume from the last checkpoint; False rejects a run folder that has one.
        allow_changes: resume even if settings differ from those of the checkpoint.
        overfit_one_clip: overfit a single clip, in a separate run folder.
        dry_run: run one forward and backward pass without writing files.
        overrides: settings that override the recipe, such as "optim.lr=1e-4".

    Raises:
        ConfigError: a setting is invalid or does not match the run folder.
        TrainingError: the loss or gradient is not finite.
        Stopped: SIGTERM or Ctrl-C was received; the run is saved.
    """
    settings = load_config(config, overrides)
    if overfit_one_clip:
        # never into the folder of the real run
        settings = dataclasses.replace(settings, overfit_one_clip=True, run=f"{settings.run}-overfit-one-clip")
    yield Progress("load", 0, 1)
    trainer = open_trainer(settings, resume=resume, allow_changes=allow_changes)
    yield Progress("load", 1, 1)
    if dry_run:
        return TrainResult(None, plan=trainer.dry_run())
    checkpoint = yield from trainer.steps()
    best = trainer.run / "best"
    return TrainResult(checkpoint, best if best.exists() else None, trainer.loss)


def open_task(config: TrainConfig) -> Task:
    """Create the task of the stage that the settings select.

    Raises:
        ConfigError: the settings do not match the data or the weights.
        WeightsError: weights are missing or damaged.
    """
    module = importlib.import_module(f"mimicmotion.training.stages.{config.stage}")  # imports only what the stage needs
    return getattr(module, f"{config.stage.capitalize()}Task")(config)


def open_trainer(
    config: TrainConfig | str | Path, *, resume: bool = True, allow_changes: bool = False, task: Task | None = None
) -> Trainer:
    """Create a trainer, which resumes from the run's last checkpoint if there is one.

    Args:
        config: settings, the path of a recipe (YAML), or the name of a bundled one.
        resume: False rejects a run folder that already has checkpoints.
        allow_changes: resume even if settings differ from those of the checkpoint.
        task: custom task to train, instead of one of the stages.

    Raises:
        ConfigError: Accelerate is not installed, or the settings are invalid or do not match the run folder.
        WeightsError: weights are missing or damaged.
    """
    import_extra("accelerate", "train")
    from mimicmotion.training.loop import Trainer

    if isinstance(config, (str, Path)):
        config = load_config(config)
    return Trainer(config, task or open_task(config), resume=resume, allow_changes=allow_changes)


def run(config: TrainConfig | str | Path, **options: Any) -> Path:
    """Train to the end, resuming from the last checkpoint of the run folder. Takes the arguments of `open_trainer`.

    Returns:
        The last checkpoint, whose folder `model` is loaded for inference.

    Raises:
        TrainingError: the loss or gradient is not finite.
        OutputError: a checkpoint cannot be written.
        ConfigError, WeightsError: see `open_trainer`.
    """
    return open_trainer(config, **options).fit()
