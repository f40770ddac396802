"""requirements.lock: what development and CI install."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("packaging")
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGES = re.split(r"^(?=[a-z])", (ROOT / "requirements.lock").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
PIN = re.compile(r"([a-z0-9._-]+)==([^ ;]+)( ; .*)?")


def test_every_package_has_one_version_and_hashes() -> None:
    for package in PACKAGES:
        first, *hashes = [line.removesuffix("\\").strip() for line in package.strip().splitlines()]
        assert PIN.fullmatch(first), first
        assert hashes, first
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", h) for h in hashes), first


def test_it_serves_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    locked: dict[str, set[str]] = {}
    for name, version, _ in (PIN.match(p).groups() for p in PACKAGES):
        locked.setdefault(name, set()).add(version)
    for line in [*project["dependencies"], *extras["train"], *extras["dev"], *extras["audit"]]:
        wanted = Requirement(line)
        if wanted.name not in ("torch", "torchao"):
            versions = locked.get(canonicalize_name(wanted.name), set())
            assert versions, f"{line} is not in requirements.lock: run make lock"
            assert all(v in wanted.specifier for v in versions), line
    assert not {"torch", "torchao"} & locked.keys()  # pinned in constraints.txt
