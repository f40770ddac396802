"""Compute the rotation and position of every bone of a body from motion parameters."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.synth import figure as fig
from mimicmotion.synth.body import Body
from mimicmotion.synth.figure import axis_rotation, elbow_axes, rotation, times, two_bones, unit

SPINE = ("spine04", "spine03", "spine02", "spine01")
NECK = ("neck01", "neck02", "neck03", "head")
_MIRROR = np.array([-1.0, 1.0, 1.0])
_FAN = np.array([0.0, 0.1, 0.0, -0.09, -0.2])  # angles of the spread fingers, radians
_CURL = ((0.35, 0.45, 0.6), *[(1.0, 1.1, 0.75)] * 4)  # flexion of the three joints, radians per unit of curl


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """Bones of a body over time: a point p of the rest pose maps to rot @ p + shift; the floor is y = 0."""

    rot: Float64[ndarray, "n bones 3 3"]
    head: Float64[ndarray, "n bones 3"]  # the ends nearer the parents
    shift: Float64[ndarray, "n bones 3"]
    tips: Float64[ndarray, "n tips 3"]  # ends of fingers and toes


class _Bones:
    """Access to the bones of one side by name during posing; the right arm is posed as a mirrored left arm."""

    def __init__(self, body: Body, rot: ndarray, head: ndarray, side: str, mirror: ndarray | None = None) -> None:
        self.body, self.rot, self.head, self.side = body, rot, head, side
        self.mirror = np.ones(3) if mirror is None else mirror
        self.flip = np.outer(self.mirror, self.mirror)

    def index(self, name: str) -> int:
        """Return the index of a bone of this side."""
        return self.body.index(name + self.side)

    def rest(self, name: str) -> Float64[ndarray, " 3"]:
        """Return the position of a bone's head in the rest pose."""
        return self.body.heads[self.index(name)] * self.mirror

    def follow(self, name: str, parent: int | None = None) -> ndarray:
        """Compute the position of a bone's head from the transform of its parent (or the given bone)."""
        bone = self.index(name)
        parent = self.body.assets.parents[bone] if parent is None else parent
        offset = self.body.heads[bone] - self.body.heads[parent]
        return (self.head[:, parent] + self.rot[:, parent] @ offset) * self.mirror

    def put(self, name: str, rot: ndarray, head: ndarray | None = None) -> None:
        """Set the rotation of a bone and the position of its head, which follows its parent if None."""
        bone = self.index(name)
        self.head[:, bone] = (self.follow(name) if head is None else head) * self.mirror
        self.rot[:, bone] = rot * self.flip


def pose_bones(body: Body, q: Float64[ndarray, "n 54"]) -> Pose:
    """Pose a body by motion parameters (see `mimicmotion.synth.figure`)."""
    n, count = len(q), len(body.heads)
    rot, head = np.full((n, count, 3, 3), np.nan), np.zeros((n, count, 3))
    bones = _Bones(body, rot, head, "")
    _trunk(bones, q)
    for side, letter in enumerate("LR"):
        _leg(_Bones(body, rot, head, f".{letter}"), q, side)
        _arm(_Bones(body, rot, head, f".{letter}", _MIRROR if side else None), q, side)
    for i, (name, parent) in enumerate(zip(body.assets.bones, body.assets.parents, strict=True)):
        if np.isnan(rot[0, i, 0, 0]):  # it moves with its parent, which comes first
            bones.put(name, rot[:, parent])
    shift = head - np.einsum("nbij,bj->nbi", rot, body.heads)
    tips = np.einsum("ntij,tj->nti", rot[:, body.tip_bones], body.tips) + shift[:, body.tip_bones]
    return Pose(rot, head, shift, tips)


def _twist(rot: Float64[ndarray, "n 3 3"], axis: Float64[ndarray, " 3"]) -> Float64[ndarray, " n"]:
    """Compute the twist angle of rotations about an axis (swing-twist decomposition)."""
    vector = np.stack([rot[:, 2, 1] - rot[:, 1, 2], rot[:, 0, 2] - rot[:, 2, 0], rot[:, 1, 0] - rot[:, 0, 1]], -1)
    return 2 * np.arctan2(vector @ axis, 1 + np.trace(rot, axis1=1, axis2=2))


def _clearance(body: Body, pitch: ndarray) -> ndarray:
    """Return the minimum ankle height, for each foot pitch, at which neither toe nor heel is below the floor."""
    ahead, behind = body.head("toe2-1.L")[2] - body.head("foot.L")[2] + 0.2, 0.5
    return body.ankle * np.cos(pitch) + np.where(pitch < 0, -ahead, behind) * np.sin(pitch)


def _ankle_targets(body: Body, q: ndarray, yaw: ndarray, side: int) -> ndarray:
    k = fig.LEG[side]
    local = q[:, k : k + 3] * body.leg + np.array([abs(body.head("upperleg01.L")[0]), 0.0, 0.0])
    ankle = times(yaw, local * (_MIRROR if side else 1.0))
    ankle[:, 1] = np.maximum(local[:, 1] + body.ankle, _clearance(body, q[:, k + 3]))
    return ankle + _travel(body, q)


def _travel(body: Body, q: ndarray) -> ndarray:
    """Return the figure's translation; the parameters are in body heights, about 1.9 leg lengths each."""
    out = np.zeros((len(q), 3))
    out[:, [0, 2]] = q[:, list(fig.TRAVEL)] * 1.9 * (body.leg + body.ankle)
    return out


def _trunk(bones: _Bones, q: ndarray) -> None:
    body, leg = bones.body, bones.body.leg
    yaw = rotation("Y", q[:, fig.YAW])
    pelvis = rotation("YXZ", q[:, fig.YAW], q[:, fig.PITCH], q[:, fig.ROLL])
    middle = times(yaw, q[:, fig.PELVIS_OFFSET] * leg) + _travel(body, q)
    middle[:, 1] += body.ankle + leg
    # Keep the standing foot on the floor: lower the pelvis until the leg reaches it (less so for a lifted foot).
    ankles = [_ankle_targets(body, q, yaw, s) for s in (0, 1)]
    lowest = np.minimum(ankles[0][:, 1], ankles[1][:, 1])
    for side, ankle in zip("LR", ankles, strict=True):
        hip = pelvis @ (body.head(f"upperleg01.{side}") - body.hip)
        flat = (middle + hip - ankle)[:, [0, 2]]
        drop = np.sqrt(np.maximum((0.995 * leg) ** 2 - (flat**2).sum(-1), (0.3 * leg) ** 2))
        middle[:, 1] = np.minimum(middle[:, 1], ankle[:, 1] + drop - hip[:, 1] + 4 * (ankle[:, 1] - lowest))
    bones.put("root", pelvis, middle + pelvis @ (body.head("root") - body.hip))
    bones.put("spine05", pelvis)
    bend = rotation("ZYX", *(0.25 * q[:, k] for k in (fig.SPINE_ROLL, fig.SPINE_TWIST, fig.SPINE_PITCH)))
    nod = rotation("YXZ", *(0.25 * q[:, k] for k in (fig.HEAD_YAW, fig.HEAD_PITCH, fig.HEAD_ROLL)))
    for names, step in ((SPINE, bend), (NECK, nod)):
        for name in names:
            bones.put(name, bones.rot[:, body.assets.parents[body.index(name)]] @ step)


def _frames(rest: list[ndarray], bend: ndarray) -> list[ndarray]:
    """Return the rest-pose frames of a limb's two bones, given its three joints, in the convention of `two_bones`."""
    line = unit(rest[2] - rest[0])
    hinge = unit(np.cross(line, bend - line * (bend @ line)))
    out = []
    for a, b in pairwise(rest):
        y = unit(a - b)
        x = unit(hinge - y * (hinge @ y))
        out.append(np.stack([x, y, np.cross(x, y)], -1))
    return out


def _leg(bones: _Bones, q: ndarray, side: int) -> None:
    body, k, sign = bones.body, fig.LEG[side], 1 - 2 * side
    trunk = body.index("root")
    root = bones.rot[:, trunk]
    bones.put("pelvis", root, bones.follow("pelvis", trunk))
    heading = rotation("Y", q[:, fig.YAW] + sign * q[:, k + 4])
    bend = heading[..., 2] + 0.5 * root[..., 2] + sign * 0.12 * root[..., 0]
    rest = [bones.rest(name) for name in ("upperleg01", "lowerleg01", "foot")]
    thigh, shank = (float(np.linalg.norm(b - a)) for a, b in pairwise(rest))
    hip, target = bones.follow("upperleg01"), _ankle_targets(body, q, rotation("Y", q[:, fig.YAW]), side)
    knee, ankle, first, second = two_bones(hip, target, bend, thigh, shank)
    a, b = _frames(rest, np.array([0.12 * sign, 0.0, 1.5]))
    thigh_rot, shank_rot = first @ a.T, second @ b.T
    along = unit(rest[1] - rest[0])
    turn = _twist(np.swapaxes(root, 1, 2) @ thigh_rot, along)
    pitch = q[:, k + 3]
    bones.put("upperleg01", thigh_rot @ axis_rotation(along, -0.5 * turn), hip)
    bones.put("upperleg02", thigh_rot)
    bones.put("lowerleg01", shank_rot, knee)
    bones.put("lowerleg02", shank_rot)
    bones.put("foot", heading @ rotation("X", -pitch), ankle)
    bones.put("toe2-1", heading @ rotation("X", -np.where(pitch < 0, 0.3 * pitch, pitch)))


def _arm(bones: _Bones, q: ndarray, side: int) -> None:
    body, k, spine = bones.body, fig.ARM[side], bones.body.index("spine01")
    rest = [bones.rest(name) for name in ("upperarm01", "lowerarm01", "wrist")]
    shoulder, elbow, wrist = rest
    chest, chest_head = bones.rot[:, spine] * bones.flip, bones.head[:, spine] * bones.mirror
    reach = q[:, k : k + 3]  # from shoulder to wrist, in arm lengths
    lift = 0.5 * np.clip(0.5 * reach[:, 1] + 0.35, 0, 0.85) + 0.2 * q[:, fig.SHRUG[side]] - 0.12
    raised = chest @ rotation("YZ", -0.25 * np.clip(reach[:, 2], -0.4, 1), lift)
    bones.put("clavicle", raised)
    bones.put("shoulder01", raised)
    start = bones.follow("upperarm01")
    length = float(np.linalg.norm(elbow - shoulder)), float(np.linalg.norm(wrist - elbow))
    target = _outside_trunk(body, shoulder - body.hip + reach * sum(length)) + body.hip
    target = chest_head + times(chest, target - body.heads[spine] * bones.mirror)
    straight, aside = elbow_axes(unit(reach))
    swivel = q[:, k + 3, None]
    hint = straight * np.cos(swivel) + aside * np.sin(swivel)
    middle, end, first, second = two_bones(start, target, times(chest, hint), *length)
    a, b = _frames(rest, elbow - shoulder)
    arm, forearm = first @ a.T, second @ b.T
    along = unit(elbow - shoulder)
    turn = _twist(np.swapaxes(raised, 1, 2) @ arm, along)
    bones.put("upperarm01", arm @ axis_rotation(along, -0.5 * turn), start)
    bones.put("upperarm02", arm)
    palm = _hand_frame(bones)
    hand = second @ rotation("YXZ", q[:, k + 4], -q[:, k + 5], q[:, k + 6]) @ palm.T
    along = unit(wrist - elbow)
    turn = _twist(np.swapaxes(forearm, 1, 2) @ hand, along)
    bones.put("lowerarm01", forearm @ axis_rotation(along, 0.3 * turn), middle)
    bones.put("lowerarm02", forearm @ axis_rotation(along, 0.75 * turn))
    bones.put("wrist", hand, end)
    for m in range(1, 5):
        bones.put(f"metacarpal{m}", hand)
    _fingers(bones, q, side, hand, palm)


def _outside_trunk(body: Body, wrist: ndarray) -> ndarray:
    """Move wrist targets (relative to the midpoint of the hips) that are inside the trunk to its front."""
    wide, deep = body.trunk
    top = body.head("upperarm01.L")[1] - body.hip[1] + 0.3
    inside = np.clip(1 - (wrist[:, 0] / wide) ** 2, 0, 1) * (wrist[:, 1] < top) * (wrist[:, 2] > -0.5)
    out = wrist.copy()
    front = np.where(inside > 0, deep * np.sqrt(inside) + 0.5, wrist[:, 2])
    out[:, 2] = np.maximum(wrist[:, 2], front)
    return out


def _hand_frame(bones: _Bones) -> ndarray:
    """Return the axes of the hand in the rest pose: x towards the thumb, y towards the forearm, z out of the palm."""
    wrist, middle, index, little = map(bones.rest, ("wrist", "finger3-1", "finger2-1", "finger5-1"))
    y, x = unit(wrist - middle), index - little
    x = unit(x - y * (x @ y))
    return np.stack([x, y, np.cross(x, y)], -1)


def _fingers(bones: _Bones, q: ndarray, side: int, hand: ndarray, frame: ndarray) -> None:
    tips = bones.body.tips * bones.mirror
    curls, spread = q[:, fig.CURL[side] : fig.CURL[side] + 5], q[:, fig.CURL[side] + 5]
    for f in range(5):
        chain = [f"finger{f + 1}-{j}" for j in (1, 2, 3)]
        joints = [*map(bones.rest, chain), tips[f + (7 if side else 0)]]
        turn = hand @ axis_rotation(frame[:, 2], _FAN[f] * (1.8 * spread - 0.5) if f else 0.3 * spread - 0.1)
        before, bent = -frame[:, 1], 0.0
        for j, (bone, (a, b)) in enumerate(zip(chain, pairwise(joints), strict=True)):
            direction = unit(b - a)
            if f == 0:
                hinge = unit(np.cross(direction, -frame[:, 0] + 0.7 * frame[:, 2]))
            else:
                hinge = unit(-frame[:, 0] + direction * (frame[:, 0] @ direction))
                bent = float(np.arctan2(np.cross(before, direction) @ hinge, before @ direction))
            turn = turn @ axis_rotation(hinge, _CURL[f][j] * curls[:, f] - bent)
            bones.put(bone, turn)
            before = direction
