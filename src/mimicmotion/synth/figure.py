"""Motion parameters, rotations and inverse kinematics.

World axes: x to the viewer's right, y up, z towards the viewer; the person faces +z, so their left is +x.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.runtime.extras import import_extra

Rotation = import_extra("scipy.spatial.transform", "synth").Rotation

# Columns of the motion parameters; lengths in units of leg or arm length, angles in radians.
PELVIS_OFFSET = slice(0, 3)
YAW, PITCH, ROLL = 3, 4, 5
SPINE_PITCH, SPINE_ROLL, SPINE_TWIST = 6, 7, 8
HEAD_PITCH, HEAD_YAW, HEAD_ROLL = 9, 10, 11
ARM = (12, 19)  # left, right: wrist (outward, up, forward) from the shoulder, elbow swivel, twist, flexion, deviation
ARM_WIDTH = 7
CURL = (26, 32)  # left, right: thumb to little finger, spread
LEG = (38, 43)  # left, right: ankle (outward, up, forward) from below the hip, foot pitch (toe up), yaw (outward)
MOUTH, BLINK = 48, 49
SHRUG = (50, 51)
TRAVEL = (52, 53)  # translation of the whole figure along x and z, in body heights
NUM_PARAMS = 54

ELBOW_HINT = np.array([0.42, -0.72, -0.54])  # direction of the elbow at swivel 0: outward, down, back


def rotation(axes: str, *angles: Float64[ndarray, " n"]) -> Float64[ndarray, "n 3 3"]:
    """Return intrinsic rotations about `axes` (such as "XYZ") in radians: each axis moves with earlier rotations."""
    return Rotation.from_euler(axes, np.stack(angles, -1)).as_matrix()


def axis_rotation(axis: Float64[ndarray, " 3"], angle: Float64[ndarray, " n"]) -> Float64[ndarray, "n 3 3"]:
    """Return right-handed rotations about a unit vector by angles in radians."""
    return Rotation.from_rotvec(angle[:, None] * axis).as_matrix()


def times(matrices: Float64[ndarray, "n 3 3"], vectors: Float64[ndarray, "n 3"]) -> Float64[ndarray, "n 3"]:
    """Multiply each matrix by its vector."""
    return np.einsum("nij,nj->ni", matrices, vectors)


def unit(v: Float64[ndarray, "*n 3"]) -> Float64[ndarray, "*n 3"]:
    """Normalise vectors to length 1."""
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)


def elbow_axes(line: Float64[ndarray, "n 3"]) -> tuple[Float64[ndarray, "n 3"], Float64[ndarray, "n 3"]]:
    """Return the elbow's directions at swivel angles of 0 and 90 degrees, for arms along the unit vectors `line`."""
    axis = unit(ELBOW_HINT - line * (line @ ELBOW_HINT)[:, None])
    return axis, np.cross(line, axis)


def moving_average(values: Float64[ndarray, " frames *n"], frames: int) -> Float64[ndarray, " frames *n"]:
    """Moving average over an odd number of frames; the first and last values are replicated."""
    flat = values.reshape(len(values), -1)
    return cv2.blur(flat, (1, frames), borderType=cv2.BORDER_REPLICATE).reshape(values.shape)


def two_bones(
    start: Float64[ndarray, "n 3"], target: Float64[ndarray, "n 3"], bend: Float64[ndarray, "n 3"], a: float, b: float
) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """Solve two-bone inverse kinematics for bones of lengths `a` and `b`, with the middle joint bent towards `bend`.

    Returns:
        Positions of the middle joint and the end, and rotations of both bones: local -y points along the bone, local x
        along the hinge, cross(target - start, bend).
    """
    line = target - start
    reach = np.sqrt((line * line).sum(-1, keepdims=True))
    line = line / np.maximum(reach, 1e-9)
    reach = np.clip(reach, 1.15 * abs(a - b) + 0.35 * min(a, b), 0.998 * (a + b))
    side = unit(bend - line * (bend * line).sum(-1, keepdims=True))
    cos = np.clip((a * a + reach**2 - b * b) / (2 * a * reach), -1, 1)
    middle = start + a * (line * cos + side * np.sqrt(1 - cos**2))
    end = start + line * reach
    hinge = np.cross(line, side)
    frames = []
    for first, second in ((start, middle), (middle, end)):
        y = unit(first - second)
        frames.append(np.stack([hinge, y, np.cross(hinge, y)], -1))
    return middle, end, frames[0], frames[1]
