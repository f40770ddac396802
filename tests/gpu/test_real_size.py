"""The real model's shapes with random weights within 8 GB and 5 GB; skipped where there is no CUDA device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def test_long_and_short_segments_fit_and_are_as_predicted() -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "real_size.py"
    argv = [sys.executable, str(script), "--quick"]
    said = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=script.parent).stdout
    rows = [json.loads(line) for line in said.splitlines()]
    assert [(r["segment_frames"], r["budget_gb"]) for r in rows] == [(72, 8.0), (16, 5.0)]
    for row in rows:
        for stage in ("denoise", "decode"):
            assert row[f"{stage}_gib"] * 2**30 <= row["budget_gb"] * 1e9
            assert row[f"{stage}_gib"] == pytest.approx(row["predicted_gib"][stage], rel=0.15)
        assert not row["stepped_down"]
