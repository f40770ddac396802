"""Self-attention with a chosen kernel.

diffusers' own switch (`set_attention_backend`) reaches only processors that SVD's U-Net does not have: it succeeds and
changes nothing. Here a processor of each layer calls the kernel itself.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mimicmotion.errors import ConfigError

logger = logging.getLogger(__name__)

AttentionKernel = Literal["plain", "auto", "math", "sdpa", "efficient", "flash", "cudnn", "fa3"]

BACKENDS = {
    "math": SDPBackend.MATH,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
ROW_BYTES = 1 << 20
"""Scores that `rows_attention` computes at once: they should stay in a CPU core's own cache.

Measured on a Zen 4 core, which has 1 MiB: a quarter faster for 1,536 tokens than with 4 MiB."""
MAX_BATCH = 32768
"""Sequences per call of a kernel: CUDA kernels number them in 16 bits."""

Heads = Float[Tensor, "n heads tokens dim"]


@torch.compiler.disable
def rows_attention(q: Heads, k: Heads, v: Heads) -> Heads:
    """Attention by plain matrix products, a block of queries at a time.

    In bfloat16 on a CPU this is faster than PyTorch's fused kernel, which does not use the bfloat16 units for both
    products.
    """
    n, heads, tokens, dim = q.shape
    context = k.shape[2]
    q = q * dim**-0.5
    k = k.transpose(-1, -2)
    rows = max(16, ROW_BYTES // (context * q.element_size()))
    if n * heads * tokens <= rows:
        return torch.softmax(q @ k, -1) @ v
    out = torch.empty((n, tokens, heads, dim), dtype=q.dtype, device=q.device).transpose(1, 2)
    if tokens <= rows:  # many short sequences
        step = max(1, rows // (tokens * heads))
        for i in range(0, n, step):
            part = slice(i, i + step)
            out[part] = torch.softmax(q[part] @ k[part], -1) @ v[part]
        return out
    for i in range(n):
        for h in range(heads):
            for start in range(0, tokens, rows):
                part = slice(start, start + rows)
                torch.mm(torch.softmax(q[i, h, part] @ k[i, h], -1), v[i, h], out=out[i, h, part])
    return out


def _flash_attention_3() -> Callable[..., Any] | None:
    """FlashAttention-3's function, where it is installed (module `flash_attn_interface`)."""
    try:
        return importlib.import_module("flash_attn_interface").flash_attn_func
    except (ImportError, AttributeError, OSError):
        return None


def check_kernel(kernel: str, device: torch.device) -> None:
    """Refuse a kernel that this device or installation does not have.

    Raises:
        ConfigError: says what to use instead.
    """
    if kernel == "fa3" and (device.type != "cuda" or _flash_attention_3() is None):
        raise ConfigError(
            "attention='fa3': no FlashAttention-3 on this machine",
            "an NVIDIA Hopper GPU and the module flash_attn_interface",
            'install FlashAttention-3, or use attention="auto"',
        )
    if kernel in ("cudnn", "efficient") and device.type not in ("cuda", "meta"):
        raise ConfigError(f"attention={kernel!r} on {device.type}", "an NVIDIA GPU", 'use attention="auto"')


def attend(kernel: str, q: Heads, k: Heads, v: Heads) -> Heads:
    """Scaled dot-product attention by a kernel; see `AttentionKernel`.

    "auto" is FlashAttention-3 on a GPU of compute capability 9 where it is installed (16-bit formats), else PyTorch's
    own choice; on a CPU in bfloat16 it is `rows_attention`.
    """
    if kernel == "auto":
        kernel = _choose(q)
    if kernel == "rows":
        return rows_attention(q, k, v)
    if q.shape[0] > MAX_BATCH and q.device.type == "cuda":
        parts = zip(q.split(MAX_BATCH), k.split(MAX_BATCH), v.split(MAX_BATCH), strict=True)
        return torch.cat([attend(kernel, *part) for part in parts])
    if kernel == "fa3":
        flash = _flash_attention_3()
        if flash is not None and q.dtype in (torch.float16, torch.bfloat16):
            out = flash(*(t.transpose(1, 2) for t in (q, k, v)))
            return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)
        kernel = "sdpa"  # float32 has no FlashAttention
    if kernel in BACKENDS:
        # The named kernel, and the plain one for shapes and formats that it does not take.
        with sdpa_kernel([BACKENDS[kernel], SDPBackend.MATH], set_priority=True):
            return F.scaled_dot_product_attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def _choose(q: Tensor) -> str:
    if q.device.type == "cpu":
        return "rows" if q.dtype == torch.bfloat16 else "sdpa"
    hopper = (
        q.device.type == "cuda" and torch.cuda.is_available() and torch.cuda.get_device_capability(q.device)[0] == 9
    )
    return "fa3" if hopper and _flash_attention_3() is not None else "sdpa"


class SelfAttention:
    """Attention processor for `attn1`: diffusers' plain form with a chosen kernel.

    Args:
        plain: the processor that it takes the place of; used for whatever is not plain self-attention.
        kernel: see `attend`.
    """

    def __init__(self, plain: Any, kernel: AttentionKernel) -> None:
        self.plain, self.kernel = plain, kernel

    def __call__(
        self,
        attn: Any,
        hidden_states: Float[Tensor, "n tokens channels"],
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Float[Tensor, "n tokens channels"]:
        """Attend; the arguments are those of diffusers' attention processors."""
        if hidden_states.ndim != 3 or encoder_hidden_states is not None or attention_mask is not None:
            return self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        return attn.to_out[1](attn.to_out[0](self.heads(attn, hidden_states)))

    def heads(self, attn: Any, tokens: Float[Tensor, "n tokens channels"]) -> Float[Tensor, "n tokens inner"]:
        """Attention without its output projection."""
        q, k, v = (
            project(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        return attend(self.kernel, q, k, v).transpose(1, 2).flatten(2)


def is_plain_attention(attn: Any) -> bool:
    """Whether a layer is projections and a softmax, and nothing else."""
    extras = (attn.group_norm, attn.spatial_norm, attn.norm_cross, attn.norm_q, attn.norm_k)
    return not attn.residual_connection and attn.rescale_output_factor == 1 and all(e is None for e in extras)


def use_attention(attn: Any, kernel: AttentionKernel) -> None:
    """Give one self-attention a kernel; "plain" gives it its own processor back."""
    processor = attn.processor
    plain = processor.plain if isinstance(processor, SelfAttention) else processor
    if kernel == "plain":
        if plain is not processor:
            attn.set_processor(plain)
    elif is_plain_attention(attn):
        attn.set_processor(SelfAttention(plain, kernel))
