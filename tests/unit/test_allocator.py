"""Freed memory is kept within the block, given back after it, and left alone where the user has a say."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from mimicmotion.allocator import keep_freed_memory

CODE = """
import resource
from mimicmotion.allocator import keep_freed_memory
size = 48 << 20
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        b"x" * size  # beyond what glibc would ever keep by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
usual = faults()
with keep_freed_memory() as changed:
    faults()
    kept = faults()
    held = resident()
print(changed, usual, kept, held - resident(), faults())
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")


def run(**variables: str) -> list[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))} | variables
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, check=True, capture_output=True, text=True)
    return done.stdout.split()


@glibc
def test_pages_are_not_asked_for_again_and_given_back_at_the_end() -> None:
    changed, usual, kept, given_back, after = run()
    assert changed == "True"
    assert int(kept) < int(usual) / 10
    assert int(given_back) > 40 << 20
    assert int(after) > int(usual) / 2  # as before


def test_the_users_own_settings_stand() -> None:
    assert run(MALLOC_ARENA_MAX="2")[0] == "False"


def test_errors_pass_through() -> None:
    with pytest.raises(ZeroDivisionError), keep_freed_memory():
        raise ZeroDivisionError
