"""Training and validation shards of a run."""

from __future__ import annotations

import logging
from pathlib import Path

from mimicmotion.data.shards.shards import Shards, open_shards
from mimicmotion.errors import InputError
from mimicmotion.settings.training import TrainConfig

logger = logging.getLogger(__name__)


def shard_cache(config: TrainConfig) -> Path:
    """Cache folder for copies of remote shards, latents and predicted clips."""
    return Path(config.data.cache or Path(config.run) / "cache")


def training_shards(config: TrainConfig) -> Shards:
    """Shards of the training split.

    Raises:
        InputError: the shards are missing or empty.
    """
    return open_shards(config.data.shards, "train", cache=shard_cache(config) / "shards")


def held_out_shards(config: TrainConfig, training: Shards) -> Shards:
    """Shards of the validation split, or those of `training` if there is none."""
    try:
        return open_shards(config.data.shards, "val", cache=shard_cache(config) / "shards")
    except InputError as e:
        logger.warning("no validation split (%s); using fixed samples of the training split", e.got)
        return training
