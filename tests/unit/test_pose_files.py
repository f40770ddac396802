from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray

from mimicmotion.errors import OutputError, PoseError
from mimicmotion.pose.files import load_openpose, load_poses, open_poses, save_openpose, save_poses
from mimicmotion.pose.keypoints import (
    BODY,
    FACE,
    FEET,
    L_HIP,
    LEFT_HAND,
    NUM_POINTS,
    R_EAR,
    R_HIP,
    RIGHT_HAND,
    PoseSequence,
)  # fmt: skip


def some_poses(frames: int = 3, seed: int = 0) -> PoseSequence:
    random = np.random.default_rng(seed)
    xy = random.uniform(0, 90, (frames, NUM_POINTS, 2))
    return PoseSequence(xy, random.uniform(0.1, 1, (frames, NUM_POINTS)).astype(np.float32), (120, 90), 29.97, "test é")


def assert_same(a: PoseSequence, b: PoseSequence) -> None:
    np.testing.assert_array_equal(a.xy, b.xy)
    np.testing.assert_array_equal(a.confidence, b.confidence)
    assert (a.size, a.fps, a.source) == (b.size, b.fps, b.source)


@given(frames=st.integers(1, 5), seed=st.integers(0, 9))
def test_npz_round_trip(tmp_path_factory: pytest.TempPathFactory, frames: int, seed: int) -> None:
    path = tmp_path_factory.mktemp("poses") / "a" / "b.npz"
    save_poses(some_poses(frames, seed), path)
    assert_same(load_poses(path), some_poses(frames, seed))
    assert [p.name for p in path.parent.iterdir()] == ["b.npz"]


def test_the_file_gets_exactly_the_name_asked_for(tmp_path: Path) -> None:
    save_poses(some_poses(), tmp_path / "poses")
    assert len(open_poses(tmp_path / "poses")) == 3


def write(path: Path, **changes: Any) -> Path:
    poses = some_poses()
    fields: dict[str, Any] = {
        "format": "mimicmotion.poses", "version": 1, "xy": poses.xy, "confidence": poses.confidence,
        "size": np.array(poses.size), "fps": 25.0, "source": "x",
    } | changes  # fmt: skip
    np.savez(path, **{k: v for k, v in fields.items() if v is not None})
    return path


def with_value(name: str, value: float) -> ndarray:
    array = getattr(some_poses(), name).copy()
    array.flat[7] = value
    return array


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"xy": with_value("xy", np.nan)}, "NaN"),
        ({"xy": with_value("xy", np.inf)}, "infinity"),
        ({"confidence": with_value("confidence", np.nan)}, "NaN"),
        ({"confidence": with_value("confidence", 1.5)}, "0 to 1"),
        ({"confidence": with_value("confidence", -0.1)}, "0 to 1"),
        ({"confidence": np.ones((3, 17), np.float32)}, "134"),
        ({"xy": np.zeros((4, NUM_POINTS, 2))}, "134"),
        ({"xy": np.zeros((0, NUM_POINTS, 2)), "confidence": np.zeros((0, NUM_POINTS))}, "0 frames"),
        ({"version": 2}, "update mimicmotion"),
        ({"format": "other"}, "pose file"),
        ({"format": None}, "pose file"),
        ({"confidence": None}, "complete pose file"),
        ({"size": np.array([5])}, "complete pose file"),
        ({"size": np.array([0, 5])}, "at least 1 frame"),
        ({"fps": np.nan}, "0 to 1000 fps"),
        ({"xy": np.array(["a", "b"])}, "complete pose file"),
        ({"source": np.array([{}], dtype=object)}, "pickled"),
    ],
    ids=lambda v: v if isinstance(v, str) else "+".join(v),
)
def test_damaged_files_are_refused_with_their_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PoseError, match=message) as error:
        load_poses(write(tmp_path / "bad.npz", **changes))
    assert "bad.npz" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x80\x04]\x94.", b"plain text"], ids=repr)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(PoseError, match="x.npz"):
        load_poses(tmp_path / "x.npz")


def test_a_single_array_and_a_cut_file_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    whole = write(tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    for name in ("one", "cut"):
        with pytest.raises(PoseError, match=f"{name}.npz"):
            load_poses(tmp_path / f"{name}.npz")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PoseError, match="does not exist"):
        load_poses(tmp_path / "none.npz")
    with pytest.raises(PoseError, match="json"):
        open_poses(tmp_path)


def test_nothing_is_left_where_writing_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        save_poses(some_poses(), tmp_path / "file" / "poses.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(OutputError):
        save_poses(some_poses(), tmp_path / "folder.npz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.npz"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "poses.npz"
    save_poses(some_poses(2), path)

    def full(file: Any, **_: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OutputError, match="No space"):
        save_poses(some_poses(3), path)
    assert [p.name for p in tmp_path.iterdir()] == ["poses.npz"]
    assert len(load_poses(path)) == 2


def test_frames_of_an_older_run_are_not_mixed_in(tmp_path: Path) -> None:
    save_openpose(some_poses(4), tmp_path / "clip")
    save_openpose(some_poses(4, seed=1), tmp_path / "clip")
    with pytest.raises(OutputError, match="1 other"):
        save_openpose(some_poses(3), tmp_path / "clip")


def test_openpose_round_trip(tmp_path: Path) -> None:
    poses = some_poses(4)
    confidence = poses.confidence.copy()
    confidence[2] = 0
    poses = PoseSequence(poses.xy, confidence, poses.size, 25.0)
    save_openpose(poses, tmp_path / "clip")
    assert sorted(p.name for p in (tmp_path / "clip").iterdir())[3] == "clip_000000000003_keypoints.json"
    back = load_openpose(tmp_path / "clip", fps=25.0)
    seen = [0, 1, 3]
    np.testing.assert_allclose(back.xy[seen], poses.xy[seen], atol=1e-4)
    np.testing.assert_allclose(back.confidence, poses.confidence, atol=1e-4)
    assert (back.size, back.fps) == (poses.size, 25.0)


def numbered(count: int, start: int) -> list[float]:
    """Point k is at (start + k, 0.5) with confidence 0.9."""
    return [v for k in range(count) for v in (float(start + k), 0.5, 0.9)]


def write_json(path: Path, *people: dict[str, Any], **more: Any) -> Path:
    path.write_text(json.dumps({"version": 1.3, "people": list(people)} | more))
    return path


def test_body_25_is_put_in_our_order(tmp_path: Path) -> None:
    person = {
        "pose_keypoints_2d": numbered(25, 100), "face_keypoints_2d": numbered(70, 200),
        "hand_left_keypoints_2d": numbered(21, 300), "hand_right_keypoints_2d": numbered(21, 400),
    }  # fmt: skip
    xy = load_openpose(write_json(tmp_path / "a_0.json", person), (600, 600)).xy[0, :, 0]
    np.testing.assert_array_equal(xy[BODY], [100, 101, 102, 103, 104, 105, 106, 107, *range(109, 119)])
    assert (xy[R_HIP], xy[L_HIP], xy[R_EAR]) == (109, 112, 117)
    np.testing.assert_array_equal(xy[FEET], range(119, 125))
    np.testing.assert_array_equal(xy[FACE], range(200, 268))
    np.testing.assert_array_equal(xy[LEFT_HAND], range(300, 321))
    np.testing.assert_array_equal(xy[RIGHT_HAND], range(400, 421))


def test_body_18_without_hands_is_read(tmp_path: Path) -> None:
    person = {"pose_keypoints_2d": numbered(18, 50), "face_keypoints_2d": [], "hand_left_keypoints_2d": None}
    poses = load_openpose(write_json(tmp_path / "a.json", person), (100, 100))
    np.testing.assert_array_equal(poses.xy[0, BODY, 0], range(50, 68))
    assert not poses.confidence[0, 18:].any()


def test_fractions_of_the_frame_become_pixels(tmp_path: Path) -> None:
    body = [v for k in range(18) for v in (k / 20, 0.5, 1.0)]
    path = write_json(tmp_path / "a.json", {"pose_keypoints_2d": body}, canvas_height=200, canvas_width=100)
    poses = load_openpose(path)
    np.testing.assert_allclose(poses.xy[0, BODY, 0], np.arange(18) * 5, rtol=1e-6)
    np.testing.assert_allclose(poses.xy[0, BODY, 1], 100)


def figure(left: float, width: float) -> dict[str, Any]:
    grid = np.stack(np.meshgrid([0, 0.5, 1], np.linspace(0, 1, 6)), -1).reshape(-1, 2)
    points = np.concatenate([grid * (width, 2 * width) + (left, 20), np.full((18, 1), 0.9)], 1)
    return {"pose_keypoints_2d": points.ravel().tolist()}


def test_one_of_several_people_is_followed_whatever_their_order(tmp_path: Path) -> None:
    for i in range(4):
        people = [figure(10 + i, 30), figure(120 + i, 50)]
        write_json(tmp_path / f"v_{i:03d}_keypoints.json", *people[:: 1 if i % 2 else -1])
    size = (200, 200)
    np.testing.assert_allclose(load_openpose(tmp_path, size).xy[:, 0, 0], [120, 121, 122, 123])
    np.testing.assert_allclose(load_openpose(tmp_path, size, person=0).xy[:, 0, 0], [10, 11, 12, 13])
    np.testing.assert_allclose(load_openpose(tmp_path, size, person=(20.0, 40.0)).xy[:, 0, 0], [10, 11, 12, 13])


def test_frames_are_ordered_by_number_and_gaps_are_errors(tmp_path: Path) -> None:
    for i in (9, 10, 11):
        write_json(tmp_path / f"v{i}.json", figure(i, 30))
    np.testing.assert_allclose(load_openpose(tmp_path, (200, 200)).xy[:, 0, 0], [9, 10, 11])
    (tmp_path / "v10.json").unlink()
    with pytest.raises(PoseError, match="frame 10"):
        load_openpose(tmp_path, (200, 200))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "readable JSON"),
        ("{}", "people"),
        ('{"people": [3]}', "mapping"),
        ('{"people": [{"pose_keypoints_2d": [1, 2]}]}', "pose_keypoints_2d"),
        ('{"people": [{"pose_keypoints_2d": ["a", "b", "c"]}]}', "pose_keypoints_2d"),
        ('{"people": [{"pose_keypoints_2d": [1, 2, 1, 4, 5, 1]}]}', "2 points"),
        (json.dumps({"people": [{"hand_left_keypoints_2d": [1, 2, 7] * 21}]}), "confidence"),
        (json.dumps({"people": [{"hand_left_keypoints_2d": [float("nan"), 2, 1] * 21}]}), "NaN"),
        (json.dumps({"people": []}), "size of the frames"),
    ],
)
def test_damaged_json_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a_0.json").write_text(text)
    with pytest.raises(PoseError, match=message):
        load_openpose(tmp_path)


def test_confidences_a_little_above_one_are_cut(tmp_path: Path) -> None:
    person = {"pose_keypoints_2d": [50.0, 60.0, 1.05] * 18}
    assert load_openpose(write_json(tmp_path / "a.json", person), (99, 99)).confidence.max() == 1
