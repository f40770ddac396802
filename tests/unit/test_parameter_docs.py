"""The page of parameters says what the code says."""

from __future__ import annotations

from types import ModuleType

import pytest

from scripts_of_repository import load


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load("scripts/parameter_docs.py")


def test_page_is_up_to_date(script: ModuleType) -> None:
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run python scripts/parameter_docs.py"


def test_every_setting_stands_on_the_page(script: ModuleType) -> None:
    """Also those of groups within groups and of lists of groups."""
    page = script.page()
    for heading in ("The run", "`data`", "`data.sample`", "`model.new`", "`phases[]`", "`optim`"):
        assert f"## {heading}\n" in page
    for row in (
        "| `num_frames` | integer | `16` |",
        "| `interval` | 2 numbers | `[0.06667, 0.1667]` |",
        "| `run` | text | required |",
        "| `spacing` | `interval`, `spread` | `interval` |",
        "| `fps` | number or empty | `7` |",
        "| `phases` | list of groups | empty |",
        '| `precision` | `"no"`, `bf16`, `fp16` | `bf16` |',
    ):
        assert row in page


def test_types_without_words_are_an_error(script: ModuleType) -> None:
    with pytest.raises(TypeError, match="no words"):
        script.kind_text(set[int])
