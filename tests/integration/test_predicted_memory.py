"""Predicted peaks of whole runs, way by way, against what the allocator hands out on a CPU."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mimicmotion.models.memory import weight_bytes
from mimicmotion.planning import Task

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TASK = Task(size=(128, 64), segment_rows=8, num_frames=11, chunk=3, latent_copies=1)
SCRATCH = 2**19
"""Bytes that kernels may take for themselves; the stages take 3 to 45 MiB."""
WAYS = ("one batch", "two passes", "two passes, 4 frames at once", "plain U-Net, one batch")


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("memory_prediction", BENCHMARKS / "memory_prediction.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


@pytest.mark.parametrize("way", WAYS)
def test_peaks_are_predicted_within_15_percent(benchmark: ModuleType, way: str) -> None:
    torch.manual_seed(0)
    pipe = benchmark.build_pipeline(quick=True)
    weights = weight_bytes(pipe.unet, pipe.vae, pipe.image_encoder, pipe.pose_net)
    rows = benchmark.compare(pipe, TASK, 2, [way])
    assert [r["stage"] for r in rows] == ["encode", "denoise", "decode"]
    for row in rows:
        # of the working space alone: the weights, of which nobody doubts, would hide an error
        off = abs(row["predicted"] - row["measured"])
        assert off <= 0.15 * (row["measured"] - weights) + SCRATCH, row
