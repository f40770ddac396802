"""Clips of synthetic people with exact poses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.synth.keypoints import confidences
from mimicmotion.synth.light import encode
from mimicmotion.synth.motion import choose_motion, face_actions, motion_params
from mimicmotion.synth.recordings import Mocap
from mimicmotion.synth.rig import pose_bones
from mimicmotion.synth.scene import Moment, Scene, correspondence, develop, make_scene, render_moment
from mimicmotion.synth.view import move_camera

SOURCE = "mimicmotion.synth"
_SPARE_SECONDS = 3.0  # motion before and after the clip that the reference may be taken from


@dataclass(frozen=True)
class Truth:
    """Ground truth of a clip and of its reference picture.

    Attributes:
        clean: the clip without camera noise and compression.
        mask: coverage of each pixel by the person, 0..255.
        depth: distance of the person from the camera in metres; infinite elsewhere.
        flow: displacement (x, y) in pixels from each pixel of the clip to the same point in the reference; on the
            background, only the camera motion.
        in_reference: whether that point is visible in the reference.
        background: each frame without the person and their shadow.
        reference_clean: the reference without noise and compression.
        reference_mask: mask of the reference, 0..255.
    """

    clean: UInt8[ndarray, "frames height width 3"]
    mask: UInt8[ndarray, "frames height width"]
    depth: Float32[ndarray, "frames height width"]
    flow: Float32[ndarray, "frames height width 2"]
    in_reference: Bool[ndarray, "frames height width"]
    background: UInt8[ndarray, "frames height width 3"]
    reference_clean: UInt8[ndarray, "height width 3"]
    reference_mask: UInt8[ndarray, "height width"]


@dataclass(frozen=True)
class SynthClip:
    """A clip of a synthetic person, and a reference picture of the same person in the same place.

    Attributes:
        frames: RGB frames of the clip.
        poses: exact positions in pixels, with simulated detector confidences.
        reference_frame: RGB picture of the person in another pose.
        reference_pose: pose in the reference picture, a single frame.
        visible: which points are inside the frame and not occluded, regardless of confidence.
        truth: further ground truth.
    """

    frames: UInt8[ndarray, "frames height width 3"]
    poses: PoseSequence
    reference_frame: UInt8[ndarray, "height width 3"]
    reference_pose: PoseSequence
    visible: Bool[ndarray, "frames 134"]
    truth: Truth


def render_clip(
    seed: int,
    num_frames: int,
    size: tuple[int, int] = (224, 128),
    fps: float = 15.0,
    motion: str | Mocap | None = None,
    *,
    framing: str | None = None,
    camera_motion: bool = False,
) -> SynthClip:
    """Render a clip; on one machine, the same arguments always give the same pixels.

    Args:
        seed: random seed for everything that is not given; any integer >= 0.
        num_frames: number of frames, at least 1.
        size: (height, width) in pixels.
        fps: frames per second.
        motion: a name from `mimicmotion.synth.motion.MOTIONS`, or a recording from `load_bvh`; random if None.
        framing: 'full' or 'upper'; random for each person (65% full) if None.
        camera_motion: whether the camera drifts and shakes slightly.

    Raises:
        InputError: a value is out of range, or numba is missing.
    """
    _check(seed, num_frames, size, fps)
    scene = make_scene(seed, size, framing)
    rng = np.random.default_rng([seed, 2])
    name = choose_motion(rng)
    params = _params(rng, motion or name, num_frames, fps)
    pan = np.zeros((num_frames + 1, 2))  # the camera does not move in the reference
    if camera_motion:
        pan[:num_frames] = move_camera(np.random.default_rng([seed, 6]), num_frames, size[0], fps)
    return _render(scene, rng, params, fps, pan)


def _check(seed: int, num_frames: int, size: tuple[int, int], fps: float) -> None:
    for name, value, low in (("seed", seed, 0), ("num_frames", num_frames, 1)):
        if int(value) != value or value < low:
            raise InputError(f"{name}={value!r}", f"an integer >= {low}", f"correct {name}")
    if len(size) != 2 or min(size) < 16:
        raise InputError(f"size={size!r}", "(height, width), both >= 16", "pass the size of the frames in pixels")
    if not 0 < fps < 1000:
        raise InputError(f"fps={fps!r}", "0 < fps < 1000", "pass the frames per second")


def _params(rng: np.random.Generator, motion: str | Mocap, num_frames: int, fps: float) -> Float64[ndarray, "n+1 54"]:
    """Motion parameters of the clip, then of the reference, from the same motion at another time or another motion."""
    spare = int(_SPARE_SECONDS * fps)
    times = np.arange(num_frames + spare) / fps
    start = int(rng.integers(spare + 1))
    whole = motion.window(rng, times) if isinstance(motion, Mocap) else motion_params(motion, rng, times)
    other = motion_params(choose_motion(rng), rng, times[: spare + 1])
    pick = rng.random(2)
    reference = whole[int(pick[1] * len(whole))] if pick[0] < 0.5 else other[int(pick[1] * len(other))]
    return np.concatenate([whole[start : start + num_frames], reference[None]])


def _render(
    scene: Scene,
    rng: np.random.Generator,
    params: ndarray,
    fps: float,
    pan: Float64[ndarray, "n+1 2"],
) -> SynthClip:
    """Render a clip from motion parameters and camera shifts (pixels); the last row of each is for the reference."""
    n, size = len(params) - 1, scene.size
    pose = pose_bones(scene.figure.body, params)
    faces = face_actions(rng, params, np.arange(n + 1) / fps)

    def shoot(k: int) -> Moment:
        return render_moment(scene, pose, k, faces[k], pan[k])

    last, shots = shoot(n), []
    for k in range(n + 1):
        moment = last if k == n else shoot(k)
        clean, frame = develop(scene, moment.picture, rng)
        background = np.clip(np.rint(encode(moment.background)), 0, 255).astype(np.uint8)
        mask = np.rint(255 * moment.cover).astype(np.uint8)
        flow, there = correspondence(scene, moment, last, pan[k] - pan[n])
        shots.append((frame, clean, mask, moment.depth(), flow, there, background, moment.points[:, :2], moment.hidden))
    frames, clean, mask, depth, flow, there, background, points, hidden = map(np.stack, zip(*shots, strict=True))
    parts = slice(n), slice(n, None)  # separately, as the reference is not the next frame of the clip
    sure = np.concatenate([confidences(rng, points[p], hidden[p], size, scene.unit, fps) for p in parts])
    poses = PoseSequence(points.astype(np.float32), sure.astype(np.float32), size, fps, SOURCE)
    truth = Truth(clean[:n], mask[:n], depth[:n], flow[:n], there[:n], background[:n], clean[n], mask[n])
    return SynthClip(frames[:n], poses[:n], frames[n], poses[n:], (~hidden & (sure > 0))[:n], truth)
