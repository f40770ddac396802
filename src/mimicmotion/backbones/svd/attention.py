"""Multi-head attention."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, library, nn

from mimicmotion.backbones.svd.layers import Linear, linear_add

ROW_BYTES = 1 << 20
"""Bytes of attention scores that `rows_attention` computes at once, so that they fit into the cache of a CPU core.

On a Zen 4 core, whose cache has 1 MiB, 1,536 tokens take a quarter less time than with 4 MiB."""
MAX_BATCH = 32768
"""Maximum number of sequences per kernel call, since CUDA kernels index them with 16 bits."""

Heads = Float[Tensor, "n heads tokens dim"]
Keys = Float[Tensor, "n heads context dim"]


class Attention(nn.Module):
    """Multi-head attention, with no bias in the projections of queries, keys and values.

    Args:
        channels: channels of the tokens.
        heads: number of heads, which share the channels.
        context_dim: channels of the context; None for self-attention.
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
        """Return `residual` plus the attention of `x` to itself or to `context`; for `kernel`, see `attend`."""
        context = x if context is None else context
        inputs = ((self.to_q, x), (self.to_k, context), (self.to_v, context))
        # n tokens (heads dim) -> n heads tokens dim, and back
        q, k, v = (project(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project, y in inputs)
        mixed = attend(kernel, q, k, v).transpose(1, 2).flatten(2)
        del q, k, v  # frees their memory before the last layer
        return linear_add(self.to_out[0], mixed, residual)


def rows_attention(q: Heads, k: Keys, v: Keys) -> Heads:
    """Compute attention with plain matrix products, one block of queries at a time.

    In bfloat16 on a CPU, this is faster than PyTorch's fused kernel, which only uses the bfloat16 units for one of the
    two products.
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


# A single operation for torch.compile, which would otherwise unroll the loops. It has no gradient.
_rows_in_graph: Any = library.custom_op(
    "mimicmotion::attention", rows_attention, mutates_args=(), schema="(Tensor q, Tensor k, Tensor v) -> Tensor"
)


@_rows_in_graph.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG001
    n, heads, tokens, dim = q.shape
    return q.new_empty(n, tokens, heads, dim).transpose(1, 2)


def attend(kernel: str, q: Heads, k: Keys, v: Keys) -> Heads:
    """Compute scaled dot-product attention with a kernel returned by `choose_kernel`."""
    if q.shape[0] > MAX_BATCH and q.device.type == "cuda":
        parts = zip(q.split(MAX_BATCH), k.split(MAX_BATCH), v.split(MAX_BATCH), strict=True)
        return torch.cat([attend(kernel, *part) for part in parts])
    if kernel == "rows":
        return (_rows_in_graph if torch.compiler.is_compiling() else rows_attention)(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def choose_kernel(cpu: bool, dtype: torch.dtype) -> str:
    """Return the fastest kernel: "rows" for bfloat16 on a CPU without gradients, else "sdpa" (PyTorch's)."""
    return "rows" if cpu and dtype == torch.bfloat16 and not torch.is_grad_enabled() else "sdpa"


def scratch_bytes(kernel: str, q: Heads, k: Heads) -> int:
    """Return the workspace of an attention kernel in bytes."""
    n, heads, tokens, _ = q.shape
    if kernel == "rows":
        per_query = k.shape[2] * q.element_size()  # scores
        rows, sequence = max(16, ROW_BYTES // per_query), heads * tokens
        rows = rows if tokens > rows else min(n, max(1, rows // sequence)) * sequence
        return q.nbytes + 2 * rows * per_query
    return 4 * n * heads * tokens  # log-sum-exp of each query
