"""Every way to execute the U-Net gives the same numbers."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from micro import UNET, copied, fill
from mimicmotion.backbones.svd import unet as unet_module
from mimicmotion.backbones.svd.checkpoint import config_of
from mimicmotion.backbones.svd.execution import compiled
from mimicmotion.backbones.svd.execution.options import Execution
from mimicmotion.backbones.svd.layers import Linear
from mimicmotion.backbones.svd.unet import UNet, build_unet
from mimicmotion.errors import ConfigError

CONFIG: dict[str, Any] = {
    **UNET,
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"],
    "up_block_types": ["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
}


@functools.cache
def network(dtype: torch.dtype = torch.float32) -> UNet:
    """A network whose execution tests may change if they change it back."""
    unet: Any = fill(build_unet(CONFIG), 5).to(dtype)
    return unet


def inputs(
    batch: int, frames: int, height: int, width: int, dtype: torch.dtype = torch.float32, tokens: int = 1
) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(7)
    sample = torch.randn(batch, frames, 8, height, width, generator=g)
    pose = torch.randn(1, frames, 32, height, width, generator=g)
    context = torch.randn(batch, tokens, 16, generator=g)
    ids = torch.tensor([[6.0, 127.0, 0.02]]).repeat(batch, 1)
    return sample.to(dtype), torch.tensor(0.3), context.to(dtype), ids, pose.to(dtype)


@torch.inference_mode()
def run(unet: Any, args: tuple[Tensor, ...]) -> Tensor:
    return unet(*args)


def difference(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


executions = st.builds(
    Execution,
    frame_chunk=st.none() | st.integers(1, 9),
    position_chunk=st.none() | st.integers(1, 40),
    feed_forward_chunk=st.none() | st.integers(5, 100),
    channels_last=st.booleans(),
)


@settings(max_examples=8)
@given(
    execution=executions,
    batch=st.integers(1, 2),
    frames=st.integers(1, 5),
    size=st.sampled_from([(4, 6), (5, 7)]),
    tokens=st.integers(1, 2),
)
def test_float32(execution: Execution, batch: int, frames: int, size: tuple[int, int], tokens: int) -> None:
    unet, args = network(), inputs(batch, frames, *size, tokens=tokens)
    want = run(unet, args)
    try:
        unet.set_execution(execution)
        got = run(unet, args)
    finally:
        unet.set_execution(Execution())
    assert difference(got, want) <= 1e-5
    assert torch.equal(run(unet, args), want)


@functools.cache
def exactly(unet: UNet) -> UNet:
    return copied(unet).double()


@settings(max_examples=5)
@given(execution=executions, frames=st.integers(1, 5))
def test_bfloat16_is_no_worse_in_chunks(execution: Execution, frames: int) -> None:
    """Both round in bfloat16; measured by the exact network, errors may be up to twice those of all at once."""
    unet, args = network(torch.bfloat16), inputs(1, frames, 4, 6, torch.bfloat16)
    truth = run(exactly(unet), tuple(a.double() for a in args))
    plain = run(unet, args)
    try:
        unet.set_execution(execution)
        got = run(unet, args)
    finally:
        unet.set_execution(Execution())
    assert got.dtype == torch.bfloat16
    error, theirs = (float((x.double() - truth).square().mean().sqrt() / truth.std()) for x in (got, plain))
    assert error <= max(2 * theirs, 0.02)


FULL = Execution(frame_chunk=2, position_chunk=5, feed_forward_chunk=7, channels_last=True)


def test_parameters_keep_names_and_values() -> None:
    unet = copied(network())
    before, config = {k: v.clone() for k, v in unet.state_dict().items()}, config_of(unet)
    strides = [p.stride() for p in unet.parameters()]
    unet.set_execution(FULL)
    assert [p.stride() for p in unet.parameters()] != strides
    assert list(unet.state_dict()) == list(before)
    assert all(torch.equal(v, before[k]) for k, v in unet.state_dict().items())
    assert config_of(unet) == config
    unet.set_execution(Execution())
    assert [p.stride() for p in unet.parameters()] == strides


def test_two_models_are_independent() -> None:
    one, two = copied(network()), copied(network())
    one.set_execution(FULL)
    assert two.execution == Execution()
    assert copied(one).execution == FULL


def test_input_and_skips_are_left_alone() -> None:
    unet, args = copied(network()), inputs(1, 3, 4, 6)
    unet.set_execution(FULL)
    copies = [a.clone() for a in args]
    kept: list[tuple[Tensor, Tensor]] = []
    for block in [*unet.down_blocks, unet.mid_block]:
        block.register_forward_hook(lambda _m, given, out: kept.extend((t, t.clone()) for t in (*given[2], out)))
    run(unet, args)
    assert all(torch.equal(a, b) for a, b in zip(args, copies, strict=True))
    assert len(kept) == 4 + 5 + 5  # outputs, and all skip connections there are so far
    assert all(torch.equal(a, b) for a, b in kept)


def test_weights_are_used_within_their_blocks_call() -> None:
    """So they may be elsewhere the rest of the time."""
    unet, args = copied(network()), inputs(1, 3, 4, 6)
    want = run(unet, args)
    unet.set_execution(FULL)
    waiting: dict[nn.Module, dict[str, Tensor]] = {}
    for block in [*unet.down_blocks, unet.mid_block, *unet.up_blocks]:
        waiting[block] = {k: p.data for k, p in block.named_parameters()}

        def fetch(m: nn.Module, _args: object) -> None:
            for k, data in waiting[m].items():
                m.get_parameter(k).data = data

        def release(m: nn.Module, *_args: object) -> None:
            for k, data in waiting[m].items():
                m.get_parameter(k).data = torch.full_like(data, float("nan"))

        release(block)
        block.register_forward_pre_hook(fetch)
        block.register_forward_hook(release)
    assert difference(run(unet, args), want) <= 1e-5


@pytest.mark.parametrize("execution", [Execution(), FULL, Execution(checkpointing="nested")])
def test_wrapped_linear_layers_are_called(execution: Execution) -> None:
    """As adapters are: a module around the layer."""

    class Doubled(nn.Module):
        def __init__(self, base_layer: nn.Module) -> None:
            super().__init__()
            self.base_layer = base_layer

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.base_layer(x)

    unet, doubled = (copied(network(torch.float64)) for _ in range(2))
    args = inputs(1, 3, 4, 6, torch.float64)
    names = [n for n, m in unet.named_modules() if isinstance(m, Linear) and "attn2.to_q" not in n]
    for name in names:
        parent, _, last = name.rpartition(".")
        setattr(unet.get_submodule(parent), last, Doubled(unet.get_submodule(name)))
        for p in doubled.get_submodule(name).parameters():
            p.data *= 2
    unet.set_execution(execution)
    assert len(names) > 50
    assert difference(run(unet, args), run(doubled, args)) <= 1e-6
    assert difference(run(network(torch.float64), args), run(doubled, args)) > 0.01
    unet(*args).square().mean().backward()
    doubled(*args).square().mean().backward()
    for name in names:
        got, want = (m.get_submodule(n).weight.grad for m, n in ((unet, f"{name}.base_layer"), (doubled, name)))
        if want is not None:
            torch.testing.assert_close(got, 2 * want, rtol=0, atol=1e-6 * max(float(want.abs().max()), 1e-6))


@pytest.mark.slow
@pytest.mark.whole
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_compiled_parts(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the code generator, whose results are PyTorch's affair: one graph a layer, sizes and versions."""
    plain, backend = torch.compile, "eager" if dtype == torch.float32 else "aot_eager"
    monkeypatch.setattr(torch, "compile", lambda f, fullgraph: plain(f, fullgraph=fullgraph, backend=backend))
    monkeypatch.setattr(compiled, "_compiled", functools.cache(compiled._compiled.__wrapped__))
    monkeypatch.setattr(unet_module, "check_compiler", lambda _device: None)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")  # what this test sets is taken away again
    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path))
    small: dict[str, Any] = {"block_out_channels": [32], "num_attention_heads": [2]}
    small |= {f"{way}_block_types": CONFIG[f"{way}_block_types"][-i:][:1] for i, way in ((2, "down"), (1, "up"))}
    plain_unet: Any = fill(build_unet(CONFIG | small), 5).to(dtype)
    unet = copied(plain_unet)
    for frames in (2, 3):
        args = inputs(1, frames, 4, 6, dtype)
        want = run(plain_unet, args)
        unet.set_execution(Execution(compile=True))
        # bfloat16 has 8 bits; sums in another order differ by some of its steps
        assert difference(run(unet, args), want) <= (1e-5 if dtype == torch.float32 else 0.05)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled")
    functions = compiled._compiled.cache_info()
    assert functions.hits > functions.misses > 0


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"C\+\+ compiler"):
        copied(network()).set_execution(Execution(compile=True))
