"""The checks for a GPU, rehearsed on the CPU at small size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # guards a script that measures, as a benchmark does
SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_checks.py"


def checked(out: Path, *parts: str) -> dict[str, Any]:
    argv = [sys.executable, str(SCRIPT), "--device", "cpu", "--small", "--out", str(out), "--only", *parts]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


def test_goldens_plans_decoding_and_a_training_step(tmp_path: Path) -> None:
    found = checked(tmp_path / "checks.json", "goldens", "plans", "decode", "lora")
    parts = {name: part["rows"] for name, part in found["parts"].items()}
    assert sorted(r["case"] for r in parts["goldens"]) == ["aug_ramp", "one_tile", "ragged_tiles"]
    assert all(r["ok"] for r in parts["goldens"])
    assert [r["budget_gb"] for r in parts["plans"]] == [8, 16, 24, 80]
    assert all(r["predicted_gib"]["denoise"] > 0 and r["denoise_seconds"] > 0 for r in parts["plans"])
    assert parts["decode"][0]["frames"] == 16
    assert parts["lora"][0]["samples_per_second"] > 0


def test_the_published_procedure_beside_ours(tmp_path: Path) -> None:
    rows = checked(tmp_path / "checks.json", "exact")["parts"]["exact"]["rows"]
    assert [r["side"] for r in rows] == ["published", "ours, eager", "ours, compiled"]
    assert all(r["seconds"] > 0 for r in rows)


def test_a_failed_part_is_reported_and_sets_the_exit_status(tmp_path: Path) -> None:
    code = (
        f"import runpy, sys; sys.argv = ['gpu_checks.py']; m = runpy.run_path({str(SCRIPT)!r}, run_name='checks');"
        "s = m['Setup']('cpu', True);"
        "print([r for r in m['rows_of']('goldens', s, 0.01)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "stopped after its limit" in done.stdout
