"""Memory that is freed is kept for the next tensor, not given back to the system after each."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from typing import Any

# Names and numbers of glibc's mallopt(3); its own limits are 32 MiB and twice that, once it has adapted itself.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEPT = 2**31 - 1
_USUAL = 32 << 20


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[bool]:
    """Within the block freed memory stays with the process; after it what is free goes back to the system.

    By default glibc asks the system for each large block and returns it when it is freed. A network on a CPU frees and
    asks for tens of MB in every layer, and the system has to clear each page anew: a sixth of the time of a U-Net.
    The price is some memory that lies in gaps. Elsewhere than on Linux with glibc, or where the user has set the
    allocator by its environment variables, nothing is changed.

    Yields:
        Whether anything was changed.
    """
    libc = _glibc()
    if libc is None or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        yield False
        return
    libc.mallopt(_MMAP_THRESHOLD, _KEPT)
    libc.mallopt(_TRIM_THRESHOLD, _KEPT)
    try:
        yield True
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _USUAL)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _USUAL)
        libc.malloc_trim(0)


def give_back_freed_memory() -> None:
    """Give what is free now back to the system, gaps too: between stages that need different memory."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    # musl has none of these; another allocator that was loaded in front (jemalloc, mimalloc) has no gnu_get_version
    names = ("gnu_get_libc_version", "mallopt", "malloc_trim")
    if not all(hasattr(libc, name) for name in names) or os.environ.get("LD_PRELOAD"):
        return None
    return libc
