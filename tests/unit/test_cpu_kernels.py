"""Kernels for the CPU: equal to the plain layers, reversible, and out of the way where they do not belong."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers.models.activations import GEGLU
from diffusers.models.resnet import AlphaBlender
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from micro import UNET, fill, micro_pipeline
from mimicmotion.models import cpu_kernels
from mimicmotion.models.cpu_kernels import CpuBlender, CpuGEGLU, CpuLinear, CpuTimeConv, use_cpu_kernels
from mimicmotion.models.unet import build_unet

if not cpu_kernels.cpu_kernels_available():
    pytest.skip("this PyTorch has no oneDNN", allow_module_level=True)

BOUND = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
dtypes = st.sampled_from([torch.float32, torch.bfloat16])


def same(plain: nn.Module, *inputs: torch.Tensor) -> None:
    """The switched layer gives what the plain one gives in double precision, as nearly as the plain one itself."""
    fast = copy.deepcopy(plain)
    assert use_cpu_kernels(fast) > 0
    dtype = inputs[0].dtype
    with torch.inference_mode():
        want = copy.deepcopy(plain).double()(*(x.double() for x in inputs))
        got = fast(*inputs)
        usual = plain(*inputs)
    assert (got.dtype, got.shape) == (dtype, want.shape)
    scale = float(want.abs().max()) + 1e-6
    error = float((got.double() - want).abs().max()) / scale
    assert error <= max(BOUND[dtype] / 2, 1.5 * float((usual.double() - want).abs().max()) / scale)


@settings(max_examples=15)
@given(
    lead=st.lists(st.integers(1, 5), min_size=1, max_size=2),
    width=st.integers(1, 40),
    out=st.integers(1, 40),
    bias=st.booleans(),
    dtype=dtypes,
)
def test_linear(lead: list[int], width: int, out: int, bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(width)
    same(nn.Linear(width, out, bias).to(dtype), torch.randn(*lead, width).to(dtype))


@settings(max_examples=15)
@given(tokens=st.integers(1, 9), width=st.integers(1, 24), out=st.integers(1, 24), dtype=dtypes)
def test_gated_feed_forward(tokens: int, width: int, out: int, dtype: torch.dtype) -> None:
    torch.manual_seed(width)
    same(GEGLU(width, out).to(dtype), torch.randn(2, tokens, width).to(dtype))


@settings(max_examples=15)
@given(
    frames=st.integers(1, 7),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    kernel=st.sampled_from([1, 3]),
    last=st.booleans(),
    dtype=dtypes,
)
def test_convolution_along_time(
    frames: int, height: int, width: int, kernel: int, last: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(frames)
    conv = nn.Conv3d(6, 5, (kernel, 1, 1), padding=(kernel // 2, 0, 0)).to(dtype)
    x = torch.randn(2, 6, frames, height, width).to(dtype)
    x = x.to(memory_format=torch.channels_last_3d) if last else x.permute(0, 2, 1, 3, 4).contiguous().transpose(1, 2)
    same(conv, x)


@pytest.mark.parametrize("switch", [False, True])
@pytest.mark.parametrize("dtype", list(BOUND))
def test_mean_of_space_and_time(switch: bool, dtype: torch.dtype) -> None:
    blender = AlphaBlender(0.3, "learned_with_images", switch_spatial_to_temporal_mix=switch).to(dtype)
    fast = copy.deepcopy(blender)
    use_cpu_kernels(fast)
    space, time, images = torch.randn(4, 3, 2).to(dtype), torch.randn(4, 3, 2).to(dtype), torch.tensor([[0.0, 0, 1, 0]])
    with torch.inference_mode():
        want, got = blender(space, time, images), fast(space, time, images)
    torch.testing.assert_close(got, want, rtol=0, atol=BOUND[dtype])
    assert not torch.allclose(got, space.lerp(time, 0.5), atol=0.05)


def test_networks_are_equal_and_the_switch_is_reversible() -> None:
    unet: Any = fill(build_unet(UNET), 3)
    classes = [type(m) for m in unet.modules()]
    keys = list(unet.state_dict())
    torch.manual_seed(0)
    x, context, ids = torch.randn(1, 5, 8, 16, 16), torch.randn(1, 1, 16), torch.tensor([[6.0, 127, 0]])

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return unet(x, torch.tensor(0.2), context, added_time_ids=ids, return_dict=False)[0]

    plain = run()
    count = use_cpu_kernels(unet)
    assert {CpuLinear, CpuGEGLU, CpuTimeConv, CpuBlender} <= {type(m) for m in unet.modules()}
    assert list(unet.state_dict()) == keys
    assert use_cpu_kernels(unet) == 0
    torch.testing.assert_close(run(), plain, rtol=0, atol=1e-5 * float(plain.abs().max()))
    assert use_cpu_kernels(unet, enabled=False) == count
    assert [type(m) for m in unet.modules()] == classes
    assert torch.equal(run(), plain)


def test_the_autoencoder_is_equal() -> None:
    pipe = micro_pipeline()
    latents = torch.randn(5, 4, 8, 6, generator=torch.Generator().manual_seed(1))
    plain = torch.stack([torch.from_numpy(f).int() for f in pipe.decode(latents)])
    pipe.use_fast_kernels()
    fast = torch.stack([torch.from_numpy(f).int() for f in pipe.decode(latents)])
    assert int((plain - fast).abs().max()) <= 1
    assert plain.float().std() > 1


def test_gradients_are_those_of_the_plain_layers() -> None:
    plain = nn.Sequential(nn.Linear(6, 8), GEGLU(8, 4))
    fast = copy.deepcopy(plain)
    use_cpu_kernels(fast)
    x = torch.randn(3, 6)
    for network in (plain, fast):
        network(x).sum().backward()
    for p, q in zip(plain.parameters(), fast.parameters(), strict=True):
        assert q.grad is not None
        assert torch.equal(p.grad, q.grad)


@pytest.mark.parametrize(("dtype", "device"), [(torch.float64, "cpu"), (torch.float16, "cpu"), (torch.float32, "meta")])
def test_what_onednn_does_not_do_goes_the_plain_way(
    dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = nn.Sequential(nn.Linear(6, 8), GEGLU(8, 4)).to(device, dtype)
    use_cpu_kernels(layer)
    monkeypatch.setattr(cpu_kernels, "ONEDNN_LINEAR", None)  # calling it would fail
    with torch.inference_mode():
        assert layer(torch.ones(2, 6, device=device, dtype=dtype)).shape == (2, 4)


def test_weights_of_another_kind_go_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    class Quantised(torch.Tensor):
        pass

    layer = nn.Linear(6, 8)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Quantised), requires_grad=False)
    use_cpu_kernels(layer)
    monkeypatch.setattr(cpu_kernels, "ONEDNN_LINEAR", None)
    with torch.inference_mode():
        assert layer(torch.ones(2, 6)).shape == (2, 8)


def test_nothing_is_switched_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_kernels, "ONEDNN_LINEAR", None)
    layer = nn.Linear(2, 2)
    assert use_cpu_kernels(layer) == 0
    assert type(layer) is nn.Linear


def test_other_convolutions_stay() -> None:
    convs = nn.ModuleList(
        [nn.Conv3d(2, 2, 3), nn.Conv3d(2, 2, (3, 1, 1), stride=2), nn.Conv3d(2, 2, (3, 1, 1), padding="same")]
    )
    assert use_cpu_kernels(convs) == 0
