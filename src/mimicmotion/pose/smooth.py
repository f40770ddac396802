"""Remove swapped sides, outliers and jitter from poses, looking both ways in time.

Designed for the errors of pose detectors (docs/lab/detector-noise.md). Movements up to 3 Hz keep their amplitude, and
steps are not delayed.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64
from numpy import ndarray

from mimicmotion.pose.align import part_lengths
from mimicmotion.pose.keypoints import (
    BODY,
    FACE,
    L_HIP,
    L_SHOULDER,
    MIRRORED,
    NECK,
    NOSE,
    NUM_POINTS,
    R_ANKLE,
    R_ELBOW,
    R_HIP,
    R_KNEE,
    R_SHOULDER,
    R_WRIST,
    RIGHT_FOOT,
    RIGHT_HAND,
    PoseSequence,
)

FPS = 15.0  # of poses that do not say it
KEPT_HZ = 3.0  # movements up to here keep 97 % of their size
BAND_WEIGHT = 150.0  # of what is lost in the band against the jitter that is left
REACH = 0.5  # seconds to each side that the filter looks at
NOISE = 0.016  # torso lengths, above the band: of a sure point; three times for an unsure one
COMMON_NOISE = 0.0032  # torso lengths, above the band: of the mean of all body points
AROUND = 0.1  # seconds to each side in which fast movements are told from noise
SWAP_COST = 0.04  # torso lengths a frame: so much is the estimator's own opinion of left and right worth
LONGEST_FAULT = 3  # frames out of line that are repaired
JUMP = 0.08  # torso lengths that any point may lie out of line
# Torso lengths that a sure point may lie off the middle of its neighbours at 15 frames per second.
OFF_LINE = np.full(NUM_POINTS, 0.6)
OFF_LINE[[NOSE, NECK, R_SHOULDER, L_SHOULDER, R_HIP, L_HIP, *range(14, 18), *range(FACE.start, FACE.stop)]] = 0.25
ARMS, LEGS = (R_SHOULDER, R_ELBOW, R_WRIST), (R_HIP, R_KNEE, R_ANKLE)
HAND, FOOT = range(RIGHT_HAND.start, RIGHT_HAND.stop), range(RIGHT_FOOT.start, RIGHT_FOOT.stop)


def smooth(poses: PoseSequence) -> PoseSequence:
    """Correct swapped sides, interpolate outliers and remove jitter.

    Points of low confidence are smoothed more. Points that were not found (confidence 0) are left alone. Confidences
    are unchanged, except that those of swapped sides are swapped as well.
    """
    if len(poses) < 3:
        return poses
    lengths = part_lengths(poses)
    unit = lengths.get("trunk") or 1.2 * lengths.get("shoulders", 0.0) or 0.25 * min(poses.size)
    xy, confidence = poses.xy.copy(), poses.confidence.copy()
    for limb, end in ((ARMS, HAND), (LEGS, FOOT)):
        swap = np.flatnonzero(swapped(xy, confidence, limb, unit))[:, None]
        right = np.array([*limb, *end])
        both = np.concatenate([right, MIRRORED[right]])
        for values in (xy, confidence):
            values[swap, both] = values[swap, MIRRORED[both]]
    fps, every, found = poses.fps or FPS, np.arange(len(xy)), xy.copy()
    for point in range(NUM_POINTS):
        seen = np.flatnonzero(confidence[:, point])
        if len(seen) > 2:
            off = OFF_LINE[point] * (0.25 + 0.75 * confidence[seen, point] ** 2) * (FPS / fps) ** 2
            good = seen[~outliers(xy[seen, point], unit * (JUMP + off))]
            found[:, point] = np.stack([np.interp(every, good, xy[good, point, axis]) for axis in (0, 1)], 1)
    calm = filtered(found, confidence, unit, fps)
    known = (confidence > 0) & ((confidence > 0).sum(0) > 2)
    return dataclasses.replace(poses, xy=np.where(known[..., None], calm, xy), confidence=confidence)


def swapped(
    xy: Float[ndarray, "frames 134 2"],
    confidence: Float[ndarray, "frames 134"],
    limb: tuple[int, ...],
    unit: float,
) -> Bool[ndarray, " frames"]:
    """Find the frames in which the limb's right and left points are swapped.

    Of all sequences of kept and swapped frames, the one whose points move least (Viterbi's algorithm); each swapped
    frame costs `SWAP_COST`, so that a lasting opinion of the estimator is believed.
    """
    right, left = np.array(limb), MIRRORED[list(limb)]

    def move(a: ndarray, b: ndarray) -> Float64[ndarray, " steps"]:
        far = np.hypot(*np.moveaxis(xy[1:, a] - xy[:-1, b], -1, 0))
        return (weight * far).mean(1) / unit

    both = np.minimum(confidence[:, right], confidence[:, left])
    weight = np.minimum(both[1:], both[:-1]) / 2
    stay, change = move(right, right) + move(left, left), move(right, left) + move(left, right)
    costs, came = (0.0, SWAP_COST), []
    for a, b in zip(stay.tolist(), change.tolist(), strict=True):
        ways = (costs[0] + a, costs[1] + b), (costs[0] + b, costs[1] + a)
        came.append((ways[0][1] < ways[0][0], ways[1][1] <= ways[1][0]))
        costs = min(ways[0]), min(ways[1]) + SWAP_COST
    states = [costs[1] < costs[0]]
    for before in reversed(came):
        states.append(before[states[-1]])
    return np.array(states[::-1])


def outliers(at: Float64[ndarray, "frames 2"], limit: Float64[ndarray, " frames"]) -> Bool[ndarray, " frames"]:
    """Frames of short runs whose points all lie off the line between the neighbours of the run.

    `limit` is how far a single one may; longer runs may lie farther, as a curve does.
    """
    out = np.zeros(len(at), bool)
    for run in range(1, min(LONGEST_FAULT, len(at) - 2) + 1):
        before, after = at[: -run - 1], at[run + 1 :]
        off = [
            np.hypot(*(at[k : len(at) - run - 1 + k] - (before + (after - before) * k / (run + 1))).T)
            > limit[k : len(at) - run - 1 + k] * (run + 1) / 2
            for k in range(1, run + 1)
        ]
        clean = ~out[: -run - 1] & ~out[run + 1 :]
        for start in np.flatnonzero(np.all(off, 0) & clean):
            out[start + 1 : start + 1 + run] = True
    return out


def filtered(
    xy: Float64[ndarray, "frames points 2"], confidence: Float[ndarray, "frames points"], unit: float, fps: float
) -> Float64[ndarray, "frames points 2"]:
    """Movements up to `KEPT_HZ`, and of faster ones what is larger than noise, for the body's and each point's own.

    Noise of the points is independent, so that their mean tells fast movements of the whole body more surely.
    """
    kernel = band_kernel(fps)
    slow = convolved(xy, kernel, "odd")  # a movement goes on beyond the ends
    fast, weight = xy - slow, confidence[:, BODY, None] + 1e-6
    common = (weight * fast[:, BODY]).sum(1, keepdims=True) / weight.sum(1, keepdims=True)

    def above(fast: Float64[ndarray, "frames points 2"], noise: ndarray | float) -> Float64[ndarray, "frames points 2"]:
        """What is left without noise, by the power in the frames around (Wiener's filter)."""
        near = np.hanning(2 * max(1, round(AROUND * fps)) + 3)[1:-1]
        power = convolved((fast**2).sum(-1, keepdims=True), near / near.sum(), "even")
        return fast * np.clip(1 - np.square(noise) / np.maximum(power, 1e-12), 0, 1)

    noise = unit * NOISE * (3 - 2 * confidence[..., None].astype(np.float64))
    return slow + above(common, unit * COMMON_NOISE) + above(fast - common, noise)


def convolved(
    x: Float64[ndarray, "frames points values"], kernel: Float64[ndarray, " taps"], ends: Literal["even", "odd"]
) -> Float64[ndarray, "frames points values"]:
    """A convolution over time with a symmetric kernel; at the ends the values are reflected."""
    reach = len(kernel) // 2
    wide = np.pad(x, ((reach, reach), (0, 0), (0, 0)), "reflect", reflect_type=ends)
    return np.apply_along_axis(np.convolve, 0, wide, kernel, "valid")


@functools.cache
def band_kernel(fps: float) -> Float64[ndarray, " taps"]:
    """Symmetric filter of sum 1 that takes out as much of the acceleration as it can and keeps the band of movements.

    Least squares over frequencies: outside of the band the response of the second difference, inside what is lost.
    """
    turn = np.linspace(0, np.pi, 400)  # radians a frame
    taps = np.arange(1, max(2, round(REACH * fps)) + 1)
    change = 2 * np.cos(turn[:, None] * taps) - 2  # of the response, by each pair of taps
    jerky, band = (2 - 2 * np.cos(turn))[:, None], (turn <= 2 * np.pi * KEPT_HZ / fps)[:, None]
    a = np.concatenate([jerky * change, BAND_WEIGHT * band * change])
    b = np.concatenate([-jerky, np.zeros_like(jerky)])[:, 0]
    side = np.linalg.lstsq(a, b, rcond=None)[0]
    return np.concatenate([side[::-1], [1 - 2 * side.sum()], side])
