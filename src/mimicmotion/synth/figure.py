"""The figure: proportions, the layout of motion parameters, and the pose of every segment they give.

Lengths are in body heights (1 = the person's stature), world axes x to the viewer's right, y up, z towards the viewer;
the person faces +z, so the person's own left is +x.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

# Segments; each has a position and a rotation per frame, limbs run from their origin along local -y.
PELVIS, ABDOMEN, CHEST, NECK, HEAD, SKIRT = range(6)
UPPER_ARM, FOREARM, HAND, THIGH, SHANK, FOOT = range(6, 12)  # left; the right ones follow at + SIDE
SIDE = 6
FINGERS = 18  # 15 left (thumb to little finger, 3 each), then 15 right
NUM_SEGMENTS = FINGERS + 30

# Motion parameters, one column each; lengths in leg or arm lengths, angles in radians.
PELVIS_OFFSET = slice(0, 3)
YAW, PITCH, ROLL = 3, 4, 5
SPINE_PITCH, SPINE_ROLL, SPINE_TWIST = 6, 7, 8
HEAD_PITCH, HEAD_YAW, HEAD_ROLL = 9, 10, 11
ARM = (12, 19)  # left, right: wrist (outward, up, forward) from the shoulder, elbow swivel, twist, flexion, deviation
ARM_WIDTH = 7
CURL = (26, 32)  # thumb .. little finger, spread
LEG = (38, 43)  # ankle (outward, up, forward) from its place under the hip, foot pitch (toe up), foot yaw (outward)
LEG_WIDTH = 5
MOUTH, BLINK = 48, 49
SHRUG = (50, 51)
TRAVEL = (52, 53)  # the whole figure along x and z, in body heights
NUM_PARAMS = 54

ELBOW_HINT = np.array([0.42, -0.72, -0.54])  # where an elbow points at swivel 0: outward, down, back
_MIRROR = np.array([-1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True)
class Body:
    """Proportions in body heights; defaults are an average adult."""

    hip_height: float = 0.522
    hip_width: float = 0.054  # half the distance of the hip joints
    thigh: float = 0.24
    shank: float = 0.235
    ankle: float = 0.047
    foot: float = 0.115
    waist: float = 0.075  # pelvis to the pivot of the abdomen, then to the pivot of the chest
    chest: float = 0.215  # pivot of the chest to the line of the shoulders
    shoulder_width: float = 0.108
    upper_arm: float = 0.172
    forearm: float = 0.147
    hand: float = 0.112
    neck: float = 0.048  # line of the shoulders to the pivot of the head
    head: float = 0.14  # chin to crown
    head_width: float = 0.69  # of the head's height
    girth: float = 1.0  # thickness of trunk and limbs
    muscle: float = 1.0  # thickness of limbs against the trunk
    bust: float = 0.0
    waistline: float = 1.0  # below 1 a narrow waist, above 1 a belly


def random_body(rng: np.random.Generator) -> Body:
    """A body with realistic spread of proportions."""
    female = rng.random() < 0.5
    vary = lambda mean, spread: float(mean * (1 + spread * np.clip(rng.normal(), -2, 2)))  # noqa: E731
    girth = vary(0.97 if female else 1.02, 0.09)
    return Body(
        hip_width=vary(0.056 if female else 0.053, 0.05),
        thigh=vary(0.24, 0.025),
        shank=vary(0.235, 0.025),
        foot=vary(0.115, 0.06),
        chest=vary(0.212, 0.025),
        shoulder_width=vary(0.099 if female else 0.109, 0.05),
        upper_arm=vary(0.17, 0.035),
        forearm=vary(0.146, 0.035),
        hand=vary(0.116, 0.06),
        neck=vary(0.052 if female else 0.047, 0.08),
        head=vary(0.14, 0.05),
        head_width=vary(0.69, 0.04),
        girth=girth,
        muscle=vary(0.92 if female else 1.04, 0.08),
        bust=float(rng.uniform(0.35, 1.0)) if female else 0.0,
        waistline=vary(0.88 if female else 0.99, 0.06) * girth**0.5,
    )


def rot_x(a: ndarray | float) -> Float64[ndarray, "*n 3 3"]:
    """Rotation about x (y towards z)."""
    return _rotation(np.asarray(a, float), 1, 2)


def rot_y(a: ndarray | float) -> Float64[ndarray, "*n 3 3"]:
    """Rotation about y (z towards x)."""
    return _rotation(np.asarray(a, float), 2, 0)


def rot_z(a: ndarray | float) -> Float64[ndarray, "*n 3 3"]:
    """Rotation about z (x towards y)."""
    return _rotation(np.asarray(a, float), 0, 1)


def _rotation(a: ndarray, i: int, j: int) -> ndarray:
    m = np.zeros((*a.shape, 3, 3))
    m[..., range(3), range(3)] = 1.0
    c, s = np.cos(a), np.sin(a)
    m[..., i, i], m[..., j, j], m[..., i, j], m[..., j, i] = c, c, -s, s
    return m


def _unit(v: ndarray) -> ndarray:
    return v / np.maximum(np.sqrt((v * v).sum(-1, keepdims=True)), 1e-9)


def _cross(a: ndarray, b: ndarray) -> ndarray:
    x, y, z = a[..., 0], a[..., 1], a[..., 2]
    u, v, w = b[..., 0], b[..., 1], b[..., 2]
    return np.stack([y * w - z * v, z * u - x * w, x * v - y * u], -1)


def _apply(m: ndarray, v: ndarray | tuple[float, float, float]) -> ndarray:
    return np.einsum("...ij,...j->...i", m, np.asarray(v, float))


def two_bones(
    start: Float64[ndarray, "n 3"], target: Float64[ndarray, "n 3"], bend: Float64[ndarray, "n 3"], a: float, b: float
) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """Two-bone inverse kinematics; the middle joint moves off the line towards `bend`.

    Returns:
        Middle joint, end, and the rotations of the two bones (local -y along the bone, local x the hinge,
        oriented as cross(line, bend)).
    """
    line = target - start
    reach = np.sqrt((line * line).sum(-1, keepdims=True))
    line = line / np.maximum(reach, 1e-9)
    reach = np.clip(reach, 1.15 * abs(a - b) + 0.35 * min(a, b), 0.998 * (a + b))
    side = _unit(bend - line * (bend * line).sum(-1, keepdims=True))
    cos = np.clip((a * a + reach**2 - b * b) / (2 * a * reach), -1, 1)
    middle = start + a * (line * cos + side * np.sqrt(1 - cos**2))
    end = start + line * reach
    hinge = _cross(line, side)
    frames = []
    for first, second in ((start, middle), (middle, end)):
        y = _unit(first - second)
        frames.append(np.stack([hinge, y, _cross(hinge, y)], -1))
    return middle, end, frames[0], frames[1]


def solve(body: Body, q: Float64[ndarray, "n 54"]) -> tuple[Float64[ndarray, "n 48 3 3"], Float64[ndarray, "n 48 3"]]:
    """Rotations and positions of all the segments in world coordinates (floor at y = 0)."""
    n = len(q)
    rot, pos = np.zeros((n, NUM_SEGMENTS, 3, 3)), np.zeros((n, NUM_SEGMENTS, 3))
    _trunk(body, q, rot, pos)
    for side in (0, 1):
        _leg(body, q, side, rot, pos)
        _arm(body, q, side, rot, pos)
        _fingers(body, q, side, rot, pos)
    _skirt(rot, pos)
    return rot, pos


def _ankle_targets(body: Body, q: ndarray, yaw: ndarray, side: int) -> ndarray:
    leg, k = body.thigh + body.shank, LEG[side]
    local = q[:, k : k + 3] * leg + np.array([body.hip_width, body.ankle, 0.0])
    ankle = _apply(yaw, local * (_MIRROR if side else 1.0))
    ankle[:, 0] += q[:, TRAVEL[0]]
    ankle[:, 2] += q[:, TRAVEL[1]]
    return ankle


def _trunk(body: Body, q: ndarray, rot: ndarray, pos: ndarray) -> None:
    yaw = rot_y(q[:, YAW])
    leg = body.thigh + body.shank
    pelvis_rot = yaw @ rot_x(q[:, PITCH]) @ rot_z(q[:, ROLL])
    pelvis = _apply(yaw, q[:, PELVIS_OFFSET] * leg)
    pelvis[:, 0] += q[:, TRAVEL[0]]
    pelvis[:, 2] += q[:, TRAVEL[1]]
    pelvis[:, 1] += body.ankle + leg
    # A standing foot stays on the floor: lower the pelvis until the leg reaches it (softly let go of a lifted foot).
    ankles = [_ankle_targets(body, q, yaw, s) for s in (0, 1)]
    lowest = np.minimum(ankles[0][:, 1], ankles[1][:, 1])
    for s, ankle in enumerate(ankles):
        hip = _apply(pelvis_rot, (body.hip_width * (1 - 2 * s), 0.0, 0.0))
        flat = (pelvis + hip - ankle)[:, [0, 2]]
        drop = np.sqrt(np.maximum((0.995 * leg) ** 2 - (flat**2).sum(-1), (0.3 * leg) ** 2))
        pelvis[:, 1] = np.minimum(pelvis[:, 1], ankle[:, 1] + drop - hip[:, 1] + 4 * (ankle[:, 1] - lowest))
    rot[:, PELVIS], pos[:, PELVIS] = pelvis_rot, pelvis
    half = rot_z(0.5 * q[:, SPINE_ROLL]) @ rot_y(0.5 * q[:, SPINE_TWIST]) @ rot_x(0.5 * q[:, SPINE_PITCH])
    rot[:, ABDOMEN], pos[:, ABDOMEN] = pelvis_rot @ half, pelvis + _apply(pelvis_rot, (0.0, 0.4 * body.waist, 0.0))
    rot[:, CHEST] = rot[:, ABDOMEN] @ half
    pos[:, CHEST] = pos[:, ABDOMEN] + _apply(rot[:, ABDOMEN], (0.0, 0.6 * body.waist, 0.0))
    head = rot_y(q[:, HEAD_YAW]) @ rot_x(q[:, HEAD_PITCH]) @ rot_z(q[:, HEAD_ROLL])
    neck = rot_y(0.4 * q[:, HEAD_YAW]) @ rot_x(0.5 * q[:, HEAD_PITCH] + 0.12) @ rot_z(0.5 * q[:, HEAD_ROLL])
    rot[:, NECK], rot[:, HEAD] = rot[:, CHEST] @ neck, rot[:, CHEST] @ head
    pos[:, NECK] = pos[:, CHEST] + _apply(rot[:, CHEST], (0.0, body.chest, -0.008))
    pos[:, HEAD] = pos[:, NECK] + _apply(rot[:, NECK], (0.0, body.neck, 0.0))


def _leg(body: Body, q: ndarray, side: int, rot: ndarray, pos: ndarray) -> None:
    k, first = LEG[side], THIGH + side * SIDE
    sign = 1 - 2 * side
    yaw = rot_y(q[:, YAW])
    hip = pos[:, PELVIS] + _apply(rot[:, PELVIS], (sign * body.hip_width, 0.0, 0.0))
    heading = yaw @ rot_y(sign * q[:, k + 4])
    # the knee follows the toes; a raised foot turns the knee with the pelvis
    bend = heading[..., 2] + 0.5 * rot[:, PELVIS, :, 2] + sign * 0.12 * rot[:, PELVIS, :, 0]
    knee, ankle, upper, lower = two_bones(hip, _ankle_targets(body, q, yaw, side), bend, body.thigh, body.shank)
    for i, (r, p) in enumerate(((upper, hip), (lower, knee), (heading @ rot_x(-q[:, k + 3]), ankle))):
        if i < 2:  # the hinge of a knee is turned the other way round than an elbow's
            r = r * np.array([-1.0, 1.0, -1.0])  # noqa: PLW2901
        rot[:, first + i], pos[:, first + i] = r, p


def _arm(body: Body, q: ndarray, side: int, rot: ndarray, pos: ndarray) -> None:
    k, first = ARM[side], UPPER_ARM + side * SIDE
    mirror = _MIRROR if side else np.ones(3)
    both = mirror[:, None] * mirror
    length = body.upper_arm + body.forearm
    want = q[:, k : k + 3]
    # a raised arm lifts its shoulder joint and draws it in
    lift = np.clip(want[:, 1], 0, 1) * 0.02 + q[:, SHRUG[side]] * 0.012
    local = np.stack([body.shoulder_width - 0.5 * lift, body.chest - 0.012 + lift, np.full(len(q), -0.004)], -1)
    target = _outside_trunk(body, local + want * length)
    chest = rot[:, CHEST] * both  # the right arm is solved in a mirrored world
    shoulder = _apply(chest, local)
    base = pos[:, CHEST] * mirror
    line = _unit(want)
    swivel = q[:, k + 3]
    side_axis = _unit(ELBOW_HINT - line * (line @ ELBOW_HINT)[:, None])
    hint_turned = side_axis * np.cos(swivel)[:, None] + _cross(line, side_axis) * np.sin(swivel)[:, None]
    elbow, wrist, upper, lower = two_bones(
        base + shoulder, base + _apply(chest, target), _apply(chest, hint_turned), body.upper_arm, body.forearm
    )
    hand = lower @ rot_y(q[:, k + 4]) @ rot_x(-q[:, k + 5]) @ rot_z(q[:, k + 6])
    for i, (r, p) in enumerate(((upper, base + shoulder), (lower, elbow), (hand, wrist))):
        rot[:, first + i], pos[:, first + i] = r * both, p * mirror


def _outside_trunk(body: Body, wrist: ndarray) -> ndarray:
    """Wrist targets inside the trunk are moved to its front."""
    wide, deep = 0.125 * body.girth, 0.098 * body.girth + 0.012 * body.bust
    inside = np.clip(1 - (wrist[:, 0] / wide) ** 2, 0, 1) * (wrist[:, 1] < body.chest + 0.02) * (wrist[:, 2] > -0.03)
    out = wrist.copy()
    out[:, 2] = np.maximum(wrist[:, 2], np.where(inside > 0, deep * np.sqrt(inside), wrist[:, 2]))
    return out


# Per finger: base (towards the thumb, along the palm), three lengths, direction in the palm's plane: parts of the hand.
_FINGER_BASE = np.array([[0.17, -0.14], [0.17, -0.5], [0.06, -0.52], [-0.05, -0.5], [-0.155, -0.46]])
_FINGER_LENGTH = np.array(
    [[0.22, 0.2, 0.16], [0.24, 0.15, 0.12], [0.26, 0.17, 0.13], [0.24, 0.16, 0.12], [0.19, 0.12, 0.11]]
)
_FINGER_FAN = np.array([0.75, 0.1, 0.0, -0.09, -0.2])


def finger_lengths(body: Body) -> Float64[ndarray, "5 3"]:
    """Lengths of the finger bones, thumb first."""
    return _FINGER_LENGTH * body.hand


def _fingers(body: Body, q: ndarray, side: int, rot: ndarray, pos: ndarray) -> None:
    mirror = _MIRROR if side else np.ones(3)
    both = mirror[:, None] * mirror
    hand_rot = rot[:, HAND + side * SIDE] * both
    hand_pos = pos[:, HAND + side * SIDE] * mirror
    curls, spread = q[:, CURL[side] : CURL[side] + 5], q[:, CURL[side] + 5]
    lengths = finger_lengths(body)
    for f in range(5):
        base = np.array([*_FINGER_BASE[f], 0.05 if f == 0 else 0.0]) * body.hand
        p = hand_pos + _apply(hand_rot, base)
        bend = curls[:, f]
        if f == 0:
            r = hand_rot @ rot_z(_FINGER_FAN[f] + 0.35 * spread - 0.3 * bend) @ rot_y(-0.9) @ rot_x(-0.15 - 0.3 * bend)
        else:
            r = hand_rot @ rot_z(_FINGER_FAN[f] * (0.6 + 1.8 * spread)) @ rot_x(-bend)
        for j in range(3):
            at = FINGERS + side * 15 + f * 3 + j
            rot[:, at], pos[:, at] = r * both, p * mirror
            p = p + _apply(r, (0.0, -lengths[f, j], 0.0))
            r = r @ rot_x(-(0.7 if f == 0 else (1.1, 0.75, 0.0)[j]) * bend)


def _skirt(rot: ndarray, pos: ndarray) -> None:
    """A skirt hangs between the knees and straight down."""
    top = pos[:, PELVIS] + _apply(rot[:, PELVIS], (0.0, 0.05, 0.0))
    knees = 0.5 * (pos[:, SHANK] + pos[:, SHANK + SIDE])
    down = 0.75 * _unit(knees - top) + np.array([0.0, -0.25, 0.0])
    y = -_unit(down)
    z = _unit(rot[:, PELVIS, :, 2] - y * (rot[:, PELVIS, :, 2] * y).sum(-1, keepdims=True))
    rot[:, SKIRT], pos[:, SKIRT] = np.stack([_cross(y, z), y, z], -1), top
