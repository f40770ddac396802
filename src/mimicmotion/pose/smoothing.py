"""Remove left/right swaps, outliers and jitter from poses, using past and future frames.

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

from mimicmotion.pose import keypoints as kp
from mimicmotion.pose.align import part_lengths
from mimicmotion.pose.keypoints import PoseSequence

FPS = 15.0  # assumed for poses without a frame rate
FASTEST = 60.0  # highest frame rate assumed for a camera
KEPT_HZ = 3.0  # cutoff frequency: movements below keep 97% of their amplitude
BAND_WEIGHT = 150.0  # weight of amplitude lost in the passband, relative to remaining jitter
REACH = 0.5  # half-width of the filter in seconds
NOISE = 0.016  # noise of a point above the passband, in torso lengths, at confidence 1; three times as much at 0
COMMON_NOISE = 0.0032  # the same for the mean of all body points
AROUND = 0.1  # half-width in seconds of the window that separates fast movements from noise
SWAP_COST = 0.04  # cost of swapping left and right in a frame, in torso lengths
LONGEST_FAULT = 3  # longest run of outlier frames that is repaired
JUMP = 0.08  # deviation from the midpoint of the neighbouring frames that is allowed for any point, in torso lengths
# Additional allowance for points of confidence 1 at 15 fps, in torso lengths.
OFF_LINE = np.full(kp.NUM_POINTS, 0.6)
OFF_LINE[[kp.NOSE, kp.NECK, kp.R_SHOULDER, kp.L_SHOULDER, kp.R_HIP, kp.L_HIP, *range(14, 18)]] = OFF_LINE[kp.FACE] = (
    0.25
)
ARMS, LEGS = (kp.R_SHOULDER, kp.R_ELBOW, kp.R_WRIST), (kp.R_HIP, kp.R_KNEE, kp.R_ANKLE)
HAND, FOOT = range(kp.RIGHT_HAND.start, kp.RIGHT_HAND.stop), range(kp.RIGHT_FOOT.start, kp.RIGHT_FOOT.stop)


def smooth_poses(poses: PoseSequence, speed: float = 1.0) -> PoseSequence:
    """Correct left/right swaps, interpolate outliers and remove jitter.

    `speed` is the speed of the movement, 0.5 for slow motion: the slower it is, the less a person moves between frames.

    Points of low confidence are smoothed more, and undetected points (confidence 0) are not changed. Confidences are
    only changed by swapping sides.
    """
    if len(poses) < 3:
        return poses
    lengths = part_lengths(poses)
    unit = lengths.get("trunk") or 1.2 * lengths.get("shoulders", 0.0) or 0.25 * min(poses.size)
    xy, confidence = poses.xy.copy(), poses.confidence.copy()
    for limb, end in ((ARMS, HAND), (LEGS, FOOT)):
        swap = np.flatnonzero(swapped(xy, confidence, limb, unit))[:, None]
        right = np.array([*limb, *end])
        both = np.concatenate([right, kp.MIRRORED[right]])
        for values in (xy, confidence):
            values[swap, both] = values[swap, kp.MIRRORED[both]]
    fps, every, found = frame_rate(poses.fps or FPS, speed), np.arange(len(xy)), xy.copy()
    for point in range(kp.NUM_POINTS):
        seen = np.flatnonzero(confidence[:, point])
        if len(seen) > 2:
            off = OFF_LINE[point] * (0.25 + 0.75 * confidence[seen, point] ** 2) * (FPS / fps) ** 2
            good = seen[~outliers(xy[seen, point], unit * (JUMP + off))]
            found[:, point] = np.stack([np.interp(every, good, xy[good, point, axis]) for axis in (0, 1)], 1)
    often = (confidence > 0).sum(0) > 2  # other points have no movement to filter, and must not move the mean
    calm = filtered(found, confidence * often, unit, fps)
    known = (confidence > 0) & often
    return dataclasses.replace(poses, xy=np.where(known[..., None], calm, xy), confidence=confidence)


def frame_rate(fps: float, speed: float) -> float:
    """Return the frame rate of the original movement; at most `FASTEST` in slow motion, which may repeat frames."""
    return min(fps / speed, max(fps, FASTEST))


def swapped(
    xy: Float[ndarray, "frames 134 2"], confidence: Float[ndarray, "frames 134"], limb: tuple[int, ...], unit: float
) -> Bool[ndarray, " frames"]:
    """Find the frames in which the right and left points of a limb are swapped.

    The Viterbi algorithm chooses for each frame whether to swap, so that the points move as little as possible. Each
    swapped frame costs `SWAP_COST`, so persistent labels of the estimator are trusted.
    """
    right, left = np.array(limb), kp.MIRRORED[list(limb)]

    def move(a: ndarray, b: ndarray) -> Float64[ndarray, " steps"]:
        distance = np.hypot(*np.moveaxis(xy[1:, a] - xy[:-1, b], -1, 0))
        return (weight * distance).mean(1) / unit

    both = np.minimum(confidence[:, right], confidence[:, left])
    weight = np.minimum(both[1:], both[:-1]) / 2
    stay, change = move(right, right) + move(left, left), move(right, left) + move(left, right)
    costs, backpointers = (0.0, SWAP_COST), []
    for a, b in zip(stay.tolist(), change.tolist(), strict=True):
        paths = (costs[0] + a, costs[1] + b), (costs[0] + b, costs[1] + a)
        backpointers.append((paths[0][1] < paths[0][0], paths[1][1] <= paths[1][0]))
        costs = min(paths[0]), min(paths[1]) + SWAP_COST
    states = [costs[1] < costs[0]]
    for previous in reversed(backpointers):
        states.append(previous[states[-1]])
    return np.array(states[::-1])


def outliers(xy: Float64[ndarray, "frames 2"], limit: Float64[ndarray, " frames"]) -> Bool[ndarray, " frames"]:
    """Find short runs of frames in which a point is far from the interpolation between the frames around the run.

    `limit` is the distance allowed for a run of one frame; it grows with the length of the run, since motion is curved.
    """
    out = np.zeros(len(xy), bool)
    for run in range(1, min(LONGEST_FAULT, len(xy) - 2) + 1):
        before, after = xy[: -run - 1], xy[run + 1 :]
        off = [
            np.hypot(*(xy[k : len(xy) - run - 1 + k] - (before + (after - before) * k / (run + 1))).T)
            > limit[k : len(xy) - run - 1 + k] * (run + 1) / 2
            for k in range(1, run + 1)
        ]
        clean = ~out[: -run - 1] & ~out[run + 1 :]
        for start in np.flatnonzero(np.all(off, 0) & clean):
            out[start + 1 : start + 1 + run] = True
    return out


def filtered(
    xy: Float64[ndarray, "frames points 2"], confidence: Float[ndarray, "frames points"], unit: float, fps: float
) -> Float64[ndarray, "frames points 2"]:
    """Low-pass filter the points at `KEPT_HZ`, but keep faster movements to the extent that they exceed the noise.

    Fast movements of the whole body and of single points are filtered separately: the noise of the points is
    independent, so their mean shows movements of the whole body more reliably.
    """
    kernel = band_kernel(fps)
    slow = convolved(xy, kernel, "odd")  # movements continue beyond the ends
    fast, weight = xy - slow, confidence[:, kp.BODY, None] + 1e-6
    common = (weight * fast[:, kp.BODY]).sum(1, keepdims=True) / weight.sum(1, keepdims=True)

    def above(fast: Float64[ndarray, "frames points 2"], noise: ndarray | float) -> Float64[ndarray, "frames points 2"]:
        """Suppress noise with a Wiener filter, whose power is estimated from nearby frames."""
        near = np.hanning(2 * max(1, round(AROUND * fps)) + 3)[1:-1]
        power = convolved((fast**2).sum(-1, keepdims=True), near / near.sum(), "even")
        return fast * np.clip(1 - np.square(noise) / np.maximum(power, 1e-12), 0, 1)

    noise = unit * NOISE * (3 - 2 * confidence[..., None].astype(np.float64))
    return slow + above(common, unit * COMMON_NOISE) + above(fast - common, noise)


def convolved(
    x: Float64[ndarray, "frames points values"], kernel: Float64[ndarray, " taps"], ends: Literal["even", "odd"]
) -> Float64[ndarray, "frames points values"]:
    """Convolve over time with a symmetric kernel, reflecting the values at the ends."""
    reach = len(kernel) // 2
    wide = np.pad(x, ((reach, reach), (0, 0), (0, 0)), "reflect", reflect_type=ends)
    return np.apply_along_axis(np.convolve, 0, wide, kernel, "valid")


@functools.cache
def band_kernel(fps: float) -> Float64[ndarray, " taps"]:
    """Design a symmetric low-pass filter of sum 1 that minimises acceleration but keeps movements up to `KEPT_HZ`.

    Least squares over frequencies: the response of the filter followed by a second difference should be 0 everywhere,
    and the response of the filter alone should be 1 in the passband (with weight `BAND_WEIGHT`).
    """
    turn = np.linspace(0, np.pi, 400)  # radians per frame
    taps = np.arange(1, max(2, round(REACH * fps)) + 1)
    change = 2 * np.cos(turn[:, None] * taps) - 2  # change of the response by each pair of taps
    jerky, band = (2 - 2 * np.cos(turn))[:, None], (turn <= 2 * np.pi * KEPT_HZ / fps)[:, None]
    a = np.concatenate([jerky * change, BAND_WEIGHT * band * change])
    b = np.concatenate([-jerky, np.zeros_like(jerky)])[:, 0]
    side = np.linalg.lstsq(a, b, rcond=None)[0]
    return np.concatenate([side[::-1], [1 - 2 * side.sum()], side])
