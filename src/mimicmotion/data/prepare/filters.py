"""Which scenes are good enough to learn from, by numbers that are reported with every decision."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mimicmotion.data.prepare.measure import SceneMeasures
from mimicmotion.pose.hands import hand_boxes
from mimicmotion.pose.keypoints import BODY, VISIBLE, PoseSequence
from mimicmotion.settings.prepare import PrepareConfig

STATIC_CHANGE = 0.75
"""A frame that differs less than this (of 255) from the one a fifth of a second before hardly moves. Compression alone
makes about 0.3, a person who breathes and sways 1 to 2."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was decided about one scene.

    Attributes:
        numbers: everything that was measured, by name; what could not be measured is missing.
        reasons: why the scene is left out, one sentence each; empty if it is used.
    """

    numbers: dict[str, float]
    reasons: list[str]

    @property
    def accepted(self) -> bool:
        """Whether the scene is used."""
        return not self.reasons


def judge_length(num_frames: int, fps: float, enlargement: float, config: PrepareConfig) -> Judgement:
    """What can be said before poses are looked for."""
    numbers = {"seconds": _rounded(num_frames / fps), "frames": num_frames, "enlargement": _rounded(enlargement)}
    reasons = []
    if num_frames / fps < config.min_seconds - 1e-6:
        reasons.append(f"too short: {num_frames / fps:.2f} s, min_seconds is {config.min_seconds:g}")
    if enlargement > config.max_enlargement:
        reasons.append(f"too small: {enlargement:.2f} times enlarged, max_enlargement is {config.max_enlargement:g}")
    return Judgement(numbers, reasons)


def judge(measures: SceneMeasures, stored: PoseSequence, enlargement: float, config: PrepareConfig) -> Judgement:
    """Everything about a scene.

    Args:
        measures: of the scene.
        stored: its poses in pixels of the stored frames; what the crop cuts off has confidence 0.
        enlargement: how many times its frames are enlarged.
        config: the thresholds.
    """
    if measures.problem:
        first = judge_length(len(measures.poses), measures.poses.fps, enlargement, config)
        return Judgement(first.numbers, [*first.reasons, measures.problem])
    first = judge_length(len(stored), stored.fps, enlargement, config)
    numbers = first.numbers | measure_poses(stored)
    numbers["crowded"] = _rounded(float((measures.people > 1).mean()) if len(measures.people) else 0.0)
    sharp, change = (a[~np.isnan(a)] for a in (measures.sharpness, measures.change))
    if len(sharp):
        numbers["sharpness"] = _rounded(float(np.median(sharp)))
    if len(change):
        numbers["static"] = _rounded(float((change < STATIC_CHANGE).mean()))
    return Judgement(numbers, [*first.reasons, *_reasons(numbers, config)])


def measure_poses(poses: PoseSequence) -> dict[str, float]:
    """Shares of frames and points that are seen in the stored frames, and the confidence of those points."""
    body = poses.confidence[:, BODY]
    seen = body > VISIBLE
    found = seen.any(1)
    reliable = hand_boxes(poses.xy, poses.confidence)[1]
    numbers = {"found": float(found.mean()), "body": float(seen.mean())}
    if found.any():
        numbers["confidence"] = float(body[seen].mean())
    numbers |= {
        "left_hand": float(reliable[:, 0].mean()),
        "right_hand": float(reliable[:, 1].mean()),
        "hands": float(reliable.any(1).mean()),
    }
    return {name: _rounded(value) for name, value in numbers.items()}


def _reasons(numbers: dict[str, float], config: PrepareConfig) -> list[str]:
    """A sentence for each threshold that is missed."""
    found = []
    if numbers["found"] < config.min_found:
        found.append(f"no person in {1 - numbers['found']:.0%} of the frames, min_found is {config.min_found:g}")
    if numbers["crowded"] > config.max_crowded:
        found.append(
            f"several persons in {numbers['crowded']:.0%} of the frames, max_crowded is {config.max_crowded:g}"
        )
    if not numbers["found"]:
        return found  # nothing else can be said
    if numbers["body"] < config.min_body:
        found.append(f"{numbers['body']:.0%} of the body seen, min_body is {config.min_body:g}")
    if numbers["confidence"] < config.min_confidence:
        found.append(f"mean confidence {numbers['confidence']:.2f}, min_confidence is {config.min_confidence:g}")
    if numbers.get("sharpness", math.inf) < config.min_sharpness:
        found.append(f"blurred: sharpness {numbers['sharpness']:.1f}, min_sharpness is {config.min_sharpness:g}")
    if numbers.get("static", 0.0) > config.max_static:
        found.append(f"{numbers['static']:.0%} of the frames hardly move, max_static is {config.max_static:g}")
    return found


def _rounded(value: float) -> float:
    """Four decimals: enough to judge by, and the same text on every machine."""
    return round(float(value), 4)
