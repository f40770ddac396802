from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mimicmotion.errors import InputError
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.synth import load_bvh, render_clip
from mimicmotion.synth.clip import _render, make_scene
from mimicmotion.synth.figure import ARM, LEG, YAW
from mimicmotion.synth.motion import motion_params
from mimicmotion.synth.recordings import lift_poses
from mimicmotion.synth.rig import pose_bones

LIMB = """JOINT {0}UpLeg {{ OFFSET {1}2 -1 0 CHANNELS 3 Zrotation Xrotation Yrotation
 JOINT {0}Leg {{ OFFSET 0 -8 0 CHANNELS 3 Zrotation Xrotation Yrotation
 JOINT {0}Foot {{ OFFSET 0 -8 0 CHANNELS 3 Zrotation Xrotation Yrotation
 JOINT {0}ToeBase {{ OFFSET 0 -1 3 CHANNELS 3 Zrotation Xrotation Yrotation End Site {{ OFFSET 0 0 1 }} }} }} }} }}
"""
WING = """JOINT {0}Arm {{ OFFSET {1}4 6 0 CHANNELS 3 Zrotation Xrotation Yrotation
 JOINT {0}ForeArm {{ OFFSET {1}6 0 0 CHANNELS 3 Zrotation Xrotation Yrotation
 JOINT {0}Hand {{ OFFSET {1}5 0 0 CHANNELS 3 Zrotation Xrotation Yrotation End Site {{ OFFSET {1}2 0 0 }} }} }} }}
"""
CHANNELS = 6 + 24 + 3 + 18


def bvh(rows: list[dict[int, float]]) -> str:
    limbs = LIMB.format("Left", "") + LIMB.format("Right", "-")
    arms = WING.format("Left", "") + WING.format("Right", "-")
    spine = "JOINT Spine { OFFSET 0 6 0 CHANNELS 3 Zrotation Xrotation Yrotation " + arms + "}"
    root = "ROOT Hips { OFFSET 0 0 0 CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation "
    lines = [" ".join(str(row.get(i, 18.0 if i == 1 else 0.0)) for i in range(CHANNELS)) for row in rows]
    return f"HIERARCHY {root}{limbs}{spine}}}\nMOTION\nFrames: {len(rows)}\nFrame Time: 0.1\n" + "\n".join(lines)


def test_t_pose_turn_and_raised_arm(tmp_path: Path) -> None:
    path = tmp_path / "t.bvh"
    left_arm_z = 6 + 24 + 3
    path.write_text(bvh([{}, {}, {5: 40.0}, {left_arm_z: 90.0}, {0: 50.0, 2: -20.0}]))
    mocap = load_bvh(path)
    assert mocap.fps == pytest.approx(10)
    q = mocap.params[1:]
    for side in (0, 1):
        np.testing.assert_allclose(q[0, ARM[side] : ARM[side] + 3], (1, 0, 0), atol=1e-6)
        np.testing.assert_allclose(q[0, LEG[side] : LEG[side] + 3], 0, atol=1e-6)
    assert q[1, YAW] - q[0, YAW] == pytest.approx(np.radians(40), abs=1e-6)
    np.testing.assert_allclose(q[1, ARM[0] : ARM[0] + 3], (1, 0, 0), atol=1e-6)
    np.testing.assert_allclose(q[2, ARM[0] : ARM[0] + 3], (0, 1, 0), atol=1e-6)
    np.testing.assert_allclose(q[2, ARM[1] : ARM[1] + 3], (1, 0, 0), atol=1e-6)
    np.testing.assert_allclose(q[3], q[0] * 1.0, atol=1e-6)  # walking away does not leave the picture
    body = make_scene(0, (48, 32), "full").figure.body
    heads = pose_bones(body, q).head
    left, right, head = (body.index(name) for name in ("wrist.L", "wrist.R", "head"))
    assert heads[0, left, 0] > 4 > -4 > heads[0, right, 0]  # decimetres out to the person's left and right
    assert heads[2, left, 1] > heads[2, head, 1]


def test_window_faces_the_viewer_and_repeats_short_files(tmp_path: Path) -> None:
    path = tmp_path / "t.bvh"
    path.write_text(bvh([{5: 170.0 + 2 * k} for k in range(12)]))
    q = load_bvh(path).window(np.random.default_rng(0), np.arange(60) / 15)
    assert q.shape == (60, 54)
    assert abs(q[:, YAW].mean()) < 0.1
    assert np.abs(np.diff(q[:, YAW])).max() < 0.06
    one = tmp_path / "one.bvh"
    one.write_text(bvh([{}]))
    clip = render_clip(0, 2, (48, 32), motion=load_bvh(one))
    assert clip.frames.shape == (2, 48, 32, 3)


def test_bad_files(tmp_path: Path) -> None:
    good = bvh([{}, {}])
    cases = {
        "cut": good[:-40],
        "no_motion": good.split("MOTION")[0],
        "no_legs": good.replace("LeftLeg", "Tail"),
        "nan": good.replace("18.0", "nan"),
        "no_frame_time": good.replace("Frame Time: 0.1", "Frame Time: 0"),
    }
    for name, text in cases.items():
        path = tmp_path / f"{name}.bvh"
        path.write_text(text)
        with pytest.raises(InputError, match=f"{name}.bvh"):
            load_bvh(path)
    with pytest.raises(InputError, match="missing.bvh"):
        load_bvh(tmp_path / "missing.bvh")


@pytest.mark.parametrize("name", ["cmu_12_01_walk", "pymo_walk_meredith", "cmu_01_01_playground"])
def test_recordings_move_within_reach(shared, name: str) -> None:  # type: ignore[no-untyped-def]
    mocap = load_bvh(shared(f"samples/mocap/{name}.bvh"))
    assert mocap.fps == pytest.approx(120, rel=1e-3)
    q = mocap.window(np.random.default_rng(1), np.arange(45) / 15)
    for side in (0, 1):
        reach = np.linalg.norm(q[:, ARM[side] : ARM[side] + 3], axis=-1)
        assert reach.max() < 1.05
        assert reach.min() > 0.2
    assert np.abs(np.diff(mocap.params, axis=0)).max() < 0.7  # at 120 frames per second
    clip = render_clip(2, 4, (80, 48), motion=mocap)
    assert clip.frames.std() > 5


@pytest.mark.whole
@pytest.mark.parametrize("motion", [*(pytest.param(m, marks=pytest.mark.slow) for m in ("raise", "wave")), "squat"])
def test_poses_of_a_video_become_a_motion(motion: str) -> None:
    """Lifted from exact poses seen from the front, wrists and hips move as they did."""
    scene = make_scene(0, (224, 128), "full")
    params = motion_params(motion, np.random.default_rng(4), np.arange(30) / 15)
    params[:, YAW] = 0
    shots = _render(scene, np.random.default_rng(0), np.concatenate([params, params[-1:]]), 15.0, np.zeros((31, 2)))
    lifted = lift_poses(shots.poses, motion)
    assert (lifted.params.shape, lifted.fps, lifted.name) == ((30, 54), 15.0, motion)
    for side in (0, 1):
        up = slice(ARM[side] + 1, ARM[side] + 2)
        assert np.abs(lifted.params[:, up] - params[:, up]).mean() < 0.25  # arm lengths
        if np.ptp(params[:, up]) > 0.5:
            assert np.corrcoef(lifted.params[:, up.start], params[:, up.start])[0, 1] > 0.8
    if motion == "squat":
        assert np.corrcoef(lifted.params[:, 1], params[:, 1])[0, 1] > 0.8


def test_a_video_without_a_trunk_is_refused() -> None:
    poses = PoseSequence(np.zeros((4, 134, 2), np.float32), np.zeros((4, 134), np.float32), (64, 48), 15.0)
    with pytest.raises(InputError, match="no torso"):
        lift_poses(poses, "empty.npz")


def test_a_leading_t_pose_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "t.bvh"
    path.write_text(bvh([{}, {33: -80.0}, {33: -80.0}]))
    assert len(load_bvh(path).params) == 2
