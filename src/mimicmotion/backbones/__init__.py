"""Base models, a folder each, behind one protocol (`mimicmotion.backbones.base.Backbone`).

A model folder names its backbone in mimicmotion.json. Other packages register one by an entry point of the group
`mimicmotion.backbones`: its name, and a subclass of `Backbone`.
"""

from __future__ import annotations

import importlib.metadata
import pkgutil
from pathlib import Path
from typing import Any

from mimicmotion.backbones.base import Backbone
from mimicmotion.errors import WeightsError
from mimicmotion.weights.locate import find_base, read_model_file

GROUP = "mimicmotion.backbones"
BUILT_IN = {
    "svd": "mimicmotion.backbones.svd.backbone:SVDBackbone",
    "tiny": "mimicmotion.backbones.tiny.backbone:TinyBackbone",
}


def find_backbone(name: str) -> type[Backbone]:
    """The class of a backbone, one of this package's or one that an installed package registers.

    Raises:
        WeightsError: there is none of this name.
    """
    if name in BUILT_IN:
        return pkgutil.resolve_name(BUILT_IN[name])
    others = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if name not in others:
        known = ", ".join([*BUILT_IN, *others])
        raise WeightsError(f"a model of the backbone {name!r}", f"one of {known}", "install the package it comes with")
    return others[name].load()


def backbone_of(parts: Any) -> Backbone:
    """The backbone of loaded networks (`mimicmotion.backbones.svd.checkpoint.Components`), by their settings."""
    warps = parts.settings.get("reference_warp", "none") != "none"
    found: Any = find_backbone("tiny" if warps else "svd")
    return found.of(parts)


def load_backbone(base: str | Path, checkpoint: str | Path | None = None, **options: Any) -> Backbone:
    """Load a model with the backbone that its folder names; a folder of Stable Video Diffusion itself names none.

    Args:
        base: folder, name of `mimicmotion weights list` or hub id.
        checkpoint: weights to put on the base.
        options: see `Backbone.load`; those that are None are left out.

    Raises:
        WeightsError: files are missing, damaged, or do not fit; or no such backbone is installed.
    """
    folder = find_base(base, full=checkpoint is None)
    return find_backbone(read_model_file(folder).get("backbone", "svd")).load(
        folder, checkpoint, **{k: v for k, v in options.items() if v is not None}
    )
