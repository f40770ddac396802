"""Imitates the errors of a pose estimator, so that exact synthetic poses resemble what inference gets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from mimicmotion.pose.keypoints import BODY, FACE, LEFT_HAND, RIGHT_HAND


@dataclass(frozen=True, slots=True)
class DetectorNoise:
    """How wrong the imitated estimator is; lengths in shares of the person's height."""

    jitter: float = 0.004
    """Independent error of each point and frame."""
    drift: float = 0.004
    """Error of each point that stays over the clip."""
    lost_hand: float = 0.15
    """Chance that a hand is not seen in the whole clip; a quarter of it for single frames."""
    lost_face: float = 0.1
    """Chance that the face is not seen in the whole clip."""
    dim: float = 0.3
    """Chance that hands or face have a lower confidence throughout."""


def _height(xy: Float32[ndarray, "frames 134 2"], confidence: Float32[ndarray, "frames 134"]) -> float:
    seen = confidence[:, BODY] > 0
    if not seen.any():
        return 1.0
    y = xy[:, BODY, 1][seen]
    return float(max(1.0, y.max() - y.min()))


def disturb(
    xy: Float32[ndarray, "frames 134 2"],
    confidence: Float32[ndarray, "frames 134"],
    rng: np.random.Generator,
    noise: DetectorNoise | None = None,
) -> tuple[Float32[ndarray, "frames 134 2"], Float32[ndarray, "frames 134"]]:
    """Poses of one clip as an estimator might have found them; the input is left as it is.

    Hand and face points move less than body points, as each of these estimators works on its own crop; a hand or the
    face has one confidence for all its points, as holistic estimators give it, in half of the clips.
    """
    n = noise or DetectorNoise()
    xy, confidence = xy.copy(), confidence.copy()
    scale = np.full(xy.shape[1], 1.0)
    for part in (LEFT_HAND, RIGHT_HAND, FACE):
        scale[part] = 0.35
    size = _height(xy, confidence) * scale[None, :, None]
    xy += size * n.jitter * rng.standard_normal(xy.shape) + size * n.drift * rng.standard_normal((1, *xy.shape[1:]))
    one_score = rng.random() < 0.5
    for part, lost in ((LEFT_HAND, n.lost_hand), (RIGHT_HAND, n.lost_hand), (FACE, n.lost_face)):
        if one_score:
            seen = confidence[:, part] > 0
            mean = confidence[:, part].mean(1, keepdims=True)
            confidence[:, part] = np.where(seen, mean, 0)
        if rng.random() < n.dim:
            confidence[:, part] *= rng.uniform(0.4, 1)
        gone = (rng.random(len(xy)) < lost / 4) | (rng.random() < lost)
        confidence[gone, part] = 0
    return xy.astype(np.float32), np.clip(confidence, 0, 1).astype(np.float32)
