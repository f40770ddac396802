"""Base models behind a common interface, `mimicmotion.backbones.base.Backbone`.

A model folder names its backbone in mimicmotion.json. Other packages can add backbones: subclasses of `Backbone` that
they register as entry points of the group `mimicmotion.backbones`.
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
    """Look up the class of a backbone of this package or of an installed plugin.

    Raises:
        WeightsError: there is no backbone with this name.
    """
    if name in BUILT_IN:
        return pkgutil.resolve_name(BUILT_IN[name])
    others = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if name not in others:
        known = ", ".join([*BUILT_IN, *others])
        raise WeightsError(f"the model needs the backbone {name!r}", f"one of {known}", "install its package")
    return others[name].load()


def backbone_of(parts: Any) -> Backbone:
    """Build the backbone for loaded networks (`svd.checkpoint.Components`), according to their settings."""
    warps = parts.settings.get("reference_warp", "none") != "none"
    found: Any = find_backbone("tiny" if warps else "svd")
    return found(parts)


def load_backbone(base: str | Path, checkpoint: str | Path | None = None, **options: Any) -> Backbone:
    """Load a model with the backbone named in its folder, or with SVD's if it names none.

    Args:
        base: folder, name from `mimicmotion weights list`, or hub id.
        checkpoint: weights to load on top of the base.
        options: see `Backbone.load`; options that are None are ignored.

    Raises:
        WeightsError: files are missing or damaged, or do not match, or the backbone is not installed.
    """
    folder = find_base(base, full=checkpoint is None)
    return find_backbone(read_model_file(folder).get("backbone", "svd")).load(
        folder, checkpoint, **{k: v for k, v in options.items() if v is not None}
    )
