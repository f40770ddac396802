"""Quality filters for scenes. Each decision is reported with the measurements behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mimicmotion.data.prepare.analysis import SceneMeasures, Survey
from mimicmotion.pose.hands import hand_boxes
from mimicmotion.pose.keypoints import BODY, VISIBLE, PoseSequence
from mimicmotion.settings.prepare import PrepareConfig

STATIC_CHANGE = 0.75
"""A frame is static if it differs by less than this (of 255) from the one a fifth of a second earlier. Compression
alone gives about 0.3, a person who breathes and sways 1 to 2."""


# threshold in the settings -> the measurement that it limits, and the message if the limit is not met
_FILTERS: dict[str, tuple[str, Callable[[float], str]]] = {
    "min_seconds": ("seconds", "too short: {:.2f} s".format),
    "max_enlargement": ("enlargement", "too small: would be enlarged {:.2f} times".format),
    "min_found": ("found", lambda share: f"no person in {1 - share:.0%} of the frames"),
    "max_crowded": ("crowded", "several people in {:.0%} of the frames".format),
    "min_body": ("body", "{:.0%} of the body in view".format),
    "min_confidence": ("confidence", "mean confidence {:.2f}".format),
    "min_sharpness": ("sharpness", "blurred: sharpness {:.1f}".format),
    "max_static": ("static", "hardly any movement in {:.0%} of the frames".format),
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """Decision about a scene.

    Attributes:
        numbers: all measurements that could be made, by name.
        reasons: why the scene is left out, by threshold ("person" if the chosen person is not in it); empty if it is
            used.
    """

    numbers: dict[str, float]
    reasons: dict[str, str]

    @property
    def accepted(self) -> bool:
        """Whether the scene is used."""
        return not self.reasons


def judge_length(num_frames: int, fps: float, enlargement: float, config: PrepareConfig) -> Judgement:
    """Check only the length and enlargement of a scene, which are known without poses."""
    numbers = _rounded({"seconds": num_frames / fps, "frames": num_frames, "enlargement": enlargement})
    return Judgement(numbers, _missed(numbers, config))


def usable_scenes(survey: Survey, config: PrepareConfig) -> list[int]:
    """Return the indices of the scenes whose length and frame size pass the filters."""
    enlargement = survey.enlargement(config.size)
    lengths = enumerate(map(len, survey.scenes))
    return [i for i, n in lengths if judge_length(n, survey.fps, enlargement, config).accepted]


def judge(measures: SceneMeasures, stored: PoseSequence, enlargement: float, config: PrepareConfig) -> Judgement:
    """Check a scene against all thresholds.

    Args:
        measures: measurements of the scene.
        stored: poses in pixels of the stored frames; points outside the crop have confidence 0.
        enlargement: factor by which the frames are enlarged to fill the stored size.
        config: settings with the thresholds.
    """
    first = judge_length(len(stored), stored.fps, enlargement, config)
    if measures.problem:
        return Judgement(first.numbers, first.reasons | {"person": measures.problem})
    numbers = measure_poses(stored)
    numbers["crowded"] = (measures.people > 1).mean() if len(measures.people) else 0.0
    sharp, change = (a[~np.isnan(a)] for a in (measures.sharpness, measures.change))
    if len(sharp):
        numbers["sharpness"] = np.median(sharp)
    if len(change):
        numbers["static"] = (change < STATIC_CHANGE).mean()
    numbers = first.numbers | _rounded(numbers)
    reasons = _missed(numbers, config)
    if not numbers["found"]:  # without a person, the other numbers mean nothing
        relevant = (*first.reasons, "min_found", "max_crowded")
        reasons = {k: v for k, v in reasons.items() if k in relevant}
    return Judgement(numbers, reasons)


def measure_poses(poses: PoseSequence) -> dict[str, float]:
    """Compute the fractions of frames with a person and reliable hands, and of visible points, and their confidence."""
    body = poses.confidence[:, BODY]
    seen = body > VISIBLE
    found = seen.any(1)
    reliable = hand_boxes(poses.xy, poses.confidence)[1]
    numbers = {"found": found.mean(), "body": seen.mean()}
    if found.any():
        numbers["confidence"] = body[seen].mean()
    return numbers | {
        "left_hand": reliable[:, 0].mean(),
        "right_hand": reliable[:, 1].mean(),
        "hands": reliable.any(1).mean(),
    }


def _missed(numbers: dict[str, float], config: PrepareConfig) -> dict[str, str]:
    """Return a message for each threshold that is not met."""
    reasons = {}
    for threshold, (name, message) in _FILTERS.items():
        limit, value = getattr(config, threshold), numbers.get(name)
        if value is not None and (value < limit if threshold.startswith("min") else value > limit):
            reasons[threshold] = f"{message(value)}, {threshold} is {limit:g}"
    return reasons


def _rounded(numbers: dict[str, float]) -> dict[str, float]:
    """Round to four decimals, so that the report is the same on every machine."""
    return {k: v if isinstance(v, int) else round(float(v), 4) for k, v in numbers.items()}
