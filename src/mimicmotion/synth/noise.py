"""Simulate detector noise: jitter and drift, uncertain or lost hands and faces, swapped sides, false hands.

The parameters in noise_fit.json were fitted by scripts/fit_detector_noise.py to real videos (distribution and temporal
correlation of confidences, size of jumps) and rendered ones (errors). See docs/lab/detector-noise.md.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.pose.keypoints import FACE, L_HIP, LEFT_HAND, NECK, NUM_POINTS, R_HIP, RIGHT_HAND, PoseSequence
from mimicmotion.runtime.extras import import_extra
from mimicmotion.synth.figure import moving_average

special = import_extra("scipy.special", "synth")

Z = np.linspace(-2.5, 2.5, 11)  # standard normal quantiles at which distributions are tabulated
FIT = Path(__file__).with_name("noise_fit.json")
GROUPS: dict[str, list[int]] = {  # points with similar noise; face and hands may have one score each
    "head": [0, 14, 15, 16, 17], "shoulders": [1, 2, 5], "elbows": [3, 6], "wrists": [4, 7], "hips": [8, 11],
    "knees": [9, 12], "ankles": [10, 13], "feet": [*range(18, 24)],
    "face": [*range(FACE.start, FACE.stop)], "hand": [*range(LEFT_HAND.start, RIGHT_HAND.stop)],
}  # fmt: skip
FACE_BLOCKS = [(0, 17), (17, 22), (22, 27), (27, 36), (36, 42), (42, 48), (48, 68)]  # jaw, brows, nose, eyes, mouth
HAND_BLOCKS = [(0, 1), (1, 5), (5, 9), (9, 13), (13, 17), (17, 21)]  # wrist, fingers
PARTS = (FACE, LEFT_HAND, RIGHT_HAND)
SMALL_TOES = [19, 22]
_POINTS = 24  # body and feet, with one score per point
_COLUMNS = ("follow", "score_still", "score_time", "fast", "slow", "slow_still", "slow_time")
_SCORE_OF = np.concatenate([np.arange(_POINTS), np.full(68, _POINTS), np.full(21, _POINTS + 1), np.full(21, 26)])
_GROUP = np.array([[point in points for points in GROUPS.values()] for point in range(NUM_POINTS)]).argmax(1)
_SCORE_GROUP = np.concatenate([_GROUP[:_POINTS], [8, 9, 9]])  # group of each of the 27 scores
# group of each noise source: points, then parts, then their blocks
_SOURCE_GROUP = np.concatenate([_GROUP, [8, 9, 9], [8] * len(FACE_BLOCKS), [9] * 2 * len(HAND_BLOCKS)])
_ARM_L, _ARM_R = np.r_[5:8, LEFT_HAND], np.r_[2:5, RIGHT_HAND]
_LEG_L, _LEG_R = np.r_[11:14, 18:21], np.r_[8:11, 21:24]
_HANDS = (np.r_[LEFT_HAND], np.r_[RIGHT_HAND])


def perturb_poses(poses: PoseSequence, seed: int, strength: float = 1.0) -> PoseSequence:
    """Add simulated detector noise to poses, with statistics measured on real and rendered clips.

    Points have a constant offset from the truth, drift, and jitter, all larger at lower confidence; points of one hand
    or face mostly move together. Confidences follow the measured distributions and temporal correlations. In two thirds
    of the clips, a hand or the face has one score for all its points and is lost (confidence 0) for some frames or the
    whole clip, as with holistic estimators. In the others, each point has its own score, and lost points keep a low
    one, as with DWPose. Rare faults last a few frames: arms or legs swapped, an arm misplaced, a false hand, a hand
    detected at the position of the other one.

    Args:
        poses: exact poses, such as those of `render_clip`, with low confidence for occluded points. Times are derived
            from `poses.fps` (15 if it is 0).
        seed: any integer >= 0.
        strength: 0 changes nothing, 1 is a typical detector on typical video, 3 a bad one. It scales displacements and
            fault rates; below 1, also the fraction of clips with simulated confidences for hands and face.

    Returns:
        Poses of the same shape, with confidences in 0..1 and 0 for points outside the frame.

    Raises:
        InputError: strength or seed is out of range.
    """
    if not 0 <= strength <= 10 or seed < 0:
        raise InputError(f"strength={strength!r}, seed={seed!r}", "0 <= strength <= 10, seed >= 0", "correct the value")
    if strength == 0 or len(poses) == 0:
        return poses
    rng = np.random.default_rng([seed, 4])
    fit = load_fit()
    exact = poses.confidence.astype(np.float64)
    xy, unit, step = poses.xy.astype(np.float64), torso(poses.xy), 1 / (poses.fps or 15.0)
    confidence = _confidences(rng, fit, exact, step, strength)
    _faults(rng, fit, xy, confidence, unit, step, strength)
    xy += strength * unit * _errors(rng, fit, confidence, step)
    inside = ((xy >= 0) & (xy < (poses.size[1], poses.size[0]))).all(-1)
    confidence = np.where(inside & (exact > 0), np.clip(confidence, 0, 1), 0.0)
    source = f"{poses.source} + noise {strength:g}".strip()
    xy, confidence = xy.astype(np.float32), confidence.astype(np.float32)
    return dataclasses.replace(poses, xy=xy, confidence=confidence, source=source)


@dataclass(frozen=True, slots=True)
class NoiseFit:
    """The parameters in noise_fit.json as arrays, for G groups in the order of `GROUPS` and L noise sources."""

    found: Float64[ndarray, "G levels"]  # quantiles of the estimator's confidences; 0 if lost
    found_at: Float64[ndarray, "G levels"]  # corresponding standard normal quantiles
    exact: Float64[ndarray, "G z"]  # confidences of rendered clips at the quantiles `Z`
    follow: Float64[ndarray, " G"]  # correlation between estimated and rendered confidences
    score_still: Float64[ndarray, " G"]  # fraction of the variance of confidences that is constant over a clip
    score_time: Float64[ndarray, " G"]  # correlation time of the other part, seconds
    fast: Float64[ndarray, "G 3"]  # a, b, limit: jitter has std min(a + b (1 - confidence)^2, limit) in torso lengths
    slow: Float64[ndarray, "G 3"]  # a, b, limit of drift
    slow_still: Float64[ndarray, " G"]  # fraction of the variance of drift that is constant over a clip
    slow_time: Float64[ndarray, " G"]  # correlation time of the other part, seconds
    fast_mix: Float64[ndarray, "134 L"]  # weight of each source (point, part, block) in the jitter of each point
    slow_mix: Float64[ndarray, "134 L"]  # the same for drift
    tail: float  # degrees of freedom of the jitter (Student's t), whose scale is drawn per frame and part
    tail_scale: float  # factor of that scale
    one_score: float  # fraction of clips with one score for a hand or face
    faults: dict[str, tuple[float, float]]  # rate per second, and mean duration in seconds


@functools.cache
def load_fit() -> NoiseFit:
    """Load the parameters included in the package."""
    data = json.loads(FIT.read_text(encoding="utf-8"))
    groups = [data["groups"][name] for name in GROUPS]

    def column(name: str) -> ndarray:
        return np.array([g[name] for g in groups], np.float64)

    lost = np.array([g.get("lost", {"share": 0.0})["share"] for g in groups])[:, None]
    found = column("found")
    found_at = normal_position(lost + (1 - lost) * special.ndtr(Z))
    lowest = np.where(lost > 0, 0.0, found[:, :1])
    return NoiseFit(
        found=np.concatenate([lowest, found], 1),
        found_at=np.concatenate([found_at[:, :1] - 1e-9, found_at], 1),
        exact=column("exact") + 1e-9 * np.arange(len(Z)),  # np.interp needs strictly increasing values
        **{name: column(name) for name in _COLUMNS},
        fast_mix=_mixing(data, "fast_shares"),
        slow_mix=_mixing(data, "slow_shares"),
        tail=data["tail"]["degrees"],
        tail_scale=data["tail"]["scale"],
        one_score=data["chosen"]["one_score"],
        faults={name: (f["per_second"], f["seconds"]) for name, f in data["faults"].items()},
    )


def torso(xy: Float[ndarray, "frames 134 2"]) -> float:
    """Return the median distance in pixels from the neck to the midpoint of the hips, at least 1."""
    spine = 0.5 * (xy[:, R_HIP] + xy[:, L_HIP]) - xy[:, NECK]
    return max(float(np.median(np.sqrt((spine**2).sum(-1)))), 1.0)


def normal_position(share: Float[ndarray, "*shape"]) -> Float64[ndarray, "*shape"]:
    """Convert probabilities to standard normal quantiles, clipped to +-3.5."""
    return special.ndtri(np.clip(share, *special.ndtr([-3.5, 3.5])))


def _mixing(data: dict, shares: str) -> Float64[ndarray, "134 L"]:
    """Return the weight of each noise source for each point; rows have unit norm on average."""
    mix = np.zeros((NUM_POINTS, len(_SOURCE_GROUP)))
    mix[np.arange(_POINTS), np.arange(_POINTS)] = 1
    block = NUM_POINTS + len(PARTS)
    for k, (part, blocks) in enumerate(zip(PARTS, (FACE_BLOCKS, HAND_BLOCKS, HAND_BLOCKS), strict=True)):
        part_share, block_share = data["groups"]["hand" if k else "face"][shares]
        points = np.arange(part.start, part.stop)
        mix[points, NUM_POINTS + k] = np.sqrt(part_share)
        for low, high in blocks:
            own = points[low:high]
            mix[np.ix_(own, own)] = np.sqrt(max(1 - part_share - block_share, 0)) * _bend(len(own))
            mix[own, block] = np.sqrt(block_share)
            block += 1
    return mix


def _bend(n: int) -> Float64[ndarray, "n n"]:
    """Return a mixing matrix that rotates and bends a chain of n points, with unit variance on average.

    It reproduces the measured correlation (0.3 to 0.9) between neighbours in a finger or facial feature.
    """
    distance = np.arange(n)[:, None] - np.arange(n)
    mix = np.exp(-0.5 * (distance / 3.0) ** 2)
    mix -= mix.mean(0)
    return mix / np.sqrt(max((mix**2).sum() / n, 1e-12))


def _wander(rng: np.random.Generator, n: int, still: ndarray, time: ndarray, step: float) -> Float64[ndarray, "n S"]:
    """Sample standard normal noise of S sources: a constant part, and one with autocorrelation exp(-t / time)."""
    noise = rng.standard_normal((n + 1, len(still)))
    keep = np.exp(-step / time)
    moving = noise[1:] * np.sqrt(1 - keep**2)
    moving[0] = noise[1]
    for i in range(1, n):
        moving[i] += keep * moving[i - 1]
    return np.sqrt(still) * noise[0] + np.sqrt(1 - still) * moving


def _drift(rng: np.random.Generator, n: int, still: ndarray, time: ndarray, step: float) -> Float64[ndarray, "n 2 S"]:
    """Sample noise as `_wander` does, but for x and y, with autocorrelation (1 + t / time) exp(-t / time)."""
    noise = rng.standard_normal((n + 2, 2, len(still)))
    keep = np.exp(-step / time)
    square = keep**2
    first = 2 * keep / (1 + square)  # correlation between neighbouring frames
    moving = noise[1:] * np.sqrt((1 - square) ** 3 / (1 + square))
    moving[0] = noise[1]
    moving[1] = first * noise[1] + np.sqrt(1 - first**2) * noise[2]
    for i in range(2, n + 1):
        moving[i] += 2 * keep * moving[i - 1] - square * moving[i - 2]
    return np.sqrt(still) * noise[0] + np.sqrt(1 - still) * moving[1:]


def _lookup(x: ndarray, group: ndarray, knots: Float64[ndarray, "G k"], values: Float64[ndarray, "G k"]) -> ndarray:
    """Evaluate piecewise linear functions, one per group, with constant extrapolation."""
    shift = 20.0 * np.arange(len(knots))[:, None]  # places the knots of the groups side by side for one np.interp
    x = np.minimum(np.maximum(x, knots[group, 0]), knots[group, -1])
    return np.interp(x + 20.0 * group, (knots + shift).ravel(), values.ravel())


def _confidences(rng: np.random.Generator, fit: NoiseFit, exact: ndarray, step: float, strength: float) -> ndarray:
    """Simulate confidences with the measured distributions and correlation with the exact ones."""
    n, group = len(exact), _SCORE_GROUP
    scores = np.concatenate([exact[:, :_POINTS], *(exact[:, p].mean(1, keepdims=True) for p in PARTS)], 1)
    z = _lookup(scores, group, fit.exact, np.broadcast_to(Z, fit.exact.shape))
    z = fit.follow[group] * moving_average(z, 5)  # detectors do not follow flicker of the exact confidence
    own = _wander(rng, n, fit.score_still[group], fit.score_time[group], step)
    z = z + np.sqrt(1 - fit.follow[group] ** 2) * own - 0.5 * max(strength - 1, 0)
    found = _lookup(z, group, fit.found_at, fit.found)[:, _SCORE_OF]
    if rng.random() < fit.one_score:
        found[:, SMALL_TOES] = 0.0
    else:
        points = _GROUP[_POINTS:]
        each = _wander(rng, n, np.full(len(points), 0.5), np.full(len(points), 0.3), step)
        mixed = np.sqrt(0.7) * z[:, _SCORE_OF[_POINTS:]] + np.sqrt(0.3) * each
        low = np.clip(0.15 + 0.08 * each, 0.03, 0.4)
        found[:, _POINTS:] = np.maximum(_lookup(mixed, points, fit.found_at, fit.found), low)
    share = min(strength, 1.0)
    applies = np.full(_POINTS + len(PARTS), share)
    applies[_POINTS:] = rng.random(len(PARTS)) < share
    return exact + applies[_SCORE_OF] * (found - exact)


def _errors(rng: np.random.Generator, fit: NoiseFit, confidence: ndarray, step: float) -> ndarray:
    """Sample displacements (frames, 134, 2) in torso lengths."""
    n, doubt = len(confidence), (1 - confidence) ** 2
    spreads = (s[_GROUP].T for s in (fit.slow, fit.fast))
    slow, fast = (np.minimum(a + b * doubt, limit) for a, b, limit in spreads)
    drift = _drift(rng, n, fit.slow_still[_SOURCE_GROUP], fit.slow_time[_SOURCE_GROUP], step) @ fit.slow_mix.T
    jump = rng.standard_normal((n, 2, len(_SOURCE_GROUP))) @ fit.fast_mix.T
    size = fit.tail_scale * np.sqrt(fit.tail / rng.chisquare(fit.tail, (n, _POINTS + len(PARTS))))
    fast = fast * size[:, _SCORE_OF]
    return np.swapaxes(slow[:, None] * drift + fast[:, None] * jump, 1, 2)


def _faults(
    rng: np.random.Generator, fit: NoiseFit, xy: ndarray, confidence: ndarray, unit: float, step: float, strength: float
) -> None:
    """Add rare faults of a few frames each, in place."""
    seconds = len(xy) * step
    for name, (rate, length) in fit.faults.items():
        for _ in range(rng.poisson(rate * seconds * strength)):
            start = int(rng.integers(len(xy)))
            frames = slice(start, start + max(1, round(rng.exponential(length) / step)))
            scale = rng.uniform(0.3, 0.7) if rng.random() < 0.8 else 1.0
            _fault(rng, name, xy[frames], confidence[frames], unit, scale)


def _fault(rng: np.random.Generator, name: str, xy: ndarray, confidence: ndarray, unit: float, scale: float) -> None:
    """Add one fault to the given frames, in place; `scale` scales the confidence."""
    side = int(rng.integers(2))
    hand, other = _HANDS[side], _HANDS[1 - side]
    if name in ("swapped_arms", "swapped_legs"):
        a, b = (_ARM_L, _ARM_R) if name == "swapped_arms" else (_LEG_L, _LEG_R)
        for values in (xy, confidence):
            values[:, a], values[:, b] = values[:, b].copy(), values[:, a].copy()
        confidence[:, np.r_[a, b]] *= scale
    elif name == "same_hand_twice":
        xy[:, hand] = xy[:, other] + rng.normal(size=2) * 0.05 * unit
        confidence[:, hand] = confidence[:, other] * scale
    elif name == "false_hand":
        xy[:, hand] += _offset(rng, 0.3, 1.0) * unit
        confidence[:, hand] = rng.uniform(0.2, 0.6)
    else:  # a misplaced arm
        points = ((_ARM_L, _ARM_R)[side])[1:]
        xy[:, points] += _offset(rng, 0.2, 0.6) * unit
        confidence[:, points] *= scale


def _offset(rng: np.random.Generator, low: float, high: float) -> Float64[ndarray, " 2"]:
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(low, high)
    return length * np.array([np.cos(angle), np.sin(angle)])
