"""Whatever bits a file contains, it is read or refused by one of our errors that names it. Seeded and reproducible."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mimicmotion.cli import TRACEBACK, main
from mimicmotion.errors import ConfigError, InputError, MimicMotionError, PoseError, out_of_memory
from mimicmotion.pose.files import PoseCache, load_openpose, load_poses, save_openpose, save_poses
from mimicmotion.pose.keypoints import NUM_POINTS, PoseSequence
from mimicmotion.runtime.progress import Progress, finish
from mimicmotion.runtime.reading import reading
from mimicmotion.settings import GenerateConfig, parse
from mimicmotion.settings.parsing import load_yaml
from mimicmotion.video.picture import read_picture, write_picture
from mimicmotion.video.reader import open_video
from mimicmotion.video.writer import open_writer

SETTINGS = "picture: a.png\nvideo: b.mp4\noutput: c.mp4\nfps: 12.5\nguidance_interval: [0.4, 60]\nresume: false\n"


def some_poses() -> PoseSequence:
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 64, (2, NUM_POINTS, 2)).astype(np.float32)
    return PoseSequence(xy, rng.uniform(0, 1, (2, NUM_POINTS)).astype(np.float32), (64, 64), 15.0, "a test")


def write_openpose(path: Path) -> None:
    save_openpose(some_poses(), path.parent / "frames")
    min((path.parent / "frames").iterdir()).replace(path)


def write_video(path: Path) -> None:
    rng = np.random.default_rng(0)
    with open_writer(path, (32, 32), 10) as writer:
        for _ in range(4):
            writer.write(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))


KINDS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "a.npz": (lambda p: save_poses(some_poses(), p), load_poses),
    "a.json": (write_openpose, load_openpose),
    "a.yaml": (lambda p: p.write_text(SETTINGS), lambda p: parse(GenerateConfig, load_yaml(p))),
    "a.png": (lambda p: write_picture(p, np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)), read_picture),
    "a.mp4": (write_video, lambda p: open_video(p).count(5)),
    "a.gif": (write_video, lambda p: open_video(p).count(5)),
}


def harmed(data: bytes, rng: random.Random) -> bytes:
    """Flip a few bits, mostly in the header, which contains sizes; sometimes cut off the end or a middle part."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(min(len(out), 200) if rng.random() < 0.5 else len(out))
        out[place] ^= 1 << rng.randrange(8)
    if rng.random() < 0.3:
        start = rng.randrange(len(out))
        del out[start : start + rng.choice((1, 16, len(out)))]
    return bytes(out)


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", KINDS)
def test_flipped_bits_are_refused_or_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    write, read = KINDS[name]
    path = tmp_path / name
    write(path)
    read(path)
    whole = path.read_bytes()
    monkeypatch.setenv("MIMICMOTION_MAX_PIXELS", "1e6")
    monkeypatch.setenv("MIMICMOTION_MAX_VIDEO_PIXELS", "1e6")
    monkeypatch.setenv("MIMICMOTION_MAX_SECONDS", "60")
    for seed in range(count):
        path.write_bytes(harmed(whole, random.Random(seed)))
        error = None
        try:
            read(path)
        except MimicMotionError as e:
            error = e
        names_file = error is None or name in str(error)
        assert names_file or name == "a.yaml", f"seed {seed}: {error}"  # a setting's error names the setting


@pytest.mark.parametrize(
    "text",
    [
        '{"people": [], "canvas_height": "abc", "canvas_width": 64}',
        '{"people": [], "canvas_height": [1], "canvas_width": 64}',
        '{"people": [], "canvas_height": NaN, "canvas_width": 64}',
        f'{{"people": [], "canvas_height": {"9" * 400}, "canvas_width": 64}}',
        f'{{"people": [], "canvas_height": {"9" * 5000}, "canvas_width": 64}}',
        f'{{"people": [{{"pose_keypoints_2d": [{"9" * 400}, 1, 1]}}], "canvas_height": 64, "canvas_width": 64}}',
        "[" * 100_000,
        '{"people": [{"pose_keypoints_2d": ' + "[" * 500 + "]" * 500 + "}]}",
    ],
)
def test_invalid_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(PoseError, match=r"a\.json"):
        load_openpose(path)


def test_yaml_that_stands_for_gigabytes_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    (tmp_path / "a.yaml").write_text("\n".join([*lines, "seed: *a9", "picture: a", "video: b", "output: c.mp4"]))
    data = load_yaml(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match="seed = ") as e:
        parse(GenerateConfig, {k: v for k, v in data.items() if not k.startswith("a")})
    assert len(str(e.value)) < 2000
    (tmp_path / "b.yaml").write_text("a: " + "[" * 1000)
    with pytest.raises(ConfigError, match=r"b\.yaml is nested too deeply"):
        load_yaml(tmp_path / "b.yaml")


@pytest.mark.parametrize("name", ["pose_flipped_bits.npz", "pose_version_inf.npz"])
def test_damaged_poses_in_the_cache_are_made_again(shared: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    source = shared(f"cases/{name}")
    with pytest.raises(PoseError, match=name):
        load_poses(source)
    cache, video = PoseCache(tmp_path), tmp_path / "video"
    video.write_bytes(b"video")
    path = cache.path(video, {})
    path.parent.mkdir()
    path.write_bytes(source.read_bytes())
    assert len(cache.get(video, {}, some_poses)) == len(load_poses(path)) == 2


def test_a_pose_file_of_a_later_or_invalid_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save_poses(some_poses(), path)
    with np.load(path) as data:
        arrays = dict(data) | {"version": np.float64(np.inf)}
    np.savez(path, **arrays)
    with pytest.raises(PoseError, match=r"a\.npz"):
        load_poses(path)


def test_the_boundary_names_file_and_cause() -> None:
    causes: list[tuple[Exception, str]] = [
        (MemoryError(), "does not fit in memory"),
        (OSError(12, "Cannot allocate memory"), "does not fit in memory"),
        (RecursionError(), "nested too deeply"),
        (PermissionError(13, "Permission denied"), "cannot be read .Permission denied"),
        (FileNotFoundError(2, "No such file"), "does not exist"),
        (KeyError("x"), "damaged or truncated, or not a pose file .'x'"),
    ]
    for cause, message in causes:
        with pytest.raises(InputError, match=f"a.npz .*{message}"), reading("a.npz", "a pose file", "make it anew"):
            raise cause


def opencv_without_memory() -> Exception:
    """An error as OpenCV raises it, from an array that is too large for any memory."""
    import cv2

    with pytest.raises(cv2.error) as e:
        cv2.resize(np.zeros((1, 1), np.uint8), (2**30 + 1, 2**30 + 1))
    return e.value


FULL = [
    MemoryError(),
    OSError(12, "Cannot allocate memory"),
    RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("std::bad_alloc"),
]


@pytest.mark.parametrize("cause", FULL, ids=lambda e: str(e)[:20])
def test_low_memory_is_reported_as_such(
    cause: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def job() -> Iterator[Progress]:
        yield Progress("denoise", 0, 1)
        raise cause

    with pytest.raises(ConfigError, match="not enough free memory for stage denoise"):
        finish(job())  # type: ignore[arg-type]

    def broken(*_: object) -> None:
        raise cause

    monkeypatch.setattr("mimicmotion.generate.poses.poses", broken)
    assert main(["poses", str(tmp_path / "a.mp4"), "-o", str(tmp_path / "a.npz")]) == 2
    said = capsys.readouterr().err
    assert "not enough free memory" in said
    assert "fix: close other programs" in said
    with (
        pytest.raises(InputError, match=r"a\.mp4 does not fit in memory"),
        reading("a.mp4", "a video", "check it"),
    ):
        raise cause


def test_other_errors_are_not_taken_for_low_memory() -> None:
    assert out_of_memory(opencv_without_memory())
    assert not any(map(out_of_memory, (ValueError("memory"), OSError(28, "No space left on device"), KeyError())))


def test_no_traceback_reaches_a_user(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(*_: object) -> None:
        raise LookupError("a mistake\nof ours")

    monkeypatch.setattr("mimicmotion.generate.poses.poses", broken)
    command = ["poses", str(tmp_path / "a.mp4"), "-o", str(tmp_path / "a.npz")]
    assert main(command) == 1
    assert "LookupError: a mistake\n  this is a bug" in capsys.readouterr().err
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(LookupError):
        main(command)


@pytest.mark.parametrize("option", [["--fps", "1e-9"], ["--tempo", "1e-9"], ["--start", "nan"], ["--duration", "nan"]])
def test_invalid_times_are_refused(option: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    frames = tmp_path / "a.npz"
    save_poses(some_poses(), frames)
    assert main(["poses", str(frames), "-o", str(tmp_path / "b.npz"), *option]) == 2
    assert option[0][2:] in capsys.readouterr().err


def test_a_list_of_frames_in_one_file(tmp_path: Path) -> None:
    save_openpose(some_poses(), tmp_path / "frames")
    frames = [json.loads(p.read_text()) for p in sorted((tmp_path / "frames").iterdir())]
    (tmp_path / "a.json").write_text(json.dumps(frames), encoding="utf-8-sig")  # with a byte order mark
    poses = load_openpose(tmp_path / "a.json")
    assert (len(poses), poses.size, poses.fps) == (2, (64, 64), 15.0)


def test_frames_of_some_take(tmp_path: Path) -> None:
    save_openpose(some_poses(), tmp_path / "frames")
    for i, path in enumerate(sorted((tmp_path / "frames").iterdir()), 9):
        path.rename(path.with_name(f"{i:04d}_take2.json"))
    np.testing.assert_allclose(load_openpose(tmp_path / "frames").xy, some_poses().xy, atol=1e-4)


def test_frame_numbers_far_apart_take_no_memory(tmp_path: Path) -> None:
    for number in (0, 50_000_000_000):
        (tmp_path / f"a_{number}.json").write_text("{}")
    with pytest.raises(PoseError, match=r"no file for frame 1 \(missing files: 49999999999\)"):
        load_openpose(tmp_path)
