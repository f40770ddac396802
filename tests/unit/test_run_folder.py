"""Tools for runs that are killed and resumed: atomic folders, leftovers, locks, and differences."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mimicmotion.errors import ConfigError, InputError, OutputError
from mimicmotion.runtime import run_folder
from mimicmotion.runtime.files import atomic_path, writing
from mimicmotion.runtime.run_folder import (
    FolderLock,
    atomic_folder,
    clear_leftovers,
    differences,
    durable_file,
    flat,
)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_folder_is_there_when_it_is_complete_and_replaces_its_own_kind_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    for text in ("a", "b"):
        with atomic_folder(path, "*.txt") as part:
            (part / f"{text}.txt").write_text(text)
            assert not (path / f"{text}.txt").exists()
    assert names(path) == ["b.txt"]
    (path / "other").touch()
    with pytest.raises(OutputError, match="already contains other"), atomic_folder(path, "*.txt"):
        raise AssertionError
    with pytest.raises(OutputError, match="is a file"), atomic_folder(path / "other"):
        raise AssertionError
    assert names(tmp_path / "deep") == ["folder"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "planted"), InputError("", "", "")])
def test_a_failed_body_leaves_what_was_there_and_passes_unchanged(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "a").touch()
    with pytest.raises(type(error)) as caught, atomic_folder(path) as part:  # noqa: PT012 - the body fails last
        (part / "b").touch()
        raise error
    assert caught.value is error
    assert (names(tmp_path), names(path)) == (["folder"], ["a"])


def test_all_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(run_folder, "sync", lambda path: seen.append(path.name))
    monkeypatch.setattr(Path, "replace", lambda self, to: seen.append(f"to {to.name}") or replace(self, to))
    with atomic_folder(tmp_path / "folder") as part:
        (part / "inner").mkdir()
        (part / "inner" / "file").touch()
    assert seen[1:] == ["file", "inner", "to folder", tmp_path.name]
    with durable_file(tmp_path / "x.json") as part:
        part.touch()
    assert seen[-2].startswith(".x.")
    assert seen[-1] == "to x.json"


@pytest.mark.parametrize("renames", [0, 1])
def test_a_failure_at_any_rename_leaves_what_was_there(
    renames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, replace, done = tmp_path / "folder", Path.replace, []
    path.mkdir()
    (path / "a").touch()

    def failing(self: Path, to: Path) -> Path:
        done.append(to)
        if len(done) == renames + 1:
            raise OSError(errno.EIO, "planted")
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OutputError, match="planted"), atomic_folder(path) as part:
        (part / "b").touch()
    assert (names(tmp_path), names(path)) == (["folder"], ["a"])


def test_a_kill_between_the_renames_loses_no_folder(tmp_path: Path) -> None:
    for file in (".folder.0123abcd.old/a", ".folder.4567cdef.part/b"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).touch()
    clear_leftovers(tmp_path)
    assert (names(tmp_path), names(tmp_path / "folder")) == (["folder"], ["a"])


def test_leftovers_of_these_names_are_cleared_and_nothing_else(tmp_path: Path) -> None:
    parts = []
    for name in ("result.mp4", "result.mp4.json", "other.mp4"):
        with pytest.raises(KeyError), atomic_path(tmp_path / name) as part:
            raise KeyError
        parts.append(part)
        part.touch()
    (tmp_path / ".step-00000008.part").mkdir()  # without a number, as earlier versions wrote them
    (tmp_path / ".bashrc").touch()
    clear_leftovers(tmp_path, {"result.mp4", "result.mp4.json"})
    assert names(tmp_path) == sorted([".bashrc", parts[2].name, ".step-00000008.part"])
    clear_leftovers(tmp_path)
    assert names(tmp_path) == [".bashrc"]
    clear_leftovers(tmp_path / "nowhere")


def test_a_full_disk_is_told_whichever_way_a_writer_says_it(tmp_path: Path) -> None:
    hidden = "Error while serializing: I/O error: No space left on device (os error 28)"
    for error in (OSError(errno.ENOSPC, "No space left on device"), RuntimeError(hidden)):
        with pytest.raises(OutputError, match="No space left"), writing(tmp_path):
            raise error
    with pytest.raises(InputError), writing(tmp_path):
        raise InputError("clip: I/O error", "a clip", "fix it")


def test_one_at_a_time(tmp_path: Path) -> None:
    first = FolderLock(tmp_path / "lock")
    with pytest.raises(ConfigError, match="in use by another process"):
        FolderLock(tmp_path / "lock")
    first.release()
    FolderLock(tmp_path / "lock").release()
    with pytest.raises(OutputError):
        FolderLock(tmp_path / "nowhere" / "lock")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are what may hold on to a lock")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_worker_that_outlives_its_process_holds_nothing(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "lock")
    (read, write), (ready, tell) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(tell, b"x")
        os.read(read, 1)
        os._exit(0)
    os.read(ready, 1)
    try:
        with pytest.raises(ConfigError):  # that the fork holds nothing does not open it for others
            FolderLock(tmp_path / "lock")
        lock.release()
        FolderLock(tmp_path / "lock").release()
    finally:
        os.write(write, b"x")
        os.waitpid(child, 0)


def test_what_differs_is_said_key_by_key() -> None:
    old = {"seed": 0, "optim": {"lr": 0.1, "betas": [1, 2]}, "sum": "a" * 64, "gone": 1, "same": {}}
    new = {"seed": 1, "optim": {"lr": 0.2, "betas": [1, 2]}, "sum": "b" * 64, "new": "x", "same": {}}
    assert differences(old, new) == [
        "gone was 1, is missing",
        "new was missing, is 'x'",
        "optim.lr was 0.1, is 0.2",
        "seed was 0, is 1",
        "sum was sha256 aaaaaaaaaaaa..., is sha256 bbbbbbbbbbbb...",
    ]
    assert differences({"a": 1}, {"a": 2}, "setting {}") == ["setting a was 1, is 2"]
    assert differences(old, old) == []
    assert flat(new)["same"] == {}
