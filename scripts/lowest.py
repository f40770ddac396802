"""Print constraints that pin all direct dependencies but torch to their lowest minor versions.

For `pip install -c`. Code that works with these and with the newest releases should work in between.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def main() -> None:
    extras = PROJECT["optional-dependencies"].values()
    for line in sorted({*PROJECT["dependencies"], *(d for extra in extras for d in extra)}):
        found = re.fullmatch(r"([\w.-]+)(?:\[.*\])?>=([\d.]+)", line)
        if found and found[1] != "torch":
            sys.stdout.write(f"{found[1]}=={found[2]}.*\n")


if __name__ == "__main__":
    main()
