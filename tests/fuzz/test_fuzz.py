"""2,000 damaged files of every format that is read: each gives a result or one of our errors, within limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KINDS = ("poses", "openpose", "settings", "results", "study", "pictures")


def fuzz(*arguments: str) -> tuple[list[dict[str, object]], dict[str, float]]:
    """The bad cases, and the counts."""
    path = os.pathsep.join([str(HERE), os.environ["PYTHONPATH"]])
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, str(HERE / "fuzzing.py"), *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    *bad, counts = map(json.loads, done.stdout.splitlines())
    return bad, counts


def test_a_few_damaged_files_are_read_or_refused() -> None:
    bad, counts = fuzz("--share", "0.03", *(word for kind in KINDS for word in ("--only", kind)))
    assert not bad, bad
    assert counts["inputs"] > 20
    assert counts["refused"] > counts["inputs"] / 3


@pytest.mark.slow
def test_two_thousand_damaged_files_are_read_or_refused() -> None:
    bad, counts = fuzz()
    assert not bad, bad
    assert counts["inputs"] == 2000
