"""Write requirements.lock: python scripts/lock.py (needs uv).

It pins every package that development and CI install, for all systems and Python versions, with file hashes. PyTorch is
not included: its CPU builds come from its own index, with different hashes than PyPI, so it is pinned by version
only (constraints.txt). The dependencies of its CUDA builds are left out as well.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
PYTORCH = re.compile(r"(torch|torchao|triton|(cuda|nvidia)-[\w-]+)==")


def compile_all() -> str:
    extras = [f"--extra={name}" for name in ("train", "dev", "audit")]
    how = ["--universal", "--python-version=3.11", "--generate-hashes", "--no-annotate", "--no-header", "--quiet"]
    command = ["uv", "pip", "compile", *how, *extras, "-c", "constraints.txt", "pyproject.toml"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def without_pytorch(text: str) -> str:
    packages = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    return "".join(package for package in packages if not PYTORCH.match(package))


if __name__ == "__main__":
    LOCK.write_text("# Made by `make lock`.\n" + without_pytorch(compile_all()), encoding="utf-8")
