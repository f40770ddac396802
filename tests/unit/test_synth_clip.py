from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicmotion.errors import InputError
from mimicmotion.pose.keypoints import FACE, L_WRIST, LEFT_HAND, NECK, R_HIP, R_SHOULDER, RIGHT_HAND
from mimicmotion.synth import SynthClip, render_clip
from mimicmotion.synth.clip import Scene, _render, make_scene, render_moment
from mimicmotion.synth.figure import LEG, YAW
from mimicmotion.synth.motion import MOTIONS, motion_params, neutral, set_arm
from mimicmotion.synth.rig import pose_bones

pytestmark = pytest.mark.usefixtures("scenes_are_made_once")
SMALL = (80, 48)


def same(a: SynthClip, b: SynthClip) -> bool:
    pairs = ((a.frames, b.frames), (a.poses.xy, b.poses.xy), (a.poses.confidence, b.poses.confidence))
    return all(np.array_equal(x, y) for x, y in (*pairs, (a.reference_frame, b.reference_frame)))


def shoot(scene: Scene, params: np.ndarray) -> SynthClip:
    rows = np.concatenate([params, params[-1:]])
    return _render(scene, np.random.default_rng(0), rows, 15.0, np.zeros((len(rows), 2)))


def test_same_seed_same_pixels() -> None:
    assert same(render_clip(5, 3, SMALL), render_clip(5, 3, SMALL))


@pytest.mark.slow
def test_same_seed_same_pixels_in_another_process() -> None:
    clip = render_clip(5, 3, SMALL)
    code = "import hashlib;from mimicmotion.synth import render_clip;c=render_clip(5,3,(80,48));"
    code += "print(hashlib.sha256(c.frames.tobytes()+c.poses.xy.tobytes()+c.poses.confidence.tobytes()).hexdigest())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    import hashlib

    data = clip.frames.tobytes() + clip.poses.xy.tobytes() + clip.poses.confidence.tobytes()
    assert out == hashlib.sha256(data).hexdigest()


@pytest.mark.whole
@settings(max_examples=4)
@given(st.integers(0, 2**40), st.integers(1, 5), st.sampled_from([(48, 32), (33, 47), (64, 64)]), st.booleans())
def test_invariants(seed: int, n: int, size: tuple[int, int], camera: bool) -> None:
    clip = render_clip(seed, n, size, camera_motion=camera)
    assert clip.frames.shape == (n, *size, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.reference_frame.shape == (*size, 3)
    assert len(clip.poses) == n
    assert len(clip.reference_pose) == 1
    for poses in (clip.poses, clip.reference_pose):  # PoseSequence itself rejects NaN and confidences beyond 0..1
        assert poses.size == size
        inside = ((poses.xy >= 0) & (poses.xy < (size[1], size[0]))).all(-1)
        assert ((poses.confidence > 0) == inside).all()
        neck = 0.5 * (poses.xy[:, 2] + poses.xy[:, 5])
        np.testing.assert_allclose(poses.xy[:, NECK], neck, atol=1e-3)


@pytest.mark.parametrize("motion", MOTIONS)
def test_every_motion_moves(motion: str) -> None:
    clip = render_clip(3, 6, SMALL, motion=motion, framing="full")
    moved = np.ptp(clip.poses.xy[:, :18], axis=0).max()
    assert moved > 0.5
    assert (clip.truth.clean[0] != clip.truth.clean[-1]).any()
    step = np.abs(np.diff(clip.poses.xy[:, :14], axis=0)).max()
    assert step < 0.35 * SMALL[0], "a joint jumps"


def test_motions_differ() -> None:
    t = np.arange(20) / 15
    params = [motion_params(name, np.random.default_rng(0), t) for name in MOTIONS]
    for i, a in enumerate(params):
        for b in params[i + 1 :]:
            assert np.abs(a - b).max() > 0.05


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))])
def test_keypoints_sit_on_their_part(seed: int) -> None:
    """Recolour one part by moving it away: pixels near its keypoint must change."""
    size = (240, 136)
    scene = make_scene(seed, size, "full")
    rest = np.stack([neutral(), neutral()])
    set_arm(rest[0], 0, "side_low", None)
    set_arm(rest[1], 0, "side_up", None)
    shots = shoot(scene, rest)
    changed = (np.abs(shots.truth.clean[0].astype(int) - shots.truth.clean[1]) > 8).any(-1)
    xy = shots.poses.xy
    for frame in (0, 1):
        for point in (L_WRIST, LEFT_HAND.start + 9):
            x, y = xy[frame, point].astype(int)
            if 1 <= x < size[1] - 1 and 1 <= y < size[0] - 1:
                assert changed[y - 1 : y + 2, x - 1 : x + 2].any()
                assert shots.truth.mask[frame, y - 1 : y + 2, x - 1 : x + 2].any()
    right = [R_SHOULDER, R_HIP, *range(RIGHT_HAND.start, RIGHT_HAND.stop)]
    np.testing.assert_allclose(xy[0, right], xy[1, right], atol=1e-3)


def test_bones_keep_their_length_and_feet_the_floor() -> None:
    body = make_scene(4, SMALL, "full").figure.body
    ends = {"upperarm01": "lowerarm01", "lowerarm01": "wrist", "upperleg01": "lowerleg01", "lowerleg01": "foot"}
    for name in MOTIONS:
        pose = pose_bones(body, motion_params(name, np.random.default_rng(1), np.arange(30) / 15))
        for side in "LR":
            for start, end in ends.items():
                a, b = (body.index(f"{bone}.{side}") for bone in (start, end))
                length = np.linalg.norm(body.heads[b] - body.heads[a])
                np.testing.assert_allclose(
                    np.linalg.norm(pose.head[:, b] - pose.head[:, a], axis=-1), length, rtol=1e-6
                )
        turned = pose.rot @ np.swapaxes(pose.rot, -1, -2)
        np.testing.assert_allclose(turned, np.broadcast_to(np.eye(3), turned.shape), atol=1e-6)
        assert np.linalg.det(pose.rot).min() > 0.99
        toes = pose.tips[:, [5, 6, 12, 13], 1]
        assert toes.min() > -0.6, f"{name} steps into the floor"  # decimetres; the sole under a toe counts


def test_left_is_the_persons_own_left() -> None:
    clip = render_clip(0, 1, (224, 128), motion="idle", framing="full")
    xy = clip.poses.xy[0]
    assert xy[5, 0] > xy[2, 0]
    assert xy[11, 0] > xy[8, 0]
    assert xy[15, 0] > xy[14, 0]
    assert xy[FACE][16, 0] > xy[FACE][0, 0]  # the jaw runs from the person's right to the left


def test_hidden_points_lose_confidence() -> None:
    q = np.stack([neutral()] * 2)
    q[1, YAW] = np.pi / 2  # in profile one ear, eye and shoulder are hidden
    front, side = shoot(make_scene(2, (224, 128), "full"), q).poses.confidence
    assert front[[14, 15]].min() > 0.6
    assert min(side[14], side[15]) < 0.6 < max(side[14], side[15])
    assert side[FACE].mean() < front[FACE].mean() - 0.1


def test_outside_of_the_frame_is_zero() -> None:
    clip = render_clip(11, 4, (224, 128), framing="upper")
    assert (clip.poses.confidence[:, [10, 13]] == 0).all()  # ankles
    assert np.isfinite(clip.poses.xy).all()
    assert (clip.poses.confidence[:, :2] > 0).all()


def test_fast_points_lose_confidence() -> None:
    from mimicmotion.synth.keypoints import confidences

    pixels = np.full((8, 134, 2), 50.0)
    pixels[:, 7, 0] += 10.0 * np.arange(8)
    hidden = np.zeros((8, 134), bool)
    c = confidences(np.random.default_rng(0), pixels, hidden, (200, 200), 100.0, 30.0)
    assert c[:, 7].mean() < 0.75 < c[:, 6].mean()


def test_shadow_under_the_feet_goes_where_the_feet_go() -> None:
    scene = make_scene(2, (160, 96), "full")
    q = np.stack([neutral()] * 2)
    q[1, LEG[0] + 1] = 0.4
    pose = pose_bones(scene.figure.body, q)
    standing, lifted = (render_moment(scene, pose, k, {}, np.zeros(2)) for k in (0, 1))
    assert (standing.picture[standing.cover == 0] <= standing.background[standing.cover == 0] + 1e-6).all()
    x, y = np.mean([standing.points[i, :2] for i in (18, 20)], 0).astype(int)  # left toe and heel
    under = (slice(y, y + 6), slice(x - 6, x + 7))
    both = (standing.cover[under] == 0) & (lifted.cover[under] == 0)
    assert both.sum() > 10
    dark = [(m.picture[under] / m.background[under])[both].mean() for m in (standing, lifted)]
    assert dark[0] < dark[1] - 0.05


@pytest.mark.whole
def test_people_are_varied() -> None:
    means = np.stack([render_clip(s, 1, (48, 32)).frames[0].mean((0, 1)) for s in range(5)])
    assert means.std(0).min() > 15


@pytest.mark.parametrize(
    "wrong",
    [{"seed": -1}, {"num_frames": 0}, {"size": (8, 8)}, {"fps": 0.0}, {"motion": "fly"}, {"framing": "legs"}],
)  # fmt: skip
def test_wrong_arguments(wrong: dict) -> None:
    with pytest.raises(InputError, match=str(next(iter(wrong)))):
        render_clip(**{"seed": 0, "num_frames": 1, "size": SMALL, **wrong})


def test_golden(golden) -> None:  # type: ignore[no-untyped-def]
    """Pixels within a small tolerance (libm differs between machines), positions closely."""
    clip = render_clip(7, 3, SMALL)
    frames = np.concatenate([clip.frames, clip.reference_frame[None]]).astype(np.int16)
    positions = np.concatenate([clip.poses.xy, clip.reference_pose.xy])
    golden("synth_clip_positions", rtol=1e-4, atol=1e-2, xy=positions, confidence=np.round(clip.poses.confidence, 2))
    coarse = frames.reshape(4, 20, 4, 12, 4, 3).mean((2, 4))  # one sample that falls over an edge is no change
    golden("synth_clip_frames", rtol=0, atol=6, frames=np.round(coarse).astype(np.float32))
