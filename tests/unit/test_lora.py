"""LoRA on the U-Net: starts without effect, learns like peft's, is merged exactly, and is readable by peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from against_library import library
from micro import UNET, fill
from micro_task import gradients, micro_task, weights_of
from mimicmotion.backbones.svd.lora import LoraLinear, inject, lora_names, target_names
from mimicmotion.backbones.svd.unet import build_unet
from mimicmotion.errors import ConfigError
from mimicmotion.training.objective import NetworkInput, draw, network_arguments
from mimicmotion.training.stages.denoiser import DenoiserTask

LORA = {"what": "lora", "rank": 3, "alpha": 6.0}


def shown_to(task: DenoiserTask) -> NetworkInput:
    draws = draw(task.config.objective, 0, [0], (4, 4, 6, 4), (48, 32))
    encoded = task.encode(task.batch(0, [0]), draws)
    return network_arguments(task.config.objective, encoded, draws, task.scaling_factor)[0]


def moved(task: DenoiserTask) -> dict[str, torch.Tensor]:
    """Move the trained weights away from their start, so that the adapters have an effect."""
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in task.parameters().values():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    return weights_of(task)


def test_at_first_nothing_is_changed_and_the_start_is_seeded(tmp_path: Path) -> None:
    plain, lora, again = micro_task(tmp_path), micro_task(tmp_path, trained=LORA), micro_task(tmp_path, trained=LORA)
    with torch.no_grad():
        torch.testing.assert_close(lora.model(shown_to(plain)), plain.model(shown_to(plain)), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(a, again.parameters()[k]) for k, a in lora.parameters().items())
    assert gradients(plain, [0])[0] == pytest.approx(gradients(lora, [0])[0], rel=1e-6)


def test_targets_are_the_projections_that_matter() -> None:
    names = target_names(build_unet(UNET), ("to_q", "to_k", "to_v", "to_out.0"))
    assert any(n.endswith("attn1.to_q") for n in names)
    assert any(n.endswith("attn2.to_v") for n in names)
    assert not [n for n in names if n.endswith(("attn2.to_q", "attn2.to_k"))]
    assert len(names) % 6 == 0, "four of self- and two of cross-attention"


def test_merged_model_matches_the_one_with_adapters(tmp_path: Path) -> None:
    task = micro_task(tmp_path, trained=LORA)
    shown = shown_to(task)
    with torch.no_grad():
        start = task.model(shown)
        weights = moved(task)
        want = task.model(shown)
        parts = task.assembled(weights)
        got = type(task.model)(parts.unet, parts.pose_net)(shown)
    assert float((want - start).abs().max()) > 0.01
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert not [k for k in parts.unet.state_dict() if "lora" in k or "base_layer" in k]


def micro_unet() -> Any:
    return fill(build_unet(UNET), 1)


def diffusers_unet(state: dict[str, Tensor]) -> Any:
    """The network that peft is used with elsewhere, with the same weights."""
    unet: Any = library("diffusers", "UNetSpatioTemporalConditionModel").from_config(UNET)
    unet.load_state_dict(state)
    return unet.eval()


def answer(unet: Any) -> Tensor:
    g = torch.Generator().manual_seed(0)
    sample, token = torch.randn(1, 3, 8, 4, 4, generator=g), torch.randn(1, 1, 16, generator=g)
    dtype = next(unet.parameters()).dtype
    out = unet(sample.to(dtype), torch.tensor(0.3), token.to(dtype), torch.ones(1, 3))
    return out if isinstance(out, Tensor) else out[0]  # diffusers' network wraps it


def fill_adapters(unet: nn.Module) -> None:
    g = torch.Generator().manual_seed(3)
    for name, p in unet.named_parameters():
        if ".lora_" in name:
            p.data = 0.2 * torch.randn(p.shape, generator=g)


def test_results_and_gradients_are_those_of_peft() -> None:
    import peft  # with transformers, which takes seconds

    ours, theirs = micro_unet(), micro_unet()
    names = target_names(ours, ("to_q", "to_k", "to_v", "to_out.0", "net.2"))
    inject(ours, ("to_q", "to_k", "to_v", "to_out.0", "net.2"), 3, 6.0, 0)
    peft.inject_adapter_in_model(peft.LoraConfig(r=3, lora_alpha=6, target_modules=names), theirs)
    found = dict(ours.named_parameters())
    wanted = {n.replace(".default", ""): p for n, p in theirs.named_parameters()}
    assert set(found) == set(wanted)
    assert len(lora_names(ours)) == 2 * len(names)
    for name in lora_names(ours):
        bound = found[name].shape[1] ** -0.5 if ".lora_A." in name else 0.0  # uniform in +-bound at the start
        for start in (found[name], wanted[name]):
            assert 0.8 * bound <= float(start.detach().abs().max()) <= bound, name
    for unet in (ours, theirs):
        fill_adapters(unet)
        unet.double()  # both add in another order, which rounds differently on some CPUs
    a, b = answer(ours), answer(theirs)
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    a.square().mean().backward()
    b.square().mean().backward()
    for name in lora_names(ours):
        grads = found[name].grad, wanted[name].grad
        assert grads[0] is not None, name
        torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)
    frozen = [n for n, p in found.items() if ".base_layer." in n and p.grad is not None]
    assert not frozen


def test_layers_of_any_class_and_number_format() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    layer = LoraLinear(Doubled(8, 4).to(torch.bfloat16), 2, 4.0)
    fill_adapters(nn.Sequential(layer))
    out = layer(x.to(torch.bfloat16))
    assert out.dtype == torch.bfloat16
    base = 2 * nn.functional.linear(x.to(torch.bfloat16), layer.base_layer.weight, layer.base_layer.bias)
    added = 2.0 * x.to(torch.bfloat16).float() @ (layer.lora_B.weight @ layer.lora_A.weight).T
    torch.testing.assert_close(out, base + added.to(torch.bfloat16), rtol=2**-7, atol=2**-7)  # rounded to bfloat16


@pytest.mark.whole
def test_exported_folder_needs_no_lora_and_peft_reads_the_adapter(tmp_path: Path) -> None:
    import peft

    from mimicmotion.pipeline import MimicMotionPipeline

    task = micro_task(tmp_path, trained=LORA)
    folder = task.export(tmp_path / "out", moved(task))
    merged = MimicMotionPipeline.from_pretrained(folder).backbone.unet
    base: Any = MimicMotionPipeline.from_pretrained(tmp_path / "micro").backbone.unet
    theirs = peft.PeftModel.from_pretrained(diffusers_unet(base.state_dict()), folder / "adapter").merge_and_unload()
    assert set(merged.state_dict()) == set(base.state_dict())
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], value, rtol=2e-3, atol=2e-3)  # float16 on disk
    torch.testing.assert_close(answer(merged), answer(theirs), rtol=2e-3, atol=2e-3)
    assert not torch.allclose(answer(merged), answer(base), atol=0.01)


def test_targets_without_a_layer_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="to_nothing"):
        micro_task(tmp_path, trained={**LORA, "targets": ["to_nothing"]})
