"""Pose maps and hand crops: places, pixels and tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy import ndarray
from test_figures_clips import random_clip, rows, write_clip

from mimicmotion.errors import InputError, PoseError
from mimicmotion.evaluation.figures import job, people
from mimicmotion.evaluation.figures.clips import open_clips, parse_names
from mimicmotion.evaluation.figures.people import make_maps, part_of, pose_box
from mimicmotion.evaluation.figures.specs import HandsSpec, PosesSpec
from mimicmotion.pose.files import save_poses
from mimicmotion.pose.keypoints import BODY, FACE, FEET, LEFT_HAND, NUM_POINTS, RIGHT_HAND, PoseSequence
from mimicmotion.runtime.progress import finish
from static_pose import StaticPose

SIZE = (96, 64)


def standing(frames: int = 1, size: tuple[int, int] = SIZE) -> PoseSequence:
    """Points spread over the middle of the frame, the left hand around (44, 50), the right one around (16, 60)."""
    rng = np.random.default_rng(3)
    xy = rng.uniform((16, 12), (48, 84), (frames, NUM_POINTS, 2))
    xy[:, LEFT_HAND] = rng.uniform((40, 46), (48, 54), (frames, 21, 2))
    xy[:, RIGHT_HAND] = rng.uniform((12, 56), (20, 64), (frames, 21, 2))
    pose = PoseSequence(xy.astype(np.float32), np.full((frames, NUM_POINTS), 0.9, np.float32), SIZE)
    return pose.scaled(size)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "video", random_clip(5, 5, *SIZE))


def test_parts_of_all_points() -> None:
    names = [part_of(k) for k in range(NUM_POINTS)]
    for name, part in (("body", BODY), ("feet", FEET), ("face", FACE), ("left hand", LEFT_HAND)):
        assert {i for i, n in enumerate(names) if n == name} == set(range(part.start, part.stop))
    assert names.count("right hand") == 21


def test_confidence_dims_one_map_and_not_the_other() -> None:
    frames = dict(enumerate(random_clip(1, 2, *SIZE)))
    poses = standing(2)
    poses.confidence[0], poses.confidence[1] = 0.95, 0.4
    _, aware, plain = make_maps(frames, poses).values()
    assert aware[0].max() > 1.5 * aware[1].max()  # 0.95 against 0.4
    assert plain[0].max() == plain[1].max() == 255
    poses.confidence[1, 5:] = 0.29
    assert (make_maps(frames, poses)["without"][1] > 0).sum() < (plain[1] > 0).sum()


def test_maps_and_frames_show_the_same_part() -> None:
    clip = np.zeros((1, *SIZE, 3), np.uint8)
    poses = standing()
    poses.confidence[:] = 0
    corners = ((20, 20), (40, 60))
    for k, (x, y) in zip((3, 4), corners, strict=True):
        poses.xy[0, k], poses.confidence[0, k] = (x + 0.5, y + 0.5), 1
        clip[0, y, x] = 255
    box = pose_box(poses)
    assert box == (16, 16, 45, 65)  # floor(20.5 - 0.1 * 40), ..., ceil(60.5 + 0.1 * 40)
    (frame,), (aware,), _ = make_maps({7: clip[0]}, poses).values()
    assert np.array_equal(frame, clip[0, box[1] : box[3], box[0] : box[2]])
    drawn = np.argwhere(aware.max(-1) > 0).mean(0) / aware.shape[:2]
    lit = (np.argwhere(frame.max(-1) > 0).mean(0) + 0.5) / frame.shape[:2]
    np.testing.assert_allclose(drawn, lit, atol=0.03)


def test_pose_table_holds_the_file(video: Path, tmp_path: Path) -> None:
    poses = standing(5)
    poses.confidence[:, 4] = 0.3
    save_poses(poses, tmp_path / "poses.npz")
    finish(job.make(PosesSpec(video=video, output=tmp_path / "p.png", poses=tmp_path / "poses.npz", frames=[4, 1])))
    found = rows(tmp_path / "p.csv")
    assert [(int(r["frame"]), int(r["point"])) for r in found] == [(t, k) for t in (1, 4) for k in range(NUM_POINTS)]
    for r in found:
        t, k = int(r["frame"]), int(r["point"])
        assert [float(r["x"]), float(r["y"])] == pytest.approx(poses.xy[t, k].tolist())
        assert float(r["confidence"]) == pytest.approx(poses.confidence[t, k])
        assert r["drawn_without"] == ("0" if k == 4 else "1")


def test_poses_are_found_where_none_are_given(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mimicmotion.generate.inputs.find_estimator", lambda options: lambda static: StaticPose(standing())
    )
    finish(job.make(PosesSpec(video=video, output=tmp_path / "p.png")))
    assert sorted({int(r["frame"]) for r in rows(tmp_path / "p.csv")}) == [0, 1, 3, 4]


def test_poses_that_do_not_fit(video: Path, tmp_path: Path) -> None:
    save_poses(standing(4), tmp_path / "short.npz")
    with pytest.raises(InputError, match=r"4 poses, .* has 5 frames"):
        finish(job.make(PosesSpec(video=video, output=tmp_path / "p.png", poses=tmp_path / "short.npz")))
    save_poses(standing(5, (64, 96)), tmp_path / "turned.npz")
    with pytest.raises(InputError, match="96 x 64"):
        finish(job.make(PosesSpec(video=video, output=tmp_path / "p.png", poses=tmp_path / "turned.npz")))
    nobody = standing(5)
    nobody.confidence[:] = 0
    save_poses(nobody, tmp_path / "nobody.npz")
    with pytest.raises(PoseError, match="nobody visible in the frames 2"):
        finish(job.make(PosesSpec(video=video, output=tmp_path / "p.png", poses=tmp_path / "nobody.npz", frames=[2])))
    with pytest.raises(InputError, match="frame 5 of 5"):
        finish(job.make(PosesSpec(video=video, output=tmp_path / "p.png", frames=[5])))
    assert not (tmp_path / "p.png").exists()


def test_hands_are_cut_at_the_same_place(video: Path, tmp_path: Path) -> None:
    """The second result is the first in twice the size: its boxes are twice as large and it differs little."""
    clip = np.zeros((5, *SIZE, 3), np.uint8)
    clip[:, 46:54, 40:48] = 200
    first = write_clip(tmp_path / "first", clip)
    double = write_clip(tmp_path / "double", clip.repeat(2, 1).repeat(2, 2))
    brighter = write_clip(tmp_path / "brighter", clip + 10)
    poses = standing(5)
    poses.confidence[:, RIGHT_HAND.start] = 0.2
    poses.confidence[0, LEFT_HAND.start] = 0.2
    save_poses(poses, tmp_path / "poses.npz")
    finish(
        job.make(
            HandsSpec(
                results=list(map(str, (first, double, brighter))),
                output=tmp_path / "h.png",
                poses=tmp_path / "poses.npz",
            )
        )
    )
    found = rows(tmp_path / "h.csv")
    assert {(r["frame"], r["hand"]) for r in found} == {(str(t), "left") for t in (1, 2, 3, 4)}
    for a, b, c in zip(found[::3], found[1::3], found[2::3], strict=True):
        box, twice = ([int(r[k]) for k in ("left", "top", "right", "bottom")] for r in (a, b))
        assert np.abs(2 * np.array(box) - twice).max() <= 2
        assert box[2] - box[0] == box[3] - box[1] > 8
        points = poses.xy[int(a["frame"]), LEFT_HAND]
        assert (points > box[:2]).all()
        assert (points < box[2:]).all()
        assert float(a["difference_from_first"]) == 0
        assert float(b["difference_from_first"]) < 25  # edges between pixels
        assert float(c["difference_from_first"]) == pytest.approx(10)
        assert float(a["confidence"]) == pytest.approx(0.9)


def test_crop_is_black_outside_the_frame() -> None:
    frame = random_clip(4, 1)[0] | 1
    cut = people.crop(frame, (-3, -2, 4, 5))
    assert cut.shape == (7, 7, 3)
    assert np.array_equal(cut[2:, 3:], frame[:5, :4])
    assert not cut[:2].any()
    assert not cut[:, :3].any()
    assert not people.crop(frame, (50, 50, 54, 54)).any()


def test_hands_are_found_in_the_first_result(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ndarray] = []

    class Watched(StaticPose):
        def estimate(self, frames: list[ndarray], fps: float = 0.0) -> PoseSequence:
            seen.extend(frames)
            return super().estimate(frames, fps)

    monkeypatch.setattr(
        "mimicmotion.generate.inputs.find_estimator", lambda options: lambda static: Watched(standing())
    )
    other = write_clip(tmp_path / "other", random_clip(6, 5, *SIZE))
    finish(job.make(HandsSpec(results=[f"real={video}", str(other)], output=tmp_path / "h.png", frames=[3])))
    assert np.array_equal(seen, random_clip(5, 5, *SIZE)[[3]])
    assert {(r["result"], r["frame"], r["hand"]) for r in rows(tmp_path / "h.csv")} == {
        (n, "3", h) for n in ("real", "other") for h in ("left", "right")
    }


def test_hands_by_the_settings_of_a_result(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def find(config):
        yield from ()
        return "what is found"

    def prepare(config, found, size):
        asked.append((config.video, found, size))
        return type("Inputs", (), {"aligned": standing(5)})

    monkeypatch.setattr("mimicmotion.generate.inputs.find_poses", find)
    monkeypatch.setattr("mimicmotion.generate.inputs.prepare", prepare)
    sidecar = tmp_path / "video.mp4.json"
    settings = {"picture": "p.png", "video": "d.mp4", "output": "video.mp4"}
    sidecar.write_text(json.dumps({"settings": settings, "size": list(SIZE)}))
    finish(job.make(HandsSpec(results=[str(video)], output=tmp_path / "h.png", poses=sidecar, max_frames=3)))
    assert asked == [(Path("d.mp4"), "what is found", SIZE)]
    assert {r["frame"] for r in rows(tmp_path / "h.csv")} == {"0", "1", "2"}


def test_hands_that_cannot_be_shown(video: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "h.png", tmp_path / "poses.npz"
    unsure = standing(5)
    unsure.confidence[:, [LEFT_HAND.start, RIGHT_HAND.start]] = 0.25
    save_poses(unsure, file)
    with pytest.raises(PoseError, match=r"best: left 0\.25"):
        finish(job.make(HandsSpec(results=[str(video)], output=out, poses=file)))
    save_poses(standing(4), file)
    with pytest.raises(InputError, match="4 poses .* for 5 frames"):
        finish(job.make(HandsSpec(results=[str(video)], output=out, poses=file)))
    save_poses(standing(5, (64, 96)), file)
    with pytest.raises(InputError, match="one aspect ratio"):
        finish(job.make(HandsSpec(results=[str(video)], output=out, poses=file)))
    short = write_clip(tmp_path / "short", random_clip(5, 4, *SIZE))
    with pytest.raises(InputError, match=r"5 frames; short .* 4 frames"):
        people.cut_hands(open_clips(parse_names([str(video), str(short)])), standing(5))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match=r"bad\.json"):
        finish(job.make(HandsSpec(results=[str(video)], output=out, poses=tmp_path / "bad.json")))
    assert not out.exists()
