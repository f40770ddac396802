"""`make tiny`, all stages of the bundled model, at a few steps each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mimicmotion.pipeline import MimicMotionPipeline

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_tiny.py"
SHORT = ("optim.steps=2", "optim.warmup=0", "optim.decay=0", "validation.every=0", "phases=[]")


@pytest.mark.slow
def test_the_whole_chain_gives_a_model(tmp_path: Path) -> None:
    each = ["data.sample.num_frames=4", "detail.clips=1", "detail.perceptual=0.0", "warp.perceptual=0.0"]
    changes = [word for change in (*SHORT, *each) for word in ("--set", change)]
    small = ["--processes", "1", "--clips", "2", "--detail-clips", "1", "1", "--warp-clips", "1", "--held-out", "1"]
    command = [sys.executable, str(SCRIPT), *small, *changes]
    for _ in range(2):  # run again, it goes on where it was: everything is there
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    backbone = MimicMotionPipeline.from_pretrained(tmp_path / "runs" / "tiny" / "model").backbone
    assert backbone.name == "tiny"
    assert backbone.parts.detail is not None
    assert backbone.parts.warp is not None
