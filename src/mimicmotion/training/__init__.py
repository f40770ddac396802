"""Training of the bundled model: autoencoder, then U-Net, PoseNet and picture encoder, on synthetic people."""

from __future__ import annotations

import os
from pathlib import Path

from mimicmotion.errors import ConfigError


def run(config_path: str | Path, stop_at: int | None = None, *, resume: bool = True) -> Path:
    """Train by a recipe (YAML), resuming where the run folder's last checkpoint stands.

    Args:
        config_path: a recipe such as configs/tiny-denoiser.yaml.
        stop_at: stop at this step instead of the last one.
        resume: False refuses a run folder that holds checkpoints already.

    Returns:
        The last checkpoint.

    Raises:
        ConfigError: the recipe is wrong, or the run folder holds another model.
    """
    import torch

    from mimicmotion.training.settings import load_config
    from mimicmotion.training.state import checkpoints

    config = load_config(config_path)
    if not resume and (found := checkpoints(Path(config.run))):
        raise ConfigError(f"{found[-1]} exists", "an empty run folder", "delete it, name another 'run', or resume")
    torch.set_num_threads(config.threads)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")  # under torchrun
    if config.stage == "autoencoder":
        from mimicmotion.training.autoencoder import train_autoencoder

        return train_autoencoder(config, stop_at=stop_at)
    from mimicmotion.training.denoiser import train_denoiser

    return train_denoiser(config, stop_at=stop_at)
