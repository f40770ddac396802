"""Motion capture from BVH files, retargeted to the figure's motion parameters."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.synth import figure as fig
from mimicmotion.synth.figure import rot_x, rot_y, rot_z
from mimicmotion.synth.keyposes import neutral

# Names of the joints in files of CMU, PyMO and most others; the first that exists is used.
_JOINTS = {
    "thigh": ("UpLeg", "Thigh", "Hip"),
    "shank": ("Leg", "Shin", "Knee"),
    "foot": ("Foot", "Ankle"),
    "toe": ("ToeBase", "Toe"),
    "arm": ("Arm", "UpperArm", "Shoulder"),
    "forearm": ("ForeArm", "LowArm", "Elbow"),
    "hand": ("Hand", "Wrist"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Mocap:
    """A recorded motion as parameters of the figure; give it to `render_clip(motion=...)`.

    Attributes:
        params: one row per frame of the file, see `mimicmotion.synth.figure`.
        fps: frames per second of the file.
        name: the file's name.
    """

    params: Float64[ndarray, "frames 54"]
    fps: float
    name: str

    def window(self, rng: np.random.Generator, times: Float64[ndarray, " n"]) -> Float64[ndarray, "n 54"]:
        """A part of the recording by chance, at `times` (seconds from its start), turned to face the viewer on average.

        A recording shorter than the window runs to and fro.
        """
        length = (len(self.params) - 1) / self.fps
        at = times + rng.uniform(0, max(length - times[-1], 0.0))
        if length > 0:
            at = length - np.abs((at % (2 * length)) - length)
        at = np.clip(at * self.fps, 0, len(self.params) - 1)
        i = np.minimum(at.astype(int), max(len(self.params) - 2, 0))
        f = (at - i)[:, None]
        q = self.params[i] * (1 - f) + self.params[np.minimum(i + 1, len(self.params) - 1)] * f
        q[:, fig.YAW] -= np.arctan2(np.sin(q[:, fig.YAW]).mean(), np.cos(q[:, fig.YAW]).mean())
        q[:, fig.YAW] -= 2 * np.pi * np.round(q[:, fig.YAW].mean() / (2 * np.pi))
        return q


def load_bvh(path: str | Path) -> Mocap:
    """Read a BVH file (y up, z forward in the rest pose) and retarget it.

    Hands and feet keep their places relative to the lengths of the limbs; the pelvis stays in the middle.

    Raises:
        InputError: the file is missing, no BVH, truncated, or lacks arms or legs.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: {e}", "a readable BVH file", "check the path") from e
    names, parents, offsets, channels, values, fps = _parse(text, path)
    pos, rot = _forward(parents, offsets, channels, values)
    params = _retarget(names, pos, rot, path)
    if len(params) > 2 and np.abs(params[1] - params[0]).max() > 0.5:  # many files start with a T pose
        params = params[1:]
    return Mocap(params, fps, path.name)


def _parse(text: str, path: Path) -> tuple[list[str], list[int], ndarray, list[list[str]], ndarray, float]:
    head, _, motion = text.partition("MOTION")
    names, parents, offsets, channels, stack = [], [], [], [], [-1]
    tokens = re.findall(r"[^\s{}]+|[{}]", head)
    i = 0
    try:
        while i < len(tokens):
            word = tokens[i]
            if word in ("ROOT", "JOINT", "End"):
                names.append(tokens[i + 1])
                parents.append(stack[-1])
                offsets.append([0.0, 0.0, 0.0])
                channels.append([])
                i += 1
            elif word == "{":
                stack.append(len(names) - 1)
            elif word == "}":
                stack.pop()
            elif word == "OFFSET":
                offsets[-1] = [float(v) for v in tokens[i + 1 : i + 4]]
                i += 3
            elif word == "CHANNELS":
                count = int(tokens[i + 1])
                channels[-1] = tokens[i + 2 : i + 2 + count]
                i += 1 + count
            i += 1
        found = re.search(r"Frames:\s*(\d+)\s*Frame Time:\s*([\d.eE+-]+)(.*)", motion, re.DOTALL)
        if not found:
            raise ValueError("no MOTION block")
        count, width = int(found[1]), sum(len(c) for c in channels)
        values = np.array(found[3].split(), float)
        if count < 1 or width == 0 or values.size < count * width:
            raise ValueError(f"{values.size} numbers for {count} frames of {width}")
        values = values[: count * width].reshape(count, width)
        if not np.isfinite(values).all():
            raise ValueError("NaN or infinity among the values")
        return names, parents, np.array(offsets), channels, values, 1.0 / float(found[2])
    except (ValueError, IndexError, ZeroDivisionError) as e:
        raise InputError(f"{path.name}: {e}", "a complete BVH file", "export the motion again") from e


def _forward(
    parents: list[int], offsets: ndarray, channels: list[list[str]], values: ndarray
) -> tuple[ndarray, ndarray]:
    """Positions (frames, joints, 3) and rotations (frames, joints, 3, 3) of all the joints."""
    n = len(values)
    pos, rot = np.zeros((n, len(parents), 3)), np.zeros((n, len(parents), 3, 3))
    column = 0
    turns = {"X": rot_x, "Y": rot_y, "Z": rot_z}
    for j, parent in enumerate(parents):
        local, shift = np.broadcast_to(np.eye(3), (n, 3, 3)), np.broadcast_to(offsets[j], (n, 3)).copy()
        for name in channels[j]:
            if name.lower().endswith("rotation"):
                local = local @ turns[name[0].upper()](np.radians(values[:, column]))
            else:
                shift[:, "XYZ".index(name[0].upper())] = values[:, column]
            column += 1
        if parent < 0:
            pos[:, j], rot[:, j] = shift, local
        else:
            pos[:, j] = pos[:, parent] + np.einsum("fij,fj->fi", rot[:, parent], shift)
            rot[:, j] = rot[:, parent] @ local
    return pos, rot


def _unit(v: ndarray) -> ndarray:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)


def _frame(x: ndarray, up: ndarray) -> ndarray:
    """Rotations whose y is `up` and whose x is nearest to `x`."""
    y = _unit(up)
    z = _unit(np.cross(x, y))
    return np.stack([np.cross(y, z), y, z], -1)


def _retarget(names: list[str], pos: ndarray, rot: ndarray, path: Path) -> Float64[ndarray, "frames 54"]:
    lower = [n.lower() for n in names]

    def joint(side: str, part: str) -> int:
        for name in _JOINTS[part]:
            if (side + name).lower() in lower:
                return lower.index((side + name).lower())
        raise InputError(f"{path.name} has no {side}{part}", f"joints named like {_JOINTS[part]}", "rename its joints")

    at = {(s, p): pos[:, joint(side, p)] for s, side in ((0, "Left"), (1, "Right")) for p in _JOINTS}
    q = np.tile(neutral(), (len(pos), 1))
    hips, shoulders = 0.5 * (at[0, "thigh"] + at[1, "thigh"]), 0.5 * (at[0, "arm"] + at[1, "arm"])
    pelvis = _frame(at[0, "thigh"] - at[1, "thigh"], shoulders - hips)
    chest = _frame(at[0, "arm"] - at[1, "arm"], shoulders - hips)
    q[:, fig.YAW] = np.unwrap(np.arctan2(pelvis[:, 0, 2], pelvis[:, 2, 2]))
    yaw = rot_y(q[:, fig.YAW])
    level = np.swapaxes(yaw, -1, -2) @ pelvis
    q[:, fig.PITCH], q[:, fig.ROLL] = (
        np.arctan2(level[:, 2, 1], level[:, 2, 2]),
        np.arctan2(-level[:, 0, 1], level[:, 0, 0]),
    )
    bend = np.swapaxes(pelvis, -1, -2) @ chest
    q[:, fig.SPINE_TWIST] = np.clip(np.arctan2(bend[:, 0, 2], bend[:, 2, 2]), -0.9, 0.9)
    q[:, fig.SPINE_PITCH] = q[:, fig.SPINE_ROLL] = 0.0
    if "head" in lower:
        head = np.swapaxes(chest, -1, -2) @ rot[:, lower.index("head")]
        q[:, fig.HEAD_YAW] = np.clip(np.arctan2(head[:, 0, 2], head[:, 2, 2]), -1, 1)
        q[:, fig.HEAD_PITCH] = np.clip(np.arcsin(np.clip(-head[:, 1, 2], -1, 1)), -0.5, 0.6)
        q[:, fig.HEAD_ROLL] = np.clip(np.arctan2(head[:, 1, 0], head[:, 1, 1]), -0.5, 0.5)
    leg = _length(at, "thigh", "shank") + _length(at, "shank", "foot")
    floor = np.percentile(np.minimum(at[0, "foot"][:, 1], at[1, "foot"][:, 1]), 5)
    q[:, fig.PELVIS_OFFSET] = 0.0
    q[:, fig.PELVIS_OFFSET.start + 1] = (hips[:, 1] - floor) / leg - 1
    for side in (0, 1):
        _retarget_leg(q, side, at, hips, yaw, leg, floor)
        _retarget_arm(q, side, at, chest)
    return q


def _calm(values: ndarray) -> ndarray:
    """Mean over nine frames (75 ms at 120 frames per second)."""
    if len(values) < 9:
        return values
    padded = np.concatenate([values[:1].repeat(4), values, values[-1:].repeat(4)])
    return np.convolve(padded, np.full(9, 1 / 9), "valid")


def _length(at: dict[tuple[int, str], ndarray], a: str, b: str) -> float:
    return float(np.mean([np.linalg.norm(at[s, a] - at[s, b], axis=-1).mean() for s in (0, 1)]))


def _retarget_leg(
    q: ndarray, side: int, at: dict[tuple[int, str], ndarray], hips: ndarray, yaw: ndarray, leg: float, floor: float
) -> None:
    sign, k = 1 - 2 * side, fig.LEG[side]
    wide = float(np.linalg.norm(at[0, "thigh"] - at[1, "thigh"], axis=-1).mean()) / 2
    local = np.einsum("fji,fj->fi", yaw, at[side, "foot"] - hips)
    q[:, k] = (sign * local[:, 0] - wide) / leg
    q[:, k + 1] = np.maximum((at[side, "foot"][:, 1] - floor) / leg, 0.0)
    q[:, k + 2] = local[:, 2] / leg
    toe = np.einsum("fji,fj->fi", yaw, at[side, "toe"] - at[side, "foot"])
    flat = np.hypot(toe[:, 0], toe[:, 2])
    pitch = np.arctan2(toe[:, 1], flat)
    standing = q[:, k + 1] < 0.03
    q[:, k + 3] = np.clip(pitch - (np.median(pitch[standing]) if standing.any() else np.median(pitch)), -1.0, 0.5)
    level = np.clip(
        2 * flat / np.maximum(np.linalg.norm(toe, axis=-1), 1e-9) - 0.6, 0, 1
    )  # a toe that points down has none
    q[:, k + 4] = _calm(0.2 + level * (np.clip(np.arctan2(sign * toe[:, 0], toe[:, 2]), -0.5, 1.0) - 0.2))


def _retarget_arm(q: ndarray, side: int, at: dict[tuple[int, str], ndarray], chest: ndarray) -> None:
    k, mirror = fig.ARM[side], np.array([1.0 - 2 * side, 1.0, 1.0])
    length = _length(at, "arm", "forearm") + _length(at, "forearm", "hand")
    wrist = np.einsum("fji,fj->fi", chest, at[side, "hand"] - at[side, "arm"]) * mirror / length
    elbow = np.einsum("fji,fj->fi", chest, at[side, "forearm"] - at[side, "arm"]) * mirror / length
    q[:, k : k + 3] = wrist
    q[:, k + 3] = _calm(elbow_swivel(wrist, elbow))


def elbow_swivel(wrist: Float64[ndarray, "n 3"], elbow: Float64[ndarray, "n 3"]) -> Float64[ndarray, " n"]:
    """How far an elbow is turned about the line to the wrist; both from the shoulder in arm lengths, as a left arm."""
    line = _unit(wrist)
    out = elbow - line * (elbow * line).sum(-1, keepdims=True)
    axis = _unit(fig.ELBOW_HINT - line * (line @ fig.ELBOW_HINT)[:, None])
    swivel = np.arctan2((np.cross(line, axis) * out).sum(-1), (axis * out).sum(-1))
    bent = np.clip(np.linalg.norm(out, axis=-1) / 0.08, 0, 1)  # a straight arm has no direction of its elbow
    return np.clip(swivel, -2.2, 2.2) * bent
