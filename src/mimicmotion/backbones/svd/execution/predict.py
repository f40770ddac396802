"""Peak memory of each stage, by running the networks on shapes (`mimicmotion.backbones.svd.execution.memory`)."""

from __future__ import annotations

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
from mimicmotion.backbones.svd.execution.memory import META, CpuShape, LiveBytes, tensors_of, weight_bytes
from mimicmotion.backbones.svd.execution.offload import blocks_of
from mimicmotion.backbones.svd.execution.plan import ExecutionPlan, Peaks
from mimicmotion.backbones.svd.execution.quantize import widened_bytes
from mimicmotion.backbones.svd.pose_features import KeptFeatures, feature_budget
from mimicmotion.backbones.svd.vae import encode_mode

POSE_CHUNK = 16
"""Pose frames that are encoded at once."""
NETWORKS = ("unet", "vae", "image_encoder", "pose_net", "detail")


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
        cached_segments: segments whose deep features are kept between steps; 0 without a block cache.
        latent_copies: sets of latents that are held: the noisy ones, the clean ones, and the last step's clean ones for
            previews or a solver of second order.
    """

    size: tuple[int, int]
    segment_frames: int
    num_frames: int
    guided: bool = True
    decode_chunk: int = 8
    warped: bool = False
    cached_segments: int = 0
    latent_copies: int = 2


class Predictor:
    """Predicts the peaks of plans for one set of networks; what was worked out once is remembered.

    Args:
        backbone: its networks may lie anywhere, also on "meta".
        device: where it will run; None is where it is.
    """

    def __init__(self, backbone: Any, device: torch.device | None = None) -> None:
        self.backbone, self.device = backbone, device or backbone.device
        self.cpu = self.device.type == "cpu"
        self._copies: dict[str, Any] = {}
        self._known: dict[Any, list[int]] = {}

    def peaks(self, plan: ExecutionPlan, work: Workload) -> Peaks:
        """Predicted bytes of each stage: weights that are there, what is kept, and working space."""
        sizes = {name: weight_bytes(getattr(self.backbone, name)) for name in NETWORKS}
        encoded = min(POSE_CHUNK, work.num_frames)
        clip_side, channels = self.backbone.image_encoder.config.image_size, self.backbone.pose_net.widths[0]
        latents, kept = self._latents(plan, work), self._kept(plan, work)

        def weights(*used: str) -> int:
            """Small networks always stay on the device."""
            return sum(sizes[name] for name in (NETWORKS if plan.offload == "none" else (*used, "pose_net", "detail")))

        return Peaks(
            encode=max(
                weights("image_encoder") + self._pass("image_encoder", (1, 3, clip_side, clip_side)),
                weights("vae") + self._pass("vae", (encoded if work.warped else 1, 3, *work.size)),
                weights() + self._pass("pose_net", (1, encoded, channels, *work.size)) + latents + kept,
            ),
            denoise=weights(*["unet"][: plan.offload != "blocks"]) + self.denoise_bytes(plan, work) + latents + kept,
            decode=weights("vae") + max(self.decode_bytes(plan, work), self.detail_bytes(work)) + latents,
        )

    def upper_bound(self, work: Workload) -> int:
        """Bytes that certainly suffice for all stages of the plain way, without a run on shapes (which takes seconds).

        No stage holds more than 64 tensors of the U-Net's first level, or 32 frames of the autoencoder's first level
        for each one that it encodes or decodes at once.
        """
        itemsize, plain = self.backbone.dtype.itemsize, ExecutionPlan()
        frames, _, height, width = self._shape(work, work.segment_frames)
        unet = 64 * frames * height * width * self.backbone.unet.config.block_out_channels[0] * itemsize
        widths = self.backbone.vae.config.block_out_channels
        coded = max(min(work.decode_chunk, work.num_frames), POSE_CHUNK * work.warped)
        vae = 32 * coded * height * width * 4 ** (len(widths) - 1) * widths[0] * itemsize
        detail = 0 if self.backbone.detail is None else 2**10 * 4 * work.size[0] * work.size[1]
        weights = weight_bytes(*(getattr(self.backbone, name) for name in NETWORKS))
        return (
            weights + self._latents(plain, work) + self._kept(plain, work) + max(unet * (1 + work.guided), vae, detail)
        )

    # --- what is kept -----------------------------------------------------------------------------------------------

    def _shape(self, work: Workload, frames: int) -> tuple[int, int, int, int]:
        """Of latents."""
        height, width = (side // self.backbone.downscale for side in work.size)
        return frames, self.backbone.vae.config.latent_channels, height, width

    def _latents(self, plan: ExecutionPlan, work: Workload) -> int:
        one = 4 * torch.Size(self._shape(work, work.num_frames)).numel()
        return 0 if plan.latents_on_host and not self.cpu else work.latent_copies * one

    def _kept(self, plan: ExecutionPlan, work: Workload) -> int:
        """Features of poses and pictures within the budgets of `conditioning`, and cached features."""
        frames, channels, height, width = self._shape(work, work.num_frames)
        budget, itemsize = feature_budget(self.device), self.backbone.dtype.itemsize
        poses = frames * height * width * self.backbone.pose_net.out_channels * itemsize
        poses *= poses <= budget and not plan.latents_on_host
        warped = frames * height * width * channels * 4 * work.warped
        warped *= warped <= budget // WARPED_SHARE
        cached = cache_bytes(self.backbone.unet, work.segment_frames, height, width, itemsize) * work.cached_segments
        return poses + warped + cached * (1 + work.guided)

    def _clip(self, work: Workload) -> int:
        """Of decoded frames."""
        return 4 * 3 * work.size[0] * work.size[1] * min(work.decode_chunk, work.num_frames)

    # --- working space of the networks ------------------------------------------------------------------------------

    def denoise_bytes(self, plan: ExecutionPlan, work: Workload) -> int:
        """Of one segment; where the U-Net's blocks come and go, its weights are included."""
        one_batch = plan.guidance_in_one_batch and work.guided and not work.cached_segments
        frames, channels, height, width = self._shape(work, work.segment_frames)
        # Attention counts by `scratch_bytes`; compiled layers make fewer temporary tensors than are counted here.
        execution = replace(plan.unet, attention="sdpa", compile=False)
        self._copy("unet").set_execution(execution)

        def run(unet: Any, live: LiveBytes) -> None:
            x = torch.empty(1, frames, channels, height, width)
            features = x.new_empty(
                1, frames, self.backbone.pose_net.out_channels, height, width, dtype=self.backbone.dtype
            )
            live.now = 0  # these are counted with what is kept
            conditioning = Conditioning(
                image_embeddings=x.new_empty(1, 1, unet.config.cross_attention_dim),
                image_latents=x[:, :1],
                pose_features=KeptFeatures(features),
                reference_pose_features=None,
                added_time_ids=x.new_empty(1, 3),
                warped_latents=KeptFeatures(x) if work.warped else None,
            )
            network = ConditionedUNet(unet, conditioning, reference_slot=False, one_batch=one_batch)
            (network.pair if one_batch else network.conditional)(x, x.new_zeros(()), range(frames))

        kernel = choose_kernel(plan.unet.attention, self.device, self.backbone.dtype)
        peaks = self._peaks("unet", (work.size, frames, work.warped, execution, kernel, one_batch), run, kernel)
        if plan.offload == "blocks":  # the block before, and a block's own weights
            sizes = [weight_bytes(block) for block in blocks_of(self.backbone.unet)]
            rest = weight_bytes(self.backbone.unet) - sum(sizes)
            there = [rest + before + own for before, own in zip([sizes[-1], *sizes], sizes, strict=False)]
            peaks = [peak + weights for peak, weights in zip(peaks, cycle(there), strict=False)]
        return max(peaks) + widened_bytes(self.backbone.unet)

    def decode_bytes(self, plan: ExecutionPlan, work: Workload) -> int:
        """Of one clip, or of a tile of it. Of a long video the clip before is held, whose end is blended in."""
        frames, *shape = self._shape(work, min(work.decode_chunk, work.num_frames))
        held = self._clip(work) * (work.num_frames > frames)
        if plan.decode_tile is not None and plan.decode_tile < max(work.size):
            shape[1:] = (min(side, plan.decode_tile // self.backbone.downscale) for side in shape[1:])
            held += self._clip(work)

        def run(vae: Any, _: LiveBytes) -> None:
            decode_frames(vae, torch.empty(frames, *shape), frame_chunk=plan.decode_chunk)

        return max(self._peaks("vae", (frames, *shape, plan.decode_chunk), run)) + held

    def detail_bytes(self, work: Workload) -> int:
        """Of the detail network on one frame of a clip; 0 for models without one."""
        return 0 if self.backbone.detail is None else self._clip(work) + self._pass("detail", *[(1, 3, *work.size)] * 5)

    def _pass(self, name: str, *shapes: tuple[int, ...]) -> int:
        """Of a network on pictures of these shapes, which come in float32; of the autoencoder, its encoder."""

        def run(network: Any, _: LiveBytes) -> None:
            pictures = [torch.empty(shape) for shape in shapes]
            if name in ("vae", "pose_net"):  # as they come from `to_unit`, channels last in memory
                pictures = [torch.empty(*shape[:-3], *shape[-2:], shape[-3]).movedim(-1, -3) for shape in shapes]
            if name == "vae":
                encode_mode(network, *pictures)
            else:
                network(*(picture.to(next(network.parameters()).dtype) for picture in pictures))

        return max(self._peaks(name, shapes, run))

    def _peaks(self, name: str, key: Any, run: Callable[[Any, LiveBytes], object], kernel: str = "sdpa") -> list[int]:
        """Most bytes alive while `run(network, counter)` runs on shapes; of a U-Net, up to each block in turn."""
        if (name, key) not in self._known:
            network = self._copy(name)
            live = LiveBytes(self.cpu, tensors_of(network), lambda q, k: scratch_bytes(kernel, q, k))
            blocks = blocks_of(network) if name == "unet" else []
            hooks = [block.register_forward_pre_hook(lambda *_: live.peaks.append(live.now)) for block in blocks]
            with torch.inference_mode(), live:
                run(network, live)
            for hook in hooks:
                hook.remove()
            self._known[name, key] = live.peaks
        return self._known[name, key]

    def _copy(self, name: str) -> Any:
        if name not in self._copies:
            self._copies[name] = shape_copy(getattr(self.backbone, name), self.cpu)
        return self._copies[name]


def shape_copy(module: nn.Module, cpu: bool) -> Any:
    """A network of the same config and number format, fresh and without data.

    Args:
        module: the network; its weights may lie anywhere.
        cpu: as for `LiveBytes`.
    """
    copy, dtype = build_part(module), next(module.parameters()).dtype
    for part in copy.modules():
        for tensors in (part._parameters, part._buffers):
            for name, t in tensors.items():
                if t is not None:
                    shape: Any = torch.empty(t.shape, dtype=dtype, device=META)
                    tensors[name] = shape.as_subclass(CpuShape) if cpu else shape
    return copy.eval()
