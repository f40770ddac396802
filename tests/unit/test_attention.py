"""Attention kernels against plain arithmetic in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, library

from mimicmotion.backbones.svd import attention
from mimicmotion.backbones.svd.attention import attend, choose_kernel, rows_attention


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = q.double(), k.double(), v.double()
    return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) @ v


def random_heads(n: int, heads: int, tokens: int, dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(n + tokens)
    q, k, v = (torch.randn(n, tokens, heads, dim, generator=g).to(dtype).transpose(1, 2) for _ in range(3))
    return q, k, v


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 70), st.sampled_from([8, 24])),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    room=st.sampled_from([64, 1000, 100_000]),
)
def test_rows_attention(shape: tuple[int, int, int, int], dtype: torch.dtype, room: int) -> None:
    q, k, v = random_heads(*shape, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "ROW_BYTES", room)
        got = rows_attention(q, k, v)
    assert got.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(got.double(), plain(q, k, v), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kernel", ["rows", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels(kernel: str, dtype: torch.dtype) -> None:
    q, k, v = random_heads(2, 2, 33, 16, dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    got = attend(kernel, q, k, v)
    torch.testing.assert_close(got.double(), plain(q, k, v), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("dtype", "recorded", "want"),
    [
        (torch.bfloat16, False, "rows"),
        (torch.bfloat16, True, "sdpa"),
        (torch.float32, False, "sdpa"),
        (torch.float16, False, "sdpa"),
    ],
)
def test_choice_on_a_cpu(dtype: torch.dtype, recorded: bool, want: str) -> None:
    with torch.set_grad_enabled(recorded):
        assert choose_kernel(True, dtype) == want
        assert choose_kernel(False, dtype) == "sdpa"


@pytest.mark.parametrize("shape", [(2, 3, 5, 8), (1, 2, 1500, 8)])
def test_own_kernel_in_a_compiled_graph(shape: tuple[int, int, int, int]) -> None:
    """Its memory layout is the one declared to the compiler."""
    q, k, v = random_heads(*shape, torch.bfloat16)
    library.opcheck(attention._rows_in_graph, (q, k, v))
