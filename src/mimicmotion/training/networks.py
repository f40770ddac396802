"""Load or build the networks of a training run, and choose its trainable parameters."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mimicmotion.backbones.svd.blocks import SpatioTemporalTransformer
from mimicmotion.backbones.svd.checkpoint import Components, load_components, load_part
from mimicmotion.backbones.svd.execution.options import Checkpointing
from mimicmotion.backbones.svd.layers import SpatioTemporalResBlock
from mimicmotion.backbones.svd.lora import inject, lora_names
from mimicmotion.backbones.svd.posenet import PoseNet
from mimicmotion.backbones.svd.unet import UNet, build_unet, temporal_parameter_names, unused_parameter_names
from mimicmotion.backbones.svd.vae import encode_mode
from mimicmotion.backbones.tiny.build import build_tiny_image_encoder, build_tiny_posenet, unet_config
from mimicmotion.diffusion.loss import drop_condition
from mimicmotion.errors import ConfigError, WeightsError
from mimicmotion.settings.training import ModelConfig, TinyConfig, TrainConfig, TrainedConfig
from mimicmotion.training.objective import NetworkInput
from mimicmotion.weights.registry import find_asset

logger = logging.getLogger(__name__)

BUNDLED = "tiny"
"""Name of the bundled small model in `model.base`."""
ENCODE_PIXELS = 1 << 20
"""Maximum number of pixels to encode at once; SVD's VAE needs 1.4 GiB for them, and 22 GiB for a clip of 576x1024."""


def load_networks(config: ModelConfig, seed: int) -> Components:
    """Load the networks that a training run starts from, all frozen and in float32.

    Args:
        config: networks to load or build.
        seed: seed of random weights in new networks.

    Raises:
        ConfigError: the settings name no weights.
        WeightsError: files are missing or damaged, or do not match.
    """
    if config.new is not None:
        parts = new_networks(config.new, seed)
    else:
        base, checkpoint = (find_asset(BUNDLED) if w == BUNDLED else w for w in (config.base, config.checkpoint))
        if checkpoint and (Path(checkpoint) / "unet").is_dir():  # a complete model, which needs no base
            base, checkpoint = checkpoint, ""
        if not base:
            fix = "set model.base (a folder, a known name, 'tiny'), or model.new for random small networks"
            raise ConfigError(f"model.base={config.base!r}, model.checkpoint={config.checkpoint!r}", "a model", fix)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # for a fresh PoseNet, which is random except for its last layer
            parts = load_components(base, checkpoint or None, new_pose_net=True)
    for module in (parts.unet, parts.pose_net, parts.image_encoder, parts.vae, parts.detail, parts.warp):
        if module is not None:
            module.eval().requires_grad_(False)
    return parts


def new_networks(config: TinyConfig, seed: int) -> Components:
    """Build small networks with random weights around a trained autoencoder.

    Raises:
        WeightsError: the configured autoencoder does not exist.
    """
    vae = load_part(find_autoencoder(config.autoencoder), "vae")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet_options = unet_config(
            widths=config.widths,
            attention=config.attention,
            latent_channels=vae.config.latent_channels,
            token_dim=config.token_dim,
        )
        unet = build_unet(unet_options)
        pose_net = build_tiny_posenet(config.widths[0], config.reference_pose)
        encoder = build_tiny_image_encoder(config.token_dim)
    return Components(unet, vae, encoder, pose_net)


def find_autoencoder(name: str) -> Path:
    """Find the folder with vae/ in a model, a checkpoint or a run (its last checkpoint); "tiny" is the bundled model.

    Raises:
        WeightsError: there is none.
    """
    path = find_asset(BUNDLED) if name == BUNDLED else Path(name)
    newest = sorted(path.glob("checkpoints/step-*"), reverse=True)
    for folder in (path, path / "model", *(p / "model" for p in newest)) if name else ():
        if (folder / "vae" / "config.json").is_file():
            return folder
    fix = "train one with `stage: autoencoder` and name its run folder, or use 'tiny', the bundled one"
    raise WeightsError(f"model.new.autoencoder={name!r} has no vae/", "a model folder or a run", fix)


class DenoiserModel(nn.Module):
    """The trained networks as one module, so that multi-GPU wrappers see every parameter and forward pass.

    Args:
        unet: U-Net with pose input.
        pose_net: PoseNet of the same width; with six input channels, it gets [driving pose | reference pose].
        image_encoder: image encoder, if it is trained too; a frozen one is not part of this module.
    """

    _no_split_modules: ClassVar = [SpatioTemporalResBlock.__name__, SpatioTemporalTransformer.__name__]
    """Modules that FSDP2 gathers as a unit (Accelerate's policy TRANSFORMER_BASED_WRAP)."""

    def __init__(self, unet: UNet, pose_net: PoseNet, image_encoder: Any | None = None) -> None:
        super().__init__()
        self.unet, self.pose_net, self.image_encoder = unet, pose_net, image_encoder

    def forward(self, inputs: NetworkInput) -> Float[Tensor, "batch slots channels h w"]:
        """Predict v for a batch."""
        token, poses = inputs.token, inputs.poses
        if self.image_encoder is not None:
            token = self.image_encoder(inputs.pixels).unsqueeze(1)
        if self.pose_net.widths[0] == 6:
            reference = inputs.reference_pose[:, None].expand(-1, poses.shape[1], -1, -1, -1)
            poses = torch.cat([poses, reference], dim=2)
        features = self.pose_net(poses)
        token = drop_condition(inputs.dropped[:, 0], token)  # type: ignore[arg-type]
        picture = drop_condition(inputs.dropped[:, 1], inputs.picture_latents)
        features = drop_condition(inputs.dropped[:, 2], features)
        picture = picture.expand(-1, inputs.x.shape[1], -1, -1, -1)
        sample = torch.cat([inputs.x, picture.to(inputs.x.dtype)], dim=2)
        return self.unet(sample, inputs.c_noise, token, inputs.time_ids, features)


def unet_names(unet: UNet, config: TrainedConfig) -> list[str]:
    """Return the names of the U-Net's trained parameters, without those that cannot change the output."""
    names: Iterable[str]
    if config.what == "pose_net":
        names = []
    elif config.what == "temporal":
        names = temporal_parameter_names(unet)
    elif config.what == "lora":
        names = lora_names(unet)
    else:
        names = [n for n, _ in unet.named_parameters()]
    unused = set(unused_parameter_names(unet))
    return [n for n in names if n not in unused]


def choose_trained(model: DenoiserModel, config: TrainedConfig, seed: int) -> dict[str, nn.Parameter]:
    """Choose the trained parameters and freeze the rest; PoseNet and the model's image encoder are always trained.

    Also adds LoRA layers to the U-Net. Frozen parameters of the U-Net get the dtype of `config.frozen`; trained ones
    are float32.

    Args:
        model: all networks; modified in place.
        config: settings that select the trained parameters.
        seed: seed of LoRA's random weights.

    Returns:
        Name (such as "unet.conv_in.weight") to parameter, in the order of the module.
    """
    if config.what == "lora":
        inject(model.unet, config.targets, config.rank, config.alpha, seed)
    chosen = {f"unet.{n}" for n in unet_names(model.unet, config)}
    frozen = torch.bfloat16 if config.frozen == "half" else torch.float32
    out: dict[str, nn.Parameter] = {}
    for name, p in model.named_parameters():
        trained = name in chosen or not name.startswith("unet.")
        p.requires_grad_(trained)
        p.data = p.data.to(torch.float32 if trained else frozen)
        if trained:
            out[name] = p
    return out


def checkpointing(config: TrainConfig) -> Checkpointing:
    """Return the mode of gradient checkpointing that the settings select."""
    mode = config.gradient_checkpointing
    return mode if mode == "nested" else "blocks" if mode else "off"


def encode_frames(vae: Any, frames: Float[Tensor, "*lead 3 height width"]) -> Float[Tensor, "*lead channels h w"]:
    """Encode frames in [-1, 1] to latents (mode of the posterior, not scaled), a few frames at a time."""
    flat = frames.flatten(0, -4)
    chunk = max(1, ENCODE_PIXELS // (frames.shape[-2] * frames.shape[-1]))
    parts = [encode_mode(vae, part) for part in flat.split(chunk)]
    # a clone made outside inference mode can be used by autograd
    return torch.cat(parts).clone().unflatten(0, frames.shape[:-3])
