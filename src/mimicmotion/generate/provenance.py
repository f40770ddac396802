"""What a result comes from: settings, contents of inputs and weights, versions; and what differs between two of them.

A resumed run compares itself with the interrupted one, a replay with the sidecar of the result.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimicmotion import __version__
from mimicmotion.errors import ConfigError
from mimicmotion.generate.setup import run_device
from mimicmotion.runtime import run_folder
from mimicmotion.runtime.files import sha256_file
from mimicmotion.settings import GenerateConfig

if TYPE_CHECKING:
    from mimicmotion.pipeline import MimicMotionPipeline

Facts = dict[str, Any]

FREE_SETTINGS = frozenset(
    {
        # compared by their contents
        "picture",
        "video",
        "detector",
        "pose_model",
        "model",
        "checkpoint",
        # compared as what they stand for on this machine
        "device",
        "dtype",
        # the state and the sidecar lie beside it
        "output",
        # the same poses and latents (but for rounding, where other chunks compute them)
        "pose_cache",
        "pose_threads",
        "memory",
        "compile",
        "offload",
        # other files than the result
        "side_by_side",
        "preview",
        # of the signature, which is no part of what is compared
        "signer",
        # of the run, not of the result
        "resume",
        "save_every",
    }
)
"""Settings that may differ when an interrupted run goes on: the result does not change. All others are compared."""

PACKAGES = ("torch", "onnxruntime", "av", "opencv-python-headless", "numpy", "pillow")
"""Those that results depend on."""
CONTENTS = ("inputs", "weights", "model")
COMPARED = ("settings", *CONTENTS, "machine")
NOTED = ("machine", "versions", "runtime")
"""Where these differ the result is the same but for rounding."""
FULL_NAMES = {
    "settings": "setting {}",
    "inputs": "content of {}",
    "weights": "weights {}",
    "model": "setting {} of the model",
    "machine": "{}",
    "versions": "version of {}",
    "runtime": "number of {}",
}


class Checksums(dict[Path, str]):
    """Checksum of each path, made when first asked for."""

    def __missing__(self, path: Path) -> str:
        self[path] = sha256_path(path)
        return self[path]


def origin_of_inputs(config: GenerateConfig, sums: Checksums) -> Facts:
    """Settings and checksums of the inputs: all that is known before a model is loaded.

    Raises:
        InputError: an input cannot be read.
    """
    settings = {k: v for k, v in plain(dataclasses.asdict(config)).items() if k not in FREE_SETTINGS}
    named = {name: getattr(config, name) for name in ("picture", "video", "detector", "pose_model")}
    return {
        "settings": settings,
        "inputs": {name: sums[path] for name, path in named.items() if path is not None},
        "versions": versions(),
    }


def origin_of_model(config: GenerateConfig, pipe: MimicMotionPipeline, sums: Checksums) -> Facts:
    """Checksums of the weights, the model's own settings, and where it computes."""
    import torch

    # folder and name are the same for the same weights on every machine
    return {
        "weights": {"/".join(p.parts[-2:]): sums[p] for p in pipe.backbone.files} or {"in memory": fingerprint(pipe)},
        "model": plain(pipe.backbone.settings),
        "machine": {"device": run_device(config, pipe).type, "dtype": str(pipe.dtype).removeprefix("torch.")},
        "runtime": {"threads": torch.get_num_threads()},
    }


def plain(data: Any) -> Any:
    """What JSON makes of it: paths are text, tuples are lists."""
    return json.loads(json.dumps(data, default=str))


def installed(*packages: str) -> dict[str, str]:
    """Version of each package, or "missing"."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def versions() -> dict[str, str]:
    """Versions of this package and of those that results depend on."""
    found = {"mimicmotion": __version__, "python": sys.version.split()[0], **installed(*PACKAGES)}
    return {package: version for package, version in found.items() if version != "missing"}


def sha256_path(path: Path) -> str:
    """Checksum of a file, or of the names and contents of the files in a folder (not of folders in it).

    Raises:
        InputError: it cannot be read.
    """
    if not path.is_dir():
        return sha256_file(path)
    total = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.is_file()):
        total.update(f"{file.name} {sha256_file(file)}\n".encode())
    return total.hexdigest()


def fingerprint(pipe: MimicMotionPipeline) -> str:
    """Checksum of the networks of a pipeline that did not come from files."""
    import torch

    total = hashlib.sha256()
    for network in pipe.backbone.networks:
        for name, tensor in network.state_dict().items():
            total.update(name.encode())
            total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any], parts: Sequence[str] = COMPARED) -> list[str]:
    """One line for each thing that differs, in the parts that both have."""
    both = [part for part in parts if part in old and part in new]
    return [line for part in both for line in run_folder.differences(old[part], new[part], FULL_NAMES[part])]


def check_same(
    what: str, old: Mapping[str, Any], new: Mapping[str, Any], fix: str, parts: Sequence[str] = COMPARED
) -> None:
    """Refuse to go on from `old` with `new`.

    Args:
        what: whose facts `old` are, for the message.
        old: facts of the earlier run.
        new: facts of this run; parts that it lacks are not compared.
        fix: what helps.
        parts: what is compared.

    Raises:
        ConfigError: listing what differs.
    """
    if found := differences(old, new, parts):
        raise ConfigError(f"{what} is of another run:\n    " + "\n    ".join(found), "all as it was", fix)
