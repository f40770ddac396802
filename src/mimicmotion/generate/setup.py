"""Load the model, and build the recipe and the execution plan from the settings; shared by generate and plan."""

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
    """Load the model that the settings select, or use `pipeline` if it is not None.

    Raises:
        ConfigError: `pipeline` is not quantised as `config.quantize` requires. It is not modified, since the caller may
            also use it elsewhere.
    """
    yield Progress("load", 0, 1)
    pipe = load_pipeline(config) if pipeline is None else pipeline
    required, actual = config.quantize, pipe.backbone.quantized
    if required not in ("none", actual):
        raise ConfigError(
            f"quantize={required!r} with a pipeline that has {'unquantised' if actual == 'none' else actual} weights",
            f"a pipeline with {required} weights, or no pipeline",
            f"call pipeline.backbone.quantize({required!r}) first",
        )
    yield Progress("load", 1, 1)
    return pipe


def load_pipeline(config: GenerateConfig) -> MimicMotionPipeline:
    """Load the model that the settings select. Weights for a GPU stay on the host until `plan_run` knows which fit."""
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
    """Return the settings with the pose estimator filled in, and notes for the user; see `choose_estimator`.

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
    """Return the model's fusion settings, overridden by those of the job."""
    segment = default.segment_frames if config.segment_frames is None else config.segment_frames
    overlap = min(default.overlap_frames, segment - 1) if config.overlap_frames is None else config.overlap_frames
    slot = default.reference_slot if config.reference_slot is None else config.reference_slot
    mode = config.fusion or default.mode
    return dataclasses.replace(default, mode=mode, segment_frames=segment, overlap_frames=overlap, reference_slot=slot)


def recipe_for(config: GenerateConfig, pipe: MimicMotionPipeline, frames: int) -> Recipe:
    """Build the recipe for a video of `frames` frames from the settings."""
    from mimicmotion.diffusion import recipe

    model = pipe.backbone.settings
    fusion = fusion_config(config, parse(FusionConfig, model.get("fusion", {})))
    segment, trained = config.segment_frames, model.get("trained_frames")
    if segment and trained and segment != trained:
        logger.warning("using segments of %d frames, but the model was trained on clips of %d", segment, trained)
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
    """Choose the execution plan. If the model already has one, return it.

    Args:
        config: settings of the job.
        pipe: the model; its weights may still be on the host.
        size: (height, width) of the result.
        recipe: recipe of the video.
        earlier: plan of an interrupted run, which is reused because other chunk sizes would round differently.
        predict: predict the peak memory even if there is plenty.

    Raises:
        ConfigError: no plan fits in memory; the message states how much is missing.
    """
    backbone = pipe.backbone
    if backbone.is_configured:
        return backbone.plan
    if earlier is not None and (plan := backbone.read_plan(earlier)) is not None:
        return plan
    device = run_device(config, pipe)
    return backbone.plan_run(size, recipe, config, device=device, keep_x0=config.preview, predict=predict)


def run_device(config: GenerateConfig, pipe: MimicMotionPipeline) -> torch.device:
    """Return the device that the networks will run on, although their weights may still be on the host."""
    from mimicmotion.runtime.device import choose_device

    return pipe.device if pipe.device.type != "cpu" else choose_device(config.device)
