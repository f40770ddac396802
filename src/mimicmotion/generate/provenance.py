"""Provenance of a result: settings, checksums of inputs and weights, versions.

A resumed run must match the provenance of the interrupted run; a replay must match the provenance in the sidecar.
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
    {"picture", "video", "detector", "pose_model", "model", "checkpoint"}  # compared by content
    | {"device", "dtype"}  # compared by what they resolve to on this machine
    | {"pose_cache", "memory", "compile", "offload"}  # affect the result by rounding at most
    | {"output", "side_by_side", "preview", "signer", "resume", "save_every"}  # do not affect the frames
)
"""Settings whose values may differ in a resumed run. All others are compared."""

PACKAGES = ("torch", "onnxruntime", "av", "opencv-python-headless", "numpy", "pillow")
"""Packages whose versions affect results."""
CONTENTS = ("inputs", "weights", "model")
COMPARED = ("settings", *CONTENTS, "machine")
NOTED = ("machine", "versions", "runtime")
"""Parts that affect the result by rounding only; differences are only noted."""
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
    """Mapping from path to SHA-256, computed on first access."""

    def __missing__(self, path: Path) -> str:
        self[path] = sha256_path(path)
        return self[path]


def inputs_provenance(config: GenerateConfig, sums: Checksums) -> Facts:
    """Return settings, package versions and checksums of the inputs, which are known before the model is loaded.

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


def model_provenance(config: GenerateConfig, pipe: MimicMotionPipeline, sums: Checksums) -> Facts:
    """Return checksums of the weights, the model's settings, device, dtype and number of threads."""
    import torch

    # the last folder and the file name are the same on every machine
    return {
        "weights": {"/".join(p.parts[-2:]): sums[p] for p in pipe.backbone.files},
        "model": plain(pipe.backbone.settings),
        "machine": {"device": run_device(config, pipe).type, "dtype": str(pipe.dtype).removeprefix("torch.")},
        "runtime": {"threads": torch.get_num_threads()},
    }


def plain(data: Any) -> Any:
    """Convert to JSON types: paths become strings, tuples lists."""
    return json.loads(json.dumps(data, default=str))


def installed(*packages: str) -> dict[str, str]:
    """Return the installed version of each package, or "missing"."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def versions() -> dict[str, str]:
    """Return the versions of this package, Python and the installed packages of `PACKAGES`."""
    found = {"mimicmotion": __version__, "python": sys.version.split()[0], **installed(*PACKAGES)}
    return {package: version for package, version in found.items() if version != "missing"}


def sha256_path(path: Path) -> str:
    """Compute the SHA-256 of a file, or of the names and contents of the files in a folder (without subfolders).

    Raises:
        InputError: a file cannot be read.
    """
    if not path.is_dir():
        return sha256_file(path)
    total = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.is_file()):
        total.update(f"{file.name} {sha256_file(file)}\n".encode())
    return total.hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any], parts: Sequence[str] = COMPARED) -> list[str]:
    """Describe each difference between two provenances in a line, for the parts that both contain."""
    both = [part for part in parts if part in old and part in new]
    return [line for part in both for line in run_folder.differences(old[part], new[part], FULL_NAMES[part])]


def check_same(
    what: str, old: Mapping[str, Any], new: Mapping[str, Any], fix: str, parts: Sequence[str] = COMPARED
) -> None:
    """Raise ConfigError with a list of the differences if two provenances differ.

    Args:
        what: description of `old` for the message.
        old: provenance of the earlier run.
        new: provenance of this run; parts that it lacks are not compared.
        fix: what the user can do, for the message.
        parts: parts to compare.
    """
    if found := differences(old, new, parts):
        raise ConfigError("\n    ".join([f"{what} is from another run:", *found]), "the same inputs and settings", fix)
