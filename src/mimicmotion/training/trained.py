"""Which parameters of a model are trained."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from mimicmotion.backbones.svd.lora import inject, lora_names
from mimicmotion.backbones.svd.unet import UNet, temporal_parameter_names, unused_parameter_names
from mimicmotion.settings.training import TrainedConfig
from mimicmotion.training.networks import DenoiserModel


def unet_names(unet: UNet, config: TrainedConfig) -> list[str]:
    """Parameters of the U-Net that these settings train, without those that cannot change the output."""
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
    """Mark what is trained and freeze the rest; PoseNet, and the picture encoder where it is inside, always train.

    LoRA's layers are put into the U-Net here. Frozen parameters of the U-Net take `config.frozen`'s number format;
    trained ones are float32.

    Args:
        model: all networks; changed in place.
        config: what is trained.
        seed: of LoRA's random weights.

    Returns:
        Name ("unet.conv_in.weight") to parameter, in the order of the module.
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
