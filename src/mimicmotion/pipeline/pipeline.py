"""`MimicMotionPipeline`, which generates a video of any length from a picture and poses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mimicmotion.arrays import Frame, PoseFrames
from mimicmotion.backbones import load_backbone
from mimicmotion.backbones.base import Backbone, ConditionedNetwork, Conditioning, Request
from mimicmotion.diffusion.denoiser import Denoiser, Latents, guide
from mimicmotion.diffusion.fusion import fuse
from mimicmotion.diffusion.guidance import Differences, by_level, guide_and_store, guide_reusing
from mimicmotion.diffusion.recipe import Noise, Recipe, draw_noise, make_recipe
from mimicmotion.diffusion.sampling import Step, sample
from mimicmotion.diffusion.schedule import initial_scale
from mimicmotion.errors import ConfigError, InputError
from mimicmotion.pipeline.requests import build_requests, check_request, find_poses
from mimicmotion.pose.align import align
from mimicmotion.pose.crop import PictureFit, choose_size, fit_picture
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.pose.smoothing import smooth_poses
from mimicmotion.settings import FusionConfig, SamplingSettings
from mimicmotion.settings.parsing import from_keywords
from mimicmotion.video.geometry import check_size
from mimicmotion.weights.registry import find_asset

OutputType = Literal["np", "pil", "latent", "stream"]


@dataclass(frozen=True, slots=True, eq=False)
class PipelineOutput:
    """Output of a pipeline call, as in diffusers.

    Attributes:
        frames: the video, or one video per item if lists were passed, in the format set by `output_type`.
    """

    frames: Any


class MimicMotionPipeline:
    """Generate a video from a picture and a driving video or drawn poses (paper section 3).

    `pipe(image="person.png", video="dance.mp4").frames`

    Args:
        backbone: the base model.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path | None = None,
        checkpoint: str | Path | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        edition: str | None = None,
    ) -> MimicMotionPipeline:
        """Load a model.

        Args:
            base: folder or hub id of Stable Video Diffusion, or a folder written by `save_pretrained`; None loads the
                bundled tiny model.
            checkpoint: MimicMotion weights (.pth, .safetensors or hub id) to load on top of the base.
            device: device of the networks.
            dtype: data type of the networks.
            edition: edition of published weights, "1.0" (segments of 16 frames) or "1.1" (72); None detects it.

        Raises:
            WeightsError: files are missing or damaged, or their keys do not match (the message lists them).
        """
        base = find_asset("tiny") if base is None else base
        return cls(load_backbone(base, checkpoint, device=device, dtype=dtype, edition=edition))

    def save_pretrained(self, folder: str | Path) -> None:
        """Save the model to a folder that `from_pretrained` can load."""
        self.backbone.save(Path(folder))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> MimicMotionPipeline:
        """Move and cast all networks."""
        self.backbone.to(device, dtype)
        return self

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return self.backbone.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the networks."""
        return self.backbone.dtype

    # --- the stages ---------------------------------------------------------------------------------------------

    def guide(
        self, picture: Frame, reference: PoseSequence, driving: PoseSequence, *, confidence_aware: bool = True
    ) -> tuple[PoseFrames, Frame]:
        """Draw the driving poses and the reference pose as this model expects them; see `Backbone.guide`."""
        return self.backbone.guide(picture, reference, driving, confidence_aware=confidence_aware)

    def prepare(
        self,
        image: Any,
        video: Any,
        *,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
    ) -> tuple[Frame, PoseFrames, Frame]:
        """Estimate and align the poses, and fit the picture to the video size, as `mimicmotion generate` does.

        Args:
            image: picture of the person: a path, a PIL image or a uint8 array (height, width, 3), of any size.
            video: driving video: a path (sampled at 15 frames per second), a sequence of frames in the formats of
                `image` (all are used), or a `PoseSequence`.
            height: height of the video in pixels; None chooses a size for the model from the picture's aspect ratio.
            width: width of the video in pixels; see `height`.
            num_frames: number of frames to use, from the start; None uses all.

        Returns:
            (picture, drawn poses, drawn reference pose): the first three arguments of the pipeline.

        Raises:
            InputError: the picture, video or size is invalid, or no person is found.
        """
        picture, pose, driving = find_poses(image, video, num_frames, self.backbone.settings.get("estimator"))
        size = self.video_size(pose, height, width)
        fitted, fit = fit_picture(picture, pose, size, "auto")
        reference = pose.fitted(fit)
        return fitted, *self.guide(fitted, reference, align(smooth_poses(driving), reference, size))

    def video_size(
        self, pose: PoseSequence, height: int | None = None, width: int | None = None, fit: PictureFit = "auto"
    ) -> tuple[int, int]:
        """Return (height, width) if both are passed, or else choose a size from the picture's pose; see `choose_size`.

        Raises:
            ConfigError: the model does not support this size.
        """
        model, multiple = self.backbone.settings, self.backbone.size_multiple
        if height is not None and width is not None:
            size = height, width
        elif "height" in model and "width" in model:
            size = choose_size(pose, fit, (model["height"], model["width"]), multiple)
        else:
            size = choose_size(pose, fit, None, max(64, multiple))
        check_size(size, multiple)
        return size

    def encode(
        self,
        image: Any,
        poses: PoseFrames,
        reference_pose: Frame | None = None,
        *,
        sampling: SamplingSettings | None = None,
        image_noise: Float[Tensor, "1 3 height width"] | None = None,
        **settings: Any,
    ) -> Conditioning:
        """First stage: encode the picture and the poses. The arguments are described in `__call__`.

        Raises:
            PoseError: pose frames differ from the picture in size or type.
            InputError: `noise_aug_strength` is set, but `image_noise` (`Noise.picture`) is missing.
        """
        sampling = from_keywords(SamplingSettings, sampling, settings)
        count = len(poses) if sampling.num_frames is None else sampling.num_frames
        return self.backbone.encode(Request(image, poses, reference_pose, count), sampling, image_noise)

    def recipe(
        self,
        num_frames: int,
        *,
        reference_slot: bool,
        fusion: FusionConfig | None = None,
        sampling: SamplingSettings | None = None,
        **settings: Any,
    ) -> Recipe:
        """Plan segments, noise levels and guidance, and validate the settings. Runs no network.

        Args: see `mimicmotion.diffusion.recipe.make_recipe`; `settings` are fields of `SamplingSettings`.
        """
        sampling = from_keywords(SamplingSettings, sampling, settings)
        return make_recipe(num_frames, sampling, self.backbone.settings, reference_slot=reference_slot, fusion=fusion)

    def denoise(
        self,
        conditioning: Conditioning,
        noise: Latents,
        recipe: Recipe,
        *,
        start: int = 0,
        memory: Mapping[str, Tensor] | None = None,
        keep_x0: bool = True,
        in_place: bool = False,
    ) -> Iterator[Step]:
        """Second stage: denoise, yielding after every step so that the caller can show progress, stop or resume.

        The latents of a step contain all rows of `recipe.plan`, starting with the reference slot if there is one.

        Args:
            conditioning: conditioning of the video.
            noise: unit noise of the reference slot, if there is one, and of all frames (`draw_noise().latents`); with
                `start` > 0, the latents to resume from (`Step.latents`).
            recipe: the recipe; see `recipe`.
            start: index of the first step to run.
            memory: `Step.memory` of the step before `start`.
            keep_x0: keep the clean latents in `Step.x0` for previews, which doubles the memory of the latents.
            in_place: overwrite the previous step (and `noise`, if it is float32 and on the device of the latents), so
                that only one copy of the noisy latents exists. A yielded step is then valid only until the next one
                is requested.

        Raises:
            InputError: noise, conditioning or memory does not match the recipe (raised before the first step).
            NonFiniteError: the latents contain NaN or infinity after a step.
        """
        plan = recipe.plan
        rows = conditioning.num_frames + plan.reference_slot
        if noise.ndim != 5 or noise.shape[:2] != (1, plan.num_rows) or rows != plan.num_rows:
            raise InputError(
                f"noise of shape {tuple(noise.shape)} and poses of {conditioning.num_frames} frames",
                f"(1, {plan.num_rows}, channels, h, w), including the reference slot",
                "make the recipe, noise and conditioning for the same number of frames",
            )
        device = self.backbone.latent_device
        differences = Differences(plan.segments, device, self.dtype if self.dtype.itemsize == 2 else None)
        if 0 < start < len(recipe.passes) and recipe.passes[start] == "reuse":
            differences.restore(memory or {})
        network = self.backbone.network(conditioning, recipe, (memory or {}) if start else None)
        x = noise.to(device, torch.float32)
        if start == 0:
            with torch.inference_mode(in_place):  # inference tensors can only be changed in inference mode
                x = torch.mul(x, initial_scale(recipe.sigmas), out=x if in_place else None)
        run = sample(
            fuse(_denoiser(network, recipe, differences), plan, self.device),
            x,
            recipe.sigmas,
            recipe.sampling.sampler or "euler",
            start=start,
            memory=memory,
            keep_x0=keep_x0,
            in_place=in_place,
        )
        return _steps(run, recipe, differences, network)

    def draw_noise(
        self, recipe: Recipe, size: tuple[int, int], *, seed: int = 42, generator: torch.Generator | None = None
    ) -> Noise:
        """Draw noise for a video of `size` = (height, width) pixels; see `mimicmotion.diffusion.recipe.draw_noise`."""
        shape = self.backbone.latent_shape(size)
        return draw_noise(recipe, size, shape, seed=seed, generator=generator)

    def decode(
        self,
        latents: Float[Tensor, "frames channels h w"],
        *,
        decode_chunk_size: int = 8,
        request: Request | None = None,
    ) -> Iterator[Frame]:
        """Third stage: decode latents into uint8 frames, one by one; see `Backbone.decode`."""
        return self.backbone.decode(latents, chunk=decode_chunk_size, request=request)

    def decode_step(self, step: Step, recipe: Recipe, request: Request | None = None) -> Iterator[Frame]:
        """Decode the frames of a step with the recipe's fusion mode and settings.

        Args:
            step: usually the last step.
            recipe: recipe of the video.
            request: request of the video, for models whose decoder also uses the picture and the poses.
        """
        sampling, released = recipe.sampling, recipe.fusion.mode == "released"
        # The published code also decodes the reference slot and drops its frame, so chunks start one frame earlier.
        slot = int(recipe.plan.reference_slot and released)
        frames = self.backbone.decode(
            step.latents[0] if released else recipe.plan.video(step.latents)[0],
            chunk=sampling.decode_chunk_size,
            released=released,
            request=request,
            first=-slot,
        )
        return itertools.islice(frames, slot, None) if slot else frames

    # --- the whole pipeline -------------------------------------------------------------------------------------

    def __call__(
        self,
        image: Any,
        poses: Any = None,
        reference_pose: Any = None,
        *,
        video: Any = None,
        sampling: SamplingSettings | None = None,
        fusion: FusionConfig | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: OutputType = "np",
        callback_on_step_end: Callable[[MimicMotionPipeline, int, float, dict[str, Tensor]], object] | None = None,
        **settings: Any,
    ) -> PipelineOutput:
        """Generate a video from a picture and a driving video (`video`), or from drawn poses.

        With `poses`, pass lists to generate one video per item.

        Args:
            image: picture of the person. With `video`, see `prepare`; with `poses`, a PIL image or uint8 array
                (height, width, 3) at the size of the video, or a list of these.
            poses: drawn poses as returned by `guide`: uint8 (frames, height, width, 3), or a sequence whose slices are
                such arrays, to draw frames on demand; or a list of these.
            reference_pose: drawn pose of the person in `image`; None disables the reference slot.
            video: driving video, instead of `poses` and `reference_pose`: a path, frames or a `PoseSequence`; see
                `prepare`.
            sampling: steps, guidance, seed and so on, unless passed as keywords.
            fusion: how long videos are split into segments and joined; None uses the model's default.
            generator: random generator that replaces the seed; see `draw_noise`.
            output_type: "np" for uint8 (frames, height, width, 3), with lists (items, frames, height, width, 3); "pil"
                for a list of pictures; "latent" for clean latents (items, frames, channels, h, w); "stream" for an
                iterator that decodes frames as it is consumed (one video only).
            callback_on_step_end: called after each step, as in diffusers, with (pipeline, step, sigma, {"latents":
                ...}). Its return value is ignored. To stop, change or resume, iterate over `denoise` instead.
            settings: fields of `SamplingSettings`, such as `num_inference_steps=10`.

        Raises:
            InputError: the picture, poses or settings are invalid; raised before any network runs.
        """
        sampling = from_keywords(SamplingSettings, sampling, settings)
        if (poses is None) == (video is None):
            got = "poses and video" if video is not None else "neither poses nor video"
            raise ConfigError(got, "exactly one of the two", "pass either 'video' or 'poses'")
        height, width, num_frames = sampling.height, sampling.width, sampling.num_frames
        if video is not None:
            image, poses, reference_pose = self.prepare(image, video, height=height, width=width, num_frames=num_frames)
        requests, is_batch = build_requests(image, poses, reference_pose, sampling.seed, generator, num_frames)
        if output_type not in ("np", "pil", "latent", "stream") or (output_type == "stream" and len(requests) > 1):
            raise ConfigError(
                f"output_type={output_type!r} for {len(requests)} video(s)",
                "np, pil, latent, or stream (one video)",
                "call the pipeline once per video to stream",
            )
        for r in requests:
            check_request(r.image, height, width, self.backbone.size_multiple)
            self.backbone.check(r)
        slot = requests[0].reference_pose is not None
        recipe = self.recipe(requests[0].num_frames, reference_slot=slot, fusion=fusion, sampling=sampling)
        noises = [self.draw_noise(recipe, r.size, seed=r.seed, generator=r.generator) for r in requests]
        # Videos run one after another, so that only one is in memory.
        steps = [
            self._run(r, sampling, recipe, noise, callback_on_step_end)
            for r, noise in zip(requests, noises, strict=True)
        ]
        if output_type == "latent":
            return PipelineOutput(torch.cat([recipe.plan.video(s.latents) for s in steps]))
        streams = (self.decode_step(s, recipe, r) for s, r in zip(steps, requests, strict=True))
        if output_type == "stream":
            return PipelineOutput(next(streams))
        videos = [list(frames) for frames in streams]
        if output_type == "pil":
            from PIL import Image

            results: Any = [[Image.fromarray(f) for f in frames] for frames in videos]
        else:
            results = np.stack([np.stack(frames) for frames in videos])
        return PipelineOutput(results if is_batch else results[0])

    def _run(self, request: Request, sampling: SamplingSettings, recipe: Recipe, noise: Noise, callback: Any) -> Step:
        """Denoise one video and return the last step."""
        conditioning = self.backbone.encode(request, sampling, noise.picture)
        steps = self.denoise(conditioning, noise.latents, recipe, keep_x0=False)
        del conditioning  # `steps` keeps it as long as needed
        for step in steps:
            if callback is not None:
                callback(self, step.index, step.sigma, {"latents": recipe.plan.video(step.latents)})
        return step


def _denoiser(network: ConditionedNetwork, recipe: Recipe, differences: Differences) -> Denoiser:
    """Build a denoiser that applies the recipe's guidance in each step."""
    scale, passes = recipe.guidance, recipe.passes
    networks = {
        "none": network.conditional,
        "both": guide(network.pair, scale),
        "store": guide_and_store(network.pair, scale, differences),
        "reuse": guide_reusing(network.conditional, scale, differences),
    }
    # Store the difference only if the next step needs it.
    following = (*passes[1:], None)
    kinds = ["store" if pair == ("both", "reuse") else pair[0] for pair in zip(passes, following, strict=True)]
    denoisers = {kind: network.precondition(networks[kind]) for kind in set(kinds)}
    return by_level(recipe.sigmas, [denoisers[kind] for kind in kinds])


def _steps(
    run: Iterator[Step], recipe: Recipe, differences: Differences, network: ConditionedNetwork
) -> Iterator[Step]:
    """Add the memory of the guidance and the network to the sampler's steps, and close the network at the end."""
    passes = (*recipe.passes, "none")
    try:
        for step in run:
            if passes[step.index + 1] != "reuse":
                differences.stored.clear()  # no longer needed
            memory = {**step.memory, **differences.stored, **network.memory()}
            yield replace(step, memory=memory)
    finally:
        network.close()  # frees memory for decoding
