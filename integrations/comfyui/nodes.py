"""The nodes. Ids, and names and types of inputs and outputs, never change: saved workflows name them."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimicmotion import MimicMotionPipeline, PoseSequence
from mimicmotion.arrays import Frame, PoseFrames
from mimicmotion.backbones.base import Plan, Request
from mimicmotion.diffusion.recipe import Recipe
from mimicmotion.diffusion.sampling import Step
from mimicmotion.errors import PoseError
from mimicmotion.generate.inputs import Inputs, driving_poses, fit_inputs, open_driving
from mimicmotion.generate.job import animate
from mimicmotion.generate.outputs import with_background
from mimicmotion.generate.setup import fusion_config, load_pipeline, run_device, with_estimator
from mimicmotion.pose.estimators.open import find_estimator
from mimicmotion.pose.keypoints import BODY, FEET, LEFT_HAND, RIGHT_HAND, VISIBLE
from mimicmotion.runtime.progress import Progress, finish
from mimicmotion.settings import FusionConfig, GenerateConfig, SamplingSettings, parse
from mimicmotion.video import labels
from mimicmotion.video.picture import write_picture
from mimicmotion.video.reader import RELEASED_FPS
from mimicmotion.video.writer import open_writer, plan_output

from . import api
from .api import io
from .settings import NodeSettings, job_settings, sampling_settings

logger = logging.getLogger(__name__)

CATEGORY = "MimicMotion"
FORMATS = [".mp4", ".mov", ".mkv", ".webm", ".gif", ".webp"]

ModelIO = io.Custom("MIMICMOTION_MODEL")
PosesIO = io.Custom("MIMICMOTION_POSES")
AlignedIO = io.Custom("MIMICMOTION_ALIGNED")
LatentsIO = io.Custom("MIMICMOTION_LATENTS")


@dataclass(frozen=True, eq=False)
class Model:
    """Output of Load: the pipeline, and the settings that it was loaded with."""

    pipeline: MimicMotionPipeline
    settings: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Aligned:
    """Output of Align: the inputs, the drawn poses, and the picture's own drawn pose."""

    inputs: Inputs
    poses: PoseFrames
    own_pose: Frame


@dataclass(frozen=True, eq=False)
class Latents:
    """Output of Sample: the last state, and everything that decoding depends on."""

    step: Step
    recipe: Recipe
    request: Request
    plan: Plan
    inputs: Inputs


class MimicMotionLoad(io.ComfyNode):
    """Load a model. Published weights and models from the hub are downloaded on first use and verified."""

    settings = NodeSettings(GenerateConfig, "model", "checkpoint", "edition", "device", "dtype", "quantize")

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return _schema(cls, cls.settings.inputs(), [ModelIO.Output("loaded", display_name="model")])

    @classmethod
    def execute(cls, **given: Any) -> io.NodeOutput:
        """Load it."""
        values = cls.settings.values(given)
        return io.NodeOutput(Model(load_pipeline(job_settings(values)), values))


class MimicMotionPoses(io.ComfyNode):
    """Estimate the poses of the person in a video or in a picture (an IMAGE of one frame)."""

    settings = NodeSettings(
        GenerateConfig,
        *("fps", "start", "duration", "tempo", "video_fps"),
        *("estimator", "person", "detector", "pose_model", "pose_device"),
    )

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        tooltip = "A video, frames (set their rate with video_fps), or the picture of a person."
        sockets = [
            io.MultiType.Input("source", [io.Image, io.Video], tooltip=tooltip),
            ModelIO.Input("model", optional=True, tooltip="Use the estimator that this model was trained with."),
        ]
        outputs = [PosesIO.Output("poses", display_name="poses"), io.Float.Output("rate", display_name="fps")]
        return _schema(cls, [*sockets, *cls.settings.inputs()], outputs)

    @classmethod
    def execute(cls, source: Any, model: Model | None = None, **given: Any) -> io.NodeOutput:
        """Find them."""
        values, report = cls.settings.values(given), api.follow()
        if model is not None:
            chosen, notes = with_estimator(job_settings(values), model.pipeline)
            values["estimator"] = chosen.estimator
            for note in notes:
                logger.warning(note)
        if api.is_picture(source):
            config = job_settings(values | {"picture_person": values.get("person", "largest")})
            report(Progress("picture", 0, 1))
            poses = find_estimator(config)(static=True).estimate([api.to_frame(source[0])])
        else:
            with tempfile.TemporaryDirectory(dir=api.temporary_folder()) as folder:
                video = api.as_file(source, Path(folder), values.get("video_fps", RELEASED_FPS))
                config = job_settings(values | {"video": video})
                job = driving_poses(config, open_driving(config), find_estimator(config))
                poses = finish(job, report)
        if not (poses.confidence[:, BODY] > VISIBLE).any():
            raise PoseError("no person found in 'source'", "a person in full view", "choose another source")
        return io.NodeOutput(poses, config.fps)


class MimicMotionAlign(io.ComfyNode):
    """Fit the picture to the size of the result, and the video's poses to the person in the picture, and draw them."""

    settings = NodeSettings(GenerateConfig, "height", "width", "fit", "align", "confidence_aware", "face")
    switches = ("body", "hands")

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        sockets = [
            ModelIO.Input("model"),
            io.Image.Input("image", tooltip="The picture of the person."),
            PosesIO.Input("image_poses", tooltip="The pose in that picture."),
            PosesIO.Input("poses", tooltip="The poses of the video."),
        ]
        draw = [io.Boolean.Input(n, default=True, optional=True, tooltip=f"Draw the {n}.") for n in cls.switches]
        outputs = [AlignedIO.Output("aligned", display_name="aligned"), io.Image.Output("drawn", display_name="poses")]
        return _schema(cls, [*sockets, *cls.settings.inputs(), *draw], outputs)

    @classmethod
    def execute(
        cls, model: Model, image: api.Images, image_poses: PoseSequence, poses: PoseSequence, **given: Any
    ) -> io.NodeOutput:
        """Align and draw."""
        pipe, config = model.pipeline, job_settings(cls.settings.values(given) | {"video": "the video"})
        picture, found = api.to_frame(image[0]), image_poses[:1]
        if found.size != picture.shape[:2]:
            got, want = f"the pose of a picture of {found.size}", f"that of this picture, {picture.shape[:2]}"
            raise PoseError(got, want, "connect image_poses to the poses of 'image'")
        size = pipe.video_size(found, config.height, config.width, config.fit)
        inputs = fit_inputs(config, picture, found, poses, size)
        for note in inputs.warnings:
            logger.warning(note)
        shown = [given.get(name, True) for name in cls.switches]
        reference, aligned = (_draw_only(p, *shown) for p in (inputs.reference, inputs.aligned))
        drawn, own = pipe.guide(inputs.picture, reference, aligned, confidence_aware=config.confidence_aware)
        return io.NodeOutput(Aligned(inputs, drawn, own), api.to_images(drawn[: len(drawn)]))


class MimicMotionSample(io.ComfyNode):
    """Denoise the latents of the video in overlapping segments (context windows)."""

    settings = NodeSettings(
        GenerateConfig,
        *("seed", "speed", "num_inference_steps", "sampler", "schedule"),
        *("guidance_scale", "min_guidance_scale", "max_guidance_scale", "guidance_interval", "guidance_every"),
        *("segment_frames", "overlap_frames", "fusion", "block_cache", "noise_aug_strength", "motion_bucket_id"),
        *("memory", "offload", "compile"),
    )

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        tooltip = "Noise levels from another node, used instead of schedule and num_inference_steps."
        sockets = [ModelIO.Input("model"), AlignedIO.Input("aligned")]
        sigmas = io.Sigmas.Input("sigmas", optional=True, tooltip=tooltip)
        outputs = [LatentsIO.Output("latents", display_name="latents")]
        return _schema(cls, [*sockets, *cls.settings.inputs(), sigmas], outputs)

    @classmethod
    def execute(cls, model: Model, aligned: Aligned, sigmas: Any = None, **given: Any) -> io.NodeOutput:
        """Denoise."""
        pipe, config, report = model.pipeline, job_settings(model.settings | cls.settings.values(given)), api.follow()
        request = Request(aligned.inputs.picture, aligned.poses, aligned.own_pose, len(aligned.poses), config.seed)
        recipe = pipe.recipe(
            request.num_frames,
            reference_slot=True,
            fusion=fusion_config(config, parse(FusionConfig, pipe.backbone.settings.get("fusion", {}))),
            sampling=sampling_settings(config, None if sigmas is None else sigmas.tolist()),
        )
        api.free_gpu()
        device = run_device(config, pipe)
        plan = pipe.backbone.plan_run(request.size, recipe, config, device=device)
        pipe.backbone.configure(plan, device)
        noise = pipe.draw_noise(recipe, request.size, seed=config.seed)
        report(Progress("encode", 0, 1))
        conditioning = pipe.backbone.encode(request, recipe.sampling, noise.picture)
        steps = pipe.denoise(conditioning, noise.latents, recipe, keep_x0=False)
        del conditioning  # the steps hold it as long as they need it
        for step in steps:
            report(Progress("denoise", step.index + 1, step.total))
        return io.NodeOutput(Latents(step, recipe, request, plan, aligned.inputs))


class MimicMotionDecode(io.ComfyNode):
    """Decode latents to frames, then move the model's weights off the GPU."""

    settings = NodeSettings(SamplingSettings, "decode_chunk_size")
    of_job = NodeSettings(GenerateConfig, "background")

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        sockets = [ModelIO.Input("model"), LatentsIO.Input("latents")]
        inputs = [*sockets, *cls.settings.inputs(), *cls.of_job.inputs()]
        return _schema(cls, inputs, [io.Image.Output("images", display_name="images")])

    @classmethod
    def execute(cls, model: Model, latents: Latents, **given: Any) -> io.NodeOutput:
        """Decode."""
        pipe, recipe, report = model.pipeline, latents.recipe, api.follow()
        config = job_settings(model.settings | cls.of_job.values(given))
        recipe = dataclasses.replace(
            recipe, sampling=dataclasses.replace(recipe.sampling, **cls.settings.values(given))
        )
        pipe.backbone.configure(latents.plan, run_device(config, pipe))
        frames = with_background(config, latents.inputs, pipe.decode_step(latents.step, recipe, latents.request))
        found = []
        for frame in frames:
            found.append(frame)
            report(Progress("decode", len(found), latents.request.num_frames))
        pipe.to("cpu")
        return io.NodeOutput(api.to_images(found))


class MimicMotionSave(io.ComfyNode):
    """Save frames as a video in ComfyUI's output folder, labelled as AI-generated."""

    settings = NodeSettings(GenerateConfig, "fps", "label", "producer", "signer")

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        suffix = io.Combo.Input("format", FORMATS, optional=True, default=FORMATS[0])
        inputs = [io.Image.Input("images"), *cls.settings.inputs(), _prefix(), suffix]
        return _schema(cls, inputs, [io.Video.Output("video", display_name="video")], is_output_node=True)

    @classmethod
    def execute(
        cls, images: api.Images, filename_prefix: str = CATEGORY, format: str = FORMATS[0], **given: Any
    ) -> io.NodeOutput:
        """Write and label it."""
        config, report, size = (
            job_settings(cls.settings.values(given)),
            api.follow(),
            (images.shape[1], images.shape[2]),
        )
        if config.label == "signed":
            labels.check_signing(plan_output(f"video{format}")[1], config.signer)
        about = hashlib.sha256(images.cpu().numpy().tobytes()).hexdigest()[:32]
        label = labels.Label(config.producer, about, config.label == "signed", config.signer)
        shown = 0 if config.label == "metadata" else math.ceil(labels.SHOWN_SECONDS * config.fps)
        path = api.next_output(filename_prefix, format, size)
        with open_writer(path, size, config.fps, label=label) as writer:
            for i, image in enumerate(images):
                frame = api.to_frame(image)
                writer.write(labels.draw(frame) if i < shown else frame)
                report(Progress("write", i + 1, len(images)))
        return api.shown(path, api.video_of(path))


class MimicMotionAnimate(io.ComfyNode):
    """Everything in one node: turn a picture and a video into a labelled video, with its sidecar (.json) beside it."""

    settings = NodeSettings(
        GenerateConfig,
        *("height", "width", "fps", "start", "duration", "tempo", "video_fps", "estimator", "align", "fit"),
        *("seed", "speed", "num_inference_steps", "guidance_scale", "segment_frames", "overlap_frames"),
        *("decode_chunk_size", "background", "audio", "label", "producer", "signer"),
    )

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        sockets = [
            io.Image.Input("image", tooltip="The picture of the person."),
            io.MultiType.Input("source", [io.Image, io.Video], tooltip="The driving video, or its frames."),
            ModelIO.Input("model", optional=True, tooltip="A model from MimicMotion Load; default: the bundled one."),
        ]
        outputs = [io.Video.Output("video", display_name="video")]
        return _schema(cls, [*sockets, *cls.settings.inputs(), _prefix()], outputs, is_output_node=True)

    @classmethod
    def execute(
        cls, image: api.Images, source: Any, model: Model | None = None, filename_prefix: str = CATEGORY, **given: Any
    ) -> io.NodeOutput:
        """Make it."""
        values, report = cls.settings.values(given) | (model.settings if model else {}), api.follow()
        picture = api.to_frame(image[0])
        path = api.next_output(filename_prefix, FORMATS[0], (picture.shape[0], picture.shape[1]))
        api.free_gpu()
        pipe = load_pipeline(job_settings(values)) if model is None else model.pipeline
        pipe.backbone.forget_plan()  # it may be that of another size
        with tempfile.TemporaryDirectory(dir=api.temporary_folder()) as name:
            folder = Path(name)
            write_picture(folder / "picture.png", picture)
            video = api.as_file(source, folder, values.get("video_fps", RELEASED_FPS))
            animate(folder / "picture.png", video, path, on_progress=report, pipeline=pipe, save_every=0, **values)
        pipe.to("cpu")
        return api.shown(path, api.video_of(path))


NODES: list[type[io.ComfyNode]] = [
    MimicMotionLoad,
    MimicMotionPoses,
    MimicMotionAlign,
    MimicMotionSample,
    MimicMotionDecode,
    MimicMotionSave,
    MimicMotionAnimate,
]


def _schema(cls: type, inputs: list[io.Input], outputs: list[io.Output], **more: Any) -> io.Schema:
    title = cls.__name__.replace("MimicMotion", "MimicMotion ")
    return io.Schema(
        node_id=cls.__name__,
        display_name=title,
        category=CATEGORY,
        description=cls.__doc__,
        inputs=inputs,
        outputs=outputs,
        **more,
    )


def _prefix() -> io.Input:
    tooltip = "Start of the file name; may include folders and placeholders such as %year%."
    return io.String.Input("filename_prefix", default=CATEGORY, optional=True, tooltip=tooltip)


def _draw_only(poses: PoseSequence, body: bool, hands: bool) -> PoseSequence:
    """The poses without what is switched off: points of no confidence are not drawn."""
    confidence = poses.confidence.copy()
    for part, drawn in ((BODY, body), (FEET, body), (LEFT_HAND, hands), (RIGHT_HAND, hands)):
        if not drawn:
            confidence[:, part] = 0
    return dataclasses.replace(poses, confidence=confidence)
