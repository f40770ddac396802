"""Stable Video Diffusion with the pose input, as a backbone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mimicmotion.arrays import Frame, PoseFrames
from mimicmotion.backbones.base import Backbone, ConditionedNetwork, Request
from mimicmotion.backbones.svd.checkpoint import PARTS, Components, load_components, save_components
from mimicmotion.backbones.svd.conditioning import ConditionedUNet, Conditioning, encode_warped
from mimicmotion.backbones.svd.decode import decode_float, decode_frames, to_uint8
from mimicmotion.backbones.svd.execution.deep_features import BlockCache
from mimicmotion.backbones.svd.execution.levels import plan_execution, recovering
from mimicmotion.backbones.svd.execution.memory import weight_bytes
from mimicmotion.backbones.svd.execution.offload import OffloadedBlocks, OffloadedModule, blocks_of
from mimicmotion.backbones.svd.execution.options import Execution
from mimicmotion.backbones.svd.execution.plan import ExecutionPlan
from mimicmotion.backbones.svd.execution.predict import NETWORKS, Predictor, Workload
from mimicmotion.backbones.svd.execution.quantize import quantize_weights, quantized
from mimicmotion.backbones.svd.image_encoder import image_embedding
from mimicmotion.backbones.svd.pose_features import encode_poses, to_unit
from mimicmotion.backbones.svd.vae import encode_mode
from mimicmotion.diffusion.denoiser import Denoiser, Network, precondition_v
from mimicmotion.diffusion.noise import added_time_ids, augment_picture
from mimicmotion.diffusion.recipe import Recipe
from mimicmotion.diffusion.sampling import check_finite
from mimicmotion.errors import ConfigError, InputError, PoseError
from mimicmotion.runtime.device import free_memory
from mimicmotion.settings import ExecutionOptions, SamplingSettings

DEFAULT_FPS = 7.0
LARGE = ("unet", "vae", "image_encoder")
"""Networks that are offloaded to the host while others run; the other networks are small and stay on the device."""


class SVDBackbone(Backbone):
    """SVD's networks and the encoder of pose frames (paper section 3.2).

    Args:
        parts: the networks; see `Components`. The settings may include `fps`, which the network is conditioned on.

    Raises:
        ConfigError: the networks do not match, or there is a detail network, but no warped picture as its input.
    """

    name: ClassVar[str] = "svd"

    def __init__(self, parts: Components) -> None:
        self.parts, self.settings, self.files = parts, parts.settings, parts.files
        self.unet, self.vae, self.image_encoder, self.pose_net = (getattr(parts, name) for name in PARTS)
        self.detail, self.warp = parts.detail, parts.warp
        self._plan: ExecutionPlan | None = None
        self._device: torch.device | None = None  # the plan's device, even while weights are offloaded
        self._offloaded: dict[str, OffloadedModule] = {}
        if self.detail is not None and not self.warps:
            got = f"a detail network with reference_warp={self.settings.get('reference_warp', 'none')!r}"
            raise ConfigError(got, "reference_warp: limbs or residual", "leave out the detail network")
        if self.pose_net.downscale != self.downscale:
            raise ConfigError(
                f"PoseNet downscales by {self.pose_net.downscale}, but the autoencoder by {self.downscale}",
                "the same factor",
                "use the PoseNet and the autoencoder of one model",
            )

    @classmethod
    def load(cls, folder: Path, checkpoint: str | Path | None = None, **options: Any) -> Self:
        """Load a model; see `Backbone.load` and `load_components`."""
        return cls(load_components(folder, checkpoint, **options))

    def save(self, folder: Path) -> None:
        """Save the model in diffusers' folder layout, with safetensors."""
        save_components(self.parts, folder)

    # --- sizes and devices ------------------------------------------------------------------------------------------

    @property
    def downscale(self) -> int:
        """Pixels per latent along one side (8 for SVD)."""
        return self.vae.downscale

    @property
    def size_multiple(self) -> int:  # type: ignore[override]
        """64 for SVD: the autoencoder downscales by 8, and so does the U-Net."""
        return self.downscale * 2 ** (len(self.unet.config.block_out_channels) - 1)

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Return the shape (channels, h, w) of the latents of a frame; see `Backbone.latent_shape`."""
        return self.vae.config.latent_channels, size[0] // self.downscale, size[1] // self.downscale

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Device of the networks."""
        return self._device or next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """Data type of the U-Net."""
        return next(self.unet.parameters()).dtype

    @property
    def latent_device(self) -> torch.device:
        """Device that stores the latents of whole videos."""
        return torch.device("cpu") if self.plan.latents_on_host else self.device

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        """Move and cast all networks. This turns off weight offloading."""
        if self._device is not None:
            device = device or self.device
            self._release()
            self._device = None
        for network in self.networks:
            nn.Module.to(network, device=device, dtype=dtype)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """U-Net, autoencoder, picture encoder, PoseNet, and the detail and warp networks if present."""
        return tuple(network for name in NETWORKS if (network := getattr(self, name)) is not None)

    def use(self, name: str) -> None:
        """Load a network ("unet", "vae" or "image_encoder") to the device if it is offloaded, and unload the others."""
        for other, offloaded in self._offloaded.items():
            if other != name:
                offloaded.unload()  # first, to make room
        if name in self._offloaded:
            self._offloaded[name].load()

    def _release(self) -> None:
        """Stop offloading; all weights stay on the host."""
        for offloaded in self._offloaded.values():
            offloaded.release()
        self._offloaded.clear()

    # --- running within a memory limit ------------------------------------------------------------------------------

    @property
    def plan(self) -> ExecutionPlan:  # type: ignore[override]
        """The execution plan. Without `configure`, everything runs unchunked on the device."""
        return ExecutionPlan(unet=self.unet.execution) if self._plan is None else self._plan

    @property
    def is_configured(self) -> bool:  # type: ignore[override]
        """Whether a plan was set."""
        return self._plan is not None

    def configure(self, plan: ExecutionPlan, device: torch.device | str | None = None) -> None:
        """Apply an execution plan and move the weights accordingly; see `Backbone.configure`."""
        target = self.device if device is None else torch.device(device)
        if (target, plan.offload) != (self._device, self.plan.offload):
            self._release()
        self._plan, self._device = plan, target
        self.unet.set_execution(plan.unet)
        for name in NETWORKS:
            network = getattr(self, name)
            if network is not None and (plan.offload == "none" or name not in LARGE):
                nn.Module.to(network, device=target)
            elif network is not None and name not in self._offloaded:
                blocks = plan.offload == "blocks" and name == "unet"
                self._offloaded[name] = (
                    OffloadedBlocks(network, blocks_of(network), target) if blocks else OffloadedModule(network, target)
                )

    def forget_plan(self) -> None:
        """Drop the plan; see `Backbone.forget_plan`."""
        self._plan = None

    def plan_run(
        self,
        size: tuple[int, int],
        recipe: Recipe,
        options: ExecutionOptions,
        *,
        device: torch.device | None = None,
        keep_x0: bool = False,
        predict: bool = False,
    ) -> ExecutionPlan:
        """Choose the fastest plan that is predicted to fit; see `Backbone.plan_run`."""
        device = self.device if device is None else device
        loaded = weight_bytes(*self.networks) if self.device.type == device.type else 0
        budget = free_memory(device, loaded) if options.memory is None else int(options.memory * 2**30)
        segments, num_frames = recipe.plan.segments, recipe.plan.num_rows - recipe.plan.reference_slot
        work = Workload(
            size=size,
            segment_frames=min(len(segments[0]), num_frames + 1),
            num_frames=num_frames,
            guided=not all(p == "none" for p in recipe.passes),
            clip_frames=min(recipe.sampling.decode_chunk_size, num_frames),
            warped=self.warps,
            cached_segments=len(segments) if recipe.sampling.block_cache else 0,
            latent_copies=2 + (keep_x0 or recipe.sampling.sampler == "dpmpp-2m"),
        )
        predictor = Predictor(self, device)
        if not predict and budget is not None and predictor.upper_bound(work) <= budget:
            budget = None
        return plan_execution(predictor, work, budget, options)

    def read_plan(self, facts: Mapping[str, Any]) -> ExecutionPlan | None:
        """Restore a plan from a record; see `Backbone.read_plan`."""
        try:
            plan: dict[str, Any] = {**facts, "unet": Execution(**facts["unet"])}
            return ExecutionPlan(**plan)
        except (KeyError, TypeError):
            return None

    @property
    def quantized(self) -> str:  # type: ignore[override]
        """Format of the U-Net's quantised weights, or "none"."""
        return quantized(self.unet)

    def quantize(self, format: Any) -> None:
        """Quantise the weights of the U-Net to "int8" or "fp8" (torchao)."""
        quantize_weights(self.unet, format)

    # --- the stages -------------------------------------------------------------------------------------------------

    warps: ClassVar[bool] = False
    """Whether the picture warped to each pose is an input of the network."""

    def warped(self, request: Request) -> PoseFrames | None:  # noqa: ARG002
        """Return the picture warped to each pose; None if `warps` is False."""
        return None

    def check(self, request: Request) -> None:
        """Raise PoseError if PoseNet needs the reference pose, but it is missing."""
        if self.pose_net.widths[0] == 6 and request.reference_pose is None:
            expected = "the drawn pose of the person in the picture, which this model needs"
            raise PoseError("no reference_pose", expected, "pass reference_pose")

    def encode(
        self, request: Request, sampling: SamplingSettings, image_noise: Float[Tensor, "1 3 height width"] | None = None
    ) -> Conditioning:
        """Encode the picture, the poses and the micro-conditioning.

        Raises:
            PoseError: pose frames differ from the picture in size or type, or `check` fails.
            InputError: `noise_aug_strength` is set, but `image_noise` (`Noise.picture`) is missing.
        """
        self.check(request)
        if sampling.noise_aug_strength and image_noise is None:
            got = f"noise_aug_strength={sampling.noise_aug_strength} without image_noise"
            raise InputError(got, "unit Gaussian noise of the picture's size", "pass image_noise")
        picture, size = to_unit(request.image[None]), request.size
        noisy = picture
        if image_noise is not None:
            noisy = augment_picture(picture, sampling.noise_aug_strength, image_noise.float().cpu())
        fps = self.settings.get("fps", DEFAULT_FPS) if sampling.fps is None else sampling.fps
        ids = added_time_ids(fps, sampling.motion_bucket_id, sampling.noise_aug_strength)

        @torch.inference_mode()
        def work() -> Conditioning:
            device, count = self.device, request.num_frames
            self.use("image_encoder")
            embedding = image_embedding(self.image_encoder, picture)
            check_finite(embedding, "the image encoder's embedding")
            self.use("vae")
            latents = encode_mode(self.vae, noisy.to(device))
            check_finite(latents, "the autoencoder's latents of the picture")
            budget = 0 if self.plan.latents_on_host else None
            poses, reference_pose = request.poses, request.reference_pose
            features, reference = encode_poses(
                self.pose_net, poses, reference_pose, size, num_frames=count, device=device, budget=budget
            )
            warped = self.warped(request)
            warped_latents = None if warped is None else encode_warped(self.vae, warped, size, count, device)
            return Conditioning(
                embedding.to(device), latents[:, None], features, reference, ids.to(device), warped_latents
            )

        return recovering(self, "encode", work)

    def network(
        self, conditioning: Conditioning, recipe: Recipe, memory: Mapping[str, Tensor] | None = None
    ) -> ConditionedNetwork:
        """Bind the U-Net to its conditioning. If it runs out of memory, it switches to a plan that needs less."""
        budget, slot = recipe.sampling.block_cache, recipe.plan.reference_slot
        cache = BlockCache(budget, memory) if budget else None
        unet = ConditionedUNet(self.unet, conditioning, slot, cache=cache)

        def run(method: Callable[..., Any], x: Tensor, *args: Any) -> Any:
            def work() -> Any:
                self.use("unet")
                return method(replace(unet, one_batch=self.plan.guidance_in_one_batch), x, *args)

            return recovering(self, "denoise", work, (x.shape[0] * x.shape[1], x.shape[-2], x.shape[-1]))

        precondition = functools.partial(self.precondition, conditioning=conditioning, slot=slot)
        conditional = functools.partial(run, ConditionedUNet.conditional)
        pair = functools.partial(run, ConditionedUNet.pair)
        if cache is None:
            return ConditionedNetwork(conditional, pair, precondition)
        return ConditionedNetwork(conditional, pair, precondition, cache.state, cache.clear)

    def precondition(self, network: Network, conditioning: Conditioning, slot: bool) -> Denoiser:  # noqa: ARG002
        """Turn the U-Net, which predicts v, into a denoiser."""
        return precondition_v(network)

    def decode(
        self,
        latents: Float[Tensor, "frames channels h w"],
        *,
        chunk: int = 8,
        released: bool = False,
        request: Request | None = None,
        first: int = 0,
    ) -> Iterator[Frame]:
        """Decode latents into uint8 frames, one by one; see `Backbone.decode`."""

        def decode_clip(clip: Tensor) -> Tensor:
            def work() -> Tensor:
                self.use("vae")
                return decode_frames(self.vae, clip, frame_chunk=self.plan.decode_chunk)

            return recovering(self, "decode", work, (len(clip), clip.shape[-2], clip.shape[-1]))

        frames = decode_float(self.vae, latents, chunk, released=released, decode=decode_clip)
        if request is not None:
            frames = self.finish(frames, request, first, len(latents))
        return (to_uint8(frame, truncate=released) for frame in frames)

    def finish(self, frames: Iterator[Tensor], request: Request, first: int, count: int) -> Iterator[Tensor]:
        """Post-process `count` decoded frames, starting with frame `first`. By default, they are returned unchanged."""
        del request, first, count
        return frames
