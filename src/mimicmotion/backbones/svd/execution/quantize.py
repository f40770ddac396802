"""Quantise the weights of the U-Net's linear layers to 8 bits with torchao (approximate; needs the `fast` extra).

Weights are dequantised when their layer computes. This saves memory, and time in layers that are limited by memory
bandwidth. Convolutions are unchanged, since they are compute-bound, and torchao's weight-only formats only
support linear layers. On a CPU, this saves no time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import nn

from mimicmotion.backbones.svd.unet import UNet, unused_parameter_names
from mimicmotion.errors import ConfigError
from mimicmotion.runtime.extras import install_command

Format = Literal["int8", "fp8"]
QUANTIZED = "_mimicmotion_quantized"
"""Attribute of a quantised network: the format of its weights."""
MIN_SIZE = 32
"""Layers with fewer inputs or outputs are not quantised, since the scale of each row would need more than is saved."""


def quantize_weights(unet: UNet, format: Format) -> None:
    """Quantise the weights of the U-Net's linear layers in place, with one scale per row.

    Afterwards, the network can no longer be trained or saved. Unused parameters (queries and keys of cross-attention)
    are not quantised.

    Args:
        unet: the U-Net, on its final device and in its final dtype.
        format: "int8", or "fp8" (float8 e4m3).

    Raises:
        ConfigError: torchao is not installed, the format is unknown, or the network has no large linear layers or is
            already quantised differently.
    """
    if format not in ("int8", "fp8"):
        raise ConfigError(f"quantize={format!r}", "int8 or fp8", "use one of these, or none")
    before = quantized(unet)
    if before == format:
        return
    if before != "none":
        raise ConfigError(f"quantize={format!r} for {before} weights", "unquantised weights", "reload the model")
    names = set(quantized_layers(unet))
    if not names:
        got = f"quantize={format!r} for a network without linear layers of at least {MIN_SIZE} x {MIN_SIZE}"
        raise ConfigError(got, "a larger network", "leave out 'quantize'")
    try:
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_  # pyrefly: ignore
    except ImportError as e:
        raise ConfigError(f"quantize={format!r} without torchao ({e})", "torchao", install_command("fast")) from e
    config = Int8WeightOnlyConfig() if format == "int8" else Float8WeightOnlyConfig()
    quantize_(unet, config, filter_fn=lambda _, name: name in names)
    object.__setattr__(unet, QUANTIZED, format)


def quantized(unet: nn.Module) -> str:
    """Return the format of a network's quantised weights, or "none"."""
    return getattr(unet, QUANTIZED, "none")


def dequantized_bytes(unet: UNet) -> int:
    """Return the bytes of two copies of the largest dequantised weight, which exist while it is scaled."""
    if quantized(unet) == "none":
        return 0
    weights = [unet.get_parameter(f"{name}.weight") for name in quantized_layers(unet)]
    # `dtype` is the dtype of the dequantised weight
    return max((2 * w.numel() * w.dtype.itemsize for w in weights), default=0)


def quantized_layers(unet: UNet) -> Iterator[str]:
    """Yield the names of the layers to quantise."""
    unused = set(unused_parameter_names(unet))
    for name, module in unet.named_modules():
        if isinstance(module, nn.Linear) and min(module.weight.shape) >= MIN_SIZE and f"{name}.weight" not in unused:
            yield name
