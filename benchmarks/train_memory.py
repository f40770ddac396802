"""GPU memory that a training recipe needs at 576x1024, COMPUTED without a GPU and without the weights.

    python benchmarks/train_memory.py [finetune-24gb-lora ...]

The real networks are built without memory (fake tensors), and one forward and backward pass is run while tracking the
live bytes of every tensor: weights, tensors that autograd keeps, temporary values, gradients. The sizes of optimiser
state and weight average are added. CUDA's context and libraries (about 1 GiB), workspaces of convolutions and
fragmentation are not included, so this is a lower bound; allow one or two GiB more. Prints one JSON line per recipe.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from mimicmotion.backbones.svd.execution.options import Execution
from mimicmotion.backbones.svd.posenet import PoseNet
from mimicmotion.backbones.svd.unet import build_unet
from mimicmotion.settings.training import TrainConfig, load_config
from mimicmotion.training.networks import DenoiserModel, checkpointing, choose_trained
from mimicmotion.training.objective import NetworkInput

GIB = 2**30
SIZE = (576, 1024)
PRESETS = (
    "finetune-24gb-lora",
    "finetune-24gb-posenet-temporal",
    "finetune-80gb",
    "paper-8gpu",
    "finetune-72frames-8gpu",
)
ENCODERS = 97_700_000 + 632_100_000  # autoencoder, CLIP ViT-H
STATE_BYTES = {"adamw": 8.0, "adamw-fused": 8.0, "adamw-8bit": 2.02}
FOREACH = 4.0  # the plain optimiser makes one temporary copy of everything
SVD_UNET: dict[str, Any] = {
    "in_channels": 8,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlockSpatioTemporal"] * 3 + ["DownBlockSpatioTemporal"],
    "up_block_types": ["UpBlockSpatioTemporal"] + ["CrossAttnUpBlockSpatioTemporal"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 768,
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "num_attention_heads": [5, 10, 20, 20],
    "num_frames": 25,
}


class LiveBytes(TorchDispatchMode):
    """Tracks the bytes of all storages that operations create, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in tree_iter(out):
            if isinstance(t, torch.Tensor):
                storage = t.untyped_storage()
                if storage not in self.seen:
                    self.seen.add(storage)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _free(self, size: int) -> None:
        self.now -= size


def norms_as_on_cuda(model: nn.Module) -> None:
    """Run norms in float32, as autocast does on CUDA but not on a CPU."""

    def group(x: torch.Tensor, norm: Any) -> torch.Tensor:
        return F.group_norm(x.float(), norm.num_groups, norm.weight.float(), norm.bias.float(), norm.eps)

    def layer(x: torch.Tensor, norm: Any) -> torch.Tensor:
        return F.layer_norm(x.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)

    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = lambda x, _moments=None, n=module: group(x, n)  # type: ignore[method-assign,misc]
        elif isinstance(module, nn.LayerNorm):
            module.forward = lambda x, n=module: layer(x, n)  # type: ignore[method-assign,misc]


def fake_parameters(model: nn.Module) -> None:
    """Swap parameters without data for fake ones; call inside a FakeTensorMode."""
    for module in model.modules():
        for name, p in list(module._parameters.items()):
            if p is not None:
                fake = torch.empty(p.shape, dtype=p.dtype)
                module._parameters[name] = nn.Parameter(fake, requires_grad=p.requires_grad)


def step_bytes(model: DenoiserModel, batch: int, frames: int) -> dict[str, int]:
    """Live bytes after the forward pass, and their peak in a whole step; with gradients but without weights."""
    h, w = SIZE[0] // 8, SIZE[1] // 8
    live = LiveBytes()
    norms_as_on_cuda(model)
    with live:
        shown = NetworkInput(
            x=torch.zeros(batch, frames, 4, h, w),
            c_noise=torch.zeros(batch),
            picture_latents=torch.zeros(batch, 1, 4, h, w),
            token=torch.zeros(batch, 1, 1024),
            pixels=None,
            poses=torch.zeros(batch, frames, 3, *SIZE),
            reference_pose=torch.zeros(batch, 3, *SIZE),
            dropped=torch.zeros(batch, 3, dtype=torch.bool),
            time_ids=torch.zeros(batch, 3),
        )
        with torch.autocast("cpu", torch.bfloat16):
            out = model(shown)
        loss = out.float().square().mean()
        forward = live.now
        loss.backward()
    return {"after_forward": forward, "step": live.peak}


def needed(config: TrainConfig, processes: int, sharded: bool) -> dict[str, Any]:
    """Bytes per GPU of a recipe."""
    unet: Any = build_unet(SVD_UNET, device="meta")
    with torch.device("meta"):
        pose_net = PoseNet(320)
    model = DenoiserModel(unet, pose_net)
    trained = choose_trained(model, config.trained, 0)
    count = sum(p.numel() for p in trained.values())
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    unet.set_execution(Execution(checkpointing=checkpointing(config)))
    with FakeTensorMode():
        fake_parameters(model)
        if config.optim.accumulation > 1:  # from the second forward pass of a step, gradients exist
            for p in model.parameters():
                p.grad = torch.zeros_like(p) if p.requires_grad else None
        live = step_bytes(model, config.optim.batch, config.data.sample.num_frames)
    gradients = 4 * count
    live["step"] += gradients if config.optim.accumulation > 1 else 0
    state = STATE_BYTES[config.optim.optimizer] * count
    average = 0 if config.optim.ema_on_cpu or not config.optim.ema else 4 * count
    buckets = gradients if processes > 1 and not sharded else 0
    encoders = (2 if config.trained.frozen == "half" else 4) * ENCODERS
    share = processes if sharded else 1
    resident = (weights + state + average) / share + encoders
    extra = FOREACH * count / share if config.optim.optimizer == "adamw" else 0.0
    passes = live["step"] - (gradients * (1 - 1 / share) if sharded else 0)
    total = resident + max(passes + buckets, gradients / share + extra)
    parts = {"weights": weights / share, "optimizer": state / share, "average": average / share, "encoders": encoders}
    parts |= {"kept_after_forward": live["after_forward"], "step": passes, "buckets": buckets}
    return {
        "trained_millions": round(count / 1e6, 1),
        "gib": {k: round(v / GIB, 2) for k, v in parts.items()},
        "total_gib": round(total / GIB, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", default=PRESETS)
    arguments = parser.parse_args()
    for name in arguments.recipes:
        config = load_config(name)
        processes = 8 if "8gpu" in name else 1
        for sharded in (False, True)[: 1 + (processes > 1)]:
            start = time.monotonic()
            found = needed(config, processes, sharded)
            row = {
                "bench": "train_memory",
                "how": "computed with fake tensors, not measured on a GPU",
                "recipe": Path(name).stem,
                "frames": config.data.sample.num_frames,
                "batch": config.optim.batch,
                "processes": processes,
                "sharded": sharded,
                **found,
                "seconds": round(time.monotonic() - start, 1),
                "torch": torch.__version__,
                "python": platform.python_version(),
            }
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
