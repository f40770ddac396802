"""Locating a model's folder or checkpoint, given a path, a known name, or a hub id."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mimicmotion.errors import WeightsError
from mimicmotion.weights import registry as weights
from mimicmotion.weights.checks import read_json

SETTINGS_FILE, FORMAT = "mimicmotion.json", 1
PARTS = ("unet", "vae", "image_encoder", "pose_net")
OPTIONAL = ("detail", "warp")  # parts of some small models
# transformers names the file of a network "model", diffusers "diffusion_pytorch_model".
FILE_NAMES = {part: "model" if part == "image_encoder" else "diffusion_pytorch_model" for part in (*PARTS, *OPTIONAL)}
LISTED = 10


def find_base(base: str | Path, full: bool = True) -> Path:
    """Folder of a base model; known names and hub ids are fetched, with the U-Net's weights if `full`."""
    path = Path(base)
    if path.is_dir():
        if (path / SETTINGS_FILE).is_file() or ((path / "unet").is_dir() and (path / "vae").is_dir()):
            return path
        holds = ", ".join(sorted(p.name for p in path.iterdir())[:LISTED]) or "nothing"
        fix = "pass the folder that contains model_index.json, unet/, vae/ and image_encoder/"
        raise WeightsError(f"{path} contains {holds}", "a model folder in diffusers' layout", fix)
    if path.exists():
        fix = "pass the folder of a base model as the model, and this file as the checkpoint"
        raise WeightsError(f"{path} is a file", "a model folder in diffusers' layout", fix)
    for w in weights.KNOWN:
        if str(base) in (w.name, w.repo) and "unet/config.json" in [f.path for f in w.files]:
            return weights.fetch(f"{w.name}-full" if full and w.name == "svd-xt-1.1" else w.name)
        if str(base) == w.name and w.repo is None:
            return weights.fetch(w.name)
    if _is_hub_id(base):
        return _fetch_folder(str(base), full)
    fix = "check the path; weights known by name: " + ", ".join(w.name for w in weights.KNOWN)
    raise WeightsError(f"no model folder {base}", "a folder, a known name or a hub id (owner/name)", fix)


def read_model_file(folder: Path) -> dict[str, Any]:
    """Content of mimicmotion.json in a model folder: backbone, settings, files; empty without the file.

    Raises:
        WeightsError: it is damaged or has a newer format, or a listed file is missing or has another size.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return {}
    data = read_json(path)
    if data.get("format", FORMAT) != FORMAT:
        raise WeightsError(f"{path} has format {data['format']}", f"format {FORMAT}", "update mimicmotion")
    settings, files = data.get("settings", {}), data.get("files", {})
    try:
        sizes = {folder / name: entry["size"] for name, entry in files.items()}
    except (AttributeError, KeyError, TypeError):
        sizes = None
    if sizes is None or not isinstance(settings, dict) or not isinstance(data.get("backbone", ""), str):
        raise WeightsError(f"{path} is damaged", "settings, backbone and files of a model", "copy or fetch it again")
    for file, want in sizes.items():
        size = file.stat().st_size if file.is_file() else None
        if size != want:
            got = f"{file} is missing" if size is None else f"{file} has {size} bytes"
            raise WeightsError(got, f"{want} bytes", "the model is not complete: copy or fetch it again")
    if "backbone" not in data and settings.get("reference_warp", "none") != "none":
        data["backbone"] = "tiny"  # older model folders do not name their backbone
    return data


def find_checkpoint(checkpoint: str | Path) -> Path:
    """File of a checkpoint; known names and hub ids (owner/name, owner/name/file) are fetched."""
    path = Path(checkpoint)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in (".pth", ".safetensors") and p.name[0] != ".")
        found = [p for p in found if not (p.name.endswith(".pth.safetensors") and p.with_suffix("") in found)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(p.name for p in found) or "none"
        raise WeightsError(f"{path} has {len(found)} checkpoints: {names}", "one .pth or .safetensors", "choose one")
    if path.exists():
        return path
    for w in weights.KNOWN:
        if str(checkpoint) in (w.name, w.repo) and len(w.files) == 1 and w.repo:
            return weights.fetch(w.name)
    repo, _, name = str(checkpoint).rpartition("/")
    if _is_hub_id(repo) and Path(name).suffix in (".pth", ".safetensors"):
        return weights.fetch_file(repo, name)
    fix = "check the path, or use `mimicmotion weights fetch mimicmotion-1.1`"
    raise WeightsError(f"no checkpoint {checkpoint}", "a .pth or .safetensors file, a known name or a hub id", fix)


def _is_hub_id(text: str | Path) -> bool:
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(text)) is not None


def _fetch_folder(repo: str, full: bool) -> Path:
    """Fetch a model folder that is not a known one, in the fp16 or else the plain variant."""
    for name in PARTS[:3]:
        weights.fetch_file(repo, f"{name}/config.json")
        if name == "unet" and not full:
            continue
        if not _fetched(repo, f"{name}/{FILE_NAMES[name]}.fp16.safetensors"):
            weights.fetch_file(repo, f"{name}/{FILE_NAMES[name]}.safetensors")
    files = {part: (f"{part}/config.json", f"{part}/{FILE_NAMES[part]}.safetensors") for part in FILE_NAMES}
    if _fetched(repo, SETTINGS_FILE) and _fetched(repo, *files["pose_net"]):  # not a base model without pose input
        for part in OPTIONAL:
            _fetched(repo, *files[part])
    return weights.fetch_file(repo, "unet/config.json").parents[1]


def _fetched(repo: str, *names: str) -> bool:
    """Fetch files that a repository may lack; returns whether it has them all."""
    try:
        for name in names:
            weights.fetch_file(repo, name)
    except WeightsError as e:
        if "HTTP 404" not in e.got:
            raise
        return False
    return True
