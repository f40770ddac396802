"""Recorded motions: BVH files, and the poses found in a video, whose depth is guessed from foreshortened bones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.pose.files import load_poses
from mimicmotion.pose.keypoints import (
    FACE,
    L_ANKLE,
    L_EAR,
    L_ELBOW,
    L_HIP,
    L_KNEE,
    L_SHOULDER,
    L_WRIST,
    LEFT_HAND,
    NECK,
    NOSE,
    R_ANKLE,
    R_EAR,
    R_ELBOW,
    R_HIP,
    R_KNEE,
    R_SHOULDER,
    R_WRIST,
    RIGHT_HAND,
    PoseSequence,
)
from mimicmotion.synth import figure as fig
from mimicmotion.synth.bvh import Mocap, elbow_swivel, load_bvh
from mimicmotion.synth.figure import rot_y
from mimicmotion.synth.keyposes import neutral

SURE = 0.3  # points of a lower confidence are taken from the frames before and after
_SMOOTH = 5  # frames of the mean that takes the estimator's jitter away
_ARMS = ((L_SHOULDER, L_ELBOW, L_WRIST), (R_SHOULDER, R_ELBOW, R_WRIST))
_LEGS = ((L_HIP, L_KNEE, L_ANKLE), (R_HIP, R_KNEE, R_ANKLE))


def load_recording(path: Path | str) -> Mocap:
    """A BVH file, or a pose file as `mimicmotion poses` writes it.

    Raises:
        InputError: it cannot be read, or shows no person.
    """
    path = Path(path)
    return load_bvh(path) if path.suffix == ".bvh" else lift_poses(load_poses(path), path.name)


def lift_poses(poses: PoseSequence, name: str = "") -> Mocap:
    """Parameters of movement from the poses of a video, as seen from the front.

    Lengths are those of a limb when it is seen least foreshortened; what is shorter points towards the camera. Legs out
    of the picture stand still.

    Raises:
        InputError: shoulders or hips are not seen.
    """
    xy, seen = _filled(poses)
    if not seen[[L_SHOULDER, R_SHOULDER, L_HIP, R_HIP]].all():
        raise InputError(f"{name or poses.source}: no trunk is seen", "shoulders and hips", "use another video")
    at = np.stack([xy[..., 0], -xy[..., 1], np.zeros(xy.shape[:2])], -1)  # y up, z to the camera
    q = np.tile(neutral(), (len(at), 1))
    hips, shoulders = (0.5 * (at[:, a] + at[:, b]) for a, b in ((L_HIP, R_HIP), (L_SHOULDER, R_SHOULDER)))
    across = (at[:, L_SHOULDER] - at[:, R_SHOULDER])[:, 0]
    aside = np.sign(at[:, NOSE, 0] - at[:, NECK, 0])
    turn = np.arccos(np.clip(across / max(np.percentile(np.abs(across), 95), 1e-6), -1, 1))
    q[:, fig.YAW] = _calm(np.where(turn < 0.35, 0, turn) * aside)
    spine = shoulders - hips
    lean = np.arctan2(-spine[:, 0], spine[:, 1])
    q[:, fig.ROLL], q[:, fig.SPINE_ROLL] = 0.4 * lean, 0.6 * lean
    if seen[L_EAR] and seen[R_EAR]:
        middle, wide = 0.5 * (at[:, L_EAR] + at[:, R_EAR])[:, 0], np.abs(at[:, L_EAR] - at[:, R_EAR])[:, 0]
        share = (at[:, NOSE, 0] - middle) / max(np.percentile(wide, 90), 1e-6)
        q[:, fig.HEAD_YAW] = np.clip(np.arcsin(np.clip(1.4 * share, -1, 1)) - q[:, fig.YAW], -0.9, 0.9)
    back = np.swapaxes(rot_y(q[:, fig.YAW]), 1, 2)
    for side in (0, 1):
        _lift_arm(q, side, at, seen, back)
        _lift_fingers(q, side, xy, seen)
    if seen[[p for leg in _LEGS for p in leg]].all():
        _lift_legs(q, at, hips, back)
    if seen[FACE].all():
        face = xy[:, FACE]
        gap = np.linalg.norm(face[:, 62] - face[:, 66], axis=-1) / np.maximum(
            np.linalg.norm(face[:, 60] - face[:, 64], axis=-1), 1e-6
        )
        q[:, fig.MOUTH] = 1 + np.clip(1.6 * (gap - 0.08), 0, 1.2)
    return Mocap(np.apply_along_axis(_calm, 0, q), poses.fps or 15.0, name or poses.source)


def _filled(poses: PoseSequence) -> tuple[Float64[ndarray, "frames 134 2"], ndarray]:
    """Positions in which points that are not seen move on between frames in which they are; and who is ever seen."""
    xy = poses.xy.astype(np.float64).copy()
    sure = poses.confidence > SURE
    seen = sure.mean(0) > 0.3
    frames = np.arange(len(xy))
    for point in np.flatnonzero(seen):
        for axis in (0, 1):
            xy[:, point, axis] = np.interp(frames, frames[sure[:, point]], xy[sure[:, point], point, axis])
    return xy, seen


def _calm(values: Float64[ndarray, " frames"]) -> Float64[ndarray, " frames"]:
    half = _SMOOTH // 2
    padded = np.concatenate([values[:1].repeat(half), values, values[-1:].repeat(half)])
    return np.convolve(padded, np.full(_SMOOTH, 1 / _SMOOTH), "valid")


def _bone(a: ndarray, b: ndarray) -> tuple[ndarray, float]:
    """A bone with its guessed depth, and its length."""
    way = b - a
    flat = np.linalg.norm(way, axis=-1)
    length = max(float(np.percentile(flat, 95)), 1e-6)
    way = way.copy()
    way[:, 2] = np.sqrt(np.maximum(length**2 - flat**2, 0))
    return way, length


def _lift_arm(q: ndarray, side: int, at: ndarray, seen: ndarray, back: ndarray) -> None:
    shoulder, elbow, wrist = _ARMS[side]
    if not seen[[elbow, wrist]].all():
        return
    (upper, a), (fore, b) = _bone(at[:, shoulder], at[:, elbow]), _bone(at[:, elbow], at[:, wrist])
    upper[:, 2] *= 0.5  # an upper arm that looks short is often a raised elbow at the side
    mirror = np.array([1.0 - 2 * side, 1.0, 1.0])
    local = [np.einsum("nij,nj->ni", back, v) * mirror / (a + b) for v in (upper, upper + fore)]
    k = fig.ARM[side]
    q[:, k : k + 3] = local[1]
    q[:, k + 3] = elbow_swivel(local[1], local[0])


def _lift_fingers(q: ndarray, side: int, xy: ndarray, seen: ndarray) -> None:
    hand = (LEFT_HAND, RIGHT_HAND)[side]
    if not seen[hand].all():
        return
    points = xy[:, hand]
    for f in range(5):
        chain = points[:, 1 + 4 * f : 5 + 4 * f]
        whole = np.linalg.norm(np.diff(chain, axis=1), axis=-1).sum(1)
        share = np.linalg.norm(chain[:, -1] - chain[:, 0], axis=-1) / np.maximum(whole, 1e-6)
        q[:, fig.CURL[side] + f] = np.clip(2.2 * (1 - share), 0, 1.4)


def _lift_legs(q: ndarray, at: ndarray, hips: ndarray, back: ndarray) -> None:
    ankles = np.stack([at[:, L_ANKLE], at[:, R_ANKLE]])
    length = float(np.mean([np.percentile(np.linalg.norm(at[:, a] - at[:, c], axis=-1), 95) for a, _, c in _LEGS]))
    floor = ankles[..., 1].min(0)  # one foot always stands: the camera may move
    q[:, fig.PELVIS_OFFSET.start + 1] = np.clip((hips[:, 1] - floor) / length - 1, -0.5, 0.2)
    for side in (0, 1):
        k, sign = fig.LEG[side], 1 - 2 * side
        way = ankles[side] - at[:, _LEGS[side][0]]
        local = np.einsum("nij,nj->ni", back, way)
        q[:, k] = np.clip(sign * local[:, 0] / length, -0.4, 0.9)
        lift = (ankles[side, :, 1] - floor) / length
        q[:, k + 1] = np.where(lift > 0.05, np.clip(lift, 0, 0.8), 0)
        q[:, k + 2] = np.clip(local[:, 2] / length, -0.5, 0.5)
