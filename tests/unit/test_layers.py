"""Each implementation of a layer gives the plain layer's numbers, and is not used where it is not supported."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mimicmotion.backbones.svd import layers
from mimicmotion.backbones.svd.layers import (
    Downsample,
    GroupNorm,
    Linear,
    TemporalConv,
    Upsample,
    linear_add,
    linear_gated,
    map_chunks,
    onednn_supports,
    sinusoids,
)

BOUND = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
dtypes = st.sampled_from([torch.float32, torch.bfloat16])
needs_onednn = pytest.mark.skipif(not onednn_supports(torch.float32), reason="this PyTorch has no oneDNN")


def as_exact(got: Tensor, usual: Tensor, want: Tensor) -> None:
    """Check that the result is as close to float64 as the plain layer's own."""
    assert (got.dtype, got.shape) == (usual.dtype, want.shape)
    scale = float(want.abs().max()) + 1e-6
    theirs = float((usual.double() - want).abs().max()) / scale
    assert float((got.double() - want).abs().max()) / scale <= max(BOUND[got.dtype] / 2, 1.5 * theirs)


@given(
    chunk=st.none() | st.integers(1, 9),
    dim=st.integers(0, 3),
    last=st.booleans(),
    recorded=st.booleans(),
    into=st.booleans(),
)
def test_map_chunks(chunk: int | None, dim: int, last: bool, recorded: bool, into: bool) -> None:
    x = torch.arange(7 * 7 * 7 * 7.0).view(7, 7, 7, 7)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    want, sizes, strides = x + torch.arange(7.0), [], x.stride()
    other = torch.arange(7.0).expand(7, 7, 7, 7)
    memory = x.clone() if into else None

    def run(x: Tensor, y: Tensor, nothing: None) -> Tensor:
        assert nothing is None
        sizes.append(x.shape[dim])
        return x + y

    with torch.set_grad_enabled(recorded):
        got = map_chunks(run, (x if memory is None else memory, other, None), chunk, dim, memory)
    assert torch.equal(got, want)
    assert sum(sizes) == 7
    assert max(sizes) == min(chunk or 7, 7)
    assert len(set(sizes[:-1])) <= 1
    if dim == 0 or chunk is None:
        assert got.stride() == strides
    if memory is not None and len(sizes) > 1:
        assert (got.data_ptr() == memory.data_ptr()) == (not recorded)


@settings(max_examples=15)
@given(
    lead=st.lists(st.integers(1, 5), min_size=1, max_size=2),
    width=st.integers(1, 40),
    out=st.integers(1, 20),
    bias=st.booleans(),
    dtype=dtypes,
)
@torch.inference_mode()
def test_linear(lead: list[int], width: int, out: int, bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(width)
    layer = Linear(width, 2 * out, bias).to(dtype)
    x, residual = torch.randn(*lead, width).to(dtype), torch.randn(*lead, 2 * out).to(dtype)
    usual = F.linear(x, layer.weight, layer.bias)
    want = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    as_exact(layer(x), usual, want)
    kept = residual.clone()
    as_exact(linear_add(layer, x, residual), usual + residual, want + residual.double())
    assert torch.equal(residual, kept)
    value, gate = usual.chunk(2, -1)
    exact_value, exact_gate = want.chunk(2, -1)
    as_exact(linear_gated(layer, x), value * F.gelu(gate), exact_value * F.gelu(exact_gate))


def test_gradients_of_linear() -> None:
    layer, x = Linear(6, 8), torch.randn(3, 6, requires_grad=True)
    value, gate = F.linear(x, layer.weight, layer.bias).chunk(2, -1)
    want = torch.autograd.grad((value * F.gelu(gate)).sum() + x.sum(), [x, layer.weight])
    got = torch.autograd.grad(linear_gated(layer, x).sum() + x.sum(), [x, layer.weight])
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.fixture
def no_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calling oneDNN's operator would fail."""
    monkeypatch.setattr(layers, "ONEDNN_LINEAR", None)


def both(layer: Linear, x: Tensor) -> tuple[Tensor, Tensor]:
    return linear_add(layer, x, torch.ones(2, 8, device=x.device, dtype=x.dtype)), linear_gated(layer, x)


@pytest.mark.usefixtures("no_fused")
@pytest.mark.parametrize(("dtype", "device"), [(torch.float64, "cpu"), (torch.float16, "cpu"), (torch.float32, "meta")])
def test_what_onednn_does_not_support_uses_the_plain_layer(dtype: torch.dtype, device: str) -> None:
    with torch.inference_mode():
        out = both(Linear(6, 8).to(device, dtype), torch.ones(2, 6, device=device, dtype=dtype))
    assert [o.shape for o in out] == [(2, 8), (2, 4)]


@pytest.mark.usefixtures("no_fused")
def test_other_weight_classes_and_gradients_use_the_plain_layer() -> None:
    class Quantised(torch.Tensor):
        pass

    layer = Linear(6, 8)
    both(layer, torch.ones(2, 6))  # gradients are recorded
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        both(layer, torch.ones(2, 6))
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Quantised), requires_grad=False)
    with torch.inference_mode():
        both(layer, torch.ones(2, 6))


@needs_onednn
@pytest.mark.usefixtures("no_fused")
def test_plain_weights_use_the_fused_operator() -> None:
    with torch.inference_mode(), pytest.raises(TypeError, match="not callable"):
        Linear(6, 8)(torch.ones(2, 6))


@torch.inference_mode()
def test_other_layers_in_the_place_of_a_linear_one() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = Linear(6, 8)

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.base(x)

    layer, x, residual = Wrapped(), torch.randn(2, 6), torch.randn(2, 8)
    value, gate = layer(x).chunk(2, -1)
    torch.testing.assert_close(linear_gated(layer, x), value * F.gelu(gate))
    torch.testing.assert_close(linear_add(layer, x, residual), layer(x) + residual)


@settings(max_examples=15)
@given(
    frames=st.integers(1, 7),
    positions=st.integers(1, 12),
    kernel=st.sampled_from([1, 3]),
    last=st.booleans(),
    dtype=dtypes,
)
@torch.inference_mode()
def test_convolution_along_time(frames: int, positions: int, kernel: int, last: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(frames)
    conv = TemporalConv(6, 5, kernel).to(dtype)
    x = torch.randn(2, frames, 6, positions).to(dtype).transpose(1, 2)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    weight = conv.weight.double(), conv.bias.double()  # type: ignore[union-attr]
    want = F.conv3d(x.double()[..., None], *weight, padding=(kernel // 2, 0, 0))[..., 0]
    usual = F.conv3d(x[..., None], conv.weight, conv.bias, padding=(kernel // 2, 0, 0))[..., 0]
    as_exact(conv(x), usual, want)


@given(
    frames=st.integers(1, 3),
    channels=st.sampled_from([32, 64, 512]),
    size=st.sampled_from([(1, 2), (3, 5), (30, 40)]),
    dtype=dtypes,
    large=st.booleans(),
)
@settings(max_examples=25)
@torch.inference_mode()
def test_norms(frames: int, channels: int, size: tuple[int, int], dtype: torch.dtype, large: bool) -> None:
    """Any number of positions, channels last or not, in chunks, also far from zero."""
    norm = GroupNorm(32, channels).to(dtype)
    norm.weight.copy_(torch.linspace(0.5, 2, channels))
    norm.bias.copy_(torch.linspace(-1, 1, channels))
    x = torch.randn(frames, channels, *size, generator=torch.Generator().manual_seed(1)) + 10 * large
    x = x.to(dtype)
    want = F.group_norm(x.double(), 32, norm.weight.double(), norm.bias.double(), norm.eps)
    last = x.contiguous(memory_format=torch.channels_last)
    tolerance = (1e-3 if large else 2e-5) if dtype == torch.float32 else 0.03
    for got in (norm(x), norm(last), norm(x, norm.moments(x.split(7, 3)))):
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)


def test_norm_of_channels_last_without_gradient_of_its_input() -> None:
    """PyTorch 2.13 crashes the process in this case."""
    norm, x = GroupNorm(32, 64), torch.randn(2, 64, 3, 5).contiguous(memory_format=torch.channels_last)
    norm(x).square().sum().backward()
    weight = norm.weight.detach().clone().requires_grad_()
    F.group_norm(x.contiguous(), 32, weight, norm.bias.detach(), norm.eps).square().sum().backward()
    torch.testing.assert_close(norm.weight.grad, weight.grad)


@pytest.mark.parametrize("dim", [8, 9])
def test_sinusoids(dim: int) -> None:
    got = sinusoids(torch.tensor([0.0, 2.5]), dim)
    assert got.shape == (2, dim)
    assert got[0, :8].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    want: Any = [[2.5 * 10_000 ** (-i / 4)] for i in range(4)]
    torch.testing.assert_close(got[1, :4], torch.tensor(want).cos()[:, 0])
    torch.testing.assert_close(got[1, 4:8], torch.tensor(want).sin()[:, 0])


@torch.inference_mode()
def test_sizes() -> None:
    x = torch.randn(2, 4, 5, 6)
    assert Downsample(4)(x).shape == (2, 4, 3, 3)
    assert Downsample(4, padding=0)(x).shape == (2, 4, 2, 3)
    up = Upsample(4)
    assert up(x).shape == (2, 4, 10, 12)
    assert up(x, (9, 11)).shape == (2, 4, 9, 11)
    torch.testing.assert_close(up(x, (10, 12)), up(x))
