"""Optional dependencies."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mimicmotion.errors import ConfigError


def import_extra(module: str, extra: str) -> Any:
    """Import a module of the optional dependencies `mimicmotion[extra]`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as e:
        fix = install_command(extra)
        raise ConfigError(f"{module.partition('.')[0]} is not installed", f"the {extra!r} extra", fix) from e


def install_command(extra: str) -> str:
    """Return the pip command for an extra, from where this package was installed: a checkout, repository or index."""
    try:
        text = importlib.metadata.distribution("mimicmotion").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:  # a checkout on PYTHONPATH, not installed
        return f"pip install '.[{extra}]' in the checkout"
    origin = json.loads(text) if text else {}
    url = origin.get("url", "")
    if "dir_info" in origin:
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f"pip install {editable}'{Path(url2pathname(urlsplit(url).path))}[{extra}]'"
    vcs = origin.get("vcs_info", {})
    source = f"{vcs['vcs']}+{url}@{vcs['commit_id']}" if vcs else url
    return f"pip install 'mimicmotion[{extra}]{f' @ {source}' if source else ''}'"


def check_extra(extra: str, *modules: str) -> None:
    """Check that modules of the optional dependencies `mimicmotion[extra]` are installed, without importing them.

    Raises:
        ConfigError: one is not installed.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            import_extra(module, extra)
