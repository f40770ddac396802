"""Faster kernels for the networks on a CPU: the same sums, done by oneDNN and with fewer passes over memory.

PyTorch multiplies float32 matrices by MKL, which on processors of another maker than Intel's takes a slower path, and
convolves along time by copying each window out; oneDNN does both well, and multiplies the two halves of a gated
feed-forward as it writes the second. Each layer changes its class and nothing else: names, parameters and hooks stay,
and a layer whose input or weights are not plain CPU tensors, or that is to be trained, computes as before.
"""

from __future__ import annotations

import functools
import platform
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.resnet import AlphaBlender
from torch import Tensor, nn

# The operator is PyTorch's own for compiled models; its presence and its float32 form are looked at once.
ONEDNN_LINEAR: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_MACHINES = ("x86_64", "amd64")


def cpu_kernels_available() -> bool:
    """Whether this PyTorch has oneDNN, on a processor for which it is the faster one."""
    return (
        ONEDNN_LINEAR is not None and torch.backends.mkldnn.is_available() and platform.machine().lower() in _MACHINES
    )


@functools.cache
def _knows(dtype: torch.dtype) -> bool:
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


as_on_cpu: ContextVar[bool] = ContextVar("as_on_cpu", default=False)
"""Set while a network runs on shapes ("meta" tensors) to find out what it would take on a CPU."""


def on_cpu(x: Tensor) -> bool:
    """Whether a tensor lies on a CPU, or stands for one that does."""
    return x.device.type == "cpu" or (x.is_meta and as_on_cpu.get())


def plain_on_cpu(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's operators may take the place of PyTorch's."""
    if not on_cpu(x) or weight.dtype != x.dtype or x.numel() == 0 or not _knows(x.dtype):
        return False
    if type(weight) not in (Tensor, nn.Parameter) or not on_cpu(weight):  # quantised weights are subclasses
        return False
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    return not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))


class CpuLinear(nn.Linear):
    """A linear layer in float32 by oneDNN; bfloat16 goes there anyway."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Linear`."""
        if input.dtype != torch.float32 or not plain_on_cpu(input, self.weight):
            return super().forward(input)
        return ONEDNN_LINEAR(input, self.weight, self.bias, "none", [], "")


class CpuGEGLU(GEGLU):
    """hidden * gelu(gate) with both activations applied as the two products are written."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As diffusers' GEGLU."""
        weight, bias = self.proj.weight, self.proj.bias
        if not isinstance(self.proj, nn.Linear) or bias is None or not plain_on_cpu(hidden_states, weight):
            return super().forward(hidden_states, *args, **kwargs)
        (up, gate), (up_bias, gate_bias) = weight.chunk(2), bias.chunk(2)
        opened = ONEDNN_LINEAR(hidden_states, gate, gate_bias, "gelu", [], "none")
        return ONEDNN_LINEAR.binary(hidden_states, opened, up, up_bias, "mul")


class CpuTimeConv(nn.Conv3d):
    """A convolution along time alone, as a flat one over (frames, pixels)."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Conv3d` with a kernel of (k, 1, 1)."""
        if input.ndim != 5 or not plain_on_cpu(input, self.weight):
            return super().forward(input)
        padding = (int(self.padding[0]), 0)
        out = F.conv2d(input.flatten(3), self.weight.flatten(3), self.bias, (1, 1), padding, (self.dilation[0], 1))
        return out.unflatten(3, input.shape[3:])


class CpuBlender(AlphaBlender):
    """The mean of space and time in one pass."""

    def forward(self, x_spatial: Tensor, x_temporal: Tensor, image_only_indicator: Tensor | None = None) -> Tensor:
        """As diffusers' AlphaBlender."""
        if not plain_on_cpu(x_spatial, x_temporal):
            return super().forward(x_spatial, x_temporal, image_only_indicator)
        indicator: Any = image_only_indicator  # None is fine for most ways of blending, whatever is declared
        alpha = self.get_alpha(indicator, x_spatial.ndim).to(x_spatial.dtype)
        pair = (x_spatial, x_temporal) if self.switch_spatial_to_temporal_mix else (x_temporal, x_spatial)
        return torch.lerp(*pair, alpha)


CLASS_BEFORE = "_class_before_execution"
"""Attribute of a layer that computes as `mimicmotion.models.execution` says: the class it has without that."""

_SWAPS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: CpuLinear,
    GEGLU: CpuGEGLU,
    nn.Conv3d: CpuTimeConv,
    AlphaBlender: CpuBlender,
}


def use_cpu_kernels(module: nn.Module, enabled: bool = True) -> int:
    """Switch these kernels on or off in one network; where PyTorch has no oneDNN nothing is switched.

    Layers that an execution has taken over (`mimicmotion.models.execution`) are switched for when it comes off.

    Returns:
        The number of layers that were switched.
    """
    if enabled and not cpu_kernels_available():
        return 0
    swaps = _SWAPS if enabled else {fast: plain for plain, fast in _SWAPS.items()}
    switched = 0
    for layer in module.modules():
        waiting = CLASS_BEFORE in vars(layer)
        target = swaps.get(vars(layer)[CLASS_BEFORE] if waiting else type(layer))
        if target is None or (target is CpuTimeConv and not _is_time_conv(layer)):
            continue
        if waiting:
            vars(layer)[CLASS_BEFORE] = target
        else:
            layer.__class__ = target
        switched += 1
    return switched


def has_cpu_kernels(module: nn.Module) -> bool:
    """Whether they are switched on in a network."""
    fast = set(_SWAPS.values())
    return any(vars(layer).get(CLASS_BEFORE, type(layer)) in fast for layer in module.modules())


def _is_time_conv(layer: Any) -> bool:
    flat = layer.kernel_size[1:] == (1, 1) and layer.stride == (1, 1, 1) and layer.padding_mode == "zeros"
    return flat and not isinstance(layer.padding, str) and tuple(layer.padding[1:]) == (0, 0)
