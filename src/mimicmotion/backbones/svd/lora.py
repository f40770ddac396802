"""LoRA (Hu et al., arXiv 2106.09685): low-rank additions to linear layers, trained while the layers stay as they are.

h = W x + (alpha / rank) B A x, with A random and B zero at first. Files are in peft's format, both ways.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mimicmotion.backbones.svd.unet import unused_parameter_names
from mimicmotion.errors import ConfigError, WeightsError

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
"""Of all names in peft's files."""
UNDERSTOOD = {"peft_type", "r", "lora_alpha", "alpha_pattern", "rank_pattern", "use_rslora"}
HARMLESS = {
    *("auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config", "exclude_modules"),
    *("inference_mode", "layers_pattern", "layers_to_transform", "lora_dropout", "megatron_core", "peft_version"),
    *("qalora_group_size", "revision", "target_modules", "task_type"),
}
"""Settings of peft that change nothing once an adapter is trained; the names in the file say which layers it is for."""


class LoraLinear(nn.Module):
    """A linear layer of any class, called as it is, and what is added to its result.

    Args:
        base_layer: takes no gradient here.
        rank: of the addition.
        alpha: the addition is scaled by alpha / rank.
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
        """Both; in the number format of the base layer's result."""
        out = self.base_layer(x)
        added = self.scale * self.lora_B(self.lora_A(x.to(self.lora_A.weight.dtype)))
        return out + added.to(out.dtype)


def target_names(unet: nn.Module, targets: Sequence[str]) -> list[str]:
    """Linear layers whose names end in one of `targets`, without those that cannot change the output."""
    linear = [n for n, m in unet.named_modules() if isinstance(m, nn.Linear)]
    unused = set(unused_parameter_names(unet))
    return [n for n in linear if n.endswith(tuple(f".{t}" for t in targets)) and f"{n}.weight" not in unused]


def inject(unet: nn.Module, targets: Sequence[str], rank: int, alpha: float, seed: int) -> None:
    """Put LoRA into a network; at first it changes nothing.

    Args:
        unet: changed in place.
        targets: ends of the names of the layers.
        rank: of the additions.
        alpha: they are scaled by alpha / rank.
        seed: of the random A.

    Raises:
        ConfigError: no layer has one of the targets' names.
    """
    names = target_names(unet, targets)
    if not names:
        got = f"no layer of the U-Net ends in {', '.join(targets)}"
        raise ConfigError(got, "names of linear layers, such as to_q", "correct trained.targets")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in names:
            parent, _, last = name.rpartition(".")
            layer: Any = unet.get_submodule(name)
            setattr(unet.get_submodule(parent), last, LoraLinear(layer, rank, alpha))


def lora_names(unet: nn.Module) -> list[str]:
    """Parameters of the additions."""
    return [n for n, _ in unet.named_parameters() if ".lora_A." in n or ".lora_B." in n]


def merged_state(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """State of the plain U-Net: W + scale * B A (scale = alpha / rank) under the names that it has without LoRA.

    Args:
        state: of the U-Net with LoRA.
        scale: of the additions.
    """
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        if ".base_layer.weight" in name and (a := name.replace("base_layer", "lora_A")) in state:
            b = state[name.replace("base_layer", "lora_B")]
            value = value.float() + scale * _product(state[a], b).to(value.device)  # noqa: PLW2901
        out[name.replace(".base_layer", "")] = value
    return out


def _product(a: Float[Tensor, "rank channels"], b: Float[Tensor, "out rank"]) -> Float[Tensor, "out channels"]:
    return b.float() @ a.to(b.device).float()


def save_adapter(state: Mapping[str, Tensor], rank: int, alpha: float, folder: Path) -> None:
    """Write the additions alone: adapter_config.json and adapter_model.safetensors.

    Args:
        state: of the U-Net with LoRA.
        rank: of the additions.
        alpha: they are scaled by alpha / rank.
        folder: where to write; created.
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


@torch.no_grad()
def merge_adapter(unet: nn.Module, folder: Path) -> int:
    """Add the additions of an adapter, made here or by peft, to the weights of a network.

    Args:
        unet: with plain weights, not yet quantised; changed in place, and only if the whole adapter fits.
        folder: holds adapter_config.json and adapter_model.safetensors.

    Returns:
        The number of layers that were changed.

    Raises:
        WeightsError: a file is missing or damaged, the adapter is of a kind that is not understood, or does not fit.
    """
    fix = f"give a folder with {SETTINGS} and {WEIGHTS} of a LoRA for this network"
    try:
        settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as e:
        raise WeightsError(f"adapter {folder}: {e}", "a LoRA adapter in peft's format", fix) from e
    unknown = [f"{k}={v!r}" for k, v in settings.items() if not _understood(k, v)]
    if settings.get("peft_type") != "LORA" or unknown:
        got = f"adapter {folder}: {', '.join(unknown) or settings.get('peft_type')}"
        raise WeightsError(got, "plain LoRA, saved by peft without further methods", "merge it with peft")
    layers = dict(unet.named_parameters())
    additions: dict[str, Tensor] = {}
    for name in [k.removeprefix(PREFIX).removesuffix(".lora_A.weight") for k in tensors if ".lora_A." in k]:
        a, b = (tensors.pop(f"{PREFIX}{name}.lora_{side}.weight", None) for side in "AB")
        shapes = [() if t is None else tuple(t.shape) for t in (a, b, layers.get(f"{name}.weight"))]
        if a is None or b is None or shapes[1:] != [(len(b), len(a)), (len(b), *a.shape[1:])]:
            got = f"adapter {folder}: {name} with shapes {shapes} of A, B and the network's weight"
            raise WeightsError(got, "(rank, in), (out, rank) and (out, in)", fix)
        additions[f"{name}.weight"] = _scale(settings, name, len(a)) * _product(a, b)
    if tensors or not additions:
        raise WeightsError(f"adapter {folder}: holds {sorted(tensors)[:3]}", "pairs of lora_A and lora_B", fix)
    for name, addition in additions.items():
        layers[name].copy_(layers[name].float() + addition.to(layers[name].device))
    return len(additions)


def _understood(key: str, value: Any) -> bool:
    if key == "init_lora_weights":  # other kinds have changed the base's weights
        return value in (True, False, "gaussian", "eva", "orthogonal")
    return key in UNDERSTOOD | HARMLESS or value in (None, False, "none", [], {})


def _scale(settings: Mapping[str, Any], name: str, rank: int) -> float:
    patterns = settings.get("alpha_pattern") or {}
    own = (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", name))
    alpha = next(own, settings["lora_alpha"])
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
