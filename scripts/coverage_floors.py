"""Report the coverage of each package (lines and branches) from coverage's JSON, and fail below a floor.

python scripts/coverage_floors.py .coverage.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FLOOR = 85.0
GUARDED: dict[str, tuple[str, ...]] = {
    "diffusion": ("diffusion/",),
    "backbones": ("backbones/",),
    "pose": ("pose/",),
    "video": ("video/",),
    "generate": ("pipeline", "generate/job", "generate/inputs", "generate/outputs"),
}
"""Groups that have a floor, and the prefixes of their files' paths below src/mimicmotion."""
WEAK = 70.0
"""Files below this percentage are listed."""


def percent(summaries: Iterable[dict[str, Any]]) -> float:
    """Percentage of lines and branches that ran."""
    rows = list(summaries)
    ran = sum(r["covered_lines"] + r["covered_branches"] for r in rows)
    return 100 * ran / max(1, sum(r["num_statements"] + r["num_branches"] for r in rows))


def main(report: Path) -> int:
    """Print the tables, and return the number of groups below the floor."""
    files = json.loads(report.read_text())["files"]
    summaries = {name.partition("mimicmotion/")[2]: f["summary"] for name, f in files.items()}
    low = 0
    for group, starts in GUARDED.items():
        found = percent(s for name, s in summaries.items() if name.startswith(starts))
        low += found < FLOOR
        print(f"{group:<12}{found:6.1f}%{'' if found >= FLOOR else f'  below the floor of {FLOOR:.0f}%'}")
    print(f"{'all':<12}{percent(summaries.values()):6.1f}%\n")
    weak = sorted((percent([s]), name) for name, s in summaries.items() if s["num_statements"])
    for found, name in weak:
        if found < WEAK:
            print(f"{found:6.1f}%  {name}")
    return low


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
