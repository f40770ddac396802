"""How much memory there is to use."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

GIB = 2**30
DEVICE_SHARE, DEVICE_RESERVE = 0.92, 0.5 * GIB
"""Of what a GPU has free: fragments, workspaces of convolutions and matrix products."""
HOST_SHARE = 0.85
"""Of the host's memory: others live there too, and too much is answered by being killed."""


def free_memory(device: torch.device, resident: int = 0) -> int | None:
    """Bytes that networks and their work may use on a device; None where the system does not say.

    Args:
        device: GPU or CPU.
        resident: bytes of the networks' weights that lie there already; they count as usable.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return max(0, int((free + unused) * DEVICE_SHARE - DEVICE_RESERVE)) + resident
    if device.type == "mps":
        free = torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
        return int(free * HOST_SHARE) + resident
    free = host_free()
    return None if free is None else int(free * HOST_SHARE) + resident


def host_free(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this process can still take: what the system has, within the limit of its control group (containers).

    None where the system does not say.
    """
    found = [b for b in (_available(proc), _group_room(proc, groups)) if b is not None]
    return min(found) if found else None


def _available(proc: Path) -> int | None:
    try:
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if len(line.split()) > 1}
        return kib["MemAvailable"] * 1024
    except (OSError, KeyError, ValueError):
        return _available_elsewhere()


def _available_elsewhere() -> int | None:
    if sys.platform == "linux":
        return None
    try:  # macOS, Windows: not a dependency, but often there
        import psutil

        return int(psutil.virtual_memory().available)
    except ImportError:
        return None


def _group_room(proc: Path, groups: Path) -> int | None:
    """Limit minus use of the tightest control group around this process; page cache counts as free."""
    rooms = []
    for folder, limit_name, use_name, cache_name in _group_folders(proc, groups):
        try:
            limit = (folder / limit_name).read_text(encoding="ascii").strip()
            if limit == "max" or int(limit) >= 1 << 60:
                continue
            used = int((folder / use_name).read_text(encoding="ascii"))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            rooms.append(max(0, int(limit) - used + int(stat.get(cache_name, 0))))
        except (OSError, ValueError):
            continue
    return min(rooms) if rooms else None


def _group_folders(proc: Path, groups: Path) -> list[tuple[Path, str, str, str]]:
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    found: list[tuple[Path, str, str, str]] = []
    for line in [*lines, "0::/"]:
        _, kinds, path = line.split(":", 2)
        if not kinds:  # version 2: limits hold along the whole path
            parts = [p for p in path.split("/") if p and p != ".."]
            for depth in range(len(parts) + 1):
                folder = groups.joinpath(*parts[:depth])
                found.append((folder, "memory.max", "memory.current", "inactive_file"))
        elif "memory" in kinds.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            found += [(groups / "memory" / path.lstrip("/"), *names), (groups / "memory", *names)]
    return found
