"""Figures of results over time: y-t slices and differences, against naive computations."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray

from mimicmotion.errors import ConfigError, InputError, MediaError, OutputError
from mimicmotion.evaluation.figures import changes as over_time
from mimicmotion.evaluation.figures import job
from mimicmotion.evaluation.figures.clips import check_frames, open_clips, parse_names, spaced
from mimicmotion.evaluation.figures.specs import DiffSpec, YtSpec
from mimicmotion.plot import check_plot_output
from mimicmotion.runtime.progress import finish
from mimicmotion.video.picture import read_picture, write_picture

FRAMES, HEIGHT, WIDTH = 5, 12, 10


def write_clip(folder: Path, frames: ndarray) -> Path:
    for i, frame in enumerate(frames):
        write_picture(folder / f"{i:03d}.png", frame)
    return folder


def random_clip(seed: int, frames: int = FRAMES, height: int = HEIGHT, width: int = WIDTH) -> ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[list[str], dict[str, ndarray]]:
    clips = {"average": random_clip(1), "progressive": random_clip(2)}
    return [f"{n}={write_clip(tmp_path / n, c)}" for n, c in clips.items()], clips


def test_slice_is_the_column_of_the_frames(pair: tuple[list[str], dict[str, ndarray]], tmp_path: Path) -> None:
    texts, clips = pair
    made = finish(job.make(YtSpec(results=texts, output=tmp_path / "yt.png", borders=[3], column=4)))
    table = {(r["result"], int(r["frame"]), int(r["row"])): r for r in rows(tmp_path / "yt.csv")}
    assert len(table) == 2 * FRAMES * HEIGHT
    for (name, t, y), r in table.items():
        assert [int(r[c]) for c in ("red", "green", "blue")] == clips[name][t, y, 4].tolist()
    for r in rows(tmp_path / "yt-jumps.csv"):
        t, clip = int(r["frame"]), clips[r["result"]].astype(float)
        assert float(r["mean_abs_difference"]) == pytest.approx(np.abs(clip[t, :, 4] - clip[t - 1, :, 4]).mean())
        assert (r["column"], r["border"]) == ("4", str(int(t == 3)))
    assert [p.name for p in made.files] == ["yt.png", "yt.csv", "yt-jumps.csv"]


def test_column_with_the_largest_change_is_chosen() -> None:
    clip = np.full((FRAMES, HEIGHT, WIDTH, 3), 100, np.uint8)
    clip[::2, 2:5, 7] = 250
    clip[1, :, 3] = 90
    changes, frames = over_time.column_changes(iter(clip))
    naive = np.abs(np.diff(clip.astype(float), axis=0)).mean((0, 1, 3))
    np.testing.assert_allclose(changes, naive)
    assert frames == FRAMES
    assert over_time.choose_column([changes]) == 7
    # all results count alike: the second moves more in column 3
    assert over_time.choose_column([changes, 5 * np.eye(WIDTH)[3] * changes.max()]) == 3
    assert over_time.choose_column([np.zeros(WIDTH)]) == WIDTH // 2


def test_differences_are_those_of_a_naive_loop(pair: tuple[list[str], dict[str, ndarray]], tmp_path: Path) -> None:
    texts, clips = pair
    finish(job.make(DiffSpec(results=texts, output=tmp_path / "diff.png", borders=[2], frames=[2, 4])))
    found = rows(tmp_path / "diff.csv")
    assert [(r["result"], int(r["frame"])) for r in found] == [(n, t) for n in clips for t in range(1, FRAMES)]
    for r in found:
        t, clip = int(r["frame"]), clips[r["result"]].astype(int)
        total = sum(abs(int(a) - int(b)) for a, b in zip(clip[t].flat, clip[t - 1].flat, strict=True))
        assert float(r["mean_abs_difference"]) == pytest.approx(total / clip[t].size, rel=1e-6)
        assert r["border"] == str(int(t == 2))
    average = next(c for c in open_clips(parse_names(texts)) if c.name == "average")
    pictures = over_time.pictures_of(average, [2, 4])
    assert list(pictures) == [2, 4]
    naive = np.abs(clips["average"][4].astype(float) - clips["average"][3]).mean(-1)
    np.testing.assert_allclose(pictures[4], naive, rtol=1e-5)


def test_the_slice_is_what_the_picture_shows(tmp_path: Path) -> None:
    """A clip of one colour per frame: these colours, in this order, fill the panel of the figure."""
    colours = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250]], np.uint8)
    clip = np.broadcast_to(colours[:, None, None], (3, HEIGHT, WIDTH, 3))
    finish(job.make(YtSpec(results=[f"a={write_clip(tmp_path / 'a', clip)}"], output=tmp_path / "yt.png", column=5)))
    picture = read_picture(tmp_path / "yt.png")
    seen = [np.argwhere((picture == c).all(-1)) for c in colours]
    # the frame shown beside is the middle one, so only the outer two are in the slice alone
    assert seen[0].size
    assert seen[2].size
    assert seen[0][:, 1].max() < seen[2][:, 1].min()
    assert {tuple(np.ptp(s, 0) > 40) for s in (seen[0], seen[2])} == {(True, True)}


def test_equal_input_gives_equal_bytes(
    pair: tuple[list[str], dict[str, ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib as mpl

    texts, _ = pair
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    finish(job.make(DiffSpec(results=texts, output=tmp_path / "a.png")))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "999999999")
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red"}):  # as a matplotlibrc of the user would
        finish(job.make(DiffSpec(results=texts, output=tmp_path / "b.png")))
    data = (tmp_path / "a.png").read_bytes()
    assert data == (tmp_path / "b.png").read_bytes()
    assert b"atplotlib" not in data
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_results_of_other_lengths_and_sizes_are_named(tmp_path: Path) -> None:
    a = write_clip(tmp_path / "a", random_clip(0))
    short = write_clip(tmp_path / "short", random_clip(0, frames=3))
    wide = write_clip(tmp_path / "wide", random_clip(0, width=16))
    one = write_clip(tmp_path / "one", random_clip(0, frames=1))
    out = tmp_path / "x.png"
    for spec in (YtSpec, DiffSpec):
        with pytest.raises(InputError, match=r"a \(.*5 frames; short \(.*3 frames"):
            finish(job.make(spec(results=[str(a), str(short)], output=out)))
        with pytest.raises(InputError, match=r"a \(.* is 10 x 12; wide \(.* is 16 x 12"):
            finish(job.make(spec(results=[str(a), str(wide)], output=out)))
        with pytest.raises(InputError, match=r"one \(.*1 frame"):
            finish(job.make(spec(results=[str(one)], output=out)))
        with pytest.raises(InputError, match="border 5 of 5"):
            finish(job.make(spec(results=[str(a)], output=out, borders=[5])))
    assert not out.exists()
    finish(job.make(YtSpec(results=[str(a), str(short)], output=out, max_frames=3)))
    assert {r["frame"] for r in rows(tmp_path / "x.csv")} == {"0", "1", "2"}
    large = write_clip(tmp_path / "large", random_clip(0).repeat(2, 1).repeat(2, 2))
    finish(job.make(DiffSpec(results=[str(a), str(large)], output=out)))  # scaled to the size of the first
    changes = [[r["mean_abs_difference"] for r in rows(tmp_path / "x.csv") if r["result"] == n] for n in ("a", "large")]
    assert changes[0] == changes[1]
    with pytest.raises(InputError, match="column=10"):
        finish(job.make(YtSpec(results=[str(a)], output=out, column=10)))
    with pytest.raises(InputError, match="frame 0 of 5"):
        finish(job.make(DiffSpec(results=[str(a)], output=out, frames=[0])))


@pytest.mark.parametrize(
    ("texts", "found"),
    [([], "no result"), (["=a.mp4"], "'=a.mp4'"), (["a="], "'a='"), (["a=1.mp4", "a=2.mp4"], "two results named 'a'")],
)
def test_names_that_are_none(texts: list[str], found: str) -> None:
    with pytest.raises(InputError, match=found):
        parse_names(texts)


def test_names(tmp_path: Path) -> None:
    odd = write_clip(tmp_path / "x=1", random_clip(0, frames=1))
    assert parse_names(["ours=b.mp4", "c/d.mp4", str(odd)]) == [
        ("ours", Path("b.mp4")), ("d", Path("c/d.mp4")), ("x=1", odd)
    ]  # fmt: skip


def test_wrong_places_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="does not exist"):
        finish(job.make(YtSpec(results=[str(tmp_path / "none.mp4")], output=tmp_path / "a.png")))
    with pytest.raises(OutputError, match="suffix"):
        finish(job.make(YtSpec(results=["a.mp4"], output=tmp_path / "a.jpg")))
    with pytest.raises(InputError, match="max_frames=0"):
        finish(job.make(YtSpec(results=["a.mp4"], output=tmp_path / "a.png", max_frames=0)))


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"\[eval\]"):
        check_plot_output(tmp_path / "a.png")


def test_borders_are_sorted_without_repeats() -> None:
    assert check_frames((), 1, 8, "border") == []
    assert check_frames([7, 2, 7], 1, 8, "border") == [2, 7]


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 9))
def test_spaced_numbers(first: int, more: int, count: int) -> None:
    found = spaced(first, first + more, count)
    assert found == sorted(set(found))
    assert len(found) == min(count, more + 1)
    assert {first, first + more} <= set(found) or count == 1
