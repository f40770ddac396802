"""Read tensors and load them into networks, strictly, without running pickled code, and with little memory."""

from __future__ import annotations

import hashlib
import logging
import math
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mimicmotion.errors import WeightsError
from mimicmotion.runtime.files import atomic_path
from mimicmotion.weights import registry as weights
from mimicmotion.weights.checks import checksum

logger = logging.getLogger(__name__)

Target = tuple[torch.device, torch.dtype]
LISTED = 10
DAMAGED = "the file is truncated or damaged: delete it and fetch or copy it again"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors or .pth file, memory-mapped if the format allows it.

    A .pth file is read without running code from it (`weights_only`), and converted once to safetensors in the cache.

    Raises:
        WeightsError: the file is missing, truncated, of another format, or not a plain dictionary of tensors.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is missing", "a .safetensors or .pth file", "check the path")
    weights.check_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_safetensors(copy) if (copy := convert_pth(path)) else _read_pth(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as f:
            return {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
    except Exception as e:  # a damaged file can raise anything
        raise WeightsError(f"{path}: {e}", "a complete .safetensors file", DAMAGED) from e


def _read_pth(path: Path) -> dict[str, Tensor]:
    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as e:
        fix = "fetch the file again; if it contains anything but tensors, this package will not run code from it"
        raise WeightsError(f"{path}: not a plain checkpoint", "a .pth file with tensors only", fix) from e
    except Exception as e:  # a damaged pickle can raise anything
        why = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise WeightsError(f"{path}: {why}", "a complete .pth file", DAMAGED) from e
    if isinstance(data, Mapping) and isinstance(data.get("state_dict"), Mapping):  # as training loops save it
        data = data["state_dict"]
    if not isinstance(data, Mapping) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in data.items()):
        content = sorted(map(str, data))[:LISTED] if isinstance(data, Mapping) else type(data).__name__
        expected, fix = "a flat dictionary of tensors, or one under 'state_dict'", "export the state dict of the model"
        raise WeightsError(f"{path} contains {content}", expected, fix)
    return dict(data)


def convert_pth(path: Path) -> Path | None:
    """Return the path of a safetensors copy of a .pth file, written to the cache on first use.

    The copy records the sha256 of the .pth file. Returns None if the cache cannot be written.
    """
    stat = path.stat()
    stamp = {"source_size": str(stat.st_size), "source_mtime_ns": str(stat.st_mtime_ns)}
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()
    copy = weights.cache_folder() / "converted" / f"{digest[:12]}-{path.name}.safetensors"
    try:
        with safe_open(copy, framework="pt") as f:
            meta = f.metadata() or {}
    except (OSError, SafetensorError):
        meta = {}
    if stamp.items() <= meta.items() or (meta and meta.get("source_sha256") == checksum(path)):
        return copy
    tensors = _read_pth(path)  # before writing anything, so that a damaged file raises its own error
    stamp["source_sha256"] = checksum(path)
    try:
        with atomic_path(copy) as part:
            _save(tensors, part, {"format": "pt", **stamp})
    except (OSError, SafetensorError) as e:
        logger.info("no converted copy at %s: %s", copy, e)
        return None
    logger.info("converted %s (sha256 %s) to %s", path, stamp["source_sha256"], copy)
    return copy


def _save(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    plain = {k: v.contiguous() for k, v in tensors.items()}
    try:
        save_file(plain, path, metadata=metadata)
    except RuntimeError:  # tensors of a .pth file may share storage, which safetensors rejects
        save_file({k: v.clone() for k, v in plain.items()}, path, metadata=metadata)


def assign(module: nn.Module, tensors: Mapping[str, Tensor], target: Target, name: str) -> None:
    """Load tensors into a network on the meta device, without copying.

    Args:
        module: network on the meta device.
        tensors: complete state of the network.
        target: device and dtype of the parameters.
        name: name of the network, for error messages.

    Raises:
        WeightsError: tensors are missing, unexpected or of the wrong shape (the message lists them), or contain NaN or
            infinity in this dtype.
    """
    want = module.state_dict()
    # Older transformers stored this constant, 0, 1, 2, ...; it is not a parameter.
    got = {k: v for k, v in tensors.items() if not k.endswith("embeddings.position_ids")}
    check_keys({k: v.shape for k, v in want.items()}, {k: v.shape for k, v in got.items()}, name)
    device, dtype = target
    ready = {}
    for key, value in got.items():
        cast = value.to(dtype) if value.is_floating_point() else value
        if device.type != "meta" and cast.is_floating_point() and cast.numel():
            low, high = map(float, cast.aminmax())  # one pass without another tensor; NaN wins
            if not (math.isfinite(low) and math.isfinite(high)):
                fix = "the weights are damaged or too large for this dtype: fetch them again, or use dtype float32"
                raise WeightsError(f"{name}: {key} contains NaN or infinity", f"finite numbers in {dtype}", fix)
        ready[key] = cast.to(device)
    module.load_state_dict(ready, strict=True, assign=True)
    module.eval()


def check_keys(
    want: Mapping[str, Iterable[int]], got: Mapping[str, Iterable[int]], name: str, hint: str | None = None
) -> None:
    """Check that names and shapes of parameters match.

    Raises:
        WeightsError: they differ; the message lists the first of each kind of difference, and how many there are.
    """
    missing = [k for k in want if k not in got]
    unexpected = [k for k in got if k not in want]
    mismatched = [
        f"{k} {list(got[k])} instead of {list(want[k])}" for k in want if k in got and list(got[k]) != list(want[k])
    ]
    problems = [
        f"{len(keys)} {kind}: {', '.join(keys[:LISTED])}{', ...' if len(keys) > LISTED else ''}"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("with the wrong shape", mismatched))
        if keys
    ]
    if problems:
        raise WeightsError(
            f"{name} does not match this network\n  " + "\n  ".join(problems),
            f"the {len(want)} keys of this network",
            hint or "use a file that belongs to this network (its sizes are in config.json)",
        )
