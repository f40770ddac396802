"""Choosing the metrics of a run and their networks, with notes on metrics that are left out."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from mimicmotion.errors import InputError, WeightsError
from mimicmotion.evaluation.metrics.identity import FaceNetwork
from mimicmotion.evaluation.metrics.temporal import has_sidecars
from mimicmotion.evaluation.networks import features
from mimicmotion.evaluation.videos import content_digest
from mimicmotion.runtime.extras import install_command
from mimicmotion.settings.evaluation import EvaluateConfig
from mimicmotion.settings.metrics import PLAIN
from mimicmotion.weights.registry import known


@dataclass(frozen=True, slots=True)
class MetricNetwork:
    """A network behind a metric.

    Attributes:
        group: name of the metric in --metrics.
        title: title of the metric.
        path: file or folder of the weights.
        digest: checksum of the weights.
        length: frames per clip; 0 for networks of single frames.
        load: returns the network, which is loaded on the first call.
    """

    group: str
    title: str
    path: Path
    digest: str
    length: int
    load: Callable[[], Any]


CLIP_FRAMES = 16
"""Frames per clip of a Frechet distance."""
BY_PATH = ("fid", "fid-vid", "cd-fvd", "features")
_INPUTS = {"fid": features.FID_INPUT, "fid-vid": features.FID_VID_INPUT, "cd-fvd": features.IMAGENET_INPUT}


def select_metrics(config: EvaluateConfig) -> tuple[dict[str, MetricNetwork | None], list[str]]:
    """Return the metrics to compute with their networks (None if a metric needs none), and notes on omitted ones.

    These are the requested metrics, or by default all that can be computed.

    Raises:
        WeightsError: the network of a requested metric is not installed.
        InputError: a requested metric cannot be computed with these settings or packages.
    """
    networks: dict[str, MetricNetwork | None] = {}
    notes = []
    for group in dict.fromkeys(config.metrics or _default(config)):
        try:
            networks[group] = _network(group, config)
        except (WeightsError, InputError) as e:
            if config.metrics:
                raise
            notes.append(f"{group} is not computed: {e.got}; {e.fix}")
    if not config.metrics:
        notes += _not_given(config, networks)
    if config.convention == "field":
        notes.append("PSNR, SSIM, L1 and LPIPS follow the field's convention and have their own names (see below)")
    return networks, notes


def _default(config: EvaluateConfig) -> list[str]:
    given = [g for g in BY_PATH if _path(g, config) is not None]
    given += ["poses"] if config.driving else []
    given += ["identity"] if _path("identity", config) else []
    known = config.borders or any(map(has_sidecars, config.generated.values()))
    lpips = "lpips-vgg" if config.convention == "field" else "lpips"
    return [*PLAIN, *(["seams"] if known else []), lpips, "fvd", *given]


def _not_given(config: EvaluateConfig, groups: Collection[str]) -> list[str]:
    """Notes on metrics that are left out, and on how to get them."""
    notes = []
    if "identity" not in groups:
        notes.append("identity not computed: `mimicmotion weights fetch faces`, or give a network with --identity")
    if "seams" not in groups:
        notes.append("seams not computed: give --borders, or keep the OUTPUT.json of `generate`")
    absent = [g for g in BY_PATH[:3] if _path(g, config) is None]
    if absent:
        options = ", ".join("--" + g for g in absent)
        why = f"no package index has the networks; give them by path ({options})"
        notes.append(f"{', '.join(absent)} not computed: {why}")
    return notes


def _path(group: str, config: EvaluateConfig) -> Path | None:
    given = getattr(config, group.replace("-", "_"))
    return known("faces").find() if group == "identity" and given is None else given


def _network(group: str, config: EvaluateConfig) -> MetricNetwork | None:
    """Return the network of a metric; None if it needs none."""
    length = 1 if group == "fid" else CLIP_FRAMES
    if group == "ssim" and importlib.util.find_spec("skimage") is None:
        raise InputError("scikit-image is not installed", "scikit-image", install_command("eval"))
    if group in ("lpips", "lpips-vgg"):
        net: features.Net = "alex" if group == "lpips" else "vgg"
        path = features.weights_path(f"lpips-{net}", None)
        title, length, load = "LPIPS", 0, partial(features.load_lpips, net, path)
    elif group == "fvd":
        path = features.weights_path("i3d", config.i3d)
        title, load = "FVD", partial(features.load_i3d, path, length=length)
    elif group == "identity":
        path = _given(group, config)
        title, length, load = f"identity by {path.stem}", 0, partial(FaceNetwork, path)
    elif group in BY_PATH:
        path = _given(group, config)
        title = f"Frechet distance on {path.stem} features" if group == "features" else group.upper()
        preprocess = _INPUTS.get(group, features.I3D_INPUT)
        load = partial(features.load_network, path, path.stem, length=length, preprocess=preprocess)
    else:
        return None
    return MetricNetwork(group, title, path, content_digest(path, Path.is_file), length, cache(load))


def _given(group: str, config: EvaluateConfig) -> Path:
    path = _path(group, config)
    if path is None or not path.exists():
        fix = f"correct --{group}; this network is not on a package index"
        if group == "identity":
            fix = "`mimicmotion weights fetch faces`, or correct --identity"
        raise WeightsError(f"{path} does not exist" if path else f"no --{group}", "the network's file", fix)
    return path
