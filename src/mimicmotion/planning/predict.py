"""Peak memory of each stage, by running the networks on fake tensors (`mimicmotion.models.memory`)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mimicmotion.conditioning import WARPED_SHARE, ConditionedUNet, Conditioning
from mimicmotion.models.attention import choose_kernel, scratch_bytes
from mimicmotion.models.block_cache import cache_bytes
from mimicmotion.models.decode import decode_frames
from mimicmotion.models.memory import LiveBytes, fake_copy, tensors_of, weight_bytes
from mimicmotion.models.offload import blocks_of
from mimicmotion.models.pose_features import KeptFeatures, feature_budget
from mimicmotion.models.quantize import widened_bytes
from mimicmotion.models.vae import encode_mode
from mimicmotion.planning.plan import ExecutionPlan, Peaks

POSE_CHUNK = 16
"""Pose frames that are encoded at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What is to be computed.

    Attributes:
        size: (height, width) in pixels.
        segment_frames: frames of a segment, the reference slot counted.
        num_frames: of the video.
        guided: whether there is an unconditional pass.
        decode_chunk: frames that are decoded as one clip.
        warped: whether the picture warped to each pose is given.
        segments: number of segments (for the block cache).
        block_cache: whether deep features are kept between steps.
        latent_copies: sets of latents that are held: the noisy ones, the clean ones, and the last step's clean ones for
            previews or a solver of second order.
    """

    size: tuple[int, int]
    segment_frames: int
    num_frames: int
    guided: bool = True
    decode_chunk: int = 8
    warped: bool = False
    segments: int = 1
    block_cache: bool = False
    latent_copies: int = 2


class Predictor:
    """Predicts the peaks of plans for one set of networks; what was worked out once is remembered.

    Args:
        pipe: the pipeline (its networks may lie anywhere, also on "meta").
        device: where it will run; None is where it is.
    """

    def __init__(self, pipe: Any, device: torch.device | None = None) -> None:
        self.pipe, self.device = pipe, device or pipe.device
        # Fake tensors of a GPU need a PyTorch that is built for it; all that counts is that they are not on a CPU.
        self.fake, self.fake_device = FakeTensorMode(), "cpu" if self.device.type == "cpu" else "meta"
        self._copies: dict[str, Any] = {}
        self._known: dict[Any, list[int]] = {}

    def peaks(self, plan: ExecutionPlan, work: Workload) -> Peaks:
        """Predicted bytes of each stage: weights that are there, what is kept, and working space."""
        pipe = self.pipe
        unet, vae, clip = weight_bytes(pipe.unet), weight_bytes(pipe.vae), weight_bytes(pipe.image_encoder)
        others = weight_bytes(pipe.pose_net, pipe.detail)  # these stay where they are
        every = unet + vae + clip + others
        alone = plan.offload != "none"
        kept = self._kept(plan, work)
        resident = {"none": every, "modules": unet + others, "blocks": others}[plan.offload]
        return Peaks(
            encode=max(
                self.clip_bytes() + (clip + others if alone else every),
                self.encode_bytes(work) + (vae + others if alone else every),
                self.pose_bytes(work) + (others if alone else every) + kept,
            ),
            denoise=self.denoise_bytes(plan, work) + kept + resident,
            decode=max(self.decode_bytes(plan, work), self.detail_bytes(work) + self._clip(work))
            + (vae + others if alone else every)
            + self._latents(plan, work),
        )

    # --- what is kept -----------------------------------------------------------------------------------------------

    def _latent_shape(self, work: Workload, frames: int) -> tuple[int, int, int, int]:
        height, width = (side // self.pipe.downscale for side in work.size)
        return frames, self.pipe.vae.config.latent_channels, height, width

    def _latents(self, plan: ExecutionPlan, work: Workload) -> int:
        one = 4 * torch.Size(self._latent_shape(work, work.num_frames)).numel()
        return 0 if plan.latents_on_host and self.device.type != "cpu" else work.latent_copies * one

    def _kept(self, plan: ExecutionPlan, work: Workload) -> int:
        """Latents, pose features and cached features; what is over the budgets of conditioning lies in a file."""
        frames, channels, height, width = self._latent_shape(work, work.num_frames)
        one = frames * height * width
        features = one * self.pipe.pose_net.out_channels * self.pipe.dtype.itemsize
        budget = feature_budget(self.device)
        features *= features <= budget and not plan.latents_on_host
        warped = 4 * one * channels * work.warped
        warped *= warped <= budget // WARPED_SHARE
        per_pass = cache_bytes(self.pipe.unet, work.segment_frames, height, width, self.pipe.dtype.itemsize)
        cached = per_pass * work.segments * (1 + work.guided) * work.block_cache
        return self._latents(plan, work) + features + warped + cached

    def _clip(self, work: Workload) -> int:
        """Of a decoded clip."""
        return 4 * 3 * work.size[0] * work.size[1] * min(work.decode_chunk, work.num_frames)

    # --- working space of the networks, without weights -------------------------------------------------------------

    def denoise_bytes(self, plan: ExecutionPlan, work: Workload) -> int:
        """Of one segment, all passes; where the U-Net's blocks come and go, its weights are included."""
        one_batch = plan.guidance_in_one_batch and work.guided and not work.block_cache
        frames, channels, height, width = self._latent_shape(work, work.segment_frames)
        # Attention counts by `scratch_bytes`; compiled layers make fewer temporary tensors than are counted here.
        execution = dataclasses.replace(plan.unet, attention="sdpa", compile=False)

        def run(unet: Any, live: LiveBytes) -> None:
            unet.set_execution(execution)
            x = torch.empty(1, frames, channels, height, width, device=self.fake_device)
            features = x.new_empty(1, frames, self.pipe.pose_net.out_channels, height, width, dtype=self.pipe.dtype)
            live.now = 0  # these are counted with what is kept
            conditioning = Conditioning(
                image_embeddings=x.new_empty(1, 1, unet.config.cross_attention_dim),
                image_latents=x[:, :1],
                pose_features=KeptFeatures(features),
                reference_pose_features=None,
                added_time_ids=x.new_empty(1, 3),
                warped_latents=KeptFeatures(x) if work.warped else None,
            )
            network = ConditionedUNet(unet, conditioning, False, one_batch)
            passes = network.pair if work.guided else network.conditional
            passes(x, x.new_zeros(()), range(frames))

        kernel = choose_kernel(plan.unet.attention, self.device, self.pipe.dtype)
        key = (work.size, frames, work.guided, work.warped, execution, kernel, one_batch)
        peaks = self._peaks("unet", key, run, kernel)
        if plan.offload == "blocks":
            peaks = [p + w for p, w in zip(peaks, itertools.cycle(self._weights_by_block()), strict=False)]
        return max(peaks) + widened_bytes(self.pipe.unet)

    def _weights_by_block(self) -> list[int]:
        """Of the U-Net's weights, those that are there up to each of its blocks: the one before, and its own."""
        sizes = [weight_bytes(block) for block in blocks_of(self.pipe.unet)]
        rest = weight_bytes(self.pipe.unet) - sum(sizes)
        return [rest + before + own for before, own in zip([sizes[-1], *sizes], sizes, strict=False)]

    def decode_bytes(self, plan: ExecutionPlan, work: Workload) -> int:
        """Of one clip; of one tile of it, where it is decoded in tiles. The blending of clips is included."""
        frames = min(work.decode_chunk, work.num_frames)
        shape = list(self._latent_shape(work, frames))
        held = self._clip(work) * (work.num_frames > frames)  # the last clip, whose end is blended in
        if plan.decode_tile is not None and plan.decode_tile < max(work.size):
            shape[2:] = (min(side, plan.decode_tile // self.pipe.downscale) for side in shape[2:])
            held += self._clip(work)

        def run(vae: Any, _: LiveBytes) -> None:
            decode_frames(vae, torch.empty(shape, device=self.fake_device), frame_chunk=plan.decode_chunk)

        return self._peak("vae", (*shape, plan.decode_chunk), run) + held

    def detail_bytes(self, work: Workload) -> int:
        """Of the detail network on one frame; 0 for models without one."""
        if self.pipe.detail is None:
            return 0
        return self._peak("detail", work.size, lambda net, _: net(*(self._pictures(net, 1, work) for _ in range(5))))

    def encode_bytes(self, work: Workload) -> int:
        """Of the autoencoder on the picture, or on the pictures warped to the poses of a chunk."""
        count = min(POSE_CHUNK, work.num_frames) if work.warped else 1
        run = lambda vae, _: encode_mode(vae, torch.empty(count, 3, *work.size, device=self.fake_device))  # noqa: E731
        return self._peak("vae", ("encode", count, work.size), run)

    def pose_bytes(self, work: Workload) -> int:
        """Of PoseNet on a chunk of frames."""
        count, channels = min(POSE_CHUNK, work.num_frames), self.pipe.pose_net.widths[0]
        run = lambda net, _: net(self._pictures(net, count, work, channels)[None])  # noqa: E731
        return self._peak("pose_net", (count, work.size), run)

    def clip_bytes(self) -> int:
        """Of CLIP on one picture."""
        side = self.pipe.image_encoder.config.image_size
        square = Workload(size=(side, side), segment_frames=1, num_frames=1)
        return self._peak("image_encoder", "clip", lambda net, _: net(self._pictures(net, 1, square)))

    def _pictures(self, net: nn.Module, count: int, work: Workload, channels: int = 3) -> Tensor:
        dtype = next(net.parameters()).dtype
        return torch.empty(count, channels, *work.size, device=self.fake_device).to(dtype)

    def _peak(self, name: str, key: Any, run: Callable[[Any, LiveBytes], object]) -> int:
        return max(self._peaks(name, key, run))

    def _peaks(
        self, name: str, key: Any, run: Callable[[Any, LiveBytes], object], kernel: str = "sdpa"
    ) -> list[int]:
        """Most bytes alive while `run(network, counter)` runs on fake tensors; of a U-Net, up to each block in turn."""
        if (name, key) not in self._known:
            if name not in self._copies:
                self._copies[name] = fake_copy(getattr(self.pipe, name), self.fake, self.fake_device)
            network = self._copies[name]
            live = LiveBytes(tensors_of(network), lambda query, key: scratch_bytes(kernel, query, key))
            blocks = blocks_of(network) if name == "unet" else []
            hooks = [block.register_forward_pre_hook(lambda *_: live.peaks.append(live.now)) for block in blocks]
            with torch.inference_mode(), self.fake, live:
                run(network, live)
            for hook in hooks:
                hook.remove()
            self._known[name, key] = live.peaks
        return self._known[name, key]
