"""Rotation and position of every bone of a body from motion parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.synth import figure as fig
from mimicmotion.synth.assets import Assets
from mimicmotion.synth.figure import rot_x, rot_y, rot_z, two_bones, unit

SPINE = ("spine04", "spine03", "spine02", "spine01")
NECK = ("neck01", "neck02", "neck03", "head")
_MIRROR = np.array([-1.0, 1.0, 1.0])
_FAN = np.array([0.0, 0.1, 0.0, -0.09, -0.2])  # angles of the spread fingers, radians
_CURL = ((0.35, 0.45, 0.6), *[(1.0, 1.1, 0.75)] * 4)  # flexion of the three joints, radians per unit of curl


@dataclass(frozen=True, eq=False)
class Skeleton:
    """Joints of a body in the rest pose, decimetres."""

    bones: tuple[str, ...]  # names
    parents: tuple[int, ...]  # parent of each bone, -1 for the root
    heads: Float64[ndarray, "bones 3"]  # heads of the bones
    tips: Float64[ndarray, "tips 3"]  # ends of fingers and toes
    tip_bones: tuple[int, ...]  # bone of each tip
    floor: float  # lowest point of the body or shoes
    trunk: tuple[float, float]  # half width and half depth of the trunk, which the wrists must not enter

    @classmethod
    def of(
        cls, assets: Assets, joints: Float64[ndarray, "joints 3"], floor: float, trunk: tuple[float, float]
    ) -> Skeleton:
        """Build a skeleton from the result of `joint_positions`."""
        count = len(assets.bones)
        of_tip = {"toe1-2": "toe2-1", "toe5-3": "toe2-1"}
        names = [t.rsplit(".", 1) for t in assets.tips]
        tip_bones = tuple(assets.bone(f"{of_tip.get(name, name)}.{side}") for name, side in names)
        return cls(assets.bones, assets.parents, joints[:count], joints[count:], tip_bones, floor, trunk)

    def index(self, name: str) -> int:
        """Index of a bone."""
        return self.bones.index(name)

    def head(self, name: str) -> Float64[ndarray, " 3"]:
        """Position of the head of a bone in the rest pose."""
        return self.heads[self.index(name)]

    @property
    def hip(self) -> Float64[ndarray, " 3"]:
        """Midpoint of the hips."""
        return 0.5 * (self.head("upperleg01.L") + self.head("upperleg01.R"))

    @property
    def leg(self) -> tuple[float, float]:
        """Lengths of thigh and shank."""
        hip, knee, ankle = (self.head(f"{b}.L") for b in ("upperleg01", "lowerleg01", "foot"))
        return float(np.linalg.norm(knee - hip)), float(np.linalg.norm(ankle - knee))

    @property
    def ankle(self) -> float:
        """Height of the ankle above the floor."""
        return float(self.head("foot.L")[1] - self.floor)


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """Bones of a body over time: a point p of the rest pose maps to rot @ p + shift; the floor is y = 0."""

    rot: Float64[ndarray, "n bones 3 3"]
    head: Float64[ndarray, "n bones 3"]
    shift: Float64[ndarray, "n bones 3"]
    tips: Float64[ndarray, "n tips 3"]


@dataclass(frozen=True, slots=True, eq=False)
class _Bones:
    """Rotations and positions of bones during posing; the right arm is posed as a mirrored left arm."""

    skeleton: Skeleton
    rot: Float64[ndarray, "n bones 3 3"]
    head: Float64[ndarray, "n bones 3"]
    letter: str = ""  # side of the bones returned by `index`
    mirror: ndarray = field(default_factory=lambda: np.ones(3))

    def index(self, name: str) -> int:
        """Index of a bone of this side."""
        return self.skeleton.index(f"{name}.{self.letter}")

    def follow(self, bone: int, parent: int | None = None) -> ndarray:
        """Position of a bone's head (the end nearer its parent), given the transform of the parent."""
        parent = self.skeleton.parents[bone] if parent is None else parent
        away = self.skeleton.heads[bone] - self.skeleton.heads[parent]
        return (self.head[:, parent] + self.rot[:, parent] @ away) * self.mirror

    def put(self, bone: int, rotation: ndarray, at: ndarray | None = None) -> None:
        """Set the rotation of a bone, and its position unless it follows its parent."""
        self.head[:, bone] = (self.follow(bone) if at is None else at) * self.mirror
        self.rot[:, bone] = rotation * (self.mirror[:, None] * self.mirror)


def pose_bones(skeleton: Skeleton, q: Float64[ndarray, "n 54"]) -> Pose:
    """Pose a body according to motion parameters (see `mimicmotion.synth.figure`)."""
    n, count = len(q), len(skeleton.bones)
    rot, head = np.full((n, count, 3, 3), np.nan), np.zeros((n, count, 3))
    _trunk(_Bones(skeleton, rot, head), q)
    for side, letter in enumerate("LR"):
        _leg(_Bones(skeleton, rot, head, letter), q, side)
        _arm(_Bones(skeleton, rot, head, letter, _MIRROR if side else np.ones(3)), q, side)
    every = _Bones(skeleton, rot, head)
    for i, parent in enumerate(skeleton.parents):  # parents precede their children
        if np.isnan(rot[0, i, 0, 0]):
            every.put(i, rot[:, parent])
    shift = head - np.einsum("nbij,bj->nbi", rot, skeleton.heads)
    bones = list(skeleton.tip_bones)
    tips = np.einsum("ntij,tj->nti", rot[:, bones], skeleton.tips) + shift[:, bones]
    return Pose(rot, head, shift, tips)


def axis_rotation(axis: ndarray, angle: ndarray) -> Float64[ndarray, "n 3 3"]:
    """Rotations about axes (3,) or (n, 3) by angles (n,), right-handed."""
    x, y, z = np.moveaxis(np.broadcast_to(axis, (len(angle), 3)), -1, 0)
    zero = np.zeros_like(x)
    k = np.stack([np.stack([zero, -z, y], -1), np.stack([z, zero, -x], -1), np.stack([-y, x, zero], -1)], -2)
    s, c = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return np.eye(3) + s * k + (1 - c) * (k @ k)


def twist_angle(rot: Float64[ndarray, "n 3 3"], axis: Float64[ndarray, " 3"]) -> Float64[ndarray, " n"]:
    """Twist angle of rotations about an axis (swing-twist decomposition)."""
    vector = np.stack([rot[:, 2, 1] - rot[:, 1, 2], rot[:, 0, 2] - rot[:, 2, 0], rot[:, 1, 0] - rot[:, 0, 1]], -1)
    return 2 * np.arctan2(vector @ axis, 1 + np.trace(rot, axis1=1, axis2=2))


def _clearance(skeleton: Skeleton, pitch: ndarray) -> ndarray:
    """Minimum height of the ankle at which neither toe nor heel is below the floor."""
    ankle, ball = skeleton.head("foot.L"), skeleton.head("toe2-1.L")
    ahead, behind = ball[2] - ankle[2] + 0.2, 0.5
    lever = np.where(pitch < 0, -ahead * np.sin(pitch), behind * np.sin(pitch))
    return skeleton.ankle * np.cos(pitch) + lever


def _ankle_targets(skeleton: Skeleton, q: ndarray, yaw: ndarray, side: int) -> ndarray:
    leg, k = sum(skeleton.leg), fig.LEG[side]
    local = q[:, k : k + 3] * leg + np.array([abs(skeleton.head("upperleg01.L")[0]), 0.0, 0.0])
    ankle = np.einsum("nij,nj->ni", yaw, local * (_MIRROR if side else 1.0))
    ankle[:, 1] = np.maximum(local[:, 1] + skeleton.ankle, _clearance(skeleton, q[:, k + 3]))
    return ankle + _travel(skeleton, q)


def _travel(skeleton: Skeleton, q: ndarray) -> ndarray:
    """Translation of the whole figure along x and z; the parameter is in body heights, about 1.9 leg lengths."""
    out = np.zeros((len(q), 3))
    out[:, [0, 2]] = q[:, list(fig.TRAVEL)] * 1.9 * (sum(skeleton.leg) + skeleton.ankle)
    return out


def _trunk(body: _Bones, q: ndarray) -> None:
    skeleton = body.skeleton
    yaw = rot_y(q[:, fig.YAW])
    leg = sum(skeleton.leg)
    pelvis = yaw @ rot_x(q[:, fig.PITCH]) @ rot_z(q[:, fig.ROLL])
    middle = np.einsum("nij,nj->ni", yaw, q[:, fig.PELVIS_OFFSET] * leg) + _travel(skeleton, q)
    middle[:, 1] += skeleton.ankle + leg
    # Keep the standing foot on the floor: lower the pelvis until the leg reaches it (softly releasing a lifted foot).
    ankles = [_ankle_targets(skeleton, q, yaw, s) for s in (0, 1)]
    lowest = np.minimum(ankles[0][:, 1], ankles[1][:, 1])
    for side, ankle in zip("LR", ankles, strict=True):
        hip = pelvis @ (skeleton.head(f"upperleg01.{side}") - skeleton.hip)
        flat = (middle + hip - ankle)[:, [0, 2]]
        drop = np.sqrt(np.maximum((0.995 * leg) ** 2 - (flat**2).sum(-1), (0.3 * leg) ** 2))
        middle[:, 1] = np.minimum(middle[:, 1], ankle[:, 1] + drop - hip[:, 1] + 4 * (ankle[:, 1] - lowest))
    root = skeleton.index("root")
    body.put(root, pelvis, middle + pelvis @ (skeleton.heads[root] - skeleton.hip))
    body.put(skeleton.index("spine05"), pelvis)
    roll, twist, pitch = (0.25 * q[:, k] for k in (fig.SPINE_ROLL, fig.SPINE_TWIST, fig.SPINE_PITCH))
    bend = rot_z(roll) @ rot_y(twist) @ rot_x(pitch)
    nod = rot_y(0.25 * q[:, fig.HEAD_YAW]) @ rot_x(0.25 * q[:, fig.HEAD_PITCH]) @ rot_z(0.25 * q[:, fig.HEAD_ROLL])
    for names, step in ((SPINE, bend), (NECK, nod)):
        for name in names:
            i = skeleton.index(name)
            body.put(i, body.rot[:, skeleton.parents[i]] @ step)


def _frames(start: ndarray, middle: ndarray, end: ndarray, bend: ndarray) -> tuple[ndarray, ndarray]:
    """Frames of the two bones of a limb in the rest pose, in the convention of `two_bones`."""
    line = unit(end - start)
    hinge = unit(np.cross(line, bend - line * (bend @ line)))
    out = []
    for a, b in ((start, middle), (middle, end)):
        y = unit(a - b)
        x = unit(hinge - y * (hinge @ y))
        out.append(np.stack([x, y, np.cross(x, y)], -1))
    return out[0], out[1]


def _leg(body: _Bones, q: ndarray, side: int) -> None:
    skeleton, k, sign = body.skeleton, fig.LEG[side], 1 - 2 * side
    names = ("pelvis", "upperleg01", "upperleg02", "lowerleg01", "lowerleg02", "foot", "toe2-1")
    pelvis, upper, upper2, lower, lower2, foot, toe = map(body.index, names)
    trunk = skeleton.index("root")
    root = body.rot[:, trunk]
    body.put(pelvis, root, body.follow(pelvis, trunk))
    heading = rot_y(q[:, fig.YAW]) @ rot_y(sign * q[:, k + 4])
    bend = heading[..., 2] + 0.5 * root[..., 2] + sign * 0.12 * root[..., 0]
    rest = [skeleton.heads[i] for i in (upper, lower, foot)]
    thigh, shank = (float(np.linalg.norm(b - a)) for a, b in pairwise(rest))
    hip, target = body.follow(upper), _ankle_targets(skeleton, q, rot_y(q[:, fig.YAW]), side)
    knee, ankle, first, second = two_bones(hip, target, bend, thigh, shank)
    a, b = _frames(rest[0], rest[1], rest[2], np.array([0.12 * sign, 0.0, 1.5]))
    thigh_rot, shank_rot = first @ a.T, second @ b.T
    along = unit(rest[1] - rest[0])
    turn = twist_angle(np.swapaxes(root, 1, 2) @ thigh_rot, along)
    pitch = q[:, k + 3]
    body.put(upper, thigh_rot @ axis_rotation(along, -0.5 * turn), hip)
    body.put(upper2, thigh_rot)
    body.put(lower, shank_rot, knee)
    body.put(lower2, shank_rot)
    body.put(foot, heading @ rot_x(-pitch), ankle)
    body.put(toe, heading @ rot_x(-np.where(pitch < 0, 0.3 * pitch, pitch)))


def _arm(body: _Bones, q: ndarray, side: int) -> None:
    skeleton, k = body.skeleton, fig.ARM[side]
    rest = skeleton.heads * body.mirror
    names = ("clavicle", "shoulder01", "upperarm01", "upperarm02", "lowerarm01", "lowerarm02", "wrist")
    clavicle, shoulder, upper, upper2, elbow, elbow2, wrist = map(body.index, names)
    spine = skeleton.index("spine01")
    chest, chest_head = body.rot[:, spine] * (body.mirror[:, None] * body.mirror), body.head[:, spine] * body.mirror
    want = q[:, k : k + 3]
    lift = 0.5 * np.clip(0.5 * want[:, 1] + 0.35, 0, 0.85) + 0.2 * q[:, fig.SHRUG[side]] - 0.12
    raised = chest @ rot_y(-0.25 * np.clip(want[:, 2], -0.4, 1)) @ rot_z(lift)
    body.put(clavicle, raised)
    body.put(shoulder, raised)
    start = body.follow(upper)
    length = float(np.linalg.norm(rest[elbow] - rest[upper])), float(np.linalg.norm(rest[wrist] - rest[elbow]))
    target = _outside_trunk(skeleton, rest[upper] - skeleton.hip + want * sum(length)) + skeleton.hip
    target = chest_head + np.einsum("nij,nj->ni", chest, target - rest[spine])
    line = unit(want)
    axis = unit(fig.ELBOW_HINT - line * (line @ fig.ELBOW_HINT)[:, None])
    swivel = q[:, k + 3, None]
    hint = axis * np.cos(swivel) + np.cross(line, axis) * np.sin(swivel)
    middle, end, first, second = two_bones(start, target, np.einsum("nij,nj->ni", chest, hint), *length)
    a, b = _frames(rest[upper], rest[elbow], rest[wrist], rest[elbow] - rest[upper])
    arm, forearm = first @ a.T, second @ b.T
    along = unit(rest[elbow] - rest[upper])
    turn = twist_angle(np.swapaxes(raised, 1, 2) @ arm, along)
    body.put(upper, arm @ axis_rotation(along, -0.5 * turn), start)
    body.put(upper2, arm)
    palm = _hand_frame(rest, body)
    hand = second @ rot_y(q[:, k + 4]) @ rot_x(-q[:, k + 5]) @ rot_z(q[:, k + 6]) @ palm.T
    along = unit(rest[wrist] - rest[elbow])
    turn = twist_angle(np.swapaxes(forearm, 1, 2) @ hand, along)
    body.put(elbow, forearm @ axis_rotation(along, 0.3 * turn), middle)
    body.put(elbow2, forearm @ axis_rotation(along, 0.75 * turn))
    body.put(wrist, hand, end)
    for m in range(1, 5):
        body.put(body.index(f"metacarpal{m}"), hand)
    _fingers(body, q, side, hand, palm)


def _outside_trunk(skeleton: Skeleton, wrist: ndarray) -> ndarray:
    """Move wrist targets (relative to the midpoint of the hips) that are inside the trunk to its front."""
    wide, deep = skeleton.trunk
    top = skeleton.head("upperarm01.L")[1] - skeleton.hip[1] + 0.3
    inside = np.clip(1 - (wrist[:, 0] / wide) ** 2, 0, 1) * (wrist[:, 1] < top) * (wrist[:, 2] > -0.5)
    out = wrist.copy()
    front = np.where(inside > 0, deep * np.sqrt(inside) + 0.5, wrist[:, 2])
    out[:, 2] = np.maximum(wrist[:, 2], front)
    return out


def _hand_frame(rest: ndarray, body: _Bones) -> ndarray:
    """Axes of the hand in the rest pose: x towards the thumb, y towards the forearm, z out of the palm."""
    wrist, middle, index, little = (rest[body.index(n)] for n in ("wrist", "finger3-1", "finger2-1", "finger5-1"))
    y, x = unit(wrist - middle), index - little
    x = unit(x - y * (x @ y))
    return np.stack([x, y, np.cross(x, y)], -1)


def _fingers(body: _Bones, q: ndarray, side: int, hand: ndarray, frame: ndarray) -> None:
    rest, tips = body.skeleton.heads * body.mirror, body.skeleton.tips * body.mirror
    curls, spread = q[:, fig.CURL[side] : fig.CURL[side] + 5], q[:, fig.CURL[side] + 5]
    for f in range(5):
        bones = [body.index(f"finger{f + 1}-{j}") for j in (1, 2, 3)]
        places = [*(rest[b] for b in bones), tips[f + (7 if side else 0)]]
        rotation = hand @ axis_rotation(frame[:, 2], _FAN[f] * (1.8 * spread - 0.5) if f else 0.3 * spread - 0.1)
        before, bent = -frame[:, 1], 0.0
        for j, (bone, (a, b)) in enumerate(zip(bones, pairwise(places), strict=True)):
            way = unit(b - a)
            if f == 0:
                hinge = unit(np.cross(way, -frame[:, 0] + 0.7 * frame[:, 2]))
            else:
                hinge = unit(-frame[:, 0] + way * (frame[:, 0] @ way))
                bent = float(np.arctan2(np.cross(before, way) @ hinge, before @ way))
            rotation = rotation @ axis_rotation(hinge, _CURL[f][j] * curls[:, f] - bent)
            body.put(bone, rotation)
            before = way
