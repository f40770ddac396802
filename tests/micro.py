"""A pipeline of the real classes with very few channels and fixed random weights: fast, and the same everywhere."""

from __future__ import annotations

import dataclasses
import functools
from collections import OrderedDict
from typing import Any, TypeVar

import numpy as np
import torch
from numpy import ndarray
from torch import nn

from mimicmotion.backbones.svd.backbone import SVDBackbone
from mimicmotion.backbones.svd.checkpoint import Components
from mimicmotion.backbones.svd.image_encoder import ImageEncoder
from mimicmotion.backbones.svd.posenet import PoseNet
from mimicmotion.backbones.svd.unet import build_unet
from mimicmotion.backbones.svd.vae import Autoencoder
from mimicmotion.backbones.tiny.backbone import TinyBackbone
from mimicmotion.backbones.tiny.detail import DetailNet
from mimicmotion.diffusion.noise import frame_noise
from mimicmotion.pipeline import MimicMotionPipeline

# The norms have 32 groups. Where a group is one channel, the norm takes away what the time embedding adds: with 32
# channels in both levels the output would not depend on noise level, fps or bucket at all.
UNET = {
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": [32, 64],
    "down_block_types": ["DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal"],
    "up_block_types": ["CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"],
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "num_attention_heads": [2, 2],
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24,
    "num_frames": 6,
}

CLIP = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
    "projection_dim": 16,
}


@torch.no_grad()
def fill(module: nn.Module, seed: int) -> nn.Module:
    """Weights from the project's own noise, so that they depend on no library's initialisation."""
    for i, (name, p) in enumerate(module.named_parameters()):
        noise = frame_noise(seed, [i], tuple(p.shape))[0]
        if p.ndim > 1:
            p.copy_(noise / p[0].numel() ** 0.5)
        elif p.numel() > 1:  # single numbers (PoseNet's scale, the blending of time and space) stay
            p.copy_(0.1 * noise + name.endswith("weight"))
    return module.eval()


Module = TypeVar("Module", bound=nn.Module)


def copied(module: Module) -> Module:
    """The module with parameters of its own; `copy.deepcopy` takes several times as long, for its many dictionaries."""
    twin = module.__new__(type(module))
    twin.__dict__.update((k, v.copy() if type(v) in (dict, OrderedDict) else v) for k, v in module.__dict__.items())
    for name, p in module._parameters.items():
        twin._parameters[name] = None if p is None else nn.Parameter(p.detach().clone(), p.requires_grad)
    for name, part in module._modules.items():
        twin._modules[name] = None if part is None else copied(part)
    return twin


def copied_parts(parts: Components) -> Components:
    """The model with networks and settings of its own."""
    networks = {f.name: getattr(parts, f.name) for f in dataclasses.fields(parts)}
    networks = {name: copied(part) for name, part in networks.items() if isinstance(part, nn.Module)}
    return dataclasses.replace(parts, settings=dict(parts.settings), **networks)


def micro_pipeline(
    *, reference_pose_input: bool = False, warp: str | None = None, detail: DetailNet | None = None
) -> MimicMotionPipeline:
    """8 pixels per latent, sizes in multiples of 16; `warp` ("limbs", "residual") adds a warped picture."""
    networks = map(copied, (*_unet_vae_encoder(), _pose_net(6 if reference_pose_input else 3)))
    settings = {
        "num_inference_steps": 3,
        "guidance_scale": 2.0,
        "fusion": {"segment_frames": 6, "overlap_frames": 3},
    }
    if warp is None:
        return MimicMotionPipeline(SVDBackbone(Components(*networks, settings)))
    return MimicMotionPipeline(TinyBackbone(Components(*networks, settings | {"reference_warp": warp}, detail=detail)))


def one_step_pipeline() -> MimicMotionPipeline:
    """One step without guidance on the residual of a warped picture, like the bundled model."""
    pipe = micro_pipeline()
    pipe.backbone.settings |= {"reference_warp": "residual", "sigmas": [3.0, 0.0], "guidance_scale": 1.0}
    return pipe


@functools.cache
def _unet_vae_encoder() -> tuple[nn.Module, nn.Module, nn.Module]:
    vae = Autoencoder({"block_out_channels": [32, 32, 32, 32]})
    return fill(build_unet(UNET), 1), fill(vae, 2), fill(ImageEncoder(CLIP), 3)


@functools.cache
def _pose_net(channels: int) -> nn.Module:
    return fill(PoseNet(32, (channels, 4, 8, 8)), 4)


def random_frames(seed: int, *shape: int) -> ndarray:
    """Random uint8."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def svd_scheduler() -> Any:
    """Diffusers' sampler with SVD's settings, to compare ours with."""
    import diffusers

    return diffusers.EulerDiscreteScheduler(
        prediction_type="v_prediction",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_type="continuous",
        timestep_spacing="leading",
        steps_offset=1,
    )
