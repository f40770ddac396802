"""Memory and time of the real model (1.52 B U-Net, random weights, float16), planned as `generate` does for each GPU.

    python benchmarks/real_size.py [--quick]

Without a GPU, the peaks are COMPUTED on shapes, and the rows say so. On a CUDA device, each plan is run for one guided
pass of a segment and one decoded clip, and measured with torch.cuda.max_memory_allocated, along with the prediction.
Prints one JSON line per GPU. Takes a minute or two on a CPU, a few minutes on a GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mimicmotion.backbones.svd.backbone import SVDBackbone
from mimicmotion.backbones.svd.checkpoint import Components
from mimicmotion.backbones.svd.conditioning import ConditionedUNet, Conditioning
from mimicmotion.backbones.svd.decode import decode_frames
from mimicmotion.backbones.svd.execution.levels import plan_execution
from mimicmotion.backbones.svd.execution.plan import ExecutionPlan
from mimicmotion.backbones.svd.execution.predict import Predictor, Workload
from mimicmotion.backbones.svd.image_encoder import ImageEncoder
from mimicmotion.backbones.svd.posenet import PoseNet
from mimicmotion.backbones.svd.unet import build_unet
from mimicmotion.backbones.svd.vae import Autoencoder
from mimicmotion.errors import ConfigError
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.runtime.device import DEVICE_RESERVE, DEVICE_SHARE
from mimicmotion.settings import ExecutionOptions
from train_memory import SVD_UNET

SIZE, GIB = (576, 1024), 2**30
VIDEO_FRAMES = 531  # 35 s at 15 frames per second, like the authors' demo
CASES = (
    *((72, SIZE, gpu) for gpu in (40, 24, 16, 12, 8, 6)),
    *((16, SIZE, gpu) for gpu in (8, 5)),
    (16, (512, 896), 4),
)
"""Frames of a segment, size, and memory of the GPU in GiB."""
IN_USE = 0.5
"""GiB assumed to be taken by CUDA's context and the desktop."""

SVD_VAE = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
SVD_CLIP = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}


def pipeline(dtype: torch.dtype = torch.float16) -> MimicMotionPipeline:
    """Build the published model's shapes on the meta device."""
    with torch.device("meta"):
        vae = Autoencoder(SVD_VAE)
        clip = ImageEncoder(SVD_CLIP)
        pose_net = PoseNet(320)
    unet = build_unet(SVD_UNET, device="meta", dtype=dtype)
    for module in (vae, clip, pose_net):
        nn.Module.to(module.eval(), device="meta", dtype=dtype)
    return MimicMotionPipeline(SVDBackbone(Components(unet, vae, clip, pose_net)))


def randomise(pipe: MimicMotionPipeline, device: torch.device | str = "cpu") -> None:
    """Fill the networks with random weights on a device."""
    assert isinstance(pipe.backbone, SVDBackbone)
    for module in (pipe.backbone.unet, pipe.backbone.vae, pipe.backbone.image_encoder, pipe.backbone.pose_net):
        nn.Module.to_empty(module, device=device)
        for p in module.parameters():
            p.data.normal_(0, 0.01).requires_grad_(False)
        for b in module.buffers():
            b.data.zero_()


class MadeFeatures:
    """Pose features that are made on demand, as for long videos."""

    def __len__(self) -> int:
        return VIDEO_FRAMES

    def __init__(self, size: tuple[int, int], device: torch.device) -> None:
        self.size, self.device = size, device

    def frames(self, index: Sequence[int]) -> torch.Tensor:
        shape = (1, len(index), 320, self.size[0] // 8, self.size[1] // 8)
        return torch.randn(shape, device=self.device, dtype=torch.float16)


@torch.inference_mode()
def measured(pipe: MimicMotionPipeline, plan: ExecutionPlan, work: Workload, device: torch.device) -> dict[str, Any]:
    """Run one guided pass and one clip on the GPU."""
    assert isinstance(pipe.backbone, SVDBackbone)
    pipe.backbone.configure(plan, device)
    rows, h, w = work.segment_frames, work.size[0] // 8, work.size[1] // 8
    options: dict[str, Any] = {"device": device, "dtype": torch.float16}
    conditioning = Conditioning(
        image_embeddings=torch.randn(1, 1, 1024, **options),
        image_latents=torch.randn(1, 1, 4, h, w, **options),
        pose_features=MadeFeatures(work.size, device),
        reference_pose_features=None,
        added_time_ids=torch.tensor([[6.0, 127.0, 0.0]], device=device),
    )
    one_batch = plan.guidance_in_one_batch
    network = ConditionedUNet(pipe.backbone.unet, conditioning, reference_slot=False, one_batch=one_batch)
    x = torch.randn(1, rows, 4, h, w, device=device)
    found: dict[str, Any] = {}
    runs = {
        "denoise": lambda: network.pair(x, torch.tensor(0.5), range(rows)),
        "decode": lambda: decode_frames(pipe.backbone.vae, x[0, :8], frame_chunk=plan.decode_chunk),
    }
    for stage, run in runs.items():
        pipe.backbone.use({"denoise": "unet", "decode": "vae"}[stage])
        run()  # warm-up: selects kernels, streams learn the order of blocks
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        found[f"{stage}_seconds"] = round(time.perf_counter() - start, 2)
        found[f"{stage}_gib"] = round(torch.cuda.max_memory_allocated() / GIB, 2)
    return found | {"stepped_down": pipe.backbone.plan != plan}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only GPUs of 8 GB (segments of 72) and 5 GB (of 16)")
    arguments = parser.parse_args()
    device = torch.device("cuda")
    on_gpu = torch.cuda.is_available()
    pipe = pipeline()
    predictor = Predictor(pipe.backbone, device)
    if on_gpu:
        randomise(pipe)
    for rows, size, gpu in CASES:
        if arguments.quick and (rows, gpu) not in ((72, 8), (16, 5)):
            continue
        start = time.monotonic()
        work = Workload(size=size, segment_frames=rows, num_frames=VIDEO_FRAMES)
        budget = int((gpu - IN_USE) * GIB * DEVICE_SHARE - DEVICE_RESERVE)  # as in `free_memory`
        row: dict[str, Any] = {
            "bench": "real_size",
            "how": "measured" if on_gpu else "computed on shapes, not measured on a GPU",
            "segment_frames": rows,
            "size": size,
            "gpu_gib": gpu,
            "budget_gib": round(budget / GIB, 2),
        }
        try:
            plan = plan_execution(predictor, work, budget, ExecutionOptions())
        except ConfigError as e:
            sys.stdout.write(json.dumps(row | {"plan": None, "why": e.expected}) + "\n")
            continue
        row |= {
            "plan": plan.describe(),
            "predicted_gib": {stage: round(peak / GIB, 2) for stage, peak in plan.peaks.items()},
            "planning_seconds": round(time.monotonic() - start, 1),
        }
        if on_gpu:
            row |= measured(pipe, plan, work, device) | {"gpu": torch.cuda.get_device_name()}
        row |= {"torch": torch.__version__, "python": platform.python_version()}
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
