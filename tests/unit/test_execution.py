"""Every way to execute the U-Net gives the plain network's numbers, and can be taken off again."""

from __future__ import annotations

import copy
import functools
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from micro import UNET, fill
from mimicmotion.errors import ConfigError
from mimicmotion.models import compiled, execution
from mimicmotion.models.checkpoint import config_of
from mimicmotion.models.execution import UNetExecution, apply_execution, execution_of
from mimicmotion.models.lean_layers import LeanNorm, Moments
from mimicmotion.models.unet import build_unet, use_constant_cross_attention, with_pose

CONFIG: dict[str, Any] = {
    **UNET,
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"],
    "up_block_types": ["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
}


@functools.cache
def network(dtype: torch.dtype = torch.float32, constant: bool = True) -> Any:
    """A network that tests may change if they change it back."""
    unet: Any = fill(build_unet(CONFIG), 5).to(dtype)
    use_constant_cross_attention(unet, constant)
    return unet


def inputs(batch: int, frames: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(7)
    sample = torch.randn(batch, frames, 8, height, width, generator=g)
    pose = torch.randn(1, frames, 32, height, width, generator=g)
    context = torch.randn(batch, 1, 16, generator=g)
    ids = torch.tensor([[6.0, 127.0, 0.02]]).repeat(batch, 1)
    return with_pose(sample, pose).to(dtype), torch.tensor(0.3), context.to(dtype), ids


@torch.inference_mode()
def run(unet: Any, args: tuple[Tensor, ...]) -> Tensor:
    return unet(*args, return_dict=False)[0]


def difference(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


executions = st.builds(
    UNetExecution,
    frame_chunk=st.none() | st.integers(1, 9),
    position_chunk=st.none() | st.integers(1, 40),
    feed_forward_chunk=st.none() | st.integers(5, 100),
    channels_last=st.booleans(),
    attention=st.sampled_from(["plain", "auto", "math", "sdpa", "flash"]),
)


@settings(max_examples=30)
@given(
    execution=executions,
    batch=st.integers(1, 2),
    frames=st.integers(1, 5),
    size=st.sampled_from([(4, 6), (5, 7)]),
    constant=st.booleans(),
)
def test_float32_is_the_plain_network(
    execution: UNetExecution, batch: int, frames: int, size: tuple[int, int], constant: bool
) -> None:
    unet, args = network(constant=constant), inputs(batch, frames, *size)
    want = run(unet, args)
    try:
        apply_execution(unet, execution)
        got = run(unet, args)
    finally:
        apply_execution(unet, UNetExecution())
    assert difference(got, want) <= 1e-5
    assert torch.equal(run(unet, args), want)


@settings(max_examples=15)
@given(execution=executions, frames=st.integers(1, 5))
def test_bfloat16_is_no_worse_than_the_plain_network(execution: UNetExecution, frames: int) -> None:
    """Both round in bfloat16; measured by the exact network, errors may be up to twice the plain one's."""
    unet, args = network(torch.bfloat16), inputs(1, frames, 4, 6, torch.bfloat16)
    exact = copy.deepcopy(unet).double()
    truth = run(exact, tuple(a.double() for a in args))
    plain = run(unet, args)
    try:
        apply_execution(unet, execution)
        got = run(unet, args)
    finally:
        apply_execution(unet, UNetExecution())
    assert got.dtype == torch.bfloat16
    error, theirs = (float((x.double() - truth).square().mean().sqrt() / truth.std()) for x in (got, plain))
    assert error <= max(2 * theirs, 0.02)


FULL = UNetExecution(frame_chunk=2, position_chunk=5, feed_forward_chunk=7, channels_last=True, attention="auto")


def test_parameters_keep_names_values_and_classes_come_back() -> None:
    unet = copy.deepcopy(network())
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    classes, config = [type(m) for m in unet.modules()], config_of(unet)
    strides = [p.stride() for p in unet.parameters()]
    apply_execution(unet, FULL)
    assert [type(m) for m in unet.modules()] != classes
    assert list(unet.state_dict()) == list(before)
    assert all(torch.equal(v, before[k]) for k, v in unet.state_dict().items())
    assert config_of(unet) == config
    apply_execution(unet, UNetExecution())
    assert [type(m) for m in unet.modules()] == classes
    assert [p.stride() for p in unet.parameters()] == strides
    assert not any("execution" in name for m in unet.modules() for name in vars(m))


def test_the_same_twice_is_the_same_once() -> None:
    unet, args = copy.deepcopy(network()), inputs(1, 3, 4, 6)
    apply_execution(unet, FULL)
    classes, once = [type(m) for m in unet.modules()], run(unet, args)
    apply_execution(unet, UNetExecution(**{f: getattr(FULL, f) for f in FULL.__slots__}))
    assert [type(m) for m in unet.modules()] == classes
    assert torch.equal(run(unet, args), once)
    assert execution_of(unet) == FULL


def test_two_models_are_independent() -> None:
    one, two = copy.deepcopy(network()), copy.deepcopy(network())
    classes = [type(m) for m in two.modules()]
    apply_execution(one, FULL)
    assert [type(m) for m in two.modules()] == classes
    assert execution_of(two) == UNetExecution()
    assert execution_of(copy.deepcopy(one)) == FULL


def test_input_and_skips_are_left_alone() -> None:
    unet, args = copy.deepcopy(network()), inputs(1, 3, 4, 6)
    apply_execution(unet, FULL)
    copies = [a.clone() for a in args]
    kept: list[tuple[Tensor, Tensor]] = []
    for block in [*unet.down_blocks, unet.mid_block]:
        block.register_forward_hook(
            lambda _m, _i, out: kept.extend((o, o.clone()) for o in (out[1] if isinstance(out, tuple) else (out,)))
        )
    run(unet, args)
    assert all(torch.equal(a, b) for a, b in zip(args, copies, strict=True))
    assert len(kept) == 4  # of two, one and the middle
    assert all(torch.equal(a, b) for a, b in kept)


def test_gradients_are_those_of_the_plain_network() -> None:
    plain, unet, args = copy.deepcopy(network()), copy.deepcopy(network()), inputs(1, 3, 4, 6)
    apply_execution(unet, FULL)
    for model in (plain, unet):
        model(*args, return_dict=False)[0].square().mean().backward()
    largest = max(float(p.grad.abs().max()) for p in plain.parameters() if p.grad is not None)
    for (name, p), q in zip(plain.named_parameters(), unet.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None and q.grad is not None:
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-6 * largest)


def test_offloading_by_hooks() -> None:
    """Weights that are on the device only within their layer's call: no layer uses another's parameters."""
    unet, args = copy.deepcopy(network()), inputs(1, 3, 4, 6)
    want = run(unet, args)
    apply_execution(unet, FULL)
    waiting: dict[nn.Module, dict[str, Tensor]] = {}
    for module in unet.modules():
        if not module._parameters:
            continue
        waiting[module] = {k: p.data for k, p in module._parameters.items() if p is not None}

        def fetch(m: nn.Module, _args: object) -> None:
            for k, data in waiting[m].items():
                getattr(m, k).data = data

        def release(m: nn.Module, *_args: object) -> None:
            for k, data in waiting[m].items():
                getattr(m, k).data = torch.full_like(data, float("nan"))

        release(module)
        module.register_forward_pre_hook(fetch)
        module.register_forward_hook(release)
    assert difference(run(unet, args), want) <= 1e-5


def test_adapters_and_other_linear_layers_stay() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    unet, args = copy.deepcopy(network()), inputs(1, 3, 4, 6)
    for name, module in unet.named_modules():
        if name.endswith(("attn1.to_out.0", "attn1.to_q", "ff.net.2", "ff.net.0.proj", "proj_in")):
            module.__class__ = Doubled
    want = run(unet, args)
    assert difference(run(network(), args), want) > 0.01
    apply_execution(unet, FULL)
    assert difference(run(unet, args), want) <= 1e-5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frame_chunk": 0}, "frame_chunk=0"),
        ({"position_chunk": 0}, "from 1"),
        ({"attention": "x"}, "one of plain"),
    ],
)
def test_wrong_settings(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        UNetExecution(**wrong)


@pytest.mark.parametrize("kernel", ["fa3", "cudnn", "efficient"])
def test_kernels_that_are_not_there(kernel: Any) -> None:
    unet = copy.deepcopy(network())
    with pytest.raises(ConfigError, match=kernel):
        apply_execution(unet, UNetExecution(attention=kernel))
    assert execution_of(unet) == UNetExecution()


def test_another_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="Linear"):
        apply_execution(nn.Linear(2, 2), FULL)


def test_compiled_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the code generator, whose results are PyTorch's affair: portions, sizes and versions."""
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f: plain(f, backend="eager"))
    monkeypatch.setattr(compiled, "_compiled", functools.cache(compiled._compiled.__wrapped__))
    monkeypatch.setattr(compiled, "check_compiler", lambda _device: None)
    monkeypatch.setattr(execution, "check_compiler", lambda _device: None)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path))
    small: dict[str, Any] = {"block_out_channels": [32], "num_attention_heads": [2]}
    small |= {f"{way}_block_types": CONFIG[f"{way}_block_types"][-i:][:1] for i, way in ((2, "down"), (1, "up"))}
    plain_unet: Any = fill(build_unet(CONFIG | small), 5)
    unet = copy.deepcopy(plain_unet)
    for frames in (2, 3):
        args = inputs(1, frames, 4, 6)
        want = run(plain_unet, args)
        apply_execution(unet, UNetExecution(compile=True, attention="auto"))
        assert difference(run(unet, args), want) <= 1e-5
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled")
    functions = compiled._compiled.cache_info()
    assert functions.hits > functions.misses > 0


def test_compiling_wants_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"C\+\+ compiler"):
        apply_execution(copy.deepcopy(network()), UNetExecution(compile=True))


@pytest.mark.parametrize("channels_last", [False, True])
def test_bfloat16_is_as_exact_as_the_plain_way(channels_last: bool) -> None:
    args = inputs(1, 6, 16, 24)
    exact = run(network(), args)

    def error(unet: Any) -> float:
        return float((run(unet, inputs(1, 6, 16, 24, torch.bfloat16)).float() - exact).square().mean().sqrt())

    plain = error(network(torch.bfloat16))
    unet = copy.deepcopy(network(torch.bfloat16))
    apply_execution(unet, UNetExecution(attention="auto", channels_last=channels_last))
    assert 0 < plain < 0.1 * float(exact.std())
    assert error(unet) <= 1.1 * plain


@given(
    frames=st.integers(1, 3),
    channels=st.sampled_from([32, 64, 512]),
    size=st.sampled_from([(1, 2), (3, 5), (30, 40)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    large=st.booleans(),
)
@settings(max_examples=25)
@torch.inference_mode()
def test_norms(frames: int, channels: int, size: tuple[int, int], dtype: torch.dtype, large: bool) -> None:
    """Any number of places, channels last or not, in portions, also far from zero."""
    norm = LeanNorm(32, channels).to(dtype)
    norm.weight.copy_(torch.linspace(0.5, 2, channels))
    norm.bias.copy_(torch.linspace(-1, 1, channels))
    x = torch.randn(frames, channels, *size, generator=torch.Generator().manual_seed(1)) + 10 * large
    x = x.to(dtype)
    want = torch.nn.functional.group_norm(x.double(), 32, norm.weight.double(), norm.bias.double(), norm.eps)
    last = x.contiguous(memory_format=torch.channels_last)
    moments = Moments()
    for part in (slice(0, 1), slice(1, None)):
        if x[..., part].numel():
            moments.add(x[..., part])
    tolerance = (1e-3 if large else 2e-5) if dtype == torch.float32 else 0.03
    for got in (norm(x), norm(last), norm(x, moments)):
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)
