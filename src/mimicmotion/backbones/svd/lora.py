"""LoRA (Hu et al., arXiv 2106.09685): trainable low-rank adapters for frozen linear layers.

h = W x + (alpha / rank) B A x, with A initialised at random and B at zero. Adapters are saved in peft's format.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from mimicmotion.backbones.svd.unet import unused_parameter_names
from mimicmotion.errors import ConfigError

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
"""Prefix of all parameter names in peft's files."""


class LoraLinear(nn.Module):
    """A frozen linear layer (of any class) with a low-rank adapter.

    Args:
        base_layer: the layer, which is frozen.
        rank: rank of the adapter.
        alpha: the adapter is scaled by alpha / rank.
    """

    def __init__(self, base_layer: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base_layer, self.scale = base_layer.requires_grad_(False), alpha / rank
        device = base_layer.weight.device
        self.lora_A = nn.Linear(base_layer.in_features, rank, bias=False).to(device)
        self.lora_B = nn.Linear(rank, base_layer.out_features, bias=False).to(device)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Float[Tensor, "*lead channels"]) -> Float[Tensor, "*lead out"]:
        """Return the sum of the base layer's and the adapter's outputs, in the dtype of the base layer's output."""
        out = self.base_layer(x)
        added = self.scale * self.lora_B(self.lora_A(x.to(self.lora_A.weight.dtype)))
        return out + added.to(out.dtype)


def target_names(unet: nn.Module, targets: Sequence[str]) -> list[str]:
    """List the linear layers whose names end in one of `targets`, except those that cannot change the output."""
    linear = [n for n, m in unet.named_modules() if isinstance(m, nn.Linear)]
    unused = set(unused_parameter_names(unet))
    return [n for n in linear if n.endswith(tuple(f".{t}" for t in targets)) and f"{n}.weight" not in unused]


def inject(unet: nn.Module, targets: Sequence[str], rank: int, alpha: float, seed: int) -> None:
    """Add LoRA adapters to a network. Initially they do not change its output.

    Args:
        unet: the network, modified in place.
        targets: name suffixes of the layers.
        rank: rank of the adapters.
        alpha: the adapters are scaled by alpha / rank.
        seed: seed of the random A.

    Raises:
        ConfigError: no layer matches a target.
    """
    names = target_names(unet, targets)
    if not names:
        got = f"no layer of the U-Net ends in {', '.join(targets)}"
        raise ConfigError(got, "suffixes of linear layers, such as to_q", "correct trained.targets")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in names:
            parent, _, last = name.rpartition(".")
            layer: Any = unet.get_submodule(name)
            setattr(unet.get_submodule(parent), last, LoraLinear(layer, rank, alpha))


def lora_names(unet: nn.Module) -> list[str]:
    """List the names of the adapters' parameters."""
    return [n for n, _ in unet.named_parameters() if ".lora_A." in n or ".lora_B." in n]


def merged_state(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Return the state dict of a U-Net without LoRA, with the adapters merged into its weights: W + scale * B A.

    Args:
        state: state dict of the U-Net with LoRA.
        scale: scale of the adapters, alpha / rank.
    """
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        if ".base_layer.weight" in name and (a := name.replace("base_layer", "lora_A")) in state:
            b = state[name.replace("base_layer", "lora_B")]
            value = value.float() + scale * (b.float() @ state[a].to(b.device).float()).to(value.device)  # noqa: PLW2901
        out[name.replace(".base_layer", "")] = value
    return out


def save_adapter(state: Mapping[str, Tensor], rank: int, alpha: float, folder: Path) -> None:
    """Save the adapters without the U-Net, as adapter_config.json and adapter_model.safetensors.

    Args:
        state: state dict of the U-Net with LoRA.
        rank: rank of the adapters.
        alpha: the adapters are scaled by alpha / rank.
        folder: folder to write; created if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {PREFIX + k: v.detach().float().cpu().contiguous() for k, v in state.items() if ".lora_" in k}
    settings: dict[str, Any] = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted({k.split(".lora_")[0] for k in state if ".lora_" in k}),
        "inference_mode": True,
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
