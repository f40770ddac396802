"""Shards of synthetic people: their contents, which do not depend on interruptions or the number of processes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimicmotion.cli import main
from mimicmotion.data.shards.shards import open_shards
from mimicmotion.data.synthetic import FRAME_RATES, SyntheticResult, prepare_synthetic
from mimicmotion.errors import ConfigError, InputError, OutputError
from mimicmotion.pose.files import save_poses
from mimicmotion.runtime.progress import Job, finish
from mimicmotion.settings import parse
from mimicmotion.settings.synthetic import HELD_OUT_SEED, SyntheticConfig
from mimicmotion.synth import render_clip

pytestmark = pytest.mark.usefixtures("scenes_are_made_once")
SMALL: dict[str, Any] = {"frames": 3, "height": 64, "width": 32, "records_per_shard": 2}


def render(folder: Path, count: int, **changes: Any) -> Job[SyntheticResult]:
    return prepare_synthetic(parse(SyntheticConfig, {"output": folder, "count": count} | SMALL | changes))


def sums(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.mark.whole
def test_records_are_the_rendered_clips(tmp_path: Path) -> None:
    written = finish(render(tmp_path, 3, first_seed=4, held_out=1)).written
    assert written.records == {"train": 3, "val": 1}
    shards = open_shards(tmp_path)
    assert shards.keys == [f"synthetic-0000000{i}-000" for i in (4, 5, 6)]
    assert shards.fps == [FRAME_RATES[s % 3] for s in (4, 5, 6)]
    assert (shards.stills, shards.num_frames, shards.size) == ([1] * 3, [4] * 3, (64, 32))
    clip = render_clip(5, 3, (64, 32), fps=FRAME_RATES[2])
    found = shards[1]
    np.testing.assert_array_equal(found.frames([0])[0], clip.reference_frame)
    np.testing.assert_array_equal(found.frames([1, 2, 3]), clip.frames)
    np.testing.assert_array_equal(found.poses[:1].xy, clip.reference_pose.xy)
    np.testing.assert_array_equal(found.poses[1:].xy, clip.poses.xy)
    np.testing.assert_array_equal(found.poses[1:].confidence, clip.poses.confidence)
    assert found.meta["seed"] == 5
    assert open_shards(tmp_path, "val")[0].meta["seed"] == HELD_OUT_SEED


@pytest.mark.whole
def test_some_cameras_move(tmp_path: Path) -> None:
    finish(render(tmp_path, 4, camera_motion=0.5, frames=1))
    moving = [r.meta["camera_motion"] for r in open_shards(tmp_path)]
    assert {True, False} == set(moving)
    finish(render(tmp_path / "all", 2, camera_motion=1))
    clip = render_clip(0, 3, (64, 32), fps=15, camera_motion=True)
    np.testing.assert_array_equal(open_shards(tmp_path / "all")[0].frames([1, 2, 3]), clip.frames)


@pytest.mark.whole
def test_masks_and_flow_are_kept_if_asked_for(tmp_path: Path) -> None:
    finish(render(tmp_path / "with", 1, first_seed=5, truth=True))
    clip = render_clip(5, 3, (64, 32), fps=FRAME_RATES[2])
    truth = open_shards(tmp_path / "with")[0].truth
    assert truth is not None
    np.testing.assert_array_equal(truth["mask"][0], clip.truth.reference_mask)
    np.testing.assert_array_equal(truth["mask"][1:], clip.truth.mask)
    assert (truth["flow"][0] == 0).all()
    np.testing.assert_allclose(truth["flow"][1:], clip.truth.flow[:, ::2, ::2], atol=0.04)  # float16 at 64 pixels
    np.testing.assert_array_equal(truth["in_reference"][1:], clip.truth.in_reference[:, ::2, ::2])
    finish(render(tmp_path / "without", 1))
    assert open_shards(tmp_path / "without")[0].truth is None


@pytest.mark.whole
def test_a_third_follow_recorded_motions(tmp_path: Path) -> None:
    save_poses(render_clip(0, 8, (96, 64), framing="full").poses, tmp_path / "mocap" / "wave.npz")
    finish(render(tmp_path / "out", 9, mocap=tmp_path / "mocap", frames=1))
    motions = [r.meta["motion"] for r in open_shards(tmp_path / "out")]
    assert set(motions) == {"wave.npz", None}
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="recorded motion"):
        finish(render(tmp_path / "none", 1, mocap=tmp_path / "empty"))


@pytest.mark.slow
def test_processes_and_interruptions_leave_the_same_bytes(tmp_path: Path) -> None:
    finish(render(tmp_path / "one", 5, held_out=1))
    job = render(tmp_path / "two", 5, held_out=1, processes=2)
    while not list((tmp_path / "two").glob("train-*.tar")):
        next(job)
    job.close()
    assert not (tmp_path / "two" / "index.json").exists()
    assert finish(render(tmp_path / "two", 5, held_out=1, processes=2)).written.reused >= 1
    assert sums(tmp_path / "two") == sums(tmp_path / "one")


ARGUMENTS = ["--frames", "3", "--height", "64", "--width", "32", "--records-per-shard", "2"]


@pytest.mark.whole
@pytest.mark.parametrize(
    ("how", "processes"),
    [
        (None, 1),
        pytest.param(signal.SIGKILL, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 2, marks=pytest.mark.slow),
    ],
)
def test_ended_and_begun_again(tmp_path: Path, how: signal.Signals | None, processes: int) -> None:
    out = tmp_path / "ended"
    if how is None:
        job = render(out, 4)
        while not (out / "train-00000.tar").exists():
            next(job)
        job.close()
    else:
        command = [sys.executable, "-m", "mimicmotion.cli", "prepare", "synthetic", "4", *ARGUMENTS, "-o", str(out)]
        # a group of its own, and the signal to all of it: as a terminal does
        process = subprocess.Popen(
            [*command, "--processes", str(processes)], start_new_session=True, stderr=subprocess.DEVNULL
        )
        while not (out / "train-00000.tar").exists():
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, how)
        assert process.wait(60) == (130 if how == signal.SIGINT else -how)
    assert not (out / "index.json").exists()
    parts = [p.name for p in out.iterdir() if p.name.endswith(".part.tar")]
    if how != signal.SIGKILL:
        assert not parts
    before = len(list(out.glob("train-*.tar")))
    assert before >= 1
    # ends with the same files as an uninterrupted one
    reused = finish(render(out, 4)).written.reused
    assert reused == before
    finish(render(tmp_path / "whole", 4))
    assert sums(out) == sums(tmp_path / "whole")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "s")
    assert main(["prepare", "synthetic", "2", "-o", out, "--held-out", "1", "--store", "jpeg", *ARGUMENTS]) == 0
    assert "2 clips of train, 1 clips of val, 12 frames" in capsys.readouterr().out
    assert open_shards(out).store == "jpeg"
    assert main(["prepare", "synthetic", "2", "-o", out, *ARGUMENTS]) == 1
    assert "another folder" in capsys.readouterr().err
    assert main(["prepare", "synthetic", "-1", "-o", out]) == 2
    assert main(["prepare", "synthetic", "2"]) == 2


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"count": -1}, "count"),
        ({"count": 0}, "nothing to write"),
        ({"frames": 0}, "frames"),
        ({"first_seed": -1}, "first_seed"),
        ({"first_seed": HELD_OUT_SEED - 1, "count": 2}, "seeds"),
        ({"camera_motion": 2}, "camera_motion"),
        ({"records_per_shard": 0}, "records_per_shard"),
        ({"store": "gif"}, "store"),
    ],
)
def test_wrong_settings(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    with pytest.raises((InputError, ConfigError), match=match):
        finish(render(tmp_path, **{"count": 1, **change}))
    assert list(tmp_path.iterdir()) == []


def test_a_smaller_set_is_refused(tmp_path: Path) -> None:
    finish(render(tmp_path, 4))
    with pytest.raises(OutputError, match=r"train-00001\.tar"):
        finish(render(tmp_path, 2))
