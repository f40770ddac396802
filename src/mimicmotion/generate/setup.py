"""Load the model, and make the recipe and the execution plan, from the settings; shared by generate and plan."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mimicmotion.errors import ConfigError
from mimicmotion.runtime.progress import Job, Progress
from mimicmotion.settings import FusionConfig, GenerateConfig, parse

if TYPE_CHECKING:
    import torch

    from mimicmotion.backbones.base import Plan
    from mimicmotion.diffusion.recipe import Recipe
    from mimicmotion.pipeline import MimicMotionPipeline

logger = logging.getLogger(__name__)

Facts = Mapping[str, Any]


def load(config: GenerateConfig, pipeline: MimicMotionPipeline | None) -> Job[MimicMotionPipeline]:
    """Load the model that the settings name, unless a pipeline is given.

    Raises:
        ConfigError: the given pipeline is not quantised as `config.quantize` requires. It is not changed, since its
            owner may use it elsewhere.
    """
    yield Progress("load", 0, 1)
    pipe = load_pipeline(config) if pipeline is None else pipeline
    wanted, actual = config.quantize, pipe.backbone.quantized
    if wanted not in ("none", actual):
        raise ConfigError(
            f"quantize={wanted!r} with a pipeline that has {'plain' if actual == 'none' else actual} weights",
            "no pipeline (the model is then loaded with these weights), or one that has them",
            f"call pipeline.backbone.quantize({wanted!r}) first",
        )
    yield Progress("load", 1, 1)
    return pipe


def load_pipeline(config: GenerateConfig) -> MimicMotionPipeline:
    """Load the model that the settings name. Weights for a GPU stay on the host until `plan_run` knows which fit."""
    from mimicmotion.pipeline import MimicMotionPipeline
    from mimicmotion.runtime.device import choose_device, choose_dtype

    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    host = "cpu" if device.type == "cuda" else device
    pipe = MimicMotionPipeline.from_pretrained(
        config.model, config.checkpoint, device=host, dtype=dtype, edition=config.edition
    )
    if config.quantize != "none":
        pipe.backbone.quantize(config.quantize)
    return pipe


def with_estimator(config: GenerateConfig, pipeline: MimicMotionPipeline | None) -> tuple[GenerateConfig, list[str]]:
    """The settings with the pose estimator filled in, and notes for the user; see `choose_estimator`.

    Raises:
        WeightsError: the model cannot be found.
    """
    from mimicmotion.pose.estimators.open import choose_estimator
    from mimicmotion.weights.locate import find_base, read_model_file

    trained_with = None
    if pipeline is not None:
        trained_with = pipeline.backbone.settings.get("estimator")
    elif config.checkpoint is not None:  # published weights
        trained_with = "dwpose"
    elif config.model is not None:
        trained_with = read_model_file(find_base(config.model)).get("settings", {}).get("estimator")
    chosen, notes = choose_estimator(config, trained_with)
    return dataclasses.replace(config, estimator=chosen), notes  # type: ignore[bad-argument-type] - one of the names


def fusion_config(config: GenerateConfig, default: FusionConfig) -> FusionConfig:
    """The model's fusion settings, overridden by those of the job."""
    segment = default.segment_frames if config.segment_frames is None else config.segment_frames
    overlap = min(default.overlap_frames, segment - 1) if config.overlap_frames is None else config.overlap_frames
    slot = default.reference_slot if config.reference_slot is None else config.reference_slot
    mode = config.fusion or default.mode
    return dataclasses.replace(default, mode=mode, segment_frames=segment, overlap_frames=overlap, reference_slot=slot)


def recipe_for(config: GenerateConfig, pipe: MimicMotionPipeline, frames: int) -> Recipe:
    """Build the recipe for a number of frames from the settings."""
    from mimicmotion.diffusion import recipe

    model = pipe.backbone.settings
    fusion = fusion_config(config, parse(FusionConfig, model.get("fusion", {})))
    asked, trained = config.segment_frames, model.get("trained_frames")
    if asked and trained and asked != trained:
        logger.warning("using segments of %d frames, but the model was trained on clips of %d", asked, trained)
    return recipe.make_recipe(frames, config, model, reference_slot=True, fusion=fusion)


def plan_run(
    config: GenerateConfig,
    pipe: MimicMotionPipeline,
    size: tuple[int, int],
    recipe: Recipe,
    *,
    earlier: Facts | None = None,
    predict: bool = False,
) -> Plan:
    """Choose the execution plan; a model that already has one keeps it.

    Args:
        config: settings of the job.
        pipe: the model; its weights may still be on the host.
        size: (height, width) of the result.
        recipe: recipe of the video.
        earlier: plan of an interrupted run, to be reused: other chunks would round differently.
        predict: predict the peaks even if there is plenty of memory.

    Raises:
        ConfigError: no plan fits; the error reports how much memory is missing.
    """
    backbone = pipe.backbone
    if backbone.is_configured:
        return backbone.plan
    if earlier is not None and (plan := backbone.read_plan(earlier)) is not None:
        return plan
    device = run_device(config, pipe)
    return backbone.plan_run(size, recipe, config, device=device, keep_x0=config.preview, predict=predict)


def run_device(config: GenerateConfig, pipe: MimicMotionPipeline) -> torch.device:
    """Device that the networks will run on; until then, weights may be on the host."""
    from mimicmotion.runtime.device import choose_device

    return pipe.device if pipe.device.type != "cpu" else choose_device(config.device)
