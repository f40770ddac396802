"""`MimicMotionPipeline`: one picture and drawn poses to a video of any length."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mimicmotion._request import Request, build_requests, check_numbers, check_size
from mimicmotion.arrays import Frame
from mimicmotion.backbones.svd.checkpoint import Components, load_components, save_components
from mimicmotion.backbones.svd.conditioning import ConditionedUNet, Conditioning, encode_conditioning
from mimicmotion.backbones.svd.decode import decode_frames, decode_stream
from mimicmotion.backbones.svd.execution.block_cache import BlockCache
from mimicmotion.backbones.svd.execution.placement import Placement
from mimicmotion.backbones.svd.execution.plan import ExecutionPlan
from mimicmotion.backbones.svd.execution.recover import RecoveringUNet, decode_recovering, recovering
from mimicmotion.backbones.svd.pose_features import PoseFrames
from mimicmotion.backbones.svd.posenet import PoseNet
from mimicmotion.backbones.tiny.detail import DetailGuide, DetailNet, add_detail
from mimicmotion.diffusion.denoiser import Denoiser, guide, precondition_v, shift
from mimicmotion.diffusion.fusion import fuse
from mimicmotion.diffusion.guidance import Differences, by_level, guide_again, guide_and_keep
from mimicmotion.diffusion.recipe import Noise, Recipe, draw_noise, make_recipe
from mimicmotion.diffusion.sampling import Step, sample
from mimicmotion.diffusion.schedule import initial_scale
from mimicmotion.errors import ConfigError, InputError, PoseError
from mimicmotion.settings import FusionConfig, parse
from mimicmotion.settings.speed import Sampler, Schedule
from mimicmotion.weights.registry import find_asset

logger = logging.getLogger(__name__)

Latents = Float[Tensor, "batch frames channels h w"]
OutputType = Literal["np", "pil", "latent", "stream"]
DEFAULT_GUIDANCE, DEFAULT_FPS, DEFAULT_CHUNK = 2.0, 7.0, 8


@dataclass(frozen=True, slots=True, eq=False)
class StepState:
    """State after one denoising step.

    To resume: `denoise(conditioning, state.step.latents, recipe, start=state.index + 1, memory=state.memory)`.

    Attributes:
        step: the sampler's state; its latents include the reference slot.
        reference_slot: whether frame 0 of `step.latents` is the reference picture.
        memory: what the next step needs besides the latents, by name; empty for Euler's method with plain guidance.
    """

    step: Step
    reference_slot: bool
    memory: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def index(self) -> int:
        """0 after the first step."""
        return self.step.index

    @property
    def total(self) -> int:
        """Number of steps."""
        return self.step.total

    @property
    def sigma(self) -> float:
        """Noise level that is now in the latents."""
        return self.step.sigma

    @property
    def latents(self) -> Latents:
        """Latents of the video's frames."""
        return self.step.latents[:, int(self.reference_slot) :]

    @property
    def preview(self) -> Latents:
        """Clean latents of the video's frames, as this step estimates them: decode some for a preview.

        Raises:
            InputError: they were not kept (`denoise(keep_x0=False)`).
        """
        if self.step.x0 is None:
            raise InputError("a preview of a step without x0", "denoise(keep_x0=True)", "let 'denoise' keep them")
        return self.step.x0[:, int(self.reference_slot) :]


def _states(
    run: Iterator[Step], recipe: Recipe, differences: Differences, cache: BlockCache | None
) -> Iterator[StepState]:
    passes = (*recipe.passes, "none")
    try:
        for step in run:
            if passes[step.index + 1] != "again":
                differences.kept = None  # the next step makes its own, if it keeps any
            cached = {} if cache is None else cache.state()
            yield StepState(step, recipe.plan.reference_slot, {**step.memory, **differences.memory(), **cached})
    finally:
        if cache is not None:
            cache.clear()  # decoding needs the memory


class MimicMotionPipeline:
    """Picture + poses -> video (paper section 3).

    Args:
        unet: SVD's U-Net with the pose input (`mimicmotion.backbones.svd.unet.build_unet`).
        vae: SVD's autoencoder, frozen.
        image_encoder: CLIP's picture encoder, frozen.
        pose_net: encoder of pose frames.
        settings: defaults of this model, as plain data: `height`, `width`, `num_inference_steps` or `sigmas` (noise
            levels), `guidance_scale`, `fps` (what the network is told), `fusion` (fields of `FusionConfig`),
            `reference_warp` (see `needs_warped_picture`).
        detail: gives decoded frames the warped picture's detail, in small models that have it; None, as in the
            published model, leaves frames as the autoencoder decodes them.

    Raises:
        ConfigError: the networks do not fit each other, or a setting is wrong.
    """

    def __init__(
        self,
        unet: Any,
        vae: Any,
        image_encoder: Any,
        pose_net: PoseNet,
        settings: Mapping[str, Any] | None = None,
        detail: DetailNet | None = None,
    ) -> None:
        self.unet, self.vae, self.image_encoder, self.pose_net = unet, vae, image_encoder, pose_net
        self.detail = detail
        self.settings = dict(settings or {})
        self._placement: Placement | None = None
        self._plan: ExecutionPlan | None = None
        self.files: tuple[Path, ...] = ()
        """Files that `from_pretrained` read, for a record of what was used."""
        if pose_net.downscale != self.downscale:
            raise ConfigError(
                f"PoseNet shrinks {pose_net.downscale}x, the autoencoder {self.downscale}x",
                "the same factor",
                "use the PoseNet and the autoencoder of one model",
            )
        if detail is not None and not self.needs_warped_picture:
            got = f"a detail network with reference_warp={self.settings.get('reference_warp', 'none')!r}"
            raise ConfigError(got, "reference_warp: limbs or residual", "leave out the detail network")

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path | None = None,
        checkpoint: str | Path | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        variant: str | None = None,
        **options: Any,
    ) -> MimicMotionPipeline:
        """Load a model.

        Args:
            base: folder or hub id of Stable Video Diffusion, or a folder that `save_pretrained` wrote; None is the
                small model that comes with this package.
            checkpoint: MimicMotion's weights (.pth, .safetensors or hub id) to put on the base.
            device: where the networks go.
            dtype: number format of the networks.
            variant: "fp16" reads `*.fp16.safetensors`; None takes what is there.
            options: passed on to `mimicmotion.backbones.svd.checkpoint.load_components`.

        Raises:
            WeightsError: files are missing, damaged, or do not fit (all keys are listed).
        """
        if base is None:
            base = find_asset("tiny")
        parts = load_components(base, checkpoint, device=device, dtype=dtype, variant=variant, **options)
        pipe = cls(parts.unet, parts.vae, parts.image_encoder, parts.pose_net, parts.settings, parts.detail)
        pipe.files = parts.files
        return pipe

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model to a folder that `from_pretrained` reads (diffusers' layout, safetensors)."""
        parts = Components(self.unet, self.vae, self.image_encoder, self.pose_net, self.settings, detail=self.detail)
        save_components(parts, Path(folder))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> MimicMotionPipeline:
        """Move and cast all networks; ends a plan that keeps weights elsewhere (`configure`)."""
        if self._placement is not None:
            self._placement.release()
            self._placement = None
            device = device or self._device
        for module in (self.unet, self.vae, self.image_encoder, self.pose_net, self.detail):
            if module is not None:
                nn.Module.to(module, device=device, dtype=dtype)
        return self

    def configure(self, plan: ExecutionPlan, device: torch.device | str | None = None) -> MimicMotionPipeline:
        """Run as a plan says from now on (see `plan_execution`); may be called between two steps.

        Args:
            plan: how the networks run; the result stays the same (see `ExecutionPlan.exact`).
            device: where they work; None is where they do now. Weights that wait are on the host.
        """
        self._device = self.device if device is None else torch.device(device)
        if self._placement is None or self._placement.device != self._device:
            if self._placement is not None:
                self._placement.release()
            self._placement = Placement(self, self._device, plan)
        else:
            self._placement.apply(plan)
        self._plan = plan
        return self

    @property
    def plan(self) -> ExecutionPlan:
        """How the networks run; without `configure` plainly, all at once."""
        return ExecutionPlan(unet=self.unet.execution) if self._plan is None else self._plan

    @property
    def is_configured(self) -> bool:
        """Whether a plan was set."""
        return self._plan is not None

    def use(self, name: str) -> None:
        """Have a network ("unet", "vae", "image_encoder") on the device, where weights come and go by a plan."""
        if self._placement is not None:
            self._placement.use(name)

    @property
    def device(self) -> torch.device:
        """Where the networks work."""
        return next(self.unet.parameters()).device if self._placement is None else self._placement.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the U-Net."""
        return next(self.unet.parameters()).dtype

    @property
    def downscale(self) -> int:
        """Pixels per latent along one side (8 for SVD)."""
        return self.vae.downscale

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this (64 for SVD: 8 of the autoencoder x 8 of the U-Net)."""
        return self.downscale * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def needs_reference_pose(self) -> bool:
        """Whether PoseNet compares each pose with the pose in the picture (then `reference_pose` is required)."""
        return self.pose_net.widths[0] == 6

    @property
    def needs_warped_picture(self) -> bool:
        """Whether the model is told where limbs go by the picture warped to each pose (then `warped` is required).

        A departure of small models (settings: `reference_warp: limbs`, or `residual`, where moreover the difference to
        the warped picture is what is denoised); the published weights know nothing of it.
        """
        return self.settings.get("reference_warp", "none") != "none"

    @property
    def default_steps(self) -> int:
        """Denoising steps that this model makes where nothing else is asked for."""
        levels = self.settings.get("sigmas")
        return int(self.settings.get("num_inference_steps") or 25) if levels is None else len(levels) - 1

    @property
    def default_fusion(self) -> FusionConfig:
        """Fusion that this model was made for."""
        return parse(FusionConfig, self.settings.get("fusion", {}))

    # --- the stages ---------------------------------------------------------------------------------------------

    def encode(
        self,
        image: Frame,
        poses: PoseFrames,
        reference_pose: Frame | None = None,
        *,
        num_frames: int | None = None,
        fps: float | None = None,
        motion_bucket_id: float = 127,
        noise_aug_strength: float = 0.0,
        image_noise: Float[Tensor, "1 3 height width"] | None = None,
        warped: PoseFrames | None = None,
    ) -> Conditioning:
        """First stage: encode picture and poses once; arguments as for the pipeline itself.

        Raises:
            PoseError: pose frames of another size or kind.
            InputError: `noise_aug_strength` without `image_noise` (`Noise.picture`).
        """

        def work() -> Conditioning:
            return encode_conditioning(
                vae=self.vae,
                image_encoder=self.image_encoder,
                pose_net=self.pose_net,
                image=image,
                poses=poses,
                reference_pose=reference_pose,
                num_frames=num_frames,
                fps=self.settings.get("fps", DEFAULT_FPS) if fps is None else fps,
                motion_bucket_id=motion_bucket_id,
                noise_aug_strength=noise_aug_strength,
                image_noise=image_noise,
                device=self.device,
                warped=warped,
                use=self.use,
                budget=0 if self.plan.latents_on_host else None,
            )

        return recovering(self, "encode", work)

    def recipe(
        self,
        num_frames: int,
        *,
        reference_slot: bool,
        fusion: FusionConfig | None = None,
        num_inference_steps: int | None = None,
        sigmas: Sequence[float] | None = None,
        guidance_scale: float | None = None,
        min_guidance_scale: float | None = None,
        max_guidance_scale: float | None = None,
        guidance_in_one_batch: bool = True,
        sampler: Sampler = "euler",
        schedule: Schedule | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_every: int = 1,
        block_cache: float = 0.0,
    ) -> Recipe:
        """Work out segments, noise levels and guidance; costs nothing, and finds wrong settings.

        Args:
            num_frames: of the video.
            reference_slot: whether there is a reference pose; without one there is no slot, whatever `fusion` says.
            fusion: how segments are cut and joined; None is the model's default.
            num_inference_steps: steps of the schedule; None is the model's default (or 25, 10 of "ays").
            sigmas: noise levels in place of a schedule, n levels for n - 1 steps (`mimicmotion.diffusion.schedule`).
            guidance_scale: classifier-free guidance of all frames; 1 skips the unconditional pass.
            min_guidance_scale: guidance of the first frame, for a ramp over the video.
            max_guidance_scale: guidance of the last frame, for a ramp over the video.
            guidance_in_one_batch: see `Recipe`.
            sampler: "euler" or "dpmpp-2m" (`mimicmotion.diffusion.sampling.sample`).
            schedule: "karras" or "ays"; None is the model's own levels, else "karras".
            guidance_interval: lowest and highest noise level that is guided; None guides all.
            guidance_every: run the unconditional pass in each so-many-th of the guided steps.
            block_cache: error budget of using the U-Net's deep features again (`BlockCache`).

        Raises:
            PoseError: mode "released" without a reference pose.
            InputError: no frames, or a setting out of range.
        """
        if sigmas is not None and schedule is not None:
            raise ConfigError(f"schedule={schedule!r} with {len(sigmas)} sigmas", "one of the two", "drop one")
        if sigmas is None and num_inference_steps is None and schedule is None:
            sigmas = self.settings.get("sigmas")
        if sigmas is not None and num_inference_steps not in (None, len(sigmas) - 1):
            raise ConfigError(
                f"num_inference_steps={num_inference_steps} with {len(sigmas)} sigmas", "one of the two", "drop one"
            )
        if guidance_scale is None:
            guidance_scale = float(self.settings.get("guidance_scale", DEFAULT_GUIDANCE))
        if num_inference_steps is None and schedule in (None, "karras"):
            num_inference_steps = self.settings.get("num_inference_steps")
        return make_recipe(
            num_frames,
            self.default_fusion if fusion is None else fusion,
            reference_slot=reference_slot,
            steps=num_inference_steps,
            schedule=schedule or "karras",
            sigmas=sigmas,
            guidance=(
                guidance_scale if min_guidance_scale is None else min_guidance_scale,
                guidance_scale if max_guidance_scale is None else max_guidance_scale,
            ),
            one_batch=guidance_in_one_batch,
            sampler=sampler,
            guidance_interval=guidance_interval,
            guidance_every=guidance_every,
            block_cache=block_cache,
        )

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
    ) -> Iterator[StepState]:
        """Second stage: yields after every step, so the caller shows progress and previews, stops, or resumes.

        Args:
            conditioning: of one video, or of a batch of videos of the same length (`Conditioning.stack`).
            noise: unit noise of all rows of the plan, the reference slot in front (`draw_noise().latents`); with
                `start` > 0 the latents to resume from instead (`StepState.step.latents`).
            recipe: see `recipe`.
            start: first step to make.
            memory: `StepState.memory` of the step before `start`.
            keep_x0: keep clean latents for `StepState.preview`, as much memory again as the latents.
            in_place: write each step over the last one (and over `noise`, where it is float32 and lies where latents
                are kept): one copy of the noisy latents. A state that was yielded then holds only until the next one
                is asked for.

        Raises:
            InputError: noise, memory or conditioning do not fit the recipe (before the first step).
            NonFiniteError: the network said NaN.
        """
        plan = recipe.plan
        rows = conditioning.num_frames + plan.reference_slot
        if noise.ndim != 5 or noise.shape[:2] != (conditioning.batch_size, plan.num_rows) or rows != plan.num_rows:
            raise InputError(
                f"noise of shape {tuple(noise.shape)} and poses of {conditioning.num_frames} frames",
                f"({conditioning.batch_size}, {plan.num_rows}, channels, h, w), the reference slot counted",
                "make recipe, noise and conditioning for the same number of frames",
            )
        store = torch.device("cpu") if self.plan.latents_on_host else self.device
        differences = Differences(plan.segments, store, self.dtype if self.dtype.itemsize == 2 else None)
        if 0 < start < len(recipe.passes) and recipe.passes[start] == "again":
            differences.restore(memory or {}, noise.shape)
        cache = BlockCache(recipe.block_cache, memory or {} if start else None) if recipe.block_cache else None
        x = noise.to(store, torch.float32)
        if start == 0:
            with torch.inference_mode(in_place):  # there tensors of either mode may be changed
                x = torch.mul(x, initial_scale(recipe.sigmas), out=x if in_place else None)
        run = sample(
            fuse(self._denoiser(conditioning, recipe, differences, cache), plan, self.device),
            x,
            recipe.sigmas,
            recipe.sampler,
            start=start,
            memory=memory,
            keep_x0=keep_x0,
            in_place=in_place,
        )
        return _states(run, recipe, differences, cache)

    def _denoiser(
        self, conditioning: Conditioning, recipe: Recipe, differences: Differences, cache: BlockCache | None
    ) -> Denoiser:
        slot, scale, passes = recipe.plan.reference_slot, recipe.guidance, recipe.passes
        unet = RecoveringUNet(self, ConditionedUNet(self.unet, conditioning, slot, recipe.one_batch, cache))
        ways = {
            "none": precondition_v(unet.conditional),
            "both": precondition_v(guide(unet.pair, scale)),
            "keep": precondition_v(guide_and_keep(unet.pair, scale, differences)),
            "again": precondition_v(guide_again(unet.conditional, scale, differences)),
        }
        nexts = (*passes[1:], None)
        # a difference is kept where the next step needs it
        kinds = ["keep" if (now, then) == ("both", "again") else now for now, then in zip(passes, nexts, strict=True)]
        denoiser = by_level(recipe.sigmas, [ways[kind] for kind in kinds])
        if self.settings.get("reference_warp") == "residual":
            factor = self.vae.config.scaling_factor
            denoiser = shift(denoiser, lambda rows: factor * conditioning.latent_rows(rows, slot))
        return denoiser

    def draw_noise(
        self,
        recipe: Recipe,
        size: tuple[int, int],
        *,
        seed: int = 42,
        generator: torch.Generator | None = None,
        latents: Latents | None = None,
    ) -> Noise:
        """Noise of a video of `size` = (height, width) pixels; see `mimicmotion.diffusion.recipe.draw_noise`."""
        shape = (self.vae.config.latent_channels, size[0] // self.downscale, size[1] // self.downscale)
        return draw_noise(recipe, size, shape, seed=seed, generator=generator, latents=latents)

    def decode(
        self,
        latents: Float[Tensor, "frames channels h w"],
        *,
        decode_chunk_size: int = DEFAULT_CHUNK,
        decode_overlap: int | None = None,
        released: bool = False,
        detail_from: DetailGuide | None = None,
        first: int = 0,
    ) -> Iterator[Frame]:
        """Third stage: frames one by one, 0..255; memory holds one chunk, whatever the length.

        Args:
            latents: clean latents of one video.
            decode_chunk_size: frames decoded at once.
            decode_overlap: frames shared and blended between chunks; None is half a chunk, 0 cuts hard.
            released: plain chunks and truncation, as the published code.
            detail_from: what models with a `detail` network take it from; without it their frames stay soft.
            first: number of the first latents' frame in `detail_from`; -1 for a reference slot, which stays as it is.

        Raises:
            InputError: fewer frames in `detail_from` than latents.
        """
        mode, finish = "released" if released else "blend", None
        if self.detail is not None and detail_from is not None:
            if len(detail_from) < first + len(latents):
                got, want = f"detail_from of {len(detail_from)} frames", f"{first + len(latents)} frames"
                raise InputError(got, want, "pass a warped picture and a drawn pose for each frame")
            finish = functools.partial(add_detail, self.detail, guide=detail_from, first=first)
        clip = functools.partial(decode_recovering, self, decode_frames)
        return decode_stream(
            self.vae, latents, decode_chunk_size, overlap=decode_overlap, mode=mode, decode=clip, finish=finish
        )

    # --- the whole way ------------------------------------------------------------------------------------------

    def __call__(
        self,
        image: Any,
        poses: Any,
        reference_pose: Any = None,
        *,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        sigmas: Sequence[float] | None = None,
        guidance_scale: float | None = None,
        min_guidance_scale: float | None = None,
        max_guidance_scale: float | None = None,
        guidance_in_one_batch: bool = True,
        fps: float | None = None,
        motion_bucket_id: float = 127,
        noise_aug_strength: float = 0.0,
        decode_chunk_size: int = DEFAULT_CHUNK,
        decode_overlap: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | Sequence[int] = 42,
        fusion: FusionConfig | None = None,
        latents: Latents | None = None,
        image_noise: Float[Tensor, "1 3 height width"] | None = None,
        warped: Any = None,
        sampler: Sampler = "euler",
        schedule: Schedule | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_every: int = 1,
        block_cache: float = 0.0,
        output_type: OutputType = "np",
        callback_on_step_end: Callable[[MimicMotionPipeline, int, float, dict[str, Tensor]], object] | None = None,
    ) -> Any:
        """Make a video, or one video per item where lists are given.

        Args:
            image: the person: PIL picture or uint8 array (height, width, 3), at the size of the video; or a list.
            poses: drawn pose frames, uint8 (frames, height, width, 3), or anything with a length whose slices give
                such arrays (frames are then drawn as they are needed); or a list of these.
            reference_pose: the drawn pose of the person in `image`; None switches the reference slot off.
            height: to be checked against the picture; None takes the picture's.
            width: as `height`.
            num_frames: use the first so many poses; None uses all.
            num_inference_steps: denoising steps; None is the model's default (25 for the published weights).
            sigmas: explicit noise levels in place of a schedule; n levels make n - 1 steps.
            guidance_scale: classifier-free guidance; 1 is none (and half the time); None is the model's default.
            min_guidance_scale: guidance of the first frame, where it shall rise or fall over the video.
            max_guidance_scale: guidance of the last frame.
            guidance_in_one_batch: run both passes of guidance as one batch (faster on a GPU, more memory).
            fps: frames per second that the network is told; None is the model's default (7).
            motion_bucket_id: SVD's measure of motion.
            noise_aug_strength: noise on the picture (pixels of -1..1) before the VAE sees it.
            decode_chunk_size: frames decoded at once.
            decode_overlap: frames blended between decoded chunks; None is half a chunk.
            generator: in mode "released" drawn from as the published code does, else one seed is drawn from it.
            seed: of the noise, where there is no generator; a list gives one per item.
            fusion: how long videos are cut and joined; None is the model's default.
            latents: unit noise to start from, see `draw_noise`.
            image_noise: unit noise for `noise_aug_strength`; None draws it.
            warped: the picture warped to each pose (`pose.guidance.limb_warp.WarpedPicture`), for models that need it
                (`needs_warped_picture`): like `poses`, or a list of these.
            sampler: "euler" as published, or "dpmpp-2m", of second order: the same quality in fewer steps.
            schedule: noise levels "karras" as published, or "ays" (Align Your Steps, 10 steps); None is the model's.
            guidance_interval: guide only between these noise levels; elsewhere there is no unconditional pass.
            guidance_every: run the unconditional pass in each so-many-th guided step, use its difference in between.
            block_cache: error budget of using the U-Net's deep features again (0 computes all, 0.1 little error).
            output_type: "np" uint8 (frames, height, width, 3), with lists (items, frames, height, width, 3); "pil"
                list of pictures; "latent" clean latents (items, frames, channels, h, w); "stream" an iterator of
                frames that decodes as it is read (one video).
            callback_on_step_end: called as in diffusers with (pipeline, step, sigma, {"latents": ...}) after each
                step; what it returns is ignored. To stop, change or resume, iterate over `denoise` instead.

        Raises:
            InputError: something is wrong with picture, poses or settings; found before any network runs.
        """
        check_numbers(
            fps=(fps, 1, 1000),
            motion_bucket_id=(motion_bucket_id, 0, 100_000),
            noise_aug_strength=(noise_aug_strength, 0, 100),
            decode_chunk_size=(decode_chunk_size, 1, 1_000_000),
        )
        requests, is_batch = build_requests(
            image=image,
            poses=poses,
            reference_pose=reference_pose,
            seed=seed,
            generator=generator,
            num_frames=num_frames,
            warped=warped,
        )
        self._check(requests, height, width, output_type)
        recipe = self.recipe(
            requests[0].num_frames,
            reference_slot=requests[0].reference_pose is not None,
            fusion=fusion,
            num_inference_steps=num_inference_steps,
            sigmas=sigmas,
            guidance_scale=guidance_scale,
            min_guidance_scale=min_guidance_scale,
            max_guidance_scale=max_guidance_scale,
            guidance_in_one_batch=guidance_in_one_batch,
            sampler=sampler,
            schedule=schedule,
            guidance_interval=guidance_interval,
            guidance_every=guidance_every,
            block_cache=block_cache,
        )
        noises = [
            self.draw_noise(recipe, r.size, seed=r.seed, generator=r.generator, latents=latents) for r in requests
        ]
        states: list[StepState] = []
        # One after the other, in the memory of one video; a batch that fits goes through `Conditioning.stack`.
        for r, noise in zip(requests, noises, strict=True):
            conditioning = self.encode(
                r.image,
                r.poses,
                r.reference_pose,
                num_frames=r.num_frames,
                fps=fps,
                motion_bucket_id=motion_bucket_id,
                noise_aug_strength=noise_aug_strength,
                image_noise=noise.picture if image_noise is None else image_noise,
                warped=r.warped,
            )
            steps = self.denoise(conditioning, noise.latents, recipe, keep_x0=False)
            del conditioning  # the steps hold it as long as they need it
            for state in steps:
                if callback_on_step_end is not None:
                    callback_on_step_end(self, state.index, state.sigma, {"latents": state.latents})
            states.append(state)
        if output_type == "latent":
            return torch.cat([s.latents for s in states])
        streams = (
            self.decode_state(s, recipe, decode_chunk_size, decode_overlap, detail_from=r.detail_from)
            for s, r in zip(states, requests, strict=True)
        )
        if output_type == "stream":
            return next(streams)
        videos = [list(frames) for frames in streams]
        if output_type == "pil":
            from PIL import Image

            pictures = [[Image.fromarray(f) for f in frames] for frames in videos]
            return pictures if is_batch else pictures[0]
        arrays = np.stack([np.stack(frames) for frames in videos])
        return arrays if is_batch else arrays[0]

    def decode_state(
        self,
        state: StepState,
        recipe: Recipe,
        decode_chunk_size: int = DEFAULT_CHUNK,
        decode_overlap: int | None = None,
        *,
        detail_from: DetailGuide | None = None,
    ) -> Iterator[Frame]:
        """Frames of the first video of a state, decoded as its fusion mode does (see `decode`)."""
        if recipe.fusion.mode != "released":
            return self.decode(
                state.latents[0],
                decode_chunk_size=decode_chunk_size,
                decode_overlap=decode_overlap,
                detail_from=detail_from,
            )
        # The published code decodes the reference slot too and drops the frame: chunks begin one frame earlier.
        slot = int(state.reference_slot)
        frames = self.decode(
            state.step.latents[0],
            decode_chunk_size=decode_chunk_size,
            released=True,
            detail_from=detail_from,
            first=-slot,
        )
        return itertools.islice(frames, slot, None)

    def _check(self, requests: Sequence[Request], height: int | None, width: int | None, output_type: str) -> None:
        if output_type not in ("np", "pil", "latent", "stream") or (output_type == "stream" and len(requests) > 1):
            raise ConfigError(
                f"output_type={output_type!r} for {len(requests)} video(s)",
                "np, pil, latent, or stream (one video)",
                "call the pipeline once per video to stream",
            )
        for r in requests:
            check_size(r.image, height, width, self.size_multiple)
            if self.needs_reference_pose and r.reference_pose is None:
                raise PoseError("no reference_pose", "the picture's drawn pose: this model compares the two", "pass it")
            if self.needs_warped_picture != (r.warped is not None):
                got = "no warped picture" if r.warped is None else "a warped picture for a model that knows none"
                fix = (
                    "pass warped=mimicmotion.pose.guidance.limb_warp.WarpedPicture(...)"
                    if r.warped is None
                    else "leave it out"
                )
                raise InputError(got, f"reference_warp={self.settings.get('reference_warp', 'none')!r}", fix)
