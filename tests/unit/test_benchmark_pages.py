"""Benchmarks of evaluation: what they measure around planted errors, and the tables they write to the documentation."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mimicmotion.evaluation.planted_errors import plant_error
from mimicmotion.pose.keypoints import L_ELBOW, LEFT_HAND, NECK, R_ELBOW, RIGHT_HAND
from mimicmotion.synth import SynthClip, render_clip
from scripts_of_repository import load

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # guards benchmarks and the tables they write


@pytest.fixture(scope="module")
def confidence() -> ModuleType:
    return load("benchmarks/confidence_quality.py")


@pytest.fixture(scope="module")
def clip() -> SynthClip:
    return render_clip(3, 2, (112, 64))


def test_only_what_the_error_moved_is_looked_at(confidence: ModuleType, clip: SynthClip) -> None:
    wrong = plant_error(clip.poses, "duplicate_detection", 1)
    moved = confidence.moved_points(clip, wrong)
    assert set(np.flatnonzero(moved.all(0))) == set(range(RIGHT_HAND.start, RIGHT_HAND.stop))
    exact = confidence.moved_points(clip, clip.poses)
    assert exact[:, [L_ELBOW, R_ELBOW]].all()
    assert exact[:, LEFT_HAND].all()
    assert not exact[:, NECK].any()
    mask = confidence.near(clip, wrong, moved)
    assert 0 < mask.mean() < 0.5
    for frame, points in zip(mask, wrong.xy, strict=True):  # also where the points were put
        x, y = np.clip(np.floor(points[RIGHT_HAND.start]).astype(int), 0, [63, 111])
        assert frame[y, x]


def test_true_frames_have_no_point_error(confidence: ModuleType, clip: SynthClip) -> None:
    moved = confidence.moved_points(clip, clip.poses)
    assert confidence.point_error(clip.frames, clip, moved) == 0
    shifted = np.roll(clip.frames, 3, 2)
    assert confidence.point_error(shifted, clip, moved) > 0.02


def record(psnr: float) -> dict:
    arms = {
        a: dict.fromkeys(("psnr_near", "psnr", "ssim"), psnr + (a == "on")) | {"point_error": float("nan")}
        for a in ("on", "off")
    }
    return {e: {"found": arms} for e in ("none", "duplicate_detection", "hand_on_wrong_hand", "occluded_elbow")}


def test_tables_of_a_run_stand_between_the_marks(confidence: ModuleType, tmp_path: Path) -> None:
    page, data = tmp_path / "page.md", tmp_path / "run.json"
    start, end = confidence.MARKS
    page.write_text(f"before\n{start}\nstale\n{end}\nafter\n")
    errors = confidence.summary([record(20.0), record(22.0)])
    assert errors["none"]["found"]["difference"]["psnr"] == [1.0, 1.0, 1.0]
    assert "point_error" not in errors["none"]["found"]["on"]  # undefined in every clip
    data.write_text("a warning\n" + json.dumps({"n": 2, "frames": 16, "errors": errors}) + "\n")
    confidence.write_tables(data, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"{end}\nafter\n")
    assert "stale" not in text
    assert "| occluded elbow | confidence − threshold | **1.00 [1.00, 1.00]** | – |" in text
    confidence.write_tables(data, page)
    assert page.read_text() == text
    assert all(mark in (ROOT / "docs" / "lab" / "confidence.md").read_text() for mark in confidence.MARKS)


def test_the_table_of_a_report_stands_between_the_marks(tmp_path: Path) -> None:
    speed = load("benchmarks/evaluation_speed.py")
    start, end = speed.MARKS
    (tmp_path / "report.md").write_text(
        "# E\n\n## Methods\n\ntwo\n\n| m | a |\n| --- | --- |\n| x | 1 |\n\n## Notes\n| n |\n"
    )
    page = tmp_path / "page.md"
    page.write_text(f"{start}\n\nstale\n{end}\nafter\n")
    speed.write_table(tmp_path, page)
    assert page.read_text() == f"{start}\n\n| m | a |\n| --- | --- |\n| x | 1 |\n\n{end}\nafter\n"
    assert all(mark in (ROOT / "docs" / "lab" / "evaluation.md").read_text() for mark in speed.MARKS)
