"""The benchmark of the tiers: it makes what the pipeline makes, and inserts its tables into the documentation."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.training.bundled import generate, held_out_clip
from scripts_of_repository import load

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # guards a benchmark and the tables it writes


@pytest.fixture(scope="module")
def tiers() -> ModuleType:
    return load("benchmarks/tiers.py")


def test_its_frames_are_those_of_the_pipeline(tiers: ModuleType) -> None:
    pipe = MimicMotionPipeline.from_pretrained()
    clip = held_out_clip(1, 2, (224, 128))
    frames, seconds = tiers.generate(
        pipe, clip, tiers.Variant(schedule="karras", num_inference_steps=2, guidance_scale=tiers.GUIDANCE), 5
    )
    expected = generate(pipe, clip, num_inference_steps=2, guidance_scale=tiers.GUIDANCE, seed=5)
    np.testing.assert_array_equal(frames, expected)
    assert 0 < seconds["denoise"] < seconds["all"]


def rows(*errors: float) -> list[dict[str, Any]]:
    row = {"pose": 1.0, "psnr_truth": 20.0, "pose_truth": 0.5, "lpips": None}
    return [row | {"seconds": {"denoise": 2.0 * e, "all": 4.0 * e}, "psnr": 40 * e} for e in errors]


def test_ratios_are_of_the_same_clip(tiers: ModuleType) -> None:
    table = tiers.summary({"exact": rows(1.0, 10.0, 1.0), "fast": rows(0.5, 2.5, 0.25)})
    assert table["exact"]["speedup_all"] == 1
    assert table["fast"]["speedup_denoise"] == 4
    low, high = table["fast"]["psnr"][1:]
    assert low < table["fast"]["psnr"][0] < high
    last = tiers.markdown(table).splitlines()[-1]
    assert last.startswith("| fast | 4.00 | 4.00 | 43.3 (")
    assert "not measured" in last  # no weights of LPIPS


def test_tables_stand_between_the_pages_markers(tiers: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    text = (ROOT / "docs" / "lab" / "speed-tiers.md").read_text()
    page.write_text(text)
    for marker in ("tiers", "tiers-released"):
        tiers.put(page, marker, "| new |\n")
        tiers.put(page, marker, "| new |\n")
    changed = page.read_text()
    assert changed.count("| new |") == 2
    assert changed.partition("<!-- tiers-released:")[0] == text.partition("<!-- tiers-released:")[0]
    assert changed.rpartition("<!-- tiers:end")[2] == text.rpartition("<!-- tiers:end")[2]
    with pytest.raises(SystemExit, match="no markers other"):
        tiers.put(page, "other", "")
