"""Shards: reading returns what was written, bytes are reproducible, and errors name what is wrong."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import io
import json
import pickle
import sys
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray

from fake_shards import write_records
from http_server import serving
from mimicmotion.data.shards import index as index_module
from mimicmotion.data.shards import shards as shards_module
from mimicmotion.data.shards.index import make_index, save_index, scan_shard, shard_files
from mimicmotion.data.shards.shards import Shards, open_shards
from mimicmotion.data.shards.writing import RecordData, ShardSettings, plan_shards, write_shards
from mimicmotion.errors import ConfigError, InputError, MediaError, OutputError
from mimicmotion.pose.keypoints import NUM_POINTS, PoseSequence
from mimicmotion.runtime.progress import finish

SIZE = (32, 24)
PNG = ShardSettings(size=SIZE, store="png", settings={"made": "for the test"})


def picture(seed: int, frames: int, size: tuple[int, int] = SIZE) -> ndarray:
    """Smooth colours that change slowly, so that lossy storage stays close; the mean identifies seed and frame."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    t = np.arange(frames, dtype=np.float32)[:, None, None]
    planes = [40 + 3 * t + seed % 50 + y, 60 + 2 * t + x, 200 - 4 * t + 0 * x]
    return np.stack(planes, -1).clip(0, 255).astype(np.uint8)


def record(seed: int, frames: int = 5, video: str | None = None, **options: Any) -> RecordData:
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, 24, (frames, NUM_POINTS, 2)).astype(np.float32)
    poses = PoseSequence(xy, rng.random((frames, NUM_POINTS), np.float32) * 0.3 + 0.7, SIZE, 12.5, "test")
    name = video or f"v{seed}"
    options = {"frames": picture(seed, frames), "poses": poses} | options
    return RecordData(key=f"{name}-{seed:03d}", video=name, **options)


def make_one(item: int, frames: int = 3) -> Iterator[RecordData]:
    yield record(item, frames)


def make_or_not(item: int) -> Iterator[RecordData]:
    if item % 2:
        yield record(item)


def fill(folder: Path, count: int = 5, shared: ShardSettings = PNG, **options: Any) -> Path:
    records = [record(i, stills=1, meta={"start_s": i / 2}) for i in range(count)]
    write_records(folder, shared, records, **options)
    return folder


def sums(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def rebuild(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Write a tar anew with members changed or (None) left out."""
    with tarfile.open(path) as tar:
        members = [(t.name, tar.extractfile(t).read()) for t in tar]  # type: ignore[union-attr]
    with tarfile.open(path, "w") as tar:
        for name, old in members:
            if (data := change(name, old)) is not None:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def index_again(folder: Path) -> None:
    """Write the index of changed shards."""
    scanned = [scan_shard(path) for path in shard_files(folder)]
    save_index(make_index(scanned[0][0], [entry for _, entry in scanned]), folder)


@pytest.mark.parametrize(("store", "near"), [("png", 0), ("jpeg", 6), ("video", 12)])
def test_records_come_back(tmp_path: Path, store: str, near: int) -> None:
    frames, rng = 37, np.random.default_rng(0)
    given_record = record(3, frames, stills=1, meta={"crop": [1, 2]})
    shared = ShardSettings(size=SIZE, store=store, settings={"made": "here"})
    write_records(tmp_path, shared, [record(1), given_record], [record(2)])
    shards = open_shards(tmp_path)
    assert (shards.keys, shards.num_frames, shards.stills, shards.size) == (
        ["v1-001", "v3-003"],
        [5, frames],
        [0, 1],
        SIZE,
    )
    assert (shards.fps, shards.store, shards.settings) == ([12.5, 12.5], store, {"made": "here"})
    assert open_shards(tmp_path, "val").keys == ["v2-002"]
    found = shards[1]
    assert len(found) == frames
    whole = found.frames(range(frames))
    assert np.abs(whole.astype(int) - given_record.frames).max() <= near
    # any order, also backwards over key frames, and again
    for indices in ([36, 0, 17, 17, 16, 15, 31, 32], [5], [], list(rng.integers(0, frames, 50))):
        np.testing.assert_array_equal(found.frames(indices), whole[np.array(indices, int)])
    np.testing.assert_array_equal(found.poses.xy, given_record.poses.xy)
    np.testing.assert_array_equal(found.poses.confidence, given_record.poses.confidence)
    assert (found.poses.fps, found.poses.size) == (12.5, SIZE)
    want = {"crop": [1, 2], "fps": 12.5, "key": "v3-003", "num_frames": frames, "size": [32, 24], "stills": 1}
    assert found.meta == want | {"split": "train", "video": "v3"}


# webdataset leaves the closing of its files to the garbage collector
leaky = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@leaky
def test_plain_webdataset_reads_shards(tmp_path: Path) -> None:
    import webdataset

    fill(tmp_path)
    url = str(tmp_path / "train-00000.tar")
    samples = list(webdataset.WebDataset(url, shardshuffle=False, empty_check=False).decode("rgb8"))
    assert [s["__key__"] for s in samples] == [f"v{i}-{i:03d}" for i in range(5)]
    np.testing.assert_array_equal(samples[2]["00004.png"], picture(2, 5)[4])
    assert samples[2]["json"]["video"] == "v2"
    assert samples[2]["poses.npz"]["xy"].shape == (5, 134, 2)


def test_videos_group_their_records(tmp_path: Path) -> None:
    write_records(tmp_path, PNG, [record(i, video=video) for i, video in enumerate("abaa")], per_shard=2)
    assert open_shards(tmp_path).videos == {"a": [0, 2, 3], "b": [1]}


@pytest.mark.parametrize("store", ["png", "jpeg", "video"])
def test_written_again_gives_the_same_bytes(tmp_path: Path, store: str) -> None:
    shared = ShardSettings(size=SIZE, store=store)
    assert sums(fill(tmp_path / "a", shared=shared)) == sums(fill(tmp_path / "b", shared=shared))


def test_index_made_from_the_shards_is_the_same(tmp_path: Path) -> None:
    fill(tmp_path, per_shard=2)
    before = (tmp_path / "index.json").read_bytes()
    index_again(tmp_path)
    assert (tmp_path / "index.json").read_bytes() == before


def test_digest_is_that_of_the_split(tmp_path: Path) -> None:
    finish(write_shards(tmp_path / "a", plan_shards([1, 2], 2), make_one, PNG))
    finish(write_shards(tmp_path / "b", plan_shards([1, 2], 2) + plan_shards([7], 2, "val"), make_one, PNG))
    finish(write_shards(tmp_path / "c", plan_shards([1, 3], 2), make_one, PNG))
    a, b, c = (open_shards(tmp_path / name).digest for name in "abc")
    assert a == b != c
    assert open_shards(tmp_path / "b", "val").digest != a


# --- write_shards


@given(
    count=st.integers(0, 40),
    per_shard=st.integers(1, 12),
)
def test_plan_holds_every_item_once_in_order(count: int, per_shard: int) -> None:
    plan = plan_shards(range(count), per_shard)
    assert [i for p in plan for i in p.items] == list(range(count))
    assert all(len(p.items) == per_shard for p in plan[:-1])
    assert [p.name for p in plan] == [f"train-{i:05d}.tar" for i in range(len(plan))]


@pytest.mark.whole
def test_processes_do_not_matter(tmp_path: Path) -> None:
    plan = plan_shards(range(7), 2) + plan_shards([100], 2, "val")
    one = finish(write_shards(tmp_path / "one", plan, make_one, PNG))
    make = functools.partial(make_one, frames=3)
    two = finish(write_shards(tmp_path / "two", plan, make, PNG, processes=2))
    assert sums(tmp_path / "one") == sums(tmp_path / "two")
    assert one.records == two.records == {"train": 7, "val": 1}
    assert (one.frames, one.shards, one.reused) == (24, 5, 0)


def test_progress_counts_items(tmp_path: Path) -> None:
    reports = list(write_shards(tmp_path, plan_shards(range(5), 2), make_or_not, PNG))
    assert reports[0].done == 0
    assert (reports[-1].done, reports[-1].total) == (5, 5)
    assert [r.done for r in reports] == sorted(r.done for r in reports)
    assert open_shards(tmp_path).keys == ["v1-001", "v3-003"]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_stopped_and_begun_again(tmp_path: Path, processes: int) -> None:
    plan = plan_shards(range(9), 3)
    finish(write_shards(tmp_path / "whole", plan, make_one, PNG))
    job = write_shards(tmp_path / "a", plan, make_one, PNG, processes=processes)
    while not list((tmp_path / "a").glob("train-*.tar")):
        next(job)
    job.close()
    left = {p.name for p in (tmp_path / "a").iterdir()}
    assert left
    assert left <= {p.name for p in plan}  # whole shards, no index, nothing half-written
    (tmp_path / "a" / ".train-00002.01234567.part.tar").write_bytes(b"of a killed process")
    again = finish(write_shards(tmp_path / "a", plan, make_one, PNG, processes=processes))
    assert again.reused == len(left)
    assert sums(tmp_path / "a") == sums(tmp_path / "whole")


def test_kept_shards_are_not_touched_and_damaged_ones_are_made_again(tmp_path: Path) -> None:
    plan = plan_shards(range(6), 2)
    finish(write_shards(tmp_path, plan, make_one, PNG))
    before = sums(tmp_path)
    times = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.tar")}
    damaged = tmp_path / "train-00001.tar"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    assert finish(write_shards(tmp_path, plan, make_one, PNG)).reused == 2
    assert sums(tmp_path) == before
    changed = {p.name for p in tmp_path.glob("*.tar") if p.stat().st_mtime_ns != times[p.name]}
    assert changed == {"train-00001.tar"}


def test_more_items_add_to_what_is_there(tmp_path: Path) -> None:
    finish(write_shards(tmp_path / "a", plan_shards(range(5), 2), make_one, PNG))
    assert finish(write_shards(tmp_path / "a", plan_shards(range(8), 2), make_one, PNG)).reused == 2
    finish(write_shards(tmp_path / "b", plan_shards(range(8), 2), make_one, PNG))
    assert sums(tmp_path / "a") == sums(tmp_path / "b")


def test_other_settings_or_a_smaller_plan_are_refused(tmp_path: Path) -> None:
    plan = plan_shards(range(4), 2)
    finish(write_shards(tmp_path, plan, make_one, PNG))
    before = sums(tmp_path)
    for change in ({"settings": {"made": "x"}}, {"store": "jpeg"}):
        shared = dataclasses.replace(PNG, **change)
        with pytest.raises(OutputError, match="was made with other settings: .* was .*, is "):
            finish(write_shards(tmp_path, plan, make_one, shared))
    with pytest.raises(OutputError, match=r"train-00001\.tar"):
        finish(write_shards(tmp_path, plan[:1], make_one, PNG))
    assert sums(tmp_path) == before


def test_a_tar_file_of_another_tool_is_not_overwritten(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-00000.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("000.jpg"))
    before = sums(tmp_path)
    with pytest.raises(InputError, match="tar file from another tool"):
        finish(write_shards(tmp_path, plan_shards(range(2), 2), make_one, PNG))
    assert sums(tmp_path) == before


def fails_at_two(item: int) -> Iterator[RecordData]:
    if item == 2:
        raise MediaError("video 2 is damaged", "another", "remove it")
    yield from make_one(item)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_error_leaves_whole_shards_only(tmp_path: Path, processes: int) -> None:
    with pytest.raises(MediaError, match="video 2 is damaged"):
        finish(write_shards(tmp_path, plan_shards(range(6), 2), fails_at_two, PNG, processes=processes))
    left = {p.name for p in tmp_path.iterdir()}
    assert "train-00001.tar" not in left
    assert left <= {"train-00000.tar", "train-00002.tar"}


def test_nothing_to_write(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to write"):
        finish(write_shards(tmp_path, [], make_one, PNG))
    with pytest.raises(InputError, match="without a record"):
        finish(write_shards(tmp_path, plan_shards([0, 2], 1), make_or_not, PNG))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"frames": picture(0, 4)}, "4 frames"),
        ({"frames": picture(0, 6)}, "6 frames"),
        ({"frames": picture(0, 5, (32, 32))}, "frame 0 is uint8"),
        ({"frames": picture(0, 5).astype(np.float32)}, "frame 0 is float32"),
        ({"stills": 6}, "6 stills"),
        ({"key": "a.b"}, "a.b"),
    ],
)
def test_wrong_records_are_refused(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        write_records(tmp_path, PNG, [dataclasses.replace(record(0), **change)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("per_shard", [1, 2])
def test_a_key_twice_is_refused(tmp_path: Path, per_shard: int) -> None:
    with pytest.raises(InputError, match="v1-001.* twice"):
        finish(write_shards(tmp_path, plan_shards([1, 1], per_shard), make_one, PNG))


@pytest.mark.parametrize(("store", "size", "match"), [("gif", SIZE, "store"), ("video", (31, 24), "even")])
def test_wrong_store(tmp_path: Path, store: str, size: tuple[int, int], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        write_records(tmp_path, ShardSettings(size=size, store=store), [record(0)])


# --- what can be wrong with a set of shards


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no records in split 'val'(.|\n)*train \(5\)"):
        open_shards(fill(tmp_path), "val")


@pytest.mark.parametrize("name", ["v1-001.json", "v1-001.poses.npz", "v1-001.00003.png"])
def test_a_missing_member_is_named(tmp_path: Path, name: str) -> None:
    fill(tmp_path)
    rebuild(tmp_path / "train-00000.tar", lambda n, data: None if n == name else data)
    with pytest.raises(MediaError, match=r"train-00000\.tar: record v1-001 has .*(no frame 3|" + name + ")"):
        scan_shard(tmp_path / "train-00000.tar")


@pytest.mark.parametrize("cut", [100, 700, 5000, -1024, -10240])
def test_a_cut_off_shard_is_named(tmp_path: Path, cut: int) -> None:
    path = fill(tmp_path) / "train-00000.tar"
    data = path.read_bytes()
    path.write_bytes(data[:cut].rstrip(b"\0") if cut < 0 else data[:cut])
    with pytest.raises(MediaError, match=r"train-00000\.tar has \d+ bytes"):
        open_shards(tmp_path)
    with pytest.raises(MediaError, match=r"train-00000\.tar is damaged or truncated"):
        scan_shard(path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    fill(tmp_path, per_shard=2)
    (tmp_path / "train-00001.tar").unlink()
    with pytest.raises(MediaError, match=r"train-00001\.tar is missing"):
        open_shards(tmp_path)


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    monkeypatch.setattr(index_module, "VERSION", 2)
    with pytest.raises(InputError, match=r"index\.json is 'mimicmotion.shards' version 1"):
        open_shards(tmp_path)
    with pytest.raises(InputError, match=r"train-00000\.tar is 'mimicmotion.shards' version 1"):
        scan_shard(tmp_path / "train-00000.tar")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": "mimicmotion.shards", "version": 1}'])
def test_a_damaged_index_is_named(tmp_path: Path, text: str) -> None:
    (fill(tmp_path) / "index.json").write_text(text)
    with pytest.raises(InputError, match=r"index\.json"):
        open_shards(tmp_path)


def poses_of(count: int) -> bytes:
    from mimicmotion.pose.files import dump_poses

    return dump_poses(record(0, count).poses)


@pytest.mark.parametrize(
    ("name", "data", "read"),
    [
        ("poses.npz", b"x", lambda r: r.poses),
        ("poses.npz", poses_of(4), lambda r: r.poses),
        ("00002.png", b"x", lambda r: r.frames([2])),
        ("00002.png", b"", lambda r: r.frames([2])),
    ],
)
def test_damaged_members_are_named(tmp_path: Path, name: str, data: bytes, read: Callable[[Any], Any]) -> None:
    fill(tmp_path)
    rebuild(tmp_path / "train-00000.tar", lambda n, old: data if n == f"v1-001.{name}" else old)
    index_again(tmp_path)
    shards = open_shards(tmp_path)
    read(shards[0])
    with pytest.raises(MediaError, match=r"train-00000\.tar: record v1-001"):
        read(shards[1])


def test_a_video_with_fewer_frames_than_said_is_named(tmp_path: Path) -> None:
    shared = ShardSettings(size=SIZE, store="video")
    write_records(tmp_path / "short", shared, [record(1, 20)])
    short = open_shards(tmp_path / "short")[0]._read("mp4")
    write_records(tmp_path / "long", shared, [record(1, 40)])
    for name, data in (("short", short), ("damaged", b"x" * 100)):
        rebuild(tmp_path / "long" / "train-00000.tar", lambda n, old, d=data: d if n == "v1-001.mp4" else old)
        index_again(tmp_path / "long")
        found = open_shards(tmp_path / "long")[0]
        for index in (21, 39):
            with pytest.raises(MediaError, match=r"train-00000\.tar: record v1-001: mp4"):
                found.frames([index])
        if name == "short":
            assert found.frames([19]).shape == (1, *SIZE, 3)


@pytest.mark.parametrize("meta", [b"{", b"{}", b'{"video": 1}', b"[]"])
def test_wrong_metadata_is_named(tmp_path: Path, meta: bytes) -> None:
    fill(tmp_path)
    rebuild(tmp_path / "train-00000.tar", lambda n, old: meta if n == "v1-001.json" else old)
    with pytest.raises(MediaError, match=r"train-00000\.tar: record v1-001: v1-001\.json"):
        scan_shard(tmp_path / "train-00000.tar")


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    (fill(tmp_path) / "index.json").unlink()
    with pytest.raises(InputError, match=r"has no index\.json") as e:
        open_shards(tmp_path)
    assert "run prepare to completion" in e.value.fix


def test_frames_that_are_not_there(tmp_path: Path) -> None:
    found = open_shards(fill(tmp_path))[0]
    for index in (-1, 5):
        with pytest.raises(InputError, match="0 to 4"):
            found.frames([0, index])


# --- many readers


def read_one(shards: Shards, number: int) -> ndarray:
    return shards[number].frames([4, 0])


def test_readers_in_threads_and_processes(tmp_path: Path) -> None:
    import multiprocessing

    shards = open_shards(fill(tmp_path, per_shard=2))
    numbers = [i % 5 for i in range(40)]
    want = [picture(n, 5)[[4, 0]] for n in numbers]
    with ThreadPoolExecutor(8) as pool:
        np.testing.assert_array_equal(list(pool.map(functools.partial(read_one, shards), numbers)), want)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        np.testing.assert_array_equal(pool.map(functools.partial(read_one, shards), numbers), want)
    np.testing.assert_array_equal(read_one(pickle.loads(pickle.dumps(shards)), 3), picture(3, 5)[[4, 0]])


# --- shards elsewhere


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "there").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "there"))
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as running:
        yield f"http://127.0.0.1:{running.server_port}"


def check_remote(url: str, there: Path, cache: Path) -> None:
    shards = open_shards(url, cache=cache)
    assert shards.digest == open_shards(there).digest
    assert not list(cache.rglob("*.tar"))  # shards come when first used
    np.testing.assert_array_equal(shards[3].frames([1]), picture(3, 5)[1:2])
    assert len(list(cache.rglob("*.tar"))) == 1
    assert shards[2].poses.source == "test"
    assert len(list(cache.rglob("*.tar"))) == 1
    assert not list(cache.rglob("*.part*"))


@pytest.mark.parametrize("end", ["", "/", "/{}?key=1"])
def test_shards_behind_http(server: str, tmp_path: Path, end: str) -> None:
    fill(tmp_path / "there", per_shard=2)
    check_remote(server + end, tmp_path / "there", tmp_path / "cache")


def test_shards_in_an_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setattr(shards_module, "SCHEMES", ("memory",))
    there, store = fill(tmp_path / "there", per_shard=2), fsspec.filesystem("memory")
    for path in there.iterdir():
        store.pipe(f"/bucket/set/{path.name}", path.read_bytes())
    try:
        check_remote("memory://bucket/set", there, tmp_path / "cache")
    finally:
        store.rm("/bucket", recursive=True)


def test_shards_behind_a_file_url(tmp_path: Path) -> None:
    assert open_shards(fill(tmp_path / "a b").as_uri()).keys == open_shards(tmp_path / "a b").keys


@pytest.mark.parametrize(
    "url", ["pipe:touch {}", "pipe:touch x; cat {}", "ftp://h/x", "simplecache::http://h/x", "memory://x", "shell:x"]
)
def test_other_urls_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"file://, http://, https://, s3://"):
        open_shards(url, cache=tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setitem(sys.modules, {"s3": "s3fs", "gs": "gcsfs"}[scheme], None)
    with pytest.raises(ConfigError, match=r"\[remote\]"):
        open_shards(f"{scheme}://bucket/set", cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("file", "../train-00000.tar"),
        ("file", "/etc/train-00000.tar"),
        ("file", "a/train-00000.tar"),
        ("file", "train-$(touch x)-0.tar"),
        ("file", "train-00000.tar\n"),
        ("sha256", "../../x"),
        ("key", "../../../x"),
        ("key", "/etc/x"),
    ],
)
def test_an_index_cannot_name_other_places(server: str, tmp_path: Path, field: str, value: str) -> None:
    there = fill(tmp_path / "there")
    index = json.loads((there / "index.json").read_text())
    shard = index["splits"]["train"][0]
    (shard["records"][0] if field == "key" else shard)[field] = value
    (there / "index.json").write_text(json.dumps(index))
    for where in (there, server):
        with pytest.raises(InputError, match=rf"index\.json is damaged .*{field}: String should match"):
            open_shards(where, cache=tmp_path / "cache")


def test_remote_shard_with_other_bytes_is_refused(server: str, tmp_path: Path) -> None:
    there = fill(tmp_path / "there")
    data = bytearray((there / "train-00000.tar").read_bytes())
    data[-11000] ^= 1
    (there / "train-00000.tar").write_bytes(data)
    shards = open_shards(server, cache=tmp_path / "cache")
    with pytest.raises(MediaError, match=r"train-00000\.tar has sha256"):
        shards[0].frames([0])
    assert not list((tmp_path / "cache").rglob("*.tar"))


def test_remote_without_index(server: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"index\.json cannot be read .*404"):
        open_shards(server, cache=tmp_path / "cache")


def test_remote_that_is_gone_is_read_from_the_cache(server: str, tmp_path: Path) -> None:
    there = fill(tmp_path / "there")
    open_shards(server, cache=tmp_path / "cache")[0].frames([0])
    there.rename(tmp_path / "gone")
    np.testing.assert_array_equal(open_shards(server, cache=tmp_path / "cache")[1].frames([2]), picture(1, 5)[2:3])


def test_index_is_plain_json(tmp_path: Path) -> None:
    data = json.loads((fill(tmp_path, 2) / "index.json").read_text())
    assert (data["format"], data["version"], data["size"], data["store"]) == ("mimicmotion.shards", 1, [32, 24], "png")
    assert data["settings"] == {"made": "for the test"}
    (shard,) = data["splits"]["train"]
    raw = (tmp_path / shard["file"]).read_bytes()
    assert (shard["bytes"], shard["sha256"]) == (len(raw), hashlib.sha256(raw).hexdigest())
    offset, size = shard["records"][1]["members"]["json"]
    assert json.loads(raw[offset : offset + size])["start_s"] == 0.5
