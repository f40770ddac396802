"""How much memory there is to use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

GIB = 2**30
DEVICE_SHARE, DEVICE_RESERVE = 0.92, 0.5 * GIB
"""Of what a GPU has free: fragments, workspaces of convolutions and matrix products."""
HOST_SHARE = 0.85
"""Of the host's memory: others live there too, and too much is answered by being killed."""
GROUP_FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Limit, use and name of the page cache of a control group, by version."""


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
    else:
        free = host_free()
    return None if free is None else int(free * HOST_SHARE) + resident


def host_free(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this process can still take: what the system has, within the limit of its control group (containers).

    None where the system does not say.
    """
    rooms = list(_group_rooms(proc, groups))
    with contextlib.suppress(OSError, KeyError, ValueError):
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if len(line.split()) > 1}
        rooms.append(kib["MemAvailable"] * 1024)
    if not rooms:
        with contextlib.suppress(ImportError):  # macOS, Windows: not a dependency, but often there
            import psutil

            rooms.append(int(psutil.virtual_memory().available))
    return min(rooms, default=None)


def _group_rooms(proc: Path, groups: Path) -> Iterator[int]:
    """Limit minus use of each control group around this process; page cache counts as free."""
    lines = ["0::/"]
    with contextlib.suppress(OSError):
        lines += (proc / "self" / "cgroup").read_text(encoding="ascii").splitlines()
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        root, (limit_file, use_file, cache) = (groups / "memory", GROUP_FILES[1]) if kinds else (groups, GROUP_FILES[2])
        inner = root / path.lstrip("/").replace("../", "")
        for folder in (inner, *inner.parents):
            with contextlib.suppress(OSError, ValueError):  # not there; "max" is no number
                limit, used = (int((folder / name).read_text(encoding="ascii")) for name in (limit_file, use_file))
                stat = dict(row.split() for row in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
                if limit < 1 << 60:
                    yield max(0, limit - used + int(stat.get(cache, 0)))
