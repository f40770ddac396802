"""No output replaces an input, and names that the file system refuses are found before any work starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mimicmotion.errors import ConfigError, OutputError
from mimicmotion.runtime.files import atomic_path, check_not_inputs, check_writable


def symbolic(source: Path, other: Path) -> Path:
    other.symlink_to(source)
    return other


def hard(source: Path, other: Path) -> Path:
    other.hardlink_to(source)
    return other


NAMES: dict[str, Callable[[Path, Path], Path]] = {
    "itself": lambda source, other: source,
    "another way": lambda source, other: source.parent / ".." / source.parent.name / source.name,
    "relative": lambda source, other: Path(os.path.relpath(source)),
    "a link": symbolic,
    "a hard link": hard,
}


@pytest.mark.parametrize("name", NAMES)
def test_an_input_is_never_an_output(tmp_path: Path, name: str) -> None:
    source = tmp_path / "in.mp4"
    source.write_bytes(b"video")
    with pytest.raises(ConfigError, match="is the input"):
        check_not_inputs([None, source], [tmp_path / "other", NAMES[name](source, tmp_path / "link.mp4")])


def test_a_folder_that_is_replaced_holds_no_input(tmp_path: Path) -> None:
    source = tmp_path / "frames" / "frame_000000.png"
    source.parent.mkdir()
    source.write_bytes(b"picture")
    with pytest.raises(ConfigError, match="contains the input"):
        check_not_inputs([source], [source.parent])
    check_not_inputs([source, "a/hub-id"], [source.with_name("new.mp4"), tmp_path / "new"])


def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two outputs"):
        check_not_inputs([], [tmp_path / "a.mp4", tmp_path / "b" / ".." / "a.mp4"])


@pytest.mark.parametrize("name", ["n" * 250 + ".mp4", "n" * 240 + ".mp4", "n" * 300 + "/a.mp4", "a/" + "n" * 300])
def test_names_that_are_too_long_are_found_before_any_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="shorter name"):
        check_writable(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_names_that_pass_the_check_can_be_written(tmp_path: Path) -> None:
    """The hidden name of an unfinished file is 15 characters longer; what passes the check must be written later."""
    lengths = []
    for length in range(225, 256):
        path = tmp_path / ("n" * (length - 4) + ".mp4")
        try:
            check_writable(path)
        except OutputError:
            continue
        with atomic_path(path) as part:
            part.write_bytes(b"")
        lengths.append(length)
    assert lengths
