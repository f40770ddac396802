"""Versions of installed packages."""

from __future__ import annotations

import importlib.metadata

PACKAGES = ("torch", "onnxruntime", "av", "opencv-python-headless", "numpy", "pillow")
"""Those that results depend on."""


def installed(*packages: str) -> dict[str, str]:
    """Version of each package, or "missing"."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found
