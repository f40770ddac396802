"""Weights in 8 bits: which layers, how large, how wrong."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch

from micro import micro_pipeline
from mimicmotion.backbones.svd.execution.quantize import quantize_weights, quantized_layers, weight_bytes
from mimicmotion.backbones.svd.unet import unused_parameter_names
from mimicmotion.diffusion.noise import frame_noise
from mimicmotion.errors import ConfigError

FORMATS = ("int8", "fp8")


def run(unet: Any) -> torch.Tensor:
    sample, pose = (frame_noise(i, range(6), (width, 4, 6)).unflatten(0, (2, 3)) for i, width in ((1, 8), (4, 32)))
    token, ids = frame_noise(2, range(2), (1, 16)), frame_noise(3, range(2), (3,))
    with torch.inference_mode():
        return unet(sample, torch.tensor(0.4), token, ids, pose)


@pytest.mark.parametrize("format", FORMATS)
def test_small_error_and_smaller_weights(format: Any) -> None:
    pytest.importorskip("torchao", reason="torchao is not installed (extra 'fast')")
    unet = micro_pipeline().backbone.unet
    exact, layers = run(unet), list(quantized_layers(unet))
    before = sum(unet.get_submodule(n).weight.nbytes for n in layers)
    done = quantize_weights(unet, format)
    out = run(unet)
    error = float((out - exact).abs().mean() / exact.abs().mean())
    assert 0 < error < (0.02 if format == "int8" else 0.06)
    assert done.layers == len(layers) > 20
    saved = done.bytes_before - done.bytes_after
    assert 0.6 * before < saved < 0.75 * before  # one byte for four, and a scale for each row
    assert done.bytes_after == weight_bytes(unet)
    assert quantize_weights(unet, format) is done  # a second time is none
    assert torch.equal(run(unet), out)
    with pytest.raises(ConfigError, match="reload the model"):
        quantize_weights(unet, "int8" if format == "fp8" else "fp8")


def test_unused_weights_stay() -> None:
    unet = micro_pipeline().backbone.unet
    unused = {n.removesuffix(".weight") for n in unused_parameter_names(unet) if ".attn2." in n}
    narrowed = set(quantized_layers(unet))
    assert unused
    assert not unused & narrowed
    assert {n.replace("attn2", "attn1") for n in unused} <= narrowed


def test_without_torchao_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("torchao"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    unet = micro_pipeline().backbone.unet
    before = run(unet)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"\[fast\]"):
        quantize_weights(unet, "int8")
    monkeypatch.undo()
    assert torch.equal(run(unet), before)


def test_a_network_without_wide_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="without transformers"):
        quantize_weights(torch.nn.Linear(64, 64), "int8")  # type: ignore[arg-type]


def test_unknown_format() -> None:
    with pytest.raises(ConfigError, match="int8 or fp8"):
        quantize_weights(torch.nn.Linear(64, 64), "int4")  # type: ignore[arg-type]
