"""LoRA on the U-Net's attention by peft: injected in place, merged on export, also saved as an adapter."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mimicmotion.errors import ConfigError
from mimicmotion.training.settings import TrainedConfig

ADAPTER = "default"
DEAD = re.compile(r"\.attn2\.to_[qk]$")
"""Queries and keys of cross-attention over one token change nothing."""


def target_names(unet: nn.Module, targets: Sequence[str]) -> list[str]:
    """Linear layers whose names end in one of `targets`, without those that cannot change the output."""
    linear = [n for n, m in unet.named_modules() if isinstance(m, nn.Linear)]
    return [n for n in linear if n.endswith(tuple(f".{t}" for t in targets)) and not DEAD.search(n)]


def inject(unet: nn.Module, config: TrainedConfig, seed: int) -> None:
    """Put LoRA layers into the U-Net; at first they change nothing.

    Raises:
        ConfigError: no layer has one of the targets' names, or peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as e:
        raise ConfigError(
            "trained.what: lora without peft", "the package peft", "pip install mimicmotion[train]"
        ) from e
    names = target_names(unet, config.targets)
    if not names:
        got = f"no layer of the U-Net ends in {', '.join(config.targets)}"
        raise ConfigError(got, "names of linear layers, such as to_q", "correct trained.targets")
    lora = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=names)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(lora, unet, ADAPTER)


def lora_names(unet: nn.Module) -> list[str]:
    """Parameters of the adapters."""
    return [n for n, _ in unet.named_parameters() if f".lora_A.{ADAPTER}." in n or f".lora_B.{ADAPTER}." in n]


def merged_state(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """State of the plain U-Net: W + scale * B A (scale = alpha / rank) under the names that it has without adapters.

    Args:
        state: of the U-Net with adapters.
        scale: of the additions.
    """
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        if ".base_layer.weight" in name and (a := name.replace("base_layer", f"lora_A.{ADAPTER}")) in state:
            b = state[name.replace("base_layer", f"lora_B.{ADAPTER}")]
            value = value.float() + scale * (b.float() @ state[a].to(b.device).float()).to(value.device)  # noqa: PLW2901
        out[name.replace(".base_layer", "")] = value
    return out


def save_adapter(state: Mapping[str, Tensor], config: TrainedConfig, folder: Path) -> Path:
    """Write the adapter alone as peft reads it: adapter_config.json and adapter_model.safetensors.

    Args:
        state: of the U-Net with adapters.
        config: rank and scale.
        folder: where to write; created.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"base_model.model.{k.replace(f'.{ADAPTER}.', '.')}": v.detach().float().cpu().contiguous()
        for k, v in state.items()
        if ".lora_" in k
    }
    settings: dict[str, Any] = {
        "peft_type": "LORA",
        "r": config.rank,
        "lora_alpha": config.alpha,
        "target_modules": sorted({k.split(".lora_")[0] for k in state if ".lora_" in k}),
        "inference_mode": True,
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return folder
