"""The generated pages say what the code says."""

from __future__ import annotations

from types import ModuleType

import pytest

from scripts_of_repository import load


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load("scripts/reference_pages.py")


def test_pages_are_up_to_date(script: ModuleType) -> None:
    for path, page in script.PAGES.items():
        assert path.read_text(encoding="utf-8") == page(), f"{path.name}: run python scripts/reference_pages.py"


def test_every_option_stands_on_the_page(script: ModuleType) -> None:
    """Also those that the short help leaves out, and those of commands within commands."""
    page = script.cli()
    for heading in ("generate", "figures yt", "prepare synthetic", "weights fetch"):
        assert f"## mimicmotion {heading}\n" in page
    for row in ("| `PICTURE` | The picture", "| `--output, -o` | The result", "| `--block-cache` | Reuse"):
        assert row in page


def test_every_package_stands_in_the_table(script: ModuleType) -> None:
    table = script.packages()
    for path in (script.ROOT / "src" / "mimicmotion").rglob("__init__.py"):
        name = path.parent.relative_to(script.ROOT / "src" / "mimicmotion").as_posix()
        assert name == "." or name.count("/") > 1 or f"| `{name}` | " in table


def test_every_setting_stands_on_the_page(script: ModuleType) -> None:
    """Also those of groups within groups and of lists of groups."""
    page = script.training_settings()
    for heading in ("The run", "`data`", "`data.sample`", "`model.new`", "`phases[]`", "`optim`"):
        assert f"## {heading}\n" in page
    for row in (
        "| `num_frames` | integer | `16` |",
        "| `interval` | 2 numbers | `[0.06667, 0.1667]` |",
        "| `run` | string | required |",
        "| `spacing` | `interval`, `spread` | `interval` |",
        "| `fps` | number or empty | `7` |",
        "| `phases` | list of groups | empty |",
        '| `precision` | `"no"`, `bf16`, `fp16` | `bf16` |',
    ):
        assert row in page


def test_types_without_words_are_an_error(script: ModuleType) -> None:
    with pytest.raises(TypeError, match="no words"):
        script.kind_text(set[int])
