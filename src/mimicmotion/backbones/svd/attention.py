"""Multi-head attention with a chosen kernel."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, library, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mimicmotion.backbones.svd.layers import Linear, linear_add
from mimicmotion.errors import ConfigError

logger = logging.getLogger(__name__)

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
Keys = Float[Tensor, "n heads context dim"]


class Attention(nn.Module):
    """Multi-head attention; projections of queries, keys and values have no bias.

    Args:
        channels: of the tokens.
        heads: they share the channels.
        context_dim: channels of what is attended to; None is the tokens themselves.
    """

    def __init__(self, channels: int, heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = Linear(channels, channels, bias=False)
        self.to_k = Linear(context_dim or channels, channels, bias=False)
        self.to_v = Linear(context_dim or channels, channels, bias=False)
        self.to_out = nn.ModuleList([Linear(channels, channels)])

    def forward(
        self,
        x: Float[Tensor, "n tokens channels"],
        residual: Float[Tensor, "n tokens channels"],
        kernel: str = "sdpa",
        context: Float[Tensor, "n context dim"] | None = None,
    ) -> Float[Tensor, "n tokens channels"]:
        """Residual + attention of `x` to itself or to `context`, by a kernel of `attend`."""
        context = x if context is None else context
        inputs = ((self.to_q, x), (self.to_k, context), (self.to_v, context))
        # n tokens (heads dim) -> n heads tokens dim, and back
        q, k, v = (project(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project, y in inputs)
        mixed = attend(kernel, q, k, v).transpose(1, 2).flatten(2)
        del q, k, v  # else they are there while the last layer computes
        return linear_add(self.to_out[0], mixed, residual)


def rows_attention(q: Heads, k: Keys, v: Keys) -> Heads:
    """Attention by plain matrix products, a block of queries at a time.

    In bfloat16 on a CPU this is faster than PyTorch's fused kernel, which does not use the bfloat16 units for both
    products.
    """
    n, heads, tokens, dim = q.shape
    context = k.shape[2]
    q = q * dim**-0.5
    k = k.transpose(-1, -2)
    rows = max(16, ROW_BYTES // (context * q.element_size()))
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


def attend(kernel: str, q: Heads, k: Keys, v: Keys) -> Heads:
    """Scaled dot-product attention by a kernel that `choose_kernel` gives."""
    if q.shape[0] > MAX_BATCH and q.device.type == "cuda":
        parts = zip(q.split(MAX_BATCH), k.split(MAX_BATCH), v.split(MAX_BATCH), strict=True)
        return torch.cat([attend(kernel, *part) for part in parts])
    if kernel == "rows" or (kernel == "fa3" and q.dtype in (torch.float16, torch.bfloat16)):
        return (_own_in_graph if torch.compiler.is_compiling() else _own_kernel)(q, k, v, kernel)
    if kernel in BACKENDS:
        # The named kernel, and the plain one for shapes and formats that it does not take.
        with sdpa_kernel([BACKENDS[kernel], SDPBackend.MATH], set_priority=True):
            return F.scaled_dot_product_attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)  # also in float32, for which there is no FlashAttention


def _own_kernel(q: Heads, k: Keys, v: Keys, kernel: str) -> Heads:
    """A kernel that PyTorch does not know of; the result lies in memory as (n, tokens, heads, dim)."""
    flash = _flash_attention_3() if kernel == "fa3" else None
    if flash is None:
        return rows_attention(q, k, v)
    out = flash(*(t.transpose(1, 2) for t in (q, k, v)))
    return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)


# One operation of a compiled graph: the compiler would unroll the loops. Gradients do not go through it.
_own_in_graph: Any = library.custom_op(
    "mimicmotion::attention",
    _own_kernel,
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, str kernel) -> Tensor",
)


@_own_in_graph.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, kernel: str) -> Tensor:  # noqa: ARG001
    n, heads, tokens, dim = q.shape
    return q.new_empty(n, tokens, heads, dim).transpose(1, 2)


def choose_kernel(kernel: str, device: torch.device, dtype: torch.dtype) -> str:
    """What "auto" stands for; other kernels as they are.

    Where gradients are recorded, PyTorch's own choice. Else FlashAttention-3 on a GPU of compute capability 9 where it
    is installed (16-bit formats), rows of queries on a CPU in bfloat16.
    """
    if kernel != "auto":
        return kernel
    if torch.is_grad_enabled():
        return "sdpa"
    if device.type == "cpu":
        return "rows" if dtype == torch.bfloat16 else "sdpa"
    hopper = device.type == "cuda" and torch.cuda.is_available() and torch.cuda.get_device_capability(device)[0] == 9
    return "fa3" if hopper and _flash_attention_3() is not None else "sdpa"


def scratch_bytes(kernel: str, q: Heads, k: Heads) -> int:
    """Bytes that a kernel of `attend` takes for itself while it computes."""
    n, heads, tokens, _ = q.shape
    per_query = k.shape[2] * q.element_size()  # scores
    if kernel == "math":
        return 2 * n * heads * tokens * per_query  # and their softmax
    if kernel == "rows":
        rows, sequence = max(16, ROW_BYTES // per_query), heads * tokens
        rows = rows if tokens > rows else min(n, max(1, rows // sequence)) * sequence
        return q.nbytes + 2 * rows * per_query
    return 4 * n * heads * tokens  # logarithms of sums
