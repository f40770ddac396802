"""Predict each stage's peak memory by running the networks on shapes (see `execution.memory`)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

import torch
from torch import nn

from mimicmotion.backbones.svd.attention import choose_kernel, scratch_bytes
from mimicmotion.backbones.svd.checkpoint import build_part
from mimicmotion.backbones.svd.conditioning import WARPED_SHARE, ConditionedUNet, Conditioning
from mimicmotion.backbones.svd.decode import decode_frames
from mimicmotion.backbones.svd.execution.deep_features import cache_bytes
from mimicmotion.backbones.svd.execution.memory import CpuShape, LiveBytes, tensors_of, weight_bytes
from mimicmotion.backbones.svd.execution.offload import blocks_of
from mimicmotion.backbones.svd.execution.plan import ExecutionPlan, Peaks
from mimicmotion.backbones.svd.execution.quantize import dequantized_bytes
from mimicmotion.backbones.svd.pose_features import POSE_CHUNK, StoredFeatures, feature_budget
from mimicmotion.backbones.svd.vae import encode_mode

NETWORKS = ("unet", "vae", "image_encoder", "pose_net", "detail", "warp")


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """The sizes of a job that determine its memory.

    Attributes:
        size: (height, width) in pixels.
        segment_frames: frames of a segment, including the reference slot.
        num_frames: number of frames of the video.
        guided: whether there is an unconditional pass.
        clip_frames: number of frames that are decoded at once.
        warped: whether the picture warped to each pose is an input of the network.
        cached_segments: number of segments whose deep features are cached; 0 without a block cache.
        latent_copies: number of copies of the latents: noisy, clean, and those of the last step for previews or a
            second-order solver.
    """

    size: tuple[int, int]
    segment_frames: int
    num_frames: int
    clip_frames: int = 8
    guided: bool = True
    warped: bool = False
    cached_segments: int = 0
    latent_copies: int = 2


class Predictor:
    """Predicts the memory peaks of execution plans for a backbone. Predictions are cached.

    Args:
        backbone: backbone with networks on any device, including "meta".
        device: device to run on; None uses the backbone's.
    """

    def __init__(self, backbone: Any, device: torch.device | None = None) -> None:
        self.backbone, self.device = backbone, device or backbone.device
        self.cpu = self.device.type == "cpu"
        self._copy = functools.cache(lambda name: shape_copy(getattr(backbone, name), self.cpu))
        self._known: dict[Any, list[int]] = {}

    def peaks(self, plan: ExecutionPlan, work: Workload) -> Peaks:
        """Predict the peak of each stage in bytes: loaded weights, stored features and latents, and working memory."""
        sizes = {name: weight_bytes(getattr(self.backbone, name)) for name in NETWORKS}
        clip_side, channels = self.backbone.image_encoder.config.image_size, self.backbone.pose_net.widths[0]
        encoded = min(POSE_CHUNK, work.num_frames)
        latents, kept = self._latents(plan, work), self._kept(plan, work)

        def weights(*used: str) -> int:
            """Return the bytes of the loaded networks: those in use, and the small ones, which are always loaded."""
            return sum(sizes[name] for name in (NETWORKS if plan.offload == "none" else (*used, *NETWORKS[3:])))

        return {
            "encode": max(
                weights("image_encoder") + self._pass("image_encoder", (1, 3, clip_side, clip_side)),
                weights("vae") + self._pass("vae", (encoded if work.warped else 1, 3, *work.size)),
                weights() + self._pass("pose_net", (1, encoded, channels, *work.size)) + latents + kept,
            ),
            "denoise": weights(*["unet"][: plan.offload != "blocks"]) + self.denoise_bytes(plan, work) + latents + kept,
            "decode": weights("vae") + self.decode_bytes(plan, work) + latents,
        }

    def upper_bound(self, work: Workload) -> int:
        """Return an upper bound in bytes for all stages without chunks or offloading; far faster than `peaks`.

        No stage needs more memory than 64 tensors of the U-Net's first level, 32 tensors of the autoencoder's first
        level per frame that is encoded or decoded at once, or 1024 float32 pictures in the detail network.
        """
        plain, pixels, itemsize = ExecutionPlan(), work.size[0] * work.size[1], self.backbone.dtype.itemsize
        cells, vae = pixels // self.backbone.downscale**2, self.backbone.vae.config.block_out_channels
        working = max(
            64 * work.segment_frames * (1 + work.guided) * cells * self.backbone.pose_net.out_channels * itemsize,
            32 * max(work.clip_frames, POSE_CHUNK * work.warped) * cells * 4 ** (len(vae) - 1) * vae[0] * itemsize,
            2**12 * pixels * (self.backbone.detail is not None),
        )
        return weight_bytes(*self.backbone.networks) + self._latents(plain, work) + self._kept(plain, work) + working

    # --- stored features and latents --------------------------------------------------------------------------------

    def latent_size(self, work: Workload) -> tuple[int, int]:
        """Return (h, w) of the latents."""
        return work.size[0] // self.backbone.downscale, work.size[1] // self.backbone.downscale

    def _shape(self, work: Workload, frames: int) -> tuple[int, int, int, int]:
        return frames, self.backbone.vae.config.latent_channels, *self.latent_size(work)

    def _latents(self, plan: ExecutionPlan, work: Workload) -> int:
        one = 4 * math.prod(self._shape(work, work.num_frames))
        return 0 if plan.latents_on_host and not self.cpu else work.latent_copies * one

    def _kept(self, plan: ExecutionPlan, work: Workload) -> int:
        """Return the bytes of the features of poses and warped pictures kept in memory, and of cached features."""
        frames, channels, height, width = self._shape(work, work.num_frames)
        budget, itemsize = feature_budget(self.device), self.backbone.dtype.itemsize
        poses = frames * height * width * self.backbone.pose_net.out_channels * itemsize
        warped = frames * height * width * channels * 4 * work.warped
        cached = cache_bytes(self.backbone.unet, work.segment_frames, height, width, itemsize) * work.cached_segments
        kept = poses * (poses <= budget and not plan.latents_on_host) + warped * (warped <= budget // WARPED_SHARE)
        return kept + cached * (1 + work.guided)

    # --- working memory of the networks -----------------------------------------------------------------------------

    def denoise_bytes(self, plan: ExecutionPlan, work: Workload) -> int:
        """Return the working memory of one segment in bytes, with the U-Net's weights if its blocks are offloaded."""
        one_batch = plan.guidance_in_one_batch and work.guided and not work.cached_segments
        frames, channels, height, width = self._shape(work, work.segment_frames)
        execution = replace(plan.unet, compile=False)  # compiled layers need less memory
        self._copy("unet").set_execution(execution)

        def run(unet: Any, live: LiveBytes) -> None:
            x = torch.empty(1, frames, channels, height, width)
            pose_channels, dtype = self.backbone.pose_net.out_channels, self.backbone.dtype
            features = torch.empty(1, frames, pose_channels, height, width, dtype=dtype)
            live.now = 0  # these are counted as stored features
            token, ids = x.new_empty(1, 1, unet.config.cross_attention_dim), x.new_empty(1, 3)
            warped = StoredFeatures(x) if work.warped else None
            conditioning = Conditioning(token, x[:, :1], StoredFeatures(features), None, ids, warped)
            network = ConditionedUNet(unet, conditioning, reference_slot=False, one_batch=one_batch)
            (network.pair if one_batch else network.conditional)(x, x.new_zeros(()), range(frames))

        peaks = self._peaks("unet", (work.size, frames, work.warped, execution, one_batch), run)
        if plan.offload == "blocks":  # weights of two blocks at a time
            sizes = [weight_bytes(block) for block in blocks_of(self.backbone.unet)]
            rest = weight_bytes(self.backbone.unet) - sum(sizes)
            loaded = [rest + before + own for before, own in zip([sizes[-1], *sizes[:-1]], sizes, strict=True)]
            peaks = [peak + weights for peak, weights in zip(peaks, cycle(loaded), strict=False)]
        return max(peaks) + dequantized_bytes(self.backbone.unet)

    def decode_bytes(self, plan: ExecutionPlan, work: Workload) -> int:
        """Return the working memory in bytes of decoding one clip, or of the detail network on one of its frames.

        With several clips, the previous one stays in memory for blending.
        """
        shape = self._shape(work, work.clip_frames)

        def run(vae: Any, _: LiveBytes) -> None:
            decode_frames(vae, torch.empty(shape), frame_chunk=plan.decode_chunk)

        clip = 12 * math.prod(work.size) * work.clip_frames  # three colours in float32
        peak = max(self._peaks("vae", (shape, plan.decode_chunk), run)) + clip * (work.num_frames > work.clip_frames)
        return (
            peak if self.backbone.detail is None else max(peak, clip + self._pass("detail", *[(1, 3, *work.size)] * 5))
        )

    def _pass(self, name: str, *shapes: tuple[int, ...]) -> int:
        """Return the working memory in bytes of a network (of the autoencoder, its encoder) on float32 pictures."""

        def run(network: Any, _: LiveBytes) -> None:
            # channels last in memory, like the result of `to_unit`
            pictures = [torch.empty(*shape[:-3], *shape[-2:], shape[-3]).movedim(-1, -3) for shape in shapes]
            if name == "vae":
                encode_mode(network, *pictures)
            else:
                network(*(picture.to(self.backbone.dtype) for picture in pictures))

        return max(self._peaks(name, shapes, run))

    def _peaks(self, name: str, key: Any, run: Callable[[Any, LiveBytes], object]) -> list[int]:
        """Return the peak in bytes while `run(network, counter)` runs on shapes; of the U-Net, one peak per block."""
        if (name, key) not in self._known:
            network = self._copy(name)
            kernel = choose_kernel(self.cpu, self.backbone.dtype) if name == "unet" else "sdpa"
            live = LiveBytes(self.cpu, tensors_of(network), lambda q, k: scratch_bytes(kernel, q, k))
            blocks = blocks_of(network) if name == "unet" else []
            hooks = [block.register_forward_pre_hook(lambda *_: live.peaks.append(live.now)) for block in blocks]
            with torch.inference_mode(), live:
                run(network, live)
            for hook in hooks:
                hook.remove()
            self._known[name, key] = live.peaks
        return self._known[name, key]


def shape_copy(module: nn.Module, cpu: bool) -> Any:
    """Build a network with the same config and dtype, but without data.

    Args:
        module: the network, on any device.
        cpu: see `LiveBytes`.
    """
    copy = build_part(module).to(next(module.parameters()).dtype)
    for part in copy.modules() if cpu else ():
        for tensors in (part._parameters, part._buffers):
            tensors.update({name: t.data.as_subclass(CpuShape) for name, t in tensors.items() if t is not None})
    return copy.eval()
