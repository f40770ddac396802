"""Import every module of the installed package: `python scripts/import_all.py`, in an environment without extras.

Optional dependencies are imported where they are used; a module that cannot work without them raises one of our errors.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import mimicmotion
from mimicmotion.errors import MimicMotionError


def main() -> int:
    names = [m.name for m in pkgutil.walk_packages(mimicmotion.__path__, "mimicmotion.", onerror=lambda _: None)]
    failed = 0
    for name in names:
        if name.endswith("__main__"):
            continue
        try:
            importlib.import_module(name)
        except MimicMotionError as e:
            sys.stdout.write(f"{name}: {' '.join(str(e).split())}\n")
        except ImportError as e:
            failed += 1
            sys.stderr.write(f"{name}: {e}\n")
    sys.stdout.write(f"{len(names)} modules of {mimicmotion.__file__}, {failed} not imported\n")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
