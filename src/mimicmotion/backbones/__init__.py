"""Base models behind a common interface, `mimicmotion.backbones.base.Backbone`.

The mimicmotion.json of a model folder names its backbone. Other packages can add backbones by registering subclasses of
`Backbone` as entry points in the group `mimicmotion.backbones`.
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
    """Look up a backbone class by name, among the built-in ones and those of installed plugins.

    Raises:
        WeightsError: no backbone has this name.
    """
    if name in BUILT_IN:
        return pkgutil.resolve_name(BUILT_IN[name])
    others = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if name not in others:
        known = ", ".join([*BUILT_IN, *others])
        fix = "install the package that provides it"
        raise WeightsError(f"the model needs the backbone {name!r}, which is not installed", f"one of {known}", fix)
    return others[name].load()


def backbone_of(parts: Any) -> Backbone:
    """Wrap loaded networks (`svd.checkpoint.Components`) in the backbone that their settings require."""
    warps = parts.settings.get("reference_warp", "none") != "none"
    backbone: Any = find_backbone("tiny" if warps else "svd")
    return backbone(parts)


def load_backbone(base: str | Path, checkpoint: str | Path | None = None, **options: Any) -> Backbone:
    """Load a model with the backbone named in its mimicmotion.json, or with SVD's by default.

    Args:
        base: model folder, name from `mimicmotion weights list`, or hub id.
        checkpoint: weights to load on top of the base.
        options: see `Backbone.load`; options that are None are ignored.

    Raises:
        WeightsError: files are missing or damaged, or do not match, or the backbone is not installed.
    """
    folder = find_base(base, full=checkpoint is None)
    return find_backbone(read_model_file(folder).get("backbone", "svd")).load(
        folder, checkpoint, **{k: v for k, v in options.items() if v is not None}
    )
