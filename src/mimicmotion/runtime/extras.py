"""Packages that only some features need."""

from __future__ import annotations

import importlib
from typing import Any

from mimicmotion.errors import ConfigError


def import_extra(module: str, extra: str) -> Any:
    """Import a module of the optional packages `mimicmotion[extra]`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as e:
        fix = f"pip install 'mimicmotion[{extra}]'"
        raise ConfigError(f"{module.partition('.')[0]} is not installed", f"the packages of {extra!r}", fix) from e
