"""Latents on disk: computed once, matching their frames, and never partial."""

from __future__ import annotations

import errno
import logging
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy import ndarray

from fake_shards import FakeShards
from micro_task import micro_config
from mimicmotion.data.samples.latents import LatentCache
from mimicmotion.data.samples.sample import SampleMaker
from mimicmotion.errors import OutputError, WeightsError
from mimicmotion.settings.samples import SampleConfig
from mimicmotion.training.stages.denoiser import DenoiserTask


class Encoder:
    """8 x 8 means of red and of the left half: not the same for mirrored frames."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, frames: ndarray) -> ndarray:
        self.calls.append(len(frames))
        n, h, w, _ = frames.shape
        blocks = frames.astype(np.float32).reshape(n, h // 8, 8, w // 8, 8, 3)
        return np.stack([blocks[..., 0].mean((2, 4)), blocks[:, :, :, :, :4].mean((2, 4, 5))], 1) / 128


def near(frames: ndarray) -> ndarray:
    return Encoder()(frames).astype(np.float16).astype(np.float32)


def test_every_record_is_encoded_once(tmp_path: Path) -> None:
    shards, encode = FakeShards(), Encoder()
    cache = LatentCache(shards, "model", encode, tmp_path)
    for _ in range(2):
        for i, record in enumerate(shards.records):
            np.testing.assert_array_equal(cache.latents(i), near(record.pictures))
    assert encode.calls == [16, 1, 16, 1, 16, 8]
    chosen = cache.latents(2, [5, 0, 5])
    assert chosen.dtype == np.float32
    np.testing.assert_array_equal(chosen, near(shards[2].pictures[[5, 0, 5]]))
    # another process finds them
    other = Encoder()
    again = LatentCache(shards, "model", other, tmp_path)
    np.testing.assert_array_equal(again.latents(1), near(shards[1].pictures))
    assert not other.calls
    assert not list(tmp_path.rglob("*.part*"))


def test_latents_of_another_model_or_of_other_shards_are_not_taken(tmp_path: Path) -> None:
    shards = FakeShards()
    LatentCache(shards, "model", Encoder(), tmp_path).latents(0)
    other, again = Encoder(), Encoder()
    LatentCache(shards, "other", other, tmp_path).latents(0)
    assert other.calls
    shards.sums[0] = "made again"
    LatentCache(shards, "model", again, tmp_path).latents(0)
    assert again.calls


def test_shards_that_are_added_leave_the_others_latents(tmp_path: Path) -> None:
    list(LatentCache(FakeShards((17, 17)), "model", Encoder(), tmp_path).fill())
    more, encode = FakeShards((17, 17, 24)), Encoder()
    more.digest, more.sums[2] = "more", "1" * 64
    list(LatentCache(more, "model", encode, tmp_path).fill())
    assert encode.calls == [16, 8]


def test_fill_makes_what_is_missing(tmp_path: Path) -> None:
    shards, encode = FakeShards(), Encoder()
    cache = LatentCache(shards, "model", encode, tmp_path)
    cache.latents(1)
    assert list(cache.fill()) == [1, 2, 3]
    assert encode.calls == [16, 1, 16, 1, 16, 8]


def test_a_damaged_file_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shards = FakeShards()
    cache = LatentCache(shards, "model", Encoder(), tmp_path)
    cache.latents(0)
    (file,) = tmp_path.rglob("*.npy")
    whole = file.read_bytes()
    for damaged in (whole[:90], whole[:-64], b"", b"no array"):
        file.write_bytes(damaged)
        np.testing.assert_array_equal(cache.latents(0), near(shards[0].pictures))
        assert file.read_bytes() == whole
    assert "encoding it again" in caplog.text


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e6])
def test_numbers_that_cannot_be_kept_stop_the_work(tmp_path: Path, wrong: float) -> None:
    def encode(frames: ndarray) -> ndarray:
        return np.full((len(frames), 2, 4, 2), wrong, np.float32)

    with pytest.raises(WeightsError, match="v0-000"):
        LatentCache(FakeShards(), "model", encode, tmp_path).latents(0)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Any, values: ndarray) -> None:
        file.write(values.tobytes()[:50])
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = LatentCache(FakeShards(), "model", Encoder(), tmp_path)
    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OutputError, match="No space"):
        cache.latents(0)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_place_that_cannot_be_written_is_found_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        LatentCache(FakeShards(), "model", Encoder(), tmp_path / "file")


def _race(folder: Path, start: Any, out: Any) -> None:
    cache = LatentCache(FakeShards(), "model", Encoder(), folder)
    start.wait()
    out.put([cache.latents(i).tobytes() for i in range(3)])


def test_processes_may_race(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, out = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_race, args=(tmp_path, start, out)) for _ in range(4)]
    for p in processes:
        p.start()
    results = [out.get(timeout=60) for _ in processes]
    for p in processes:
        p.join()
    assert all(r == [near(x.pictures).tobytes() for x in FakeShards().records] for r in results)
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 3


@pytest.mark.parametrize("slot", [True, False])
def test_samples_hold_latents_instead_of_frames(tmp_path: Path, slot: bool) -> None:
    """The latents are of the very frames that the sample would hold, and only the reference is decoded."""
    config = SampleConfig(num_frames=5, reverse=0.5, reference_slot=slot)
    settings: dict[str, Any] = {"seed": 0, "downscale": 8, "drawing": {"canvas_short_side": None}}
    shards = FakeShards()
    cache = LatentCache(shards, "model", Encoder(), tmp_path)
    list(cache.fill())
    plain, cached = (
        SampleMaker(FakeShards(), config, **settings),
        SampleMaker(shards, config, latents=cache, **settings),
    )
    for number in range(8):
        for record in shards.records:
            record.decoded.clear()
        a, b = plain(number), cached(number)
        assert a.frames is not None
        assert b.frames is None
        np.testing.assert_array_equal(b.latents, near(a.frames))
        np.testing.assert_array_equal(b.reference_latents, near(a.reference[None])[0])
        np.testing.assert_array_equal(b.reference, a.reference)
        np.testing.assert_array_equal(b.poses, a.poses)
        assert sum(len(r.decoded) for r in shards.records) == 1


@pytest.mark.parametrize(
    ("wanted", "frames", "kept"),
    [(None, 100_000, True), (None, 2_670_000, False), (True, 2_670_000, True), (False, 10, False)],
)
def test_latents_of_large_data_are_not_kept_by_default(
    wanted: bool | None, frames: int, kept: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shards: Any = FakeShards((17,), size=(576, 1024))
    shards.num_frames = [frames]
    config = micro_config(tmp_path, data={"cache_latents": wanted})
    with caplog.at_level(logging.INFO):
        task = DenoiserTask(config, shards=shards)
    assert (task.latents is not None) == kept
    size = frames * 4 * 72 * 128 * 2 / 1e9  # 197 GB of the paper's videos
    outcome = "cached in" if kept else "encoded in every step"
    assert f"latents of {frames} frames, {size:.3g} GB: {outcome}" in caplog.text
