"""Devices and dtypes by name, and available memory."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mimicmotion.errors import ConfigError

if TYPE_CHECKING:
    import torch

GIB = 2**30
DEVICE_SHARE, DEVICE_RESERVE = 0.92, 0.5 * GIB
"""Usable fraction of a GPU's free memory, and bytes reserved for fragmentation and workspaces."""
HOST_SHARE = 0.85
"""Usable fraction of the host's free memory, which is shared with other processes."""


def choose_device(name: str) -> torch.device:
    """Return a torch device by name; "auto" is a GPU (CUDA or MPS) if there is one, else the CPU.

    Raises:
        ConfigError: the name is unknown, or this machine has no such device.
    """
    import torch

    if name == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise ConfigError(f"device={name!r}", "auto, cpu, cuda, cuda:1 or mps", "correct 'device'") from e
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    available = count.get(device.type, 0)
    if (device.index or 0) >= available:
        fix = "use 'auto' or 'cpu', or see `mimicmotion doctor`"
        expected = f"an available device; this machine has {available} of type {device.type}"
        raise ConfigError(f"device={name!r}", expected, fix)
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return a torch dtype by name; "auto" is float32 on a CPU and float16 (as in the published code) on a GPU."""
    import torch

    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def free_memory(device: torch.device, resident: int = 0) -> int | None:
    """Return how many bytes networks may use on a device; None if unknown.

    Args:
        device: GPU or CPU.
        resident: bytes of the networks' weights that are already on the device; they are added to the free memory.
    """
    import torch

    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return max(0, int((free + unused) * DEVICE_SHARE - DEVICE_RESERVE)) + resident
    if device.type == "mps":
        free = torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    else:
        free = host_free()
    return None if free is None else int(free * HOST_SHARE) + resident


def host_free(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return how many bytes this process can still allocate, within the limits of its container (cgroups version 2).

    Returns None if the system does not report it.
    """
    free = [1024 * int(kib) for kib in re.findall(r"^MemAvailable: *(\d+)", _text(proc / "meminfo"), re.M)]
    name = "".join(re.findall(r"^0::/(.*)$", _text(proc / "self" / "cgroup"), re.M)).replace("../", "")
    for folder in (groups / name, *(groups / name).parents):
        with contextlib.suppress(ValueError):  # missing, or "max"
            limit, used = (int(_text(folder / file)) for file in ("memory.max", "memory.current"))
            cache = re.findall(r"^inactive_file (\d+)", _text(folder / "memory.stat"), re.M)  # counts as free
            free.append(max(0, limit - used + sum(map(int, cache))))
    return min(free, default=None)


def _text(file: Path) -> str:
    with contextlib.suppress(OSError):
        return file.read_text(encoding="ascii")
    return ""
