"""Benchmarks and scripts as modules, for their tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def load(path: str) -> ModuleType:
    """The file, such as "benchmarks/tiers.py", run as a module; its neighbours can be imported meanwhile."""
    file = ROOT / path
    sys.path.insert(0, str(file.parent))
    try:
        spec = importlib.util.spec_from_file_location(path.removesuffix(".py").replace("/", "_"), file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look for their module there
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(file.parent))
    return module
