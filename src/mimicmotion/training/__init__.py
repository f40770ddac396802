"""Training: from shards to a checkpoint by the paper's method, on Accelerate; also the bundled small model's stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mimicmotion.settings.training import TrainConfig
    from mimicmotion.training.loop import Trainer
    from mimicmotion.training.task import Task


def open_task(config: TrainConfig) -> Task:
    """The task of the config's stage.

    Raises:
        ConfigError: the settings do not fit the data or the weights.
        WeightsError: weights are missing or damaged.
    """
    if config.stage == "autoencoder":
        from mimicmotion.training.stages.autoencoder import AutoencoderTask

        return AutoencoderTask(config)
    if config.stage == "detail":
        from mimicmotion.training.stages.detail import DetailTask

        return DetailTask(config)
    from mimicmotion.training.stages.denoiser import DenoiserTask

    return DenoiserTask(config)


def open_trainer(
    config: TrainConfig | str | Path,
    *,
    resume: bool = True,
    allow_changes: bool = False,
    overrides: Sequence[str] = (),
    task: Task | None = None,
) -> Trainer:
    """A trainer that stands at the run's last checkpoint.

    Args:
        config: settings, or a recipe (YAML).
        resume: False refuses a run folder that holds checkpoints already.
        allow_changes: go on although settings differ from the checkpoint's.
        overrides: settings that win over the recipe's, such as "optim.lr=1e-4".
        task: what is trained, if it is not one of the stages.

    Raises:
        ConfigError: the settings are wrong, or do not fit the run folder.
        WeightsError: weights are missing or damaged.
    """
    from mimicmotion.errors import ConfigError
    from mimicmotion.settings.training import load_config

    if isinstance(config, (str, Path)):
        config = load_config(config, overrides)
    elif overrides:
        raise ConfigError("overrides of settings that are parsed already", "a recipe", "use dataclasses.replace")
    from mimicmotion.training.loop import Trainer

    return Trainer(config, task or open_task(config), resume=resume, allow_changes=allow_changes)


def run(
    config: TrainConfig | str | Path,
    *,
    resume: bool = True,
    stop_at: int | None = None,
    allow_changes: bool = False,
    overrides: Sequence[str] = (),
    task: Task | None = None,
) -> Path:
    """Train to the end, or to step `stop_at`, going on where the run folder's last checkpoint stands.

    Args:
        config: settings, or a recipe (YAML) or the name of one of this package.
        resume: False refuses a run folder that holds checkpoints already.
        stop_at: stop at this step instead of the last one.
        allow_changes: go on although settings differ from the checkpoint's.
        overrides: settings that win over the recipe's, such as "optim.lr=1e-4".
        task: what is trained, if it is not one of the stages.

    Returns:
        The last checkpoint: its folder `model` is what inference loads.

    Raises:
        ConfigError: the settings are wrong, or do not fit the run folder.
        WeightsError: weights are missing or damaged.
        TrainingError: loss or gradient is not a number.
        OutputError: a checkpoint cannot be written.
    """
    trainer = open_trainer(config, resume=resume, allow_changes=allow_changes, overrides=overrides, task=task)
    return trainer.fit(stop_at)
