"""Which metrics a run computes, which networks they need, and why others are left out."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimicmotion.errors import InputError, WeightsError
from mimicmotion.evaluation.metrics.seams import has_sidecars
from mimicmotion.evaluation.networks.faces import FaceInput, FaceNetwork
from mimicmotion.runtime.files import sha256_file
from mimicmotion.settings.evaluation import EvaluateConfig
from mimicmotion.settings.metrics import PLAIN
from mimicmotion.weights.registry import known


@dataclass(frozen=True, slots=True)
class Network:
    """A network that measures.

    Attributes:
        group: the metric that needs it, as --metrics calls it.
        title: what the number is called.
        path: its weights.
        digest: their checksum.
        length: frames a clip; 0 for LPIPS.
        load: opens it.
    """

    group: str
    title: str
    path: Path
    digest: str
    length: int
    load: Callable[[], Any]

    @property
    def metric(self) -> str:
        """Key of the number."""
        return self.group.replace("-", "_")


@dataclass(frozen=True, slots=True)
class Selection:
    """What is computed, and sentences on what is not."""

    groups: tuple[str, ...]
    networks: dict[str, Network] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


FETCHED = {"lpips": "lpips-alex", "lpips-vgg": "lpips-vgg", "fvd": "i3d"}
BY_PATH = ("fid", "fid-vid", "cd-fvd", "features")
I3D_MIN_FRAMES = 9


def select_metrics(config: EvaluateConfig) -> Selection:
    """The metrics asked for, or all that can be computed with what is here.

    Raises:
        WeightsError: a metric was asked for and its network is not here.
        InputError: it was asked for and cannot be computed with these settings or packages.
    """
    asked = list(dict.fromkeys(config.metrics)) if config.metrics is not None else None
    wanted = asked if asked is not None else _default(config)
    if config.poses and "poses" not in wanted:
        wanted.append("poses")
    groups, networks, notes = [], {}, []
    for group in wanted:
        try:
            network = _network(group, config)
        except (WeightsError, InputError) as e:
            if asked is not None:
                raise
            notes.append(f"{group} is not computed: {e.got}; {e.fix}")
            continue
        groups.append(group)
        if network is not None:
            networks[group] = network
    if asked is None:
        absent = [g for g in BY_PATH[:3] if getattr(config, g.replace("-", "_")) is None]
        if config.identity is None:
            notes.append("identity not computed: give a face network as ONNX by path (--identity)")
        if "seams" not in groups:
            notes.append(
                "seams not computed: give --segment-frames or --borders, or keep the OUTPUT.json of `generate`"
            )
        if absent:
            notes.append(
                f"{', '.join(absent)} not computed: no package index carries the networks; "
                f"give them by path ({', '.join('--' + g for g in absent)})"
            )
    if config.convention == "field":
        notes.append("PSNR, SSIM, L1 and LPIPS by the field's convention, under names of their own (see below)")
    return Selection(tuple(groups), networks, tuple(notes))


def _default(config: EvaluateConfig) -> list[str]:
    given = [g for g in (*BY_PATH, "identity") if getattr(config, g.replace("-", "_")) is not None]
    known = config.borders or config.segment_frames or any(map(has_sidecars, config.generated.values()))
    return [
        *PLAIN,
        *(["seams"] if known else []),
        "lpips-vgg" if config.convention == "field" else "lpips",
        "fvd",
        *given,
    ]


def _network(group: str, config: EvaluateConfig) -> Network | None:
    """The network of a metric; None where it needs none."""
    if group == "ssim" and importlib.util.find_spec("skimage") is None:
        raise InputError("scikit-image is not installed", "scikit-image", "pip install 'mimicmotion[eval]'")
    if group in FETCHED:
        return _fetched(group, config)
    if group in BY_PATH:
        return _by_path(group, config)
    if group == "identity":
        return _faces(config)
    return None


def _fetched(group: str, config: EvaluateConfig) -> Network:
    name, device = FETCHED[group], _device(config)
    path = config.i3d if group == "fvd" and config.i3d is not None else known(name).find()
    if path is None or not path.is_file():
        got = f"the weights {name!r} are not here" if path is None else f"{path} is not there"
        raise WeightsError(got, "fetched weights", f"mimicmotion weights fetch {name}")
    if group != "fvd":
        net = "alex" if group == "lpips" else "vgg"

        def load_lpips() -> Any:
            from mimicmotion.evaluation.metrics.lpips import load_lpips as load

            return load(net, path, device=device)

        return Network(group, "LPIPS", path, sha256_file(path), 0, load_lpips)
    if config.clip_frames < I3D_MIN_FRAMES:
        raise InputError(f"clips of {config.clip_frames} frames", f"at least {I3D_MIN_FRAMES} for I3D", "use 16")

    def load_i3d() -> Any:
        from mimicmotion.evaluation.networks.features import load_i3d as load

        return load(path, fit=config.fit, length=config.clip_frames, device=device)

    return Network(group, "FVD", path, sha256_file(path), config.clip_frames, load_i3d)


def _by_path(group: str, config: EvaluateConfig) -> Network:
    path, device = getattr(config, group.replace("-", "_")), _device(config)
    if path is None or not path.exists():
        fix = f"correct --{group}; no package index carries this network"
        raise WeightsError(f"{path} is not there", "the network's file", fix)
    length = 1 if group == "fid" else config.clip_frames

    def load() -> Any:
        from mimicmotion.evaluation.networks import features as f

        inputs = {"fid": f.FID_INPUT, "fid-vid": f.FID_VID_INPUT, "cd-fvd": f.IMAGENET_INPUT}
        metric = None if group == "features" else group.upper()
        preprocess = inputs.get(group, f.Preprocess(fit=config.fit))
        return f.load_network(path, path.stem, metric=metric, length=length, preprocess=preprocess, device=device)

    title = f"Frechet distance on {path.stem} features" if group == "features" else group.upper()
    return Network(group, title, path, _digest(path), length, load)


def _faces(config: EvaluateConfig) -> Network:
    path = config.identity
    if path is None or not path.is_file():
        raise WeightsError(f"{path} is not there", "a face network as ONNX", "correct --identity")
    convention = FaceInput(config.identity_size, config.identity_colours, config.identity_mean, config.identity_std)

    def load() -> Any:
        return FaceNetwork(path, convention)

    return Network("identity", f"identity by {path.stem}", path, sha256_file(path), 0, load)


def _digest(path: Path) -> str:
    if path.is_file():
        return sha256_file(path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return hashlib.sha256("".join(f"{sha256_file(p)} {p.relative_to(path)}\n" for p in files).encode()).hexdigest()


def _device(config: EvaluateConfig) -> str | None:
    return None if config.device == "auto" else config.device
