"""How a U-Net computes: in which portions, memory format and attention kernel. What it computes stays the same.

Nothing here is global: an execution is put on one model, can be changed at any time and taken off again. Parameters
keep their names, and blocks keep their signatures, so that offloading and caches wrap them as they wrap plain ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock, FeedForward, TemporalBasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D, SpatioTemporalResBlock, TemporalResnetBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from diffusers.models.unets.unet_3d_blocks import (
    CrossAttnDownBlockSpatioTemporal,
    CrossAttnUpBlockSpatioTemporal,
    DownBlockSpatioTemporal,
    UpBlockSpatioTemporal,
)
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from torch import nn
from torch.utils.checkpoint import checkpoint

from mimicmotion.errors import ConfigError
from mimicmotion.models import lean
from mimicmotion.models.attention import AttentionKernel, check_kernel, use_attention
from mimicmotion.models.compiled import check_compiler, compiled, keep_compiled_code
from mimicmotion.models.cpu_kernels import CLASS_BEFORE, CpuLinear, CpuTimeConv
from mimicmotion.models.lean_layers import GatedLinear, LeanLinear, LeanNorm, TimeConv


@dataclass(frozen=True, kw_only=True, slots=True)
class UNetExecution:
    """Settings of `apply_execution`; the defaults are the plain network of diffusers.

    None of them changes the result by more than 1e-5 (relative to its largest value) in float32. With any of them the
    network frees and reuses tensors as soon as it can; that needs `torch.no_grad` or inference mode, where gradients
    are recorded the plain way is taken.
    """

    frame_chunk: int | None = None
    """Frames (of all videos of the batch) at once in layers that look at one frame; None is all."""
    position_chunk: int | None = None
    """Places of a frame (of all frames and videos) at once in layers that look along time; None is all."""
    feed_forward_chunk: int | None = None
    """Tokens at once in feed-forwards, whose inner layer is eight times as wide; None is all."""
    channels_last: bool = False
    """Channels last in memory, for weights of convolutions and for what flows through them."""
    attention: AttentionKernel = "plain"
    """Kernel of self-attention: "auto" picks by device and number format, "sdpa" leaves it to PyTorch."""
    compile: bool = False
    """Compile the repeated parts with torch.compile; compiled code is kept on disk. Not together with hooks that bring
    weights of single layers or blocks."""

    def __post_init__(self) -> None:
        for name in ("frame_chunk", "position_chunk", "feed_forward_chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value}", "a number from 1 on, or None for all at once", f"correct {name}")
        if self.attention not in get_args(AttentionKernel):
            kernels = ", ".join(get_args(AttentionKernel))
            raise ConfigError(f"attention={self.attention!r}", f"one of {kernels}", 'use "auto"')


Checkpointing = Literal["off", "blocks", "nested"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """Settings of a network's forward; blocks take them as an argument.

    None of them changes the result by more than 1e-5 (relative to its largest value) in float32, nor a gradient.
    Where no gradients are recorded, tensors are reused and freed as soon as they can be, whatever the settings.
    """

    frame_chunk: int | None = None
    """Frames (of all videos of the batch) at once in layers that look at one frame; None is all."""
    position_chunk: int | None = None
    """Positions of a frame (of all frames and videos) at once in layers that look along time; None is all."""
    feed_forward_chunk: int | None = None
    """Tokens at once in feed-forwards, whose inner layer is eight times as wide; None is all."""
    channels_last: bool = False
    """Channels last in memory, for weights of convolutions and for what flows through them."""
    attention: AttentionKernel = "auto"
    """Kernel of self-attention: "auto" picks by device and number format, "sdpa" leaves it to PyTorch."""
    compile: bool = False
    """Compile the repeated layers with torch.compile; compiled code is kept on disk. Not together with hooks that bring
    weights of single layers."""
    checkpointing: Checkpointing = "off"
    """What the backward pass computes again instead of keeping it: "blocks" is the inside of each residual and
    transformer block, "nested" also what lies between a spatial and its temporal transformer block."""

    def __post_init__(self) -> None:
        for name in ("frame_chunk", "position_chunk", "feed_forward_chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value}", "a number from 1 on, or None for all at once", f"correct {name}")
        for name, values in (("attention", get_args(AttentionKernel)), ("checkpointing", get_args(Checkpointing))):
            if getattr(self, name) not in values:
                raise ConfigError(f"{name}={getattr(self, name)!r}", f"one of {', '.join(values)}", f"correct {name}")

    def run(self, layer: nn.Module, *args: Any) -> Any:
        """`layer(*args)`, compiled where these settings ask for it."""
        return compiled(type(layer).forward, layer)(layer, *args) if self.compile else layer(*args)

    def block(self, block: nn.Module, *args: Any) -> Any:
        """`block(*args)`, without its inside being kept for the backward pass where these settings ask for that."""
        if self.checkpointing == "off" or not torch.is_grad_enabled():
            return block(*args)
        # No random layers inside, so there is no generator state to keep.
        return checkpoint(block, *args, use_reentrant=False, preserve_rng_state=False)


BLOCKS: dict[type[nn.Module], type[nn.Module]] = {
    UNetSpatioTemporalConditionModel: lean.LeanUNet,
    DownBlockSpatioTemporal: lean.LeanDownBlock,
    CrossAttnDownBlockSpatioTemporal: lean.LeanCrossDownBlock,
    UpBlockSpatioTemporal: lean.LeanUpBlock,
    CrossAttnUpBlockSpatioTemporal: lean.LeanCrossUpBlock,
    SpatioTemporalResBlock: lean.LeanResBlock,
    TransformerSpatioTemporalModel: lean.LeanTransformer,
}
LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: LeanLinear,
    CpuLinear: LeanLinear,
    nn.GroupNorm: LeanNorm,
    nn.Conv3d: TimeConv,
    CpuTimeConv: TimeConv,
}


def apply_execution(unet: nn.Module, execution: UNetExecution) -> None:
    """Let this model compute as `execution` says; `UNetExecution()` gives the plain network back.

    Put it on before hooks for offloading: those keep the forward that they find. Settings may change under hooks, as
    long as they do not change from or to the plain network.

    Args:
        unet: diffusers' `UNetSpatioTemporalConditionModel`, with or without the pose input.
        execution: how to compute. Applying the same again does nothing.

    Raises:
        ConfigError: an attention kernel or a compiler that is not there, or a network of another kind.
    """
    if type(unet) not in (UNetSpatioTemporalConditionModel, lean.LeanUNet):
        raise ConfigError(f"a {type(unet).__name__}", "SVD's U-Net of diffusers", "use build_unet or load_components")
    if execution == execution_of(unet):
        return
    device = next(unet.parameters()).device
    check_kernel(execution.attention, device)
    if execution.compile:
        check_compiler(device)
        keep_compiled_code()
    is_lean = execution != UNetExecution()
    for module in unet.modules():
        if isinstance(module, (BasicTransformerBlock, TemporalBasicTransformerBlock)):
            use_attention(module.attn1, execution.attention)
        _exchange(module, is_lean)
    for module in list(unet.modules()):
        if type(module) in BLOCKS.values():
            vars(module)["execution"] = execution
        else:
            vars(module).pop("execution", None)
    set_memory_format(unet, execution.channels_last)


def execution_of(unet: nn.Module) -> UNetExecution:
    """What was put on a model."""
    found: Any = vars(unet).get("execution")
    return found or UNetExecution()


def _exchange(module: Any, is_lean: bool) -> None:
    """Give a module and its layers the lean classes of their kinds, or those that they had before."""
    if not is_lean:
        if CLASS_BEFORE in vars(module):
            module.__class__ = vars(module).pop(CLASS_BEFORE)
        return
    _take(BLOCKS, module)
    if isinstance(module, lean.LeanUNet):
        _take(LAYERS, module.conv_norm_out)
    elif isinstance(module, ResnetBlock2D):
        _take(LAYERS, module.norm1, module.norm2)
    elif isinstance(module, TemporalResnetBlock):
        _take(LAYERS, module.norm1, module.norm2, module.conv1, module.conv2)
    elif isinstance(module, GEGLU):
        _take({nn.Linear: GatedLinear, CpuLinear: GatedLinear}, module.proj)
    elif isinstance(module, FeedForward):
        _take(LAYERS, module.net[2])
    elif isinstance(module, (BasicTransformerBlock, TemporalBasicTransformerBlock)):
        attn: Any = module.attn1
        _take(LAYERS, attn.to_q, attn.to_k, attn.to_v, attn.to_out[0])
    elif isinstance(module, TransformerSpatioTemporalModel):
        _take(LAYERS, module.norm, module.proj_in, module.proj_out)


def _take(classes: dict[type[nn.Module], type[nn.Module]], *modules: nn.Module) -> None:
    for module in modules:
        if type(module) in classes:  # adapters and quantised layers have classes of their own and stay
            vars(module)[CLASS_BEFORE] = type(module)
            module.__class__ = classes[type(module)]


def set_memory_format(unet: nn.Module, channels_last: bool) -> None:
    """Store the weights of convolutions with channels last, or as they were; values and names stay the same.

    `unet.to(memory_format=...)` fails on this network, whose parameters have four and five dimensions.
    """
    for module in unet.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            flat = torch.channels_last if module.weight.ndim == 4 else torch.channels_last_3d
            with torch.no_grad():
                module.weight.data = module.weight.data.contiguous(
                    memory_format=flat if channels_last else torch.contiguous_format
                )
