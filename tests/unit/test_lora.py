"""LoRA on the U-Net: starts as nothing, learns, is merged exactly, and is also saved as peft reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel

from micro import UNET, fill
from micro_task import gradients, micro_task, weights_of
from mimicmotion.errors import ConfigError
from mimicmotion.models.unet import build_unet
from mimicmotion.training.denoiser import DenoiserTask
from mimicmotion.training.lora import target_names
from mimicmotion.training.objective import NetworkInput, draw, network_arguments

LORA = {"what": "lora", "rank": 3, "alpha": 6.0}


def shown_to(task: DenoiserTask) -> NetworkInput:
    draws = draw(task.config.objective, 0, [0], (4, 4, 6, 4), (48, 32))
    encoded = task.encode(task.batch(0, [0]), draws)
    return network_arguments(task.config.objective, encoded, draws, task.scaling_factor)[0]


def moved(task: DenoiserTask) -> dict[str, torch.Tensor]:
    """Trained weights away from their start, so that the additions are not zero."""
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


def test_merged_model_answers_as_the_one_with_adapters(tmp_path: Path) -> None:
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


def test_exported_folder_needs_no_peft_and_its_adapter_fits_the_base(tmp_path: Path) -> None:
    from mimicmotion.pipeline import MimicMotionPipeline

    task = micro_task(tmp_path, trained=LORA)
    folder = task.export(tmp_path / "out", moved(task))
    merged = MimicMotionPipeline.from_pretrained(folder).unet.state_dict()
    base = MimicMotionPipeline.from_pretrained(tmp_path / "micro").unet
    assert set(merged) == set(base.state_dict())
    unet = PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload()  # type: ignore[arg-type]
    for name, value in unet.state_dict().items():
        torch.testing.assert_close(merged[name], value, rtol=2e-3, atol=2e-3)  # float16 on disk


def test_targets_without_a_layer_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="to_nothing"):
        micro_task(tmp_path, trained={**LORA, "targets": ["to_nothing"]})


def test_other_linear_layers_can_be_targets() -> None:
    unet = build_unet(UNET)
    fill(unet, 0)
    assert any(".ff." in n for n in target_names(unet, ("net.2",)))
