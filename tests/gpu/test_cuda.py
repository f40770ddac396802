"""The pipeline on a CUDA device; skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from micro import micro_pipeline, random_frames

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def run(device: str, dtype: torch.dtype) -> np.ndarray:
    pipe = micro_pipeline().to(device, dtype)
    picture, pose = random_frames(0, 48, 32, 3), random_frames(1, 48, 32, 3)
    return pipe(picture, random_frames(2, 9, 48, 32, 3), pose, num_inference_steps=3, seed=1)


def test_float32_equals_the_cpu() -> None:
    here, there = run("cpu", torch.float32), run("cuda", torch.float32)
    assert np.abs(here.astype(int) - there).max() <= 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(dtype: torch.dtype) -> None:
    here, there = run("cpu", torch.float32), run("cuda", dtype)
    assert np.abs(here.astype(int) - there).mean() < 8


def test_same_seed_same_frames() -> None:
    assert np.array_equal(run("cuda", torch.float32), run("cuda", torch.float32))
