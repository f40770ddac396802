"""The documentation as a whole: everything it names exists, pages are short, the Chinese README is in step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from scripts_of_repository import load

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
# Options of other programs, or of scripts and benchmarks.
FOREIGN = {"--force-reinstall", "--recurse-submodules", "--use_fsdp", "--fsdp_version"}
FOREIGN |= {"--rm", "--user", "--gpus", "--build-arg", "--build", "--wait", "--no-deps"}  # docker


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(text: str) -> list[str]:
    """Blocks of code, with their language."""
    return re.findall(r"^```\w+\n.*?^```", text, re.M | re.S)


def test_the_navigation_holds_every_page() -> None:
    def pages(nav: list) -> list[str]:
        return [
            p
            for e in nav
            for v in (e.values() if isinstance(e, dict) else [e])
            for p in ([v] if isinstance(v, str) else pages(v))
        ]

    nav = pages(yaml.safe_load(read(ROOT / "mkdocs.yml"))["nav"])
    assert sorted(nav) == sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md"))


@pytest.mark.parametrize(("part", "most"), [("guide", 900), ("research", 900), ("lab", 800)])
def test_pages_are_short(part: str, most: int) -> None:
    for page in (DOCS / part).glob("*.md"):
        own = re.sub(r"<!-- errors -->.*<!-- end of errors -->", "", read(page), flags=re.S)  # made from the classes
        words = re.findall(r"\S*\w\S*", own)
        assert len(words) <= most, f"{page.name}: {len(words)} words"


def test_options_that_pages_name_exist() -> None:
    known = set(re.findall(r"`(--[a-z0-9-]+)", load("scripts/reference_pages.py").cli())) | FOREIGN
    known |= {"--no" + name[1:] for name in known} | {"--help", "--version"}
    for script in (*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "scripts").glob("*.py")):
        known |= set(re.findall(r"\"(--[a-z0-9-]+)\"", read(script)))
    for page in PAGES:
        unknown = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]+", read(page))) - known
        assert not unknown, f"{page.name}: {sorted(unknown)}"


# Words of our own for things that have a name in the field: chunk, level, buffer, people, fix, every n-th.
PRIVATE = r"\b(portions?|rungs?|ladders?|spool\w*|persons|mend(s|ed|ing)?|notebooks?|so-many-th|the wish|gives? back)\b"


def test_terms_are_those_of_the_field() -> None:
    for page in [*PAGES, *sorted((ROOT / "src").rglob("*.py"))]:
        private = re.search(PRIVATE, read(page), re.I)
        assert private is None, f"{page}: {private[0] if private else ''}"


def test_files_that_pages_name_exist() -> None:
    """Paths of this repository, and those below src/mimicmotion of the page that follows the paper."""
    for page in PAGES:
        for name in re.findall(r"`((?:src|tests|benchmarks|scripts)/[\w./-]+)`", read(page)):
            assert (ROOT / name).exists(), f"{page.name}: {name}"
    folders = {p.name for p in (ROOT / "src" / "mimicmotion").iterdir()}
    for name in re.findall(r"`(\w+/[\w./]*)`", read(DOCS / "research" / "how-it-works.md")):
        if name.split("/")[0] in folders:
            assert (ROOT / "src" / "mimicmotion" / name).exists(), name


def test_the_readme_is_short() -> None:
    assert len(read(ROOT / "README.md").splitlines()) <= 150


def test_the_chinese_readme_keeps_step() -> None:
    """The same blocks of code, the same headings by level, the same targets of links, the same numbers in tables."""
    english, chinese = read(ROOT / "README.md"), read(ROOT / "README.zh-CN.md")
    assert blocks(english) == blocks(chinese)

    def headings(text: str) -> list[int]:
        return [len(marks) for marks in re.findall(r"^(#+) ", text, re.M)]

    def targets(text: str) -> list[str]:
        return sorted(t for t in re.findall(r"\]\(([^)\s]+)\)", text) if not t.startswith("README"))

    def tables(text: str) -> list[list[str]]:
        return [
            sorted(re.findall(r"`[^`]+`|\d+(?:\.\d+)?", line)) for line in text.splitlines() if line.startswith("|")
        ]

    assert headings(english) == headings(chinese)
    assert targets(english) == targets(chinese)
    assert tables(english) == tables(chinese)


def test_errors_that_troubleshooting_quotes_exist() -> None:
    """Each quoted part of a message is in the source, so that a search for the message finds the page."""
    source = "\n".join(read(p) for p in (ROOT / "src").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    for quoted in QUOTED:
        assert quoted in read(DOCS / "guide" / "troubleshooting.md"), quoted
        assert quoted in source, quoted


QUOTED = (
    "is not installed",
    "this machine has",
    "this onnxruntime cannot use it: poses are computed on the CPU",
    "device 'cuda' for poses",
    "onnxruntime could not start CUDA",
    "NaN or infinity in",
    "GiB of memory for stage",
    "out of memory in stage",
    "no person found in",
    "the picture and the video show no joint in common",
    "was never seen",
    "which may be gated",
    "has sha256",
    "GB free",
    "this looks like a PoseNet alone",
    "belongs to a U-Net of another size or kind",
    "has no frame after",
    "cannot be encoded",
    "not enough free memory",
    "where it has no effect",
    "is a video or a pose file",
    "pictures or tiles",
)
