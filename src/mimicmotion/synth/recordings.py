"""Recorded motions: BVH files, and poses estimated from video, with depth inferred from foreshortening."""

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
    VISIBLE,
    PoseSequence,
)
from mimicmotion.synth import figure as fig
from mimicmotion.synth.bvh import Mocap, Points, load_bvh, retarget
from mimicmotion.synth.keyposes import neutral

_SMOOTH = 5  # window in frames of the moving average against estimator jitter
_ARMS = ((L_SHOULDER, L_ELBOW, L_WRIST), (R_SHOULDER, R_ELBOW, R_WRIST))
_LEGS = ((L_HIP, L_KNEE, L_ANKLE), (R_HIP, R_KNEE, R_ANKLE))


def load_recording(path: Path | str) -> Mocap:
    """Load a BVH file, or a pose file written by `mimicmotion poses`.

    Raises:
        InputError: the file cannot be read, or contains no person.
    """
    path = Path(path)
    return load_bvh(path) if path.suffix == ".bvh" else lift_poses(load_poses(path), path.name)


def lift_poses(poses: PoseSequence, name: str = "") -> Mocap:
    """Estimate motion parameters from the poses of a video taken from the front.

    The length of a limb is its largest apparent length; whenever it appears shorter, it is assumed to point towards the
    camera. Legs outside the picture stand still.

    Raises:
        InputError: shoulders or hips are not visible.
    """
    xy, seen = _filled(poses)
    if not seen[[L_SHOULDER, R_SHOULDER, L_HIP, R_HIP]].all():
        raise InputError(f"{name or poses.source}: no torso is visible", "shoulders and hips", "use another video")
    at = np.stack([xy[..., 0], -xy[..., 1], np.zeros(xy.shape[:2])], -1)  # y up, z to the camera
    legs = seen[[p for leg in _LEGS for p in leg]].all()
    if legs:  # the lower foot is on the floor, even if the camera moves
        at[..., 1] += np.maximum(xy[:, L_ANKLE, 1], xy[:, R_ANKLE, 1])[:, None]
    points = _trunk_in_space(at)
    for side in (0, 1):
        shoulder, elbow, wrist = _ARMS[side]
        upper, fore = _bone(at[:, shoulder], at[:, elbow]), _bone(at[:, elbow], at[:, wrist])
        upper[:, 2] *= 0.5  # a foreshortened upper arm often has the elbow raised to the side
        points[side, "forearm"] = points[side, "arm"] + upper
        points[side, "hand"] = points[side, "forearm"] + fore
        if legs:
            hip, knee, ankle = _LEGS[side]
            points[side, "shank"] = points[side, "thigh"] + at[:, knee] - at[:, hip]
            points[side, "foot"] = points[side, "thigh"] + at[:, ankle] - at[:, hip]
            points[side, "toe"] = points[side, "foot"] + (0.0, 0.0, 1.0)
    q = retarget(points)
    for side in (0, 1):
        if not seen[list(_ARMS[side])].all():
            q[:, fig.ARM[side] : fig.ARM[side] + fig.ARM_WIDTH] = neutral()[fig.ARM[side] :][: fig.ARM_WIDTH]
        _lift_fingers(q, side, xy, seen)
    if seen[L_EAR] and seen[R_EAR]:
        middle, wide = 0.5 * (at[:, L_EAR] + at[:, R_EAR])[:, 0], np.abs(at[:, L_EAR] - at[:, R_EAR])[:, 0]
        share = (at[:, NOSE, 0] - middle) / max(np.percentile(wide, 90), 1e-6)
        q[:, fig.HEAD_YAW] = np.clip(np.arcsin(np.clip(1.4 * share, -1, 1)) - q[:, fig.YAW], -0.9, 0.9)
    if seen[FACE].all():
        face = xy[:, FACE]
        gap, wide = (np.linalg.norm(face[:, a] - face[:, b], axis=-1) for a, b in ((62, 66), (60, 64)))
        q[:, fig.MOUTH] = 1 + np.clip(1.6 * (gap / np.maximum(wide, 1e-6) - 0.08), 0, 1.2)
    return Mocap(fig.smooth(q, _SMOOTH), poses.fps or 15.0, name or poses.source)


def _trunk_in_space(at: Float64[ndarray, "frames 134 3"]) -> Points:
    """3D shoulders and hips, rotated by the angle implied by the apparent shoulder width, towards the nose."""
    across = at[:, L_SHOULDER, 0] - at[:, R_SHOULDER, 0]
    turn = np.arccos(np.clip(across / max(np.percentile(np.abs(across), 95), 1e-6), -1, 1))
    turn = fig.smooth(np.where(turn < 0.35, 0, turn) * np.sign(at[:, NOSE, 0] - at[:, NECK, 0]), _SMOOTH)
    out = {}
    for part, pair in (("arm", (L_SHOULDER, R_SHOULDER)), ("thigh", (L_HIP, R_HIP))):
        left, right = at[:, pair[0]], at[:, pair[1]]
        half = 0.5 * max(float(np.percentile(np.abs(left - right)[:, 0], 95)), 1e-6)
        middle = 0.5 * (left + right)[:, 0]
        for side, seen in enumerate((left, right)):
            sign = half * (1 - 2 * side)
            out[side, part] = np.stack([middle + sign * np.cos(turn), seen[:, 1], -sign * np.sin(turn)], -1)
    return out


def _filled(poses: PoseSequence) -> tuple[Float64[ndarray, "frames 134 2"], ndarray]:
    """Positions with missing points interpolated over time, and which points are visible in enough frames."""
    xy = poses.xy.astype(np.float64).copy()
    sure = poses.confidence > VISIBLE
    seen = sure.mean(0) > 0.3
    frames = np.arange(len(xy))
    for point in np.flatnonzero(seen):
        for axis in (0, 1):
            xy[:, point, axis] = np.interp(frames, frames[sure[:, point]], xy[sure[:, point], point, axis])
    return xy, seen


def _bone(a: ndarray, b: ndarray) -> Float64[ndarray, "frames 3"]:
    """Vector of a bone with inferred depth: of constant length (the largest apparent one), towards the camera."""
    way = b - a
    flat = np.linalg.norm(way, axis=-1)
    way[:, 2] = np.sqrt(np.maximum(np.percentile(flat, 95) ** 2 - flat**2, 0))
    return way


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
