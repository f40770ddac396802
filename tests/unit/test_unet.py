"""Our U-Net against diffusers': the same names, numbers and gradients, and files that both open."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from against_library import library
from micro import UNET, copied, fill
from mimicmotion.backbones.svd.checkpoint import config_of
from mimicmotion.backbones.svd.execution.options import Execution
from mimicmotion.backbones.svd.unet import UNet, build_unet, temporal_parameter_names, unused_parameter_names
from mimicmotion.errors import ConfigError, InputError

SMALL: dict[str, Any] = {
    "block_out_channels": [32, 64],
    "num_attention_heads": [2, 4],
    "down_block_types": ["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"],
    "up_block_types": ["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24,
}
DEEP: dict[str, Any] = SMALL | {
    "block_out_channels": [32, 64, 96],
    "num_attention_heads": [2, 4, 3],
    "down_block_types": ["DownBlockSpatioTemporal", *["CrossAttnDownBlockSpatioTemporal"] * 2],
    "up_block_types": ["CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
    "layers_per_block": [1, 2, 1],
    "transformer_layers_per_block": [1, 2, [2, 1]],
    "cross_attention_dim": [24, 24, 24],
    "in_channels": 6,
    "out_channels": 3,
}
CONFIGS = {"small": SMALL, "deep": DEEP}
CHUNKS = Execution(frame_chunk=2, position_chunk=7, feed_forward_chunk=5)


@functools.cache
def theirs(name: str) -> Any:
    """Diffusers' network in float64."""
    return fill(library("diffusers", "UNetSpatioTemporalConditionModel")(**CONFIGS[name]), 3).double()


@functools.cache
def ours_once(name: str) -> UNet:
    unet = build_unet(CONFIGS[name], dtype=torch.float64)
    unet.load_state_dict(theirs(name).state_dict())
    return unet


def ours(name: str, dtype: torch.dtype = torch.float64) -> UNet:
    return copied(ours_once(name)).to(dtype)


def inputs(
    name: str = "small", tokens: int = 1, size: tuple[int, int] = (6, 5), dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two videos of three frames. Sizes that do not halve evenly are harder."""
    g = torch.Generator().manual_seed(1)
    sample = torch.randn(2, 3, CONFIGS[name].get("in_channels", 8), *size, generator=g)
    context = torch.randn(2, tokens, 24, generator=g)
    return sample.to(dtype), torch.tensor(0.37), context.to(dtype), torch.tensor([[6.0, 127.0, 0.02]]).repeat(2, 1)


def error(got: Tensor, want: Tensor) -> float:
    return float((got.detach().double() - want.detach()).abs().max() / want.detach().abs().max())


@pytest.mark.parametrize("name", list(CONFIGS))
def test_names_order_and_initial_values(name: str) -> None:
    """The order and the initial values too: a seed gives the network that it always gave."""
    states = []
    for build in (UNet, lambda c: library("diffusers", "UNetSpatioTemporalConditionModel")(**c)):
        torch.manual_seed(0)
        states.append(build(CONFIGS[name]).state_dict())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


@pytest.mark.parametrize(
    ("name", "tokens", "execution"),
    [
        ("small", 1, CHUNKS),
        ("deep", 3, Execution()),
        ("small", 1, Execution(channels_last=True, checkpointing="blocks")),
        pytest.param("small", 1, Execution(), marks=pytest.mark.slow),
        pytest.param("deep", 3, CHUNKS, marks=pytest.mark.slow),
        pytest.param("deep", 3, Execution(channels_last=True, checkpointing="blocks"), marks=pytest.mark.slow),
    ],
)
def test_outputs_and_gradients(name: str, tokens: int, execution: Execution) -> None:
    """In float64 only the order of sums differs: 1e-6 of the largest value is far above that and below any mistake."""
    plain, unet, args = theirs(name), ours(name), inputs(name, tokens)
    unet.set_execution(execution)
    want = plain(*args).sample
    weight = torch.randn_like(want)
    plain.zero_grad()
    (want * weight).sum().backward()
    got = unet(*args)
    (got * weight).sum().backward()
    assert error(got, want) < 1e-6
    for (n, p), q in zip(plain.named_parameters(), unet.parameters(), strict=True):
        grad = torch.zeros_like(q) if q.grad is None else q.grad
        # Some vanish but for rounding: a bias in front of a norm of single channels.
        scale = max(float(p.grad.abs().max()), 1e-6)
        assert float((grad - p.grad).abs().max()) < 1e-6 * scale, n
    with torch.inference_mode():
        assert error(unet(*args), want) < 1e-6


@pytest.mark.parametrize(
    ("dtype", "execution"),
    [
        (torch.float16, Execution()),
        (torch.bfloat16, CHUNKS),
        pytest.param(torch.float16, CHUNKS, marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, Execution(), marks=pytest.mark.slow),
        *(
            pytest.param(dtype, Execution(channels_last=True), marks=pytest.mark.slow)
            for dtype in (torch.float16, torch.bfloat16)
        ),
    ],
)
def test_half_precision_is_as_exact_as_theirs(dtype: torch.dtype, execution: Execution) -> None:
    """Root mean square error against float64, of two thousand values."""
    unet, args = ours("small", dtype), inputs(size=(8, 10))
    narrow = tuple(a.to(dtype) if i in (0, 2) else a for i, a in enumerate(args))
    with torch.inference_mode():
        exact = theirs("small")(*args).sample
        plain = library("diffusers", "UNetSpatioTemporalConditionModel")(**SMALL).to(dtype)
        plain.load_state_dict(unet.state_dict())
        unet.set_execution(execution)
        own, usual = ((y.double() - exact).square().mean().sqrt() for y in (unet(*narrow), plain(*narrow).sample))
    assert 0 < own <= 1.5 * usual


@pytest.mark.parametrize("few", [1, 2])
def test_pose_is_added_behind_the_first_convolution(few: int) -> None:
    unet, args = ours("small"), inputs()
    pose = torch.randn(few, 3, 32, 6, 5, generator=torch.Generator().manual_seed(2))
    plain = theirs("small")
    hook = plain.conv_in.register_forward_hook(
        lambda m, i, out: out + pose.double().expand(2, -1, -1, -1, -1).flatten(0, 1)
    )
    with torch.inference_mode():
        want = plain(*args).sample
        hook.remove()
        assert error(unet(*args, pose), want) < 1e-6
        unet.set_execution(CHUNKS)
        assert error(unet(*args, pose), want) < 1e-6
        assert torch.equal(unet(*args, torch.zeros_like(pose)), unet(*args))
    assert error(unet(*args), want) > 0.01


@pytest.mark.parametrize("shape", [(3, 3, 32, 6, 5), (1, 2, 32, 6, 5), (1, 3, 1, 6, 5), (1, 3, 32, 5, 6)])
def test_wrong_pose_features_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="pose features of shape"):
        ours("small")(*inputs(), torch.zeros(shape).double())


def test_unused_parameters_have_no_gradient_and_all_others_do() -> None:
    unet = ours("small")
    unet(*inputs()).square().sum().backward()
    unused = set(unused_parameter_names(unet))
    without = {n for n, p in unet.named_parameters() if p.grad is None}
    assert unused == without
    assert len(unused) == 4 * 4 * 2  # of four transformers two blocks, each with to_q, to_k and a norm's two


def test_a_network_without_transformers_is_refused() -> None:
    for names in (unused_parameter_names, temporal_parameter_names):
        with pytest.raises(ConfigError, match="without transformers"):
            names(torch.nn.Linear(2, 2))


def test_dtype_device_and_no_global_change() -> None:
    before = torch.get_default_dtype(), torch.get_default_device()
    net = build_unet(SMALL, device="meta", dtype=torch.float16)
    assert {(p.device.type, p.dtype) for p in net.parameters()} == {("meta", torch.float16)}
    assert (torch.get_default_dtype(), torch.get_default_device()) == before
    assert net.dtype == torch.float16


def test_what_we_save_opens_in_diffusers(tmp_path: Path) -> None:
    unet = ours("deep", torch.float32)
    (tmp_path / "config.json").write_text(json.dumps(config_of(unet)))
    save_file(unet.state_dict(), tmp_path / "diffusion_pytorch_model.safetensors")
    opened: Any = library("diffusers", "UNetSpatioTemporalConditionModel").from_pretrained(tmp_path)
    args = inputs("deep", dtype=torch.float32)
    with torch.inference_mode():
        assert error(unet(*args), opened(*args).sample.double()) < 1e-5  # float32
    without_effect = {"num_frames": 25, "sample_size": None}
    assert config_of(build_unet(dict(opened.config))) == config_of(unet) | without_effect


def test_what_diffusers_lacks_names_our_class() -> None:
    net = build_unet(SMALL | {"norm_num_groups": 8})
    assert {m.num_groups for m in net.modules() if isinstance(m, torch.nn.GroupNorm)} == {8}
    assert config_of(net)["_class_name"] == "UNet"
    assert config_of(build_unet(config_of(net))) == config_of(net)
    plain = config_of(build_unet(SMALL | {"norm_num_groups": 32}))
    assert plain["_class_name"] == "UNetSpatioTemporalConditionModel"
    assert "norm_num_groups" not in plain


def test_defaults_are_those_of_diffusers() -> None:
    with torch.device("meta"):
        plain, unet = library("diffusers", "UNetSpatioTemporalConditionModel")(), UNet({})
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in unet.state_dict().items()}
    assert [m.eps for m in plain.modules() if isinstance(m, torch.nn.GroupNorm)] == [
        m.eps for m in unet.modules() if isinstance(m, torch.nn.GroupNorm)
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_attention_heads": [2, 2, 2]}, "num_attention_heads"),
        ({"num_attention_heads": [3, 4]}, "divisor of the number of channels"),
        ({"block_out_channels": [48, 64]}, "multiples of"),
        ({"norm_num_groups": 24}, "multiples of"),
        ({"layers_per_block": [1]}, "layers_per_block"),
        ({"transformer_layers_per_block": [[1], [1, 1]]}, "transformer_layers_per_block"),
        ({"down_block_types": ["DownBlock2D"] * 2}, "down_block_types"),
        ({"up_block_types": ["UpBlockSpatioTemporal"]}, "up_block_types"),
        ({"dropout": 0.1}, "unknown dropout"),
        ({"_class_name": "UNet2DConditionModel"}, "class UNet2DConditionModel"),
    ],
)
def test_malformed_configs(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s)U-Net config.*{message}"):
        build_unet(SMALL | wrong, device="meta")


def test_the_levels_below_can_be_put_in_from_outside() -> None:
    unet, args = build_unet(UNET), inputs(dtype=torch.float32)
    args = (args[0], args[1], args[2][..., :16], args[3])
    kept: list[Tensor] = []

    def compute(inside: Tensor, below: Any) -> Tensor:
        kept.extend((inside.clone(), below()))
        return kept[1]

    def put_in(inside: Tensor, _below: Any) -> Tensor:
        assert torch.equal(inside, kept[0])
        return kept[1]

    with torch.inference_mode():
        want = unet(*args)
        assert torch.equal(unet(*args, deep=compute), want)
        assert torch.equal(unet(*args, deep=put_in), want)
        assert not torch.equal(unet(*args, deep=lambda _inside, _below: 2 * kept[1]), want)
