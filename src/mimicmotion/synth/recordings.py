"""Recorded motions: BVH files, and poses estimated from video, with depth inferred from foreshortening."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.pose import keypoints as kp
from mimicmotion.pose.files import load_poses
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.synth import figure as fig
from mimicmotion.synth.figure import elbow_axes, rotation, times, unit
from mimicmotion.synth.motion import neutral

# Joint names in files from CMU, PyMO and most other sources; the first match is used.
_JOINTS = {
    "thigh": ("UpLeg", "Thigh", "Hip"),
    "shank": ("Leg", "Shin", "Knee"),
    "foot": ("Foot", "Ankle"),
    "toe": ("ToeBase", "Toe"),
    "arm": ("Arm", "UpperArm", "Shoulder"),
    "forearm": ("ForeArm", "LowArm", "Elbow"),
    "hand": ("Hand", "Wrist"),
}
_SMOOTH = 9  # frames of a BVH file: 75 ms at 120 frames per second
_SMOOTH_POSES = 5  # frames of a video, against estimator jitter
_ARMS = ((kp.L_SHOULDER, kp.L_ELBOW, kp.L_WRIST), (kp.R_SHOULDER, kp.R_ELBOW, kp.R_WRIST))
_LEGS = ((kp.L_HIP, kp.L_KNEE, kp.L_ANKLE), (kp.R_HIP, kp.R_KNEE, kp.R_ANKLE))
Points = dict[tuple[int, str], Float64[ndarray, "frames 3"]]


@dataclass(frozen=True, slots=True, eq=False)
class Mocap:
    """A recorded motion, to be passed to `render_clip(motion=...)`.

    Attributes:
        params: motion parameters of each frame; see `mimicmotion.synth.figure`.
        fps: frames per second.
        name: name of the file.
    """

    params: Float64[ndarray, "frames 54"]
    fps: float
    name: str

    def window(self, rng: np.random.Generator, times: Float64[ndarray, " n"]) -> Float64[ndarray, "n 54"]:
        """Sample a random part of the recording at `times` (seconds from that part's start), facing the viewer.

        A recording shorter than the window is played back and forth.
        """
        length = (len(self.params) - 1) / self.fps
        times = times + rng.uniform(0, max(length - times[-1], 0.0))
        if length > 0:
            times = length - np.abs((times % (2 * length)) - length)
        frames = np.arange(len(self.params)) / self.fps
        q = np.stack([np.interp(times, frames, values) for values in self.params.T], 1)
        q[:, fig.YAW] -= np.arctan2(np.sin(q[:, fig.YAW]).mean(), np.cos(q[:, fig.YAW]).mean())
        q[:, fig.YAW] -= 2 * np.pi * np.round(q[:, fig.YAW].mean() / (2 * np.pi))
        return q


def load_recording(path: Path | str) -> Mocap:
    """Load a BVH file, or a pose file written by `mimicmotion poses`.

    Raises:
        InputError: the file cannot be read, or contains no person.
    """
    path = Path(path)
    return load_bvh(path) if path.suffix == ".bvh" else lift_poses(load_poses(path), path.name)


def load_bvh(path: str | Path) -> Mocap:
    """Read a BVH file (y up, z forward in the rest pose) and retarget it.

    Hands and feet keep their positions relative to limb length; the pelvis moves only up and down.

    Raises:
        InputError: the file is missing, truncated, not a BVH file, or has no arms or legs.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: {e}", "a readable BVH file", "check the path") from e
    names, parents, offsets, channels, values, fps = _parse(text, path)
    pos, rot = _forward(parents, offsets, channels, values)
    head = [rot[:, j] for j, n in enumerate(names) if n.lower() == "head"]
    params = retarget(_points(names, pos, path), head[0] if head else None)
    if len(params) > 2 and np.abs(params[1] - params[0]).max() > 0.5:  # many files start with a T pose
        params = params[1:]
    return Mocap(params, fps, path.name)


def _parse(text: str, path: Path) -> tuple[list[str], list[int], ndarray, list[list[str]], ndarray, float]:
    head, _, motion = text.partition("MOTION")
    names, parents, offsets, channels, stack = [], [], [], [], [-1]
    try:
        tokens = iter(head.replace("{", " ").replace("}", " } ").split())
        for word in tokens:
            if word in ("ROOT", "JOINT", "End"):
                parents.append(stack[-1])
                stack.append(len(names))
                names.append(next(tokens))
                offsets.append([0.0, 0.0, 0.0])
                channels.append([])
            elif word == "OFFSET":
                offsets[-1] = [float(next(tokens)) for _ in range(3)]
            elif word == "CHANNELS":
                channels[-1] = [next(tokens) for _ in range(int(next(tokens)))]
            elif word == "}":
                stack.pop()
        found = re.search(r"Frames:\s*(\d+)\s*Frame Time:\s*([\d.eE+-]+)(.*)", motion, re.DOTALL)
        if not found:
            raise ValueError("no MOTION block")
        count, width = int(found[1]), sum(len(c) for c in channels)
        values = np.array(found[3].split(), float)
        if count < 1 or width == 0 or values.size < count * width:
            raise ValueError(f"{values.size} values for {count} frames of {width} channels")
        values = values[: count * width].reshape(count, width)
        if not np.isfinite(values).all():
            raise ValueError("NaN or infinity among the values")
        return names, parents, np.array(offsets), channels, values, 1.0 / float(found[2])
    except (ValueError, IndexError, StopIteration, ZeroDivisionError) as e:
        raise InputError(f"{path.name}: {e}", "a complete BVH file", "export the motion again") from e


def _forward(
    parents: list[int], offsets: ndarray, channels: list[list[str]], values: ndarray
) -> tuple[ndarray, ndarray]:
    """Compute positions (frames, joints, 3) and rotations (frames, joints, 3, 3) of all joints."""
    n = len(values)
    pos, rot = np.zeros((n, len(parents), 3)), np.zeros((n, len(parents), 3, 3))
    column = 0
    for j, parent in enumerate(parents):
        local, shift = np.broadcast_to(np.eye(3), (n, 3, 3)), np.broadcast_to(offsets[j], (n, 3)).copy()
        for name in channels[j]:
            if name.lower().endswith("rotation"):
                local = local @ rotation(name[0].upper(), np.radians(values[:, column]))
            else:
                shift[:, "XYZ".index(name[0].upper())] = values[:, column]
            column += 1
        if parent < 0:
            pos[:, j], rot[:, j] = shift, local
        else:
            pos[:, j] = pos[:, parent] + times(rot[:, parent], shift)
            rot[:, j] = rot[:, parent] @ local
    return pos, rot


def _frame(x: ndarray, up: ndarray) -> ndarray:
    """Return rotations with y axis `up` and x axis as close as possible to `x`."""
    y = unit(up)
    z = unit(np.cross(x, y))
    return np.stack([np.cross(y, z), y, z], -1)


def _points(names: list[str], pos: ndarray, path: Path) -> Points:
    """Return the positions of a file's joints by side (0 left, 1 right) and part (see `_JOINTS`)."""
    lower, out = [n.lower() for n in names], {}
    for side, word in enumerate(("left", "right")):
        for part, usual in _JOINTS.items():
            found = [word + name.lower() for name in usual if word + name.lower() in lower]
            if not found:
                raise InputError(f"{path.name} has no {word} {part}", f"joints named like {usual}", "rename its joints")
            out[side, part] = pos[:, lower.index(found[0])]
    return out


def retarget(joints: Points, head: Float64[ndarray, "frames 3 3"] | None = None) -> Float64[ndarray, "frames 54"]:
    """Compute motion parameters from joint positions in any unit (y up, z forward).

    Args:
        joints: positions (frames, 3) of arm, forearm, hand and thigh of side 0 (left) and 1 (right), and optionally of
            shank, foot and toe; without these, the legs stand still.
        head: rotations of the head.
    """
    hips, shoulders = 0.5 * (joints[0, "thigh"] + joints[1, "thigh"]), 0.5 * (joints[0, "arm"] + joints[1, "arm"])
    q = np.tile(neutral(), (len(hips), 1))
    pelvis = _frame(joints[0, "thigh"] - joints[1, "thigh"], shoulders - hips)
    chest = _frame(joints[0, "arm"] - joints[1, "arm"], shoulders - hips)
    q[:, fig.YAW] = np.unwrap(np.arctan2(pelvis[:, 0, 2], pelvis[:, 2, 2]))
    level = rotation("Y", -q[:, fig.YAW]) @ pelvis
    q[:, fig.PITCH] = np.arctan2(level[:, 2, 1], level[:, 2, 2])
    q[:, fig.ROLL] = np.arctan2(-level[:, 0, 1], level[:, 0, 0])
    bend = np.swapaxes(pelvis, -1, -2) @ chest
    q[:, fig.SPINE_TWIST] = np.clip(np.arctan2(bend[:, 0, 2], bend[:, 2, 2]), -0.9, 0.9)
    q[:, fig.SPINE_PITCH] = q[:, fig.SPINE_ROLL] = 0.0
    if head is not None:
        head = np.swapaxes(chest, -1, -2) @ head
        q[:, fig.HEAD_YAW] = np.clip(np.arctan2(head[:, 0, 2], head[:, 2, 2]), -1, 1)
        q[:, fig.HEAD_PITCH] = np.clip(np.arcsin(np.clip(-head[:, 1, 2], -1, 1)), -0.5, 0.6)
        q[:, fig.HEAD_ROLL] = np.clip(np.arctan2(head[:, 1, 0], head[:, 1, 1]), -0.5, 0.5)
    for side in (0, 1):
        _retarget_arm(q, side, joints, chest)
    if (0, "foot") in joints:
        _retarget_legs(q, joints, hips)
    return q


def _length(joints: Points, *parts: str) -> float:
    """Estimate the length of a limb as a high percentile over time, as limbs in pictures are often foreshortened."""
    bones = [np.linalg.norm(joints[s, a] - joints[s, b], axis=-1) for s in (0, 1) for a, b in pairwise(parts)]
    return 0.5 * sum(float(np.percentile(b, 95)) for b in bones)


def _retarget_legs(q: ndarray, joints: Points, hips: ndarray) -> None:
    back, leg = rotation("Y", -q[:, fig.YAW]), _length(joints, "thigh", "shank", "foot")
    floor = np.percentile(np.minimum(joints[0, "foot"][:, 1], joints[1, "foot"][:, 1]), 5)
    q[:, fig.PELVIS_OFFSET] = 0.0
    q[:, fig.PELVIS_OFFSET.start + 1] = (hips[:, 1] - floor) / leg - 1
    wide = float(np.linalg.norm(joints[0, "thigh"] - joints[1, "thigh"], axis=-1).mean()) / 2
    for side in (0, 1):
        sign, k, foot = 1 - 2 * side, fig.LEG[side], joints[side, "foot"]
        local = times(back, foot - hips)
        q[:, k] = (sign * local[:, 0] - wide) / leg
        q[:, k + 1] = np.maximum((foot[:, 1] - floor) / leg, 0.0)
        q[:, k + 2] = local[:, 2] / leg
        toe = times(back, joints[side, "toe"] - foot)
        flat = np.hypot(toe[:, 0], toe[:, 2])
        pitch = np.arctan2(toe[:, 1], flat)
        standing = q[:, k + 1] < 0.03
        q[:, k + 3] = np.clip(pitch - (np.median(pitch[standing]) if standing.any() else np.median(pitch)), -1.0, 0.5)
        # the heading of a toe that points down is undefined
        level = np.clip(2 * flat / np.maximum(np.linalg.norm(toe, axis=-1), 1e-9) - 0.6, 0, 1)
        heading = np.clip(np.arctan2(sign * toe[:, 0], toe[:, 2]), -0.5, 1.0)
        q[:, k + 4] = fig.moving_average(0.2 + level * (heading - 0.2), _SMOOTH)


def _retarget_arm(q: ndarray, side: int, joints: Points, chest: ndarray) -> None:
    k, mirror = fig.ARM[side], np.array([1.0 - 2 * side, 1.0, 1.0])
    length = _length(joints, "arm", "forearm", "hand")
    vectors = (joints[side, part] - joints[side, "arm"] for part in ("hand", "forearm"))
    wrist, elbow = (times(np.swapaxes(chest, 1, 2), v) * mirror / length for v in vectors)
    q[:, k : k + 3] = wrist
    line = unit(wrist)
    out = elbow - line * (elbow * line).sum(-1, keepdims=True)
    straight, aside = elbow_axes(line)
    swivel = np.arctan2((aside * out).sum(-1), (straight * out).sum(-1))
    bent = np.clip(np.linalg.norm(out, axis=-1) / 0.08, 0, 1)  # the elbow direction of a straight arm is undefined
    q[:, k + 3] = fig.moving_average(np.clip(swivel, -2.2, 2.2) * bent, _SMOOTH)


def lift_poses(poses: PoseSequence, name: str = "") -> Mocap:
    """Estimate motion parameters from the poses of a video taken from the front.

    The length of a limb is its largest apparent length; whenever it appears shorter, it is assumed to point towards the
    camera. Legs outside the picture stand still.

    Raises:
        InputError: shoulders or hips are not visible.
    """
    xy, seen = _filled(poses)
    if not seen[[kp.L_SHOULDER, kp.R_SHOULDER, kp.L_HIP, kp.R_HIP]].all():
        got = f"{name or poses.source}: no torso is visible"
        raise InputError(got, "visible shoulders and hips", "use another video")
    xyz = np.stack([xy[..., 0], -xy[..., 1], np.zeros(xy.shape[:2])], -1)  # y up, z to the camera
    legs = seen[[p for leg in _LEGS for p in leg]].all()
    if legs:  # the lower foot is on the floor, even if the camera moves
        xyz[..., 1] += np.maximum(xy[:, kp.L_ANKLE, 1], xy[:, kp.R_ANKLE, 1])[:, None]
    points = _trunk_in_space(xyz)
    for side in (0, 1):
        shoulder, elbow, wrist = _ARMS[side]
        upper, fore = _bone(xyz[:, shoulder], xyz[:, elbow]), _bone(xyz[:, elbow], xyz[:, wrist])
        upper[:, 2] *= 0.5  # a foreshortened upper arm often has the elbow raised to the side
        points[side, "forearm"] = points[side, "arm"] + upper
        points[side, "hand"] = points[side, "forearm"] + fore
        if legs:
            hip, knee, ankle = _LEGS[side]
            points[side, "shank"] = points[side, "thigh"] + xyz[:, knee] - xyz[:, hip]
            points[side, "foot"] = points[side, "thigh"] + xyz[:, ankle] - xyz[:, hip]
            points[side, "toe"] = points[side, "foot"] + (0.0, 0.0, 1.0)
    q = retarget(points)
    for side in (0, 1):
        if not seen[list(_ARMS[side])].all():
            q[:, fig.ARM[side] : fig.ARM[side] + fig.ARM_WIDTH] = neutral()[fig.ARM[side] :][: fig.ARM_WIDTH]
        _lift_fingers(q, side, xy, seen)
    if seen[kp.L_EAR] and seen[kp.R_EAR]:
        left, right = xyz[:, kp.L_EAR, 0], xyz[:, kp.R_EAR, 0]
        share = (xyz[:, kp.NOSE, 0] - 0.5 * (left + right)) / max(np.percentile(np.abs(left - right), 90), 1e-6)
        q[:, fig.HEAD_YAW] = np.clip(np.arcsin(np.clip(1.4 * share, -1, 1)) - q[:, fig.YAW], -0.9, 0.9)
    if seen[kp.FACE].all():
        face = xy[:, kp.FACE]
        gap, wide = (np.linalg.norm(face[:, a] - face[:, b], axis=-1) for a, b in ((62, 66), (60, 64)))
        q[:, fig.MOUTH] = 1 + np.clip(1.6 * (gap / np.maximum(wide, 1e-6) - 0.08), 0, 1.2)
    return Mocap(fig.moving_average(q, _SMOOTH_POSES), poses.fps or 15.0, name or poses.source)


def _trunk_in_space(at: Float64[ndarray, "frames 134 3"]) -> Points:
    """Estimate 3D shoulders and hips, turned towards the nose by the angle that the apparent shoulder width implies."""
    across = at[:, kp.L_SHOULDER, 0] - at[:, kp.R_SHOULDER, 0]
    turn = np.arccos(np.clip(across / max(np.percentile(np.abs(across), 95), 1e-6), -1, 1))
    turn = fig.moving_average(
        np.where(turn < 0.35, 0, turn) * np.sign(at[:, kp.NOSE, 0] - at[:, kp.NECK, 0]), _SMOOTH_POSES
    )
    out = {}
    for part, pair in (("arm", (kp.L_SHOULDER, kp.R_SHOULDER)), ("thigh", (kp.L_HIP, kp.R_HIP))):
        left, right = at[:, pair[0]], at[:, pair[1]]
        half = 0.5 * max(float(np.percentile(np.abs(left - right)[:, 0], 95)), 1e-6)
        middle = 0.5 * (left + right)[:, 0]
        for side, seen in enumerate((left, right)):
            sign = half * (1 - 2 * side)
            out[side, part] = np.stack([middle + sign * np.cos(turn), seen[:, 1], -sign * np.sin(turn)], -1)
    return out


def _filled(poses: PoseSequence) -> tuple[Float64[ndarray, "frames 134 2"], ndarray]:
    """Return positions with missing points interpolated, and a mask of the points visible in over 30% of the frames."""
    xy = poses.xy.astype(np.float64).copy()
    sure = poses.confidence > kp.VISIBLE
    seen = sure.mean(0) > 0.3
    frames = np.arange(len(xy))
    for point in np.flatnonzero(seen):
        for axis in (0, 1):
            xy[:, point, axis] = np.interp(frames, frames[sure[:, point]], xy[sure[:, point], point, axis])
    return xy, seen


def _bone(a: ndarray, b: ndarray) -> Float64[ndarray, "frames 3"]:
    """Return a bone's vector, with a depth towards the camera that makes its length constant (the largest apparent)."""
    vector = b - a
    flat = np.linalg.norm(vector, axis=-1)
    vector[:, 2] = np.sqrt(np.maximum(np.percentile(flat, 95) ** 2 - flat**2, 0))
    return vector


def _lift_fingers(q: ndarray, side: int, xy: ndarray, seen: ndarray) -> None:
    hand = (kp.LEFT_HAND, kp.RIGHT_HAND)[side]
    if not seen[hand].all():
        return
    points = xy[:, hand]
    for f in range(5):
        chain = points[:, 1 + 4 * f : 5 + 4 * f]
        length = np.linalg.norm(np.diff(chain, axis=1), axis=-1).sum(1)
        straightness = np.linalg.norm(chain[:, -1] - chain[:, 0], axis=-1) / np.maximum(length, 1e-6)
        q[:, fig.CURL[side] + f] = np.clip(2.2 * (1 - straightness), 0, 1.4)
