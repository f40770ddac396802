"""Predicted peaks of whole runs for each plan, against what the allocator hands out on a CPU."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from mimicmotion.backbones.svd.execution.memory import weight_bytes
from mimicmotion.backbones.svd.execution.plan import ExecutionPlan
from mimicmotion.backbones.svd.execution.predict import Predictor, Workload
from mimicmotion.pipeline import MimicMotionPipeline
from scripts_of_repository import load

WORK = Workload(size=(192, 128), segment_frames=8, num_frames=11, clip_frames=3, latent_copies=2)
SCRATCH = 2**19
"""Bytes that kernels may take for themselves; the stages take 3 to 45 MiB."""
WAYS = ("one batch", "two passes", "two passes, 4 chunks", "one batch, channels first")


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load("benchmarks/memory_prediction.py")


@pytest.fixture(scope="module")
def bundled() -> MimicMotionPipeline:
    return MimicMotionPipeline.from_pretrained()


@pytest.mark.parametrize(
    ("way", "dtype"),
    [
        ("one batch", torch.float32),
        *(pytest.param(way, torch.float32, marks=pytest.mark.slow) for way in WAYS[1:]),
        *(pytest.param(way, torch.bfloat16, marks=pytest.mark.slow) for way in WAYS),
    ],
)
def test_peaks_are_predicted_within_15_percent(benchmark: ModuleType, way: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    pipe = benchmark.build_pipeline(quick=True, dtype=dtype)
    weights = weight_bytes(pipe.backbone.unet, pipe.backbone.vae, pipe.backbone.image_encoder, pipe.backbone.pose_net)
    rows = benchmark.compare(pipe, WORK, 2, [way])
    assert [r["stage"] for r in rows] == ["encode", "denoise", "decode"]
    for row in rows:
        # of the working memory alone, since the weights would hide an error
        off, work = row["predicted"] - row["measured"], row["measured"] - weights
        assert abs(off) <= 0.15 * work + SCRATCH, row


def test_the_detail_network_is_predicted(benchmark: ModuleType, bundled: MimicMotionPipeline) -> None:
    torch.manual_seed(0)
    assert bundled.backbone.detail is not None
    work = Workload(size=(128, 192), segment_frames=8, num_frames=11)
    said = Predictor(bundled.backbone)._pass("detail", *[(1, 3, *work.size)] * 5)
    inputs = [torch.rand(1, 3, *work.size) for _ in range(5)]
    recorder = benchmark.Recorder()
    with torch.inference_mode(), recorder.stages(), recorder.stage("detail"):
        bundled.backbone.detail(*inputs)
    found = recorder.peaks["detail"]
    assert abs(said - found - sum(x.nbytes for x in inputs)) <= 0.15 * found + SCRATCH


def test_the_detail_network_counts_in_the_peaks() -> None:
    pipe = MimicMotionPipeline.from_pretrained()
    work = Workload(size=(256, 384), segment_frames=8, num_frames=2, clip_frames=1, warped=True, guided=False)
    with_detail = Predictor(pipe.backbone).peaks(ExecutionPlan(), work)
    weights = weight_bytes(pipe.backbone.detail)
    pipe.backbone.detail = None
    without = Predictor(pipe.backbone).peaks(ExecutionPlan(), work)
    assert all(with_detail[stage] - without[stage] == weights for stage in ("encode", "denoise"))
    assert with_detail["decode"] - without["decode"] >= weights


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("side", [64, 320])
def test_the_upper_bound_is_one(side: int, guided: bool, bundled: MimicMotionPipeline) -> None:
    for frames, chunk, cached in ((8, 8, 0), (24, 1, 3)):
        work = Workload(
            size=(side, 2 * side),
            segment_frames=frames,
            num_frames=3 * frames,
            guided=guided,
            clip_frames=chunk,
            warped=True,
            cached_segments=cached,
        )
        predictor = Predictor(bundled.backbone)
        assert max(predictor.peaks(ExecutionPlan(), work).values()) <= predictor.upper_bound(work)
