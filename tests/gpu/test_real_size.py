"""The real model's shapes with random weights: on GPUs of 8 and 5 GB, and the published procedure beside ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow
on_gpu = pytest.mark.gpu
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


def rows_of(name: str, *options: str) -> list[dict[str, Any]]:
    """What a benchmark prints."""
    script = Path(__file__).parents[2] / "benchmarks" / name
    argv = [sys.executable, str(script), *options]
    said = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=script.parent).stdout
    return [json.loads(line) for line in said.splitlines()]


@on_gpu
@needs_cuda
def test_long_and_short_segments_fit_and_are_as_predicted() -> None:
    rows = rows_of("real_size.py", "--quick")
    assert [(r["segment_frames"], r["gpu_gib"]) for r in rows] == [(72, 8), (16, 5)]
    for row in rows:
        for stage in ("denoise", "decode"):
            assert row[f"{stage}_gib"] <= row["budget_gib"]
            assert row[f"{stage}_gib"] == pytest.approx(row["predicted_gib"][stage], rel=0.15)
        assert not row["stepped_down"]


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=[on_gpu, needs_cuda]), "cpu"])
def test_both_sides_run_the_real_model(device: str) -> None:
    options = ["--size", "64", "64", "--tile", "4", "--frames", "4", "--steps", "1", "--repeats", "1"]
    (row,) = rows_of("released.py", "--model", "real", "--device", device, "--dtypes", "bfloat16", *options)
    assert (row["model"], row["device"], row["tile"], row["size"]) == ("real", device, 4, [64, 64])
    for side in ("released", "ours"):
        found = row[f"{side}_bfloat16"]
        assert found["seconds"] > 0
        weights = 2 * 1_500_000_000 / 2**20
        assert found["peak_mib" if device == "cpu" else "gpu_peak_mib"] > weights
