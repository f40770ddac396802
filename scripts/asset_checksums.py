"""Write the sha256 of every file shipped in the package to src/mimicmotion/assets/checksums.json.

Run it after adding or rebuilding an asset: `python scripts/asset_checksums.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

from mimicmotion.runtime.files import sha256_file

ASSETS = Path(__file__).parents[1] / "src" / "mimicmotion" / "assets"
TARGET = ASSETS / "checksums.json"


def main() -> None:
    files = sorted(p for p in ASSETS.rglob("*") if p.is_file() and p != TARGET and p.name[0] != ".")
    sums = {p.relative_to(ASSETS).as_posix(): sha256_file(p) for p in files}
    TARGET.write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")
    print(f"{len(sums)} files in {TARGET}")


if __name__ == "__main__":
    main()
