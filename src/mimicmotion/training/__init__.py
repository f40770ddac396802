"""Training with Accelerate: from shards to a checkpoint by the paper's method, and the small model's stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mimicmotion.settings.training import TrainConfig
    from mimicmotion.training.loop import Trainer
    from mimicmotion.training.task import Task


def open_task(config: TrainConfig) -> Task:
    """The task of a config's stage.

    Raises:
        ConfigError: the settings do not match the data or the weights.
        WeightsError: weights are missing or damaged.
    """
    if config.stage == "autoencoder":
        from mimicmotion.training.stages.autoencoder import AutoencoderTask

        return AutoencoderTask(config)
    if config.stage == "detail":
        from mimicmotion.training.stages.detail import DetailTask

        return DetailTask(config)
    if config.stage == "warp":
        from mimicmotion.training.stages.warp import WarpTask

        return WarpTask(config)
    from mimicmotion.training.stages.denoiser import DenoiserTask

    return DenoiserTask(config)


def open_trainer(
    config: TrainConfig | str | Path, *, resume: bool = True, allow_changes: bool = False, task: Task | None = None
) -> Trainer:
    """Open a trainer at the run's last checkpoint.

    Args:
        config: settings, or a recipe: a YAML file, or the name of a bundled one.
        resume: False rejects a run folder that already has checkpoints.
        allow_changes: resume even if settings differ from those of the checkpoint.
        task: custom task to train, instead of one of the stages.

    Raises:
        ConfigError: Accelerate is not installed, or the settings are wrong or do not fit the run folder.
        WeightsError: weights are missing or damaged.
    """
    from mimicmotion.runtime.extras import import_extra
    from mimicmotion.settings.training import load_config

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
        ConfigError, WeightsError: as `open_trainer`.
    """
    return open_trainer(config, **options).fit()
