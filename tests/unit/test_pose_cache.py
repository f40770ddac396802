from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest

from mimicmotion.errors import InputError
from mimicmotion.generate.inputs import picture_pose
from mimicmotion.pose.files import PoseCache
from mimicmotion.pose.keypoints import NUM_POINTS, PoseSequence
from mimicmotion.runtime.files import sha256_file
from mimicmotion.settings import GenerateConfig
from mimicmotion.video.picture import write_picture
from mimicmotion.weights.registry import cache_folder
from planted_job import standing
from static_pose import StaticPose


class Counter:
    """An estimator that counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> PoseSequence:
        self.calls += 1
        xy = np.full((2, NUM_POINTS, 2), self.calls, np.float32)
        return PoseSequence(xy, np.ones((2, NUM_POINTS), np.float32), (8, 8), 5.0, "counter")


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"some video" * 1000)
    return path


def test_content_and_settings_decide_and_names_do_not(tmp_path: Path, video: Path) -> None:
    cache, estimate = PoseCache(tmp_path / "cache"), Counter()
    settings = {"estimator": "holistic", "version": 1}
    first = cache.get(video, settings, estimate)
    again = cache.get(video.rename(tmp_path / "other.mp4"), dict(reversed(settings.items())), estimate)
    assert estimate.calls == 1
    np.testing.assert_array_equal(first.xy, again.xy)
    assert (again.size, again.fps, again.source) == ((8, 8), 5.0, "counter")
    cache.get(tmp_path / "other.mp4", settings | {"version": 2}, estimate)
    assert estimate.calls == 2
    (tmp_path / "other.mp4").write_bytes(b"changed")
    cache.get(tmp_path / "other.mp4", settings, estimate)
    assert estimate.calls == 3


@pytest.mark.parametrize("damage", [b"", b"garbage", None], ids=["empty", "garbage", "cut"])
def test_a_damaged_entry_is_made_again(
    tmp_path: Path, video: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    cache, estimate = PoseCache(tmp_path / "cache"), Counter()
    cache.get(video, {}, estimate)
    entry = cache.path(video, {})
    entry.write_bytes(entry.read_bytes()[:200] if damage is None else damage)
    with caplog.at_level(logging.WARNING):
        assert cache.get(video, {}, estimate).xy[0, 0, 0] == 2
    assert "damaged" in caplog.text
    assert cache.get(video, {}, estimate).xy[0, 0, 0] == 2
    assert [p.name for p in entry.parent.iterdir()] == [entry.name]


def test_a_cache_that_cannot_be_written_is_only_warned_of(
    tmp_path: Path, video: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert len(PoseCache(tmp_path / "file").get(video, {}, Counter())) == 2
    assert "cannot be cached" in caplog.text


def test_failures_of_the_estimator_leave_nothing(tmp_path: Path, video: Path) -> None:
    def fail() -> PoseSequence:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PoseCache(tmp_path / "cache").get(video, {}, fail)
    assert not (tmp_path / "cache").exists()


def test_the_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIMICMOTION_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "mimicmotion"
    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path / "own"))
    assert PoseCache().folder == tmp_path / "own" / "poses"
    monkeypatch.delenv("MIMICMOTION_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "mimicmotion"


def test_digest_is_sha256_and_missing_videos_are_named(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")
    with pytest.raises(InputError, match="none.mp4"):
        sha256_file(tmp_path / "none.mp4")


def test_the_pose_of_a_picture_is_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path))
    picture = np.zeros((80, 64, 3), np.uint8)
    write_picture(tmp_path / "person.png", picture)
    config = GenerateConfig(picture=tmp_path / "person.png", video=tmp_path / "v.mp4", output=tmp_path / "o.mp4")
    opened: list[bool] = []

    def estimator(static: bool = False) -> StaticPose:
        opened.append(static)
        return StaticPose(standing(1, (80, 64)))

    first = picture_pose(config, estimator, picture)
    again = picture_pose(dataclasses.replace(config, fps=3.0, pose_device="cpu"), estimator, picture)
    assert opened == [True]
    np.testing.assert_array_equal(again.xy, first.xy)
    assert (again.size, again.source) == (first.size, first.source)
    picture_pose(dataclasses.replace(config, pose_cache=False), estimator, picture)
    picture_pose(dataclasses.replace(config, picture_person="1"), estimator, picture)  # somebody else
    assert opened == [True] * 3
