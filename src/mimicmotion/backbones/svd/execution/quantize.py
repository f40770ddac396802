"""Weights of the U-Net's linear layers in 8 bits, by torchao (approximate; extra `fast`).

Only the storage is quantised: each weight is dequantised when its layer computes. This saves memory, and time in layers
that are limited by memory bandwidth. Convolutions are unchanged, since they are limited by computation and torchao's
weight-only formats support linear layers only. On a CPU it is no faster.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from mimicmotion.backbones.svd.execution.memory import weight_bytes
from mimicmotion.backbones.svd.unet import UNet, unused_parameter_names
from mimicmotion.errors import ConfigError
from mimicmotion.runtime.extras import install_command

Format = Literal["int8", "fp8"]
QUANTIZED = "_mimicmotion_quantized"
"""Attribute of a quantised network that describes the quantisation."""
MIN_SIZE = 32
"""Layers with a side below this are not quantised: one scale per row would save nothing."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """Summary of a quantisation.

    Attributes:
        format: of the weights.
        layers: how many linear layers were narrowed.
        bytes_before: of all parameters of the network.
        bytes_after: the same now.
    """

    format: Format
    layers: int
    bytes_before: int
    bytes_after: int


def quantize_weights(unet: UNet, format: Format) -> Quantized:
    """Quantise the weights of the U-Net's linear layers in place, with one scale per row.

    The network can no longer be trained or saved; reload it for that. Queries and keys of cross-attention, which one
    context token does not need, are unchanged.

    Args:
        unet: on its device, in its number format.
        format: "int8", or "fp8" (float8 e4m3).

    Raises:
        ConfigError: torchao is not installed, another format, a network without wide layers, or one that is quantized
            differently already.
    """
    if format not in ("int8", "fp8"):
        raise ConfigError(f"quantize={format!r}", "int8 or fp8", "use one of these, or none")
    before = quantized(unet)
    if before is not None:
        if before.format == format:
            return before
        raise ConfigError(f"quantize={format!r} for weights in {before.format}", "plain weights", "load the model anew")
    size = weight_bytes(unet)
    names = set(quantized_layers(unet))
    if not names:
        raise ConfigError(
            f"quantize={format!r} for a network without linear layers of {MIN_SIZE} x {MIN_SIZE}",
            "some",
            "leave it off",
        )
    with _quietly():
        try:
            from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_  # pyrefly: ignore
        except ImportError as e:
            raise ConfigError(f"quantize={format!r} without torchao ({e})", "torchao", install_command("fast")) from e
        config = Int8WeightOnlyConfig() if format == "int8" else Float8WeightOnlyConfig()
        quantize_(unet, config, filter_fn=lambda _, name: name in names)
    done = Quantized(format, len(names), size, weight_bytes(unet))
    object.__setattr__(unet, QUANTIZED, done)
    return done


def quantized(unet: nn.Module) -> Quantized | None:
    """What `quantize_weights` has done to a network; None if nothing."""
    return getattr(unet, QUANTIZED, None)


def widened_bytes(unet: UNet) -> int:
    """Bytes that the largest narrowed weight takes where its layer computes: wide, and once more while it is scaled."""
    if quantized(unet) is None:
        return 0
    weights = [unet.get_parameter(f"{name}.weight") for name in quantized_layers(unet)]
    return max((2 * w.numel() * w.dtype.itemsize for w in weights), default=0)  # a narrow tensor names the wide format


def quantized_layers(unet: UNet) -> Iterator[str]:
    """Names of the layers that are narrowed."""
    unused = set(unused_parameter_names(unet))
    for name, module in unet.named_modules():
        if isinstance(module, nn.Linear) and min(module.weight.shape) >= MIN_SIZE and f"{name}.weight" not in unused:
            yield name


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Importing torchao logs about kernels that it finds no GPU for; the arithmetic here needs none of them."""
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [log.level for log in loggers]
    try:
        for log in loggers:
            log.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
