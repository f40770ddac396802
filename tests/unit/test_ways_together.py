"""Combined ways to run: execution options, quantised weights, compiled blocks and offloaded weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from micro import micro_pipeline, random_frames
from mimicmotion.backbones.svd.execution.levels import fallback_levels, plan_execution
from mimicmotion.backbones.svd.execution.memory import weight_bytes
from mimicmotion.backbones.svd.execution.options import Execution
from mimicmotion.backbones.svd.execution.plan import ExecutionPlan
from mimicmotion.backbones.svd.execution.predict import Predictor, Workload
from mimicmotion.backbones.svd.execution.quantize import quantize_weights
from mimicmotion.errors import ConfigError
from mimicmotion.generate.setup import load
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.settings import ExecutionOptions, GenerateConfig

pytestmark = pytest.mark.whole

SIZE, FRAMES = (32, 32), 7
IMAGE, POSES = random_frames(1, *SIZE, 3), random_frames(2, FRAMES, *SIZE, 3)
REFERENCE = random_frames(3, *SIZE, 3)
CHUNKS = Execution(frame_chunk=2, position_chunk=3, feed_forward_chunk=7, channels_last=True)


def latents(pipe: MimicMotionPipeline) -> torch.Tensor:
    return pipe(IMAGE, POSES, reference_pose=REFERENCE, output_type="latent", seed=1).frames


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("format", ["int8", "fp8"])
def test_quantised_weights_run_in_any_way(format: Any) -> None:
    pytest.importorskip("torchao", reason="torchao is not installed (extra 'fast')")
    pipe, other = micro_pipeline(), micro_pipeline()
    exact, wide = latents(pipe), weight_bytes(pipe.backbone.unet)
    work = Workload(size=SIZE, segment_frames=6, num_frames=FRAMES)
    peaks = [plan_execution(Predictor(pipe.backbone), work, 1 << 40, ExecutionOptions()).peaks]
    quantize_weights(pipe.backbone.unet, format)
    assert weight_bytes(pipe.backbone.unet) < 0.7 * wide
    peaks.append(plan_execution(Predictor(pipe.backbone), work, 1 << 40, ExecutionOptions()).peaks)
    assert peaks[1]["decode"] < peaks[0]["decode"] - 0.25 * wide
    narrow = latents(pipe)
    assert difference(narrow, exact) > 1e-3
    pipe.backbone.configure(ExecutionPlan(unet=CHUNKS))
    assert difference(latents(pipe), narrow) < 1e-4
    pipe.backbone.configure(ExecutionPlan())
    assert torch.equal(latents(pipe), narrow)
    for offload in ("modules", "blocks"):
        pipe.backbone.configure(ExecutionPlan(offload=offload))
        assert torch.equal(latents(pipe), narrow)
    other.backbone.configure(ExecutionPlan(unet=CHUNKS))
    quantize_weights(other.backbone.unet, format)
    assert difference(latents(other), narrow) < 1e-4


def test_a_given_pipeline_is_not_quantised() -> None:
    pipe = micro_pipeline()
    config = GenerateConfig(picture=Path("a.png"), video=Path("b.mp4"), output=Path("c.mp4"), quantize="int8")
    before = weight_bytes(pipe.backbone.unet)
    with pytest.raises(ConfigError, match="backbone.quantize"):
        list(load(config, pipe))
    assert weight_bytes(pipe.backbone.unet) == before
    pytest.importorskip("torchao", reason="torchao is not installed (extra 'fast')")
    quantize_weights(pipe.backbone.unet, "int8")
    list(load(config, pipe))


def test_compiled_blocks_hold_their_weights() -> None:
    with pytest.raises(ConfigError, match="compile together with"):
        ExecutionOptions(compile=True, offload="blocks")


def test_the_last_fallback_level_gives_up_compiled_blocks() -> None:
    plan = ExecutionPlan(unet=Execution(compile=True))
    levels = list(fallback_levels(plan, "denoise", (6, 4, 4), may_offload=True))
    assert [(p.offload, p.unet.compile) for p in levels[-2:]] == [("modules", True), ("blocks", False)]
    assert [p.offload for p in fallback_levels(plan, "denoise", (6, 4, 4), may_offload=False)] == ["none"] * 3
