"""The pipeline on a CUDA device; skipped if there is none."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from micro import micro_pipeline, random_frames
from mimicmotion.backbones.svd.execution.memory import weight_bytes
from mimicmotion.backbones.svd.execution.offload import OffloadedBlocks
from mimicmotion.backbones.svd.execution.plan import ExecutionPlan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def run(device: str, dtype: torch.dtype, plan: ExecutionPlan | None = None) -> np.ndarray:
    pipe = micro_pipeline().to(device, dtype)
    if plan is not None:
        pipe.backbone.configure(plan)
    picture, pose = random_frames(0, 48, 32, 3), random_frames(1, 48, 32, 3)
    return pipe(picture, random_frames(2, 9, 48, 32, 3), pose, num_inference_steps=3, seed=1).frames


def test_float32_equals_the_cpu() -> None:
    here, there = run("cpu", torch.float32), run("cuda", torch.float32)
    assert np.abs(here.astype(int) - there).max() <= 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(dtype: torch.dtype) -> None:
    here, there = run("cpu", torch.float32), run("cuda", dtype)
    assert np.abs(here.astype(int) - there).mean() < 8


def test_same_seed_same_frames() -> None:
    assert np.array_equal(run("cuda", torch.float32), run("cuda", torch.float32))


@pytest.mark.parametrize("offload", ["modules", "blocks"])
def test_offloaded_weights_change_nothing(offload: str) -> None:
    plain = run("cuda", torch.float16)
    assert np.array_equal(run("cuda", torch.float16, ExecutionPlan(offload=offload)), plain)  # type: ignore[arg-type]


def test_blocks_are_loaded_on_a_second_stream_in_time_and_two_at_most() -> None:
    """Large weights and slow kernels, so that a copy or a reuse of memory at the wrong time would show."""
    device = torch.device("cuda")
    plain = nn.Sequential(*(nn.Linear(4096, 4096) for _ in range(8))).half().to(device)  # 32 MiB a block
    waiting = copy.deepcopy(plain)
    offloaded = OffloadedBlocks(waiting, list(waiting), device)
    offloaded.load()
    size = weight_bytes(plain[0])
    x = torch.randn(4096, 4096, device=device, dtype=torch.float16)
    with torch.inference_mode():
        want = plain(x)
        waiting(x)  # workspaces of matrix products, and the first block for the next pass
        offloaded.unload()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for _ in range(20):
            assert torch.equal(waiting(x), want)
    peak = torch.cuda.max_memory_allocated() - before
    assert peak < 2 * size + 4 * x.nbytes, "two blocks, and input, result and what compares them"
    offloaded.release()
    assert all(p.device.type == "cpu" for p in waiting.parameters())
