"""Peak memory of each stage, by running the networks on shapes (`mimicmotion.models.memory`)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mimicmotion.conditioning import WARPED_SHARE, ConditionedUNet, Conditioning
from mimicmotion.models.block_cache import cache_bytes
from mimicmotion.models.decode import decode_frames
from mimicmotion.models.execution import Execution
from mimicmotion.models.memory import follow, meta_twin, weight_bytes
from mimicmotion.models.offload import block_bytes
from mimicmotion.models.pose_features import KeptFeatures, feature_budget
from mimicmotion.models.quantize import widened_bytes
from mimicmotion.models.vae import encode_mode
from mimicmotion.planning.plan import ExecutionPlan, Peaks

POSE_CHUNK = 16
"""Pose frames that are encoded at once."""
DETAIL_PLANES = 256
"""Numbers for each pixel that certainly suffice for the detail network (the bundled one needs 121)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What is to be computed.

    Attributes:
        size: (height, width) in pixels.
        segment_rows: frames of a segment, the reference slot counted.
        num_frames: of the video.
        guided: whether there is an unconditional pass.
        chunk: frames that are decoded as one clip.
        warped: whether the picture warped to each pose is given.
        segments: number of segments (for the block cache).
        block_cache: whether deep features are kept between steps.
        latent_copies: sets of latents that are held: the noisy ones, the clean ones, and the last step's clean ones for
            previews or a solver of second order.
    """

    size: tuple[int, int]
    segment_rows: int
    num_frames: int
    guided: bool = True
    chunk: int = 8
    warped: bool = False
    segments: int = 1
    block_cache: bool = False
    latent_copies: int = 2


class Predictor:
    """Predicts the peaks of plans for one set of networks; what was worked out once is remembered.

    Args:
        pipe: the pipeline (its networks may lie anywhere, also on "meta").
        device: where it will run; None is where it is. "meta" stands for a GPU.
    """

    def __init__(self, pipe: Any, device: torch.device | None = None) -> None:
        self.device = device or pipe.device
        self.cpu = self.device.type == "cpu"
        self.budget = feature_budget(self.device)
        self.unet, self.vae = pipe.unet, pipe.vae
        self.image_encoder, self.pose_net, self.detail = pipe.image_encoder, pipe.pose_net, pipe.detail
        self.downscale, self.latent_channels = pipe.downscale, pipe.vae.config.latent_channels
        self.dtype = pipe.dtype
        self._twins: dict[str, Any] = {}
        self._known: dict[Any, int] = {}

    def peaks(self, plan: ExecutionPlan, task: Task) -> Peaks:
        """Predicted bytes of each stage."""
        unet, vae, clip = weight_bytes(self.unet), weight_bytes(self.vae), weight_bytes(self.image_encoder)
        small = weight_bytes(self.pose_net, self.detail)  # these stay where they are
        everything = unet + vae + clip + small
        alone = plan.offload != "none"
        kept = self._kept(plan, task)
        denoise = self.denoise_bytes(plan, task) + kept
        if plan.offload != "blocks":
            denoise += unet + small if alone else everything
        return Peaks(
            encode=max(
                self.clip_bytes() + (clip + small if alone else everything),
                self.encode_bytes(task) + (vae + small if alone else everything),
                self.pose_bytes(task) + (small if alone else everything) + kept,
            ),
            denoise=denoise,
            decode=max(self.decode_bytes(plan, task), self._clip(task) + self.detail_bytes(task))
            + (vae + small if alone else everything)
            + self._latents(plan, task),
        )

    def upper_bound(self, task: Task) -> int:
        """Bytes that certainly suffice for everything at once, without running on shapes."""
        weights = weight_bytes(self.unet, self.vae, self.image_encoder, self.pose_net, self.detail)
        wide = max(self.dtype.itemsize, 2)
        level = self._cells(task) * self.unet.config.block_out_channels[0] * wide * task.segment_rows
        pixels = task.size[0] * task.size[1] // self.vae.patch_size**2
        frame = pixels * self.vae.config.block_out_channels[0] * wide
        encoded = POSE_CHUNK if task.warped else 1
        plain = ExecutionPlan()
        return (
            weights
            + self._kept(plan=plain, task=task)
            + max(64 * level * (1 + task.guided), 16 * frame * min(task.chunk, task.num_frames), 32 * frame * encoded)
            + (0 if self.detail is None else DETAIL_PLANES * 4 * task.size[0] * task.size[1])
            + 2**27
        )

    # --- what is kept -----------------------------------------------------------------------------------------------

    def _cells(self, task: Task) -> int:
        return (task.size[0] // self.downscale) * (task.size[1] // self.downscale)

    def _latents(self, plan: ExecutionPlan, task: Task) -> int:
        copies = 0 if plan.latents_on_host and not self.cpu else task.latent_copies
        return copies * 4 * self._cells(task) * self.latent_channels * task.num_frames

    def _kept(self, plan: ExecutionPlan, task: Task) -> int:
        features = task.num_frames * self._cells(task) * self.pose_net.out_channels * self.dtype.itemsize
        # with the budgets of `mimicmotion.conditioning`; what is too much lies in a file
        on_device = features <= self.budget and not plan.latents_on_host
        warped = 4 * self._cells(task) * self.latent_channels * task.num_frames * task.warped
        warped *= warped <= self.budget // WARPED_SHARE
        cached = 0
        if task.block_cache:
            h, w = task.size[0] // self.downscale, task.size[1] // self.downscale
            per_pass = cache_bytes(self.unet, task.segment_rows, h, w, self.dtype.itemsize)
            cached = per_pass * task.segments * (1 + task.guided)
        return self._latents(plan, task) + features * on_device + warped + cached

    # --- stages: working space without weights ----------------------------------------------------------------------

    def denoise_bytes(self, plan: ExecutionPlan, task: Task) -> int:
        """Of one segment: all that the passes make; with weights offloaded by blocks those that are there, too."""
        one_batch = plan.guidance_in_one_batch and task.guided and not task.block_cache
        execution, blocks = plan.unet, plan.offload == "blocks"
        key = ("denoise", task.size, task.segment_rows, task.guided, task.warped, execution, one_batch, blocks)
        return self._remember(key, lambda: self._denoise(task, execution, one_batch, blocks))

    def _denoise(self, task: Task, execution: Execution, one_batch: bool, blocks: bool) -> int:
        unet = self._twin("unet", self.unet)
        # A compiled block makes fewer temporary values than are counted here.
        unet.set_execution(_on_shapes(execution))
        h, w = task.size[0] // self.downscale, task.size[1] // self.downscale
        rows = task.segment_rows
        conditioning = Conditioning(
            image_embeddings=_empty(1, 1, unet.config.cross_attention_dim),
            image_latents=_empty(1, 1, self.latent_channels, h, w),
            pose_features=KeptFeatures(_empty(1, rows, self.pose_net.out_channels, h, w, dtype=self.dtype)),
            reference_pose_features=None,
            added_time_ids=_empty(1, 3),
            warped_latents=KeptFeatures(_empty(1, rows, self.latent_channels, h, w)) if task.warped else None,
        )
        network = ConditionedUNet(unet, conditioning, False, one_batch)
        run = network.pair if task.guided else network.conditional
        x = _empty(1, rows, self.latent_channels, h, w)
        moves = block_bytes(unet, self.unet) if blocks else contextlib.nullcontext()
        resident = [*unet.parameters(), *unet.buffers(), x, conditioning.pose_features.features]  # type: ignore[union-attr]
        in_rows = self.cpu and execution.attention == "auto" and self.dtype == torch.bfloat16
        kernel = {"scores": execution.attention == "math", "rows": in_rows}
        with follow(resident, **kernel) as live, moves:
            run(x, torch.zeros((), device="meta"), range(rows))
        return live.peak + widened_bytes(self.unet)

    def decode_bytes(self, plan: ExecutionPlan, task: Task) -> int:
        """Of one clip of `chunk` frames, the blending of clips included."""
        frames = min(task.chunk, task.num_frames)
        portion = None if plan.decode_portion is None or plan.decode_portion >= frames else plan.decode_portion
        key = ("decode", task.size, frames, portion, plan.decode_tile)

        def work() -> int:
            h, w = task.size[0] // self.downscale, task.size[1] // self.downscale
            return self._run(
                "vae",
                self.vae,
                lambda vae: decode_frames(
                    vae, _empty(frames, self.latent_channels, h, w), frame_chunk=portion, tile=plan.decode_tile
                ),
            )

        held = self._clip(task) * (task.num_frames > frames)  # the last clip, whose end is blended in
        return self._remember(key, work) + held

    def _clip(self, task: Task) -> int:
        return 4 * 3 * task.size[0] * task.size[1] * min(task.chunk, task.num_frames)

    def detail_bytes(self, task: Task) -> int:
        """Of the detail network on one frame; 0 for models without one."""
        if self.detail is None:
            return 0
        frame = lambda: _empty(1, 3, *task.size, dtype=next(self.detail.parameters()).dtype)  # noqa: E731
        work = lambda: self._run("detail", self.detail, lambda net: net(*(frame() for _ in range(5))))  # noqa: E731
        return self._remember(("detail", task.size), work)

    def encode_bytes(self, task: Task) -> int:
        """Of the autoencoder on the picture, or on the pictures warped to the poses of a chunk."""
        count = min(POSE_CHUNK, task.num_frames) if task.warped else 1
        work = lambda: self._run("vae", self.vae, lambda vae: encode_mode(vae, _empty(count, 3, *task.size)))  # noqa: E731
        return self._remember(("encode", count, task.size), work)

    def pose_bytes(self, task: Task) -> int:
        """Of PoseNet on a chunk of frames."""
        count, channels = min(POSE_CHUNK, task.num_frames), self.pose_net.widths[0]

        def work() -> int:
            return self._run(
                "pose_net", self.pose_net, lambda net: net(_empty(count, channels, *task.size).to(self.dtype)[None])
            )

        return self._remember(("pose", count, task.size), work)

    def clip_bytes(self) -> int:
        """Of CLIP on one picture."""
        side = self.image_encoder.config.image_size
        dtype = next(self.image_encoder.parameters()).dtype
        work = lambda: self._run("clip", self.image_encoder, lambda net: net(_empty(1, 3, side, side, dtype=dtype)))  # noqa: E731
        return self._remember("clip", work)

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _run(self, name: str, module: nn.Module, work: Callable[[Any], object]) -> int:
        twin = self._twin(name, module)
        with follow([*twin.parameters(), *twin.buffers()]) as live:
            work(twin)
        return live.peak

    def _twin(self, name: str, module: nn.Module) -> Any:
        if name not in self._twins:
            self._twins[name] = meta_twin(module)
        return self._twins[name]

    def _remember(self, key: Any, work: Callable[[], int]) -> int:
        if key not in self._known:
            self._known[key] = work()
        return self._known[key]


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _on_shapes(execution: Execution) -> Execution:
    """The same portions, with the kernel that any device has: on shapes all that keep no scores are alike."""
    return dataclasses.replace(execution, compile=False, attention="sdpa")
