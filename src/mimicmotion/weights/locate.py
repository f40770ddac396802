"""Locate a model folder or a checkpoint by its path, known name or hub id."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mimicmotion.errors import WeightsError
from mimicmotion.weights import registry as weights
from mimicmotion.weights.checks import read_json

SETTINGS_FILE, FORMAT = "mimicmotion.json", 1
PARTS = ("unet", "vae", "image_encoder", "pose_net")
OPTIONAL = ("detail", "warp")  # networks that only small models have
# transformers names the file of a network "model", diffusers "diffusion_pytorch_model".
FILE_NAMES = {part: "model" if part == "image_encoder" else "diffusion_pytorch_model" for part in (*PARTS, *OPTIONAL)}
LISTED = 10


def find_base(base: str | Path, full: bool = True) -> Path:
    """Return the folder of a base model. Known names and hub ids are downloaded, with the U-Net's weights if `full`."""
    path = Path(base)
    if path.is_dir():
        if (path / SETTINGS_FILE).is_file() or ((path / "unet").is_dir() and (path / "vae").is_dir()):
            return path
        names = ", ".join(sorted(p.name for p in path.iterdir())[:LISTED]) or "nothing"
        fix = "pass the folder that contains model_index.json, unet/, vae/ and image_encoder/"
        raise WeightsError(f"{path} contains {names}", "a model folder in diffusers' layout", fix)
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
    """Read mimicmotion.json in a model folder: its backbone, settings and files. Return {} if there is no such file.

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
    """Return the file of a checkpoint. Known names and hub ids (owner/name, owner/name/file) are downloaded."""
    path = Path(checkpoint)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".pth", ".safetensors") and p.name[0] != ".")
        files = [p for p in files if not (p.name.endswith(".pth.safetensors") and p.with_suffix("") in files)]
        if len(files) == 1:
            return files[0]
        names = ", ".join(p.name for p in files) or "none"
        expected, fix = "one .pth or .safetensors file", "pass the path of the file"
        raise WeightsError(f"{path} has {len(files)} checkpoints: {names}", expected, fix)
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
    """Download a model folder from any hub repository, with the fp16 variant of the weights if there is one."""
    for name in PARTS[:3]:
        weights.fetch_file(repo, f"{name}/config.json")
        if name == "unet" and not full:
            continue
        if not _fetch_if_present(repo, f"{name}/{FILE_NAMES[name]}.fp16.safetensors"):
            weights.fetch_file(repo, f"{name}/{FILE_NAMES[name]}.safetensors")
    files = {part: (f"{part}/config.json", f"{part}/{FILE_NAMES[part]}.safetensors") for part in FILE_NAMES}
    if _fetch_if_present(repo, SETTINGS_FILE) and _fetch_if_present(repo, *files["pose_net"]):  # has a pose input
        for part in OPTIONAL:
            _fetch_if_present(repo, *files[part])
    return weights.fetch_file(repo, "unet/config.json").parents[1]


def _fetch_if_present(repo: str, *names: str) -> bool:
    """Download files that a repository may lack, and return whether it has all of them."""
    try:
        for name in names:
            weights.fetch_file(repo, name)
    except WeightsError as e:
        if "HTTP 404" not in e.got:
            raise
        return False
    return True
