"""From settings to a loaded model, prepared inputs and a recipe: what generate and plan have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from mimicmotion.arrays import Frame
from mimicmotion.errors import ConfigError
from mimicmotion.generate.inputs import Inputs, open_driving, prepare
from mimicmotion.generate.outputs import DrawnPoses
from mimicmotion.pose.guidance.skeleton import PoseDrawer
from mimicmotion.runtime.progress import Job, Progress
from mimicmotion.settings import FusionConfig, GenerateConfig, resolve_speed

if TYPE_CHECKING:
    from mimicmotion.backbones.tiny.detail import DetailGuide
    from mimicmotion.diffusion.recipe import Recipe
    from mimicmotion.pipeline import MimicMotionPipeline
    from mimicmotion.pose.guidance.limb_warp import WarpedPicture


def load_and_prepare(
    config: GenerateConfig, pipeline: MimicMotionPipeline | None
) -> Job[tuple[MimicMotionPipeline, Inputs]]:
    """Load the model, then read the picture and find and align the poses: the first stages of plan."""
    check_inputs_exist(config)
    pipe = yield from load(config, pipeline)
    return pipe, (yield from prepare(config, result_size(config, pipe), pipe.size_multiple))


def load(config: GenerateConfig, pipeline: MimicMotionPipeline | None) -> Job[MimicMotionPipeline]:
    """The model that was given, or the one of the settings."""
    yield Progress("load", 0, 1)
    pipe = load_pipeline(config) if pipeline is None else pipeline
    _check_weights(config, pipe)
    yield Progress("load", 1, 1)
    return pipe


def _check_weights(config: GenerateConfig, pipe: MimicMotionPipeline) -> None:
    """A model that was given stays as it is: narrowed weights would come as a surprise in its next use."""
    from mimicmotion.backbones.svd.execution.quantize import quantized

    wanted, done = resolve_speed(config).quantize, quantized(pipe.unet)
    if wanted != "none" and (done is None or done.format != wanted):
        raise ConfigError(
            f"quantize={wanted!r} with a pipeline that has {'plain' if done is None else done.format} weights",
            "no pipeline (the model is loaded so), or one with such weights",
            f"call mimicmotion.backbones.svd.execution.quantize.quantize_weights(pipeline.unet, {wanted!r}) first",
        )


def check_inputs_exist(config: GenerateConfig) -> None:
    """Raise MediaError for a missing picture or video before a model is loaded."""
    from mimicmotion.video.picture import check_input_file

    check_input_file(config.picture, "a picture")
    open_driving(config)


def load_pipeline(config: GenerateConfig) -> MimicMotionPipeline:
    """The model of the settings on the device of the settings."""
    from mimicmotion.pipeline import MimicMotionPipeline
    from mimicmotion.runtime.device import choose_device, choose_dtype

    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    # For a GPU the weights stay on the host until it is planned which of them fit (`jobs.execution`).
    place = "cpu" if device.type == "cuda" else device
    pipe = MimicMotionPipeline.from_pretrained(config.model, config.checkpoint, device=place, dtype=dtype)
    quantize = resolve_speed(config).quantize
    if quantize != "none":
        from mimicmotion.backbones.svd.execution.quantize import quantize_weights

        quantize_weights(pipe.unet, quantize)
    return pipe


def preview_decode(config: GenerateConfig, pipe: MimicMotionPipeline) -> Callable[[Any], Iterable[Frame]]:
    """What decodes previews: the tiny autoencoder of the settings, or the model's own."""
    if config.preview_decoder is None:
        return pipe.decode
    from mimicmotion.backbones.svd.preview import load_preview_decoder

    channels = int(pipe.vae.config.latent_channels)
    return load_preview_decoder(
        config.preview_decoder, latent_channels=channels, downscale=pipe.downscale, device=pipe.device, dtype=pipe.dtype
    )


def result_size(config: GenerateConfig, pipe: MimicMotionPipeline) -> tuple[int, int]:
    """(height, width) of the result: the settings', else the model's own, else the published rule for the picture."""
    from mimicmotion.video.geometry import plan_size
    from mimicmotion.video.picture import read_picture

    if config.height is not None and config.width is not None:
        return config.height, config.width
    if "height" in pipe.settings and "width" in pipe.settings:
        return pipe.settings["height"], pipe.settings["width"]
    picture = read_picture(config.picture)
    return plan_size((picture.shape[0], picture.shape[1]), multiple=max(64, pipe.size_multiple))


def pose_drawer(config: GenerateConfig, pipe: MimicMotionPipeline, size: tuple[int, int]) -> PoseDrawer:
    """The look of poses that the model was trained on."""
    look = dict(pipe.settings.get("pose_drawing", {}))
    aware = look.pop("confidence_aware", True) and config.confidence_aware
    return PoseDrawer(size, confidence_aware=aware, **look)


def warped_picture(pipe: MimicMotionPipeline, inputs: Inputs) -> WarpedPicture | None:
    """The picture warped to each pose, for models that were trained with it."""
    from mimicmotion.pose.guidance.limb_warp import WarpedPicture

    if not pipe.needs_warped_picture:
        return None
    return WarpedPicture(inputs.picture, inputs.reference, inputs.aligned)


def detail_guide(pipe: MimicMotionPipeline, inputs: Inputs, poses: DrawnPoses) -> DetailGuide | None:
    """What a detail network takes detail from, for models that have one."""
    from mimicmotion.backbones.tiny.detail import DetailGuide

    warped = warped_picture(pipe, inputs) if pipe.detail is not None else None
    if warped is None:
        return None
    again = DrawnPoses(poses.poses, poses.drawer.twin(), threads=1)  # others draw ahead with their own canvas meanwhile
    return DetailGuide(inputs.picture, reference_pose(inputs, poses), warped, again)


def reference_pose(inputs: Inputs, poses: DrawnPoses) -> Frame:
    """The picture's own pose, drawn as the others."""
    return poses.drawer.draw(inputs.reference.xy[0], inputs.reference.confidence[0])


def fusion_config(config: GenerateConfig, default: FusionConfig) -> FusionConfig:
    """The model's fusion with what the settings change."""
    segment = default.segment_frames if config.segment_frames is None else config.segment_frames
    overlap = min(default.overlap_frames, segment - 1) if config.overlap_frames is None else config.overlap_frames
    slot = default.reference_slot if config.reference_slot is None else config.reference_slot
    mode = config.fusion or default.mode
    return dataclasses.replace(default, mode=mode, segment_frames=segment, overlap_frames=overlap, reference_slot=slot)


def make_recipe(config: GenerateConfig, pipe: MimicMotionPipeline, frames: int) -> Recipe:
    """Segments, noise levels, sampler and guidance by the settings."""
    speed = resolve_speed(config, pipe.default_steps)
    return pipe.recipe(
        frames,
        reference_slot=True,
        fusion=fusion_config(config, pipe.default_fusion),
        num_inference_steps=speed.steps,
        guidance_scale=config.guidance_scale,
        max_guidance_scale=config.guidance_scale_end,
        sampler=speed.sampler,
        schedule=speed.schedule,
        guidance_interval=speed.guidance_interval,
        guidance_every=speed.guidance_every,
        block_cache=speed.block_cache,
    )
