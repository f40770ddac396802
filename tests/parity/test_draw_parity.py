"""The released drawing, pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy import ndarray

from mimicmotion.pose.guidance.skeleton import draw_pose
from mimicmotion.pose.keypoints import BODY, FACE, LEFT_HAND, NUM_POINTS, RIGHT_HAND


def people(data: dict[str, ndarray]) -> tuple[ndarray, ndarray]:
    """The released code's dictionary as points (people, 134, 2) in fractions of the frame, and confidences."""
    n = len(data["subset"])
    xy, confidence = np.zeros((n, NUM_POINTS, 2)), np.zeros((n, NUM_POINTS))
    xy[:, BODY], confidence[:, BODY] = data["candidate"].reshape(n, 18, 2), data["score"]
    xy[:, FACE], confidence[:, FACE] = data["faces"], data["faces_score"]
    for k, hand in enumerate((LEFT_HAND, RIGHT_HAND)):  # all left hands stand before all right ones
        xy[:, hand], confidence[:, hand] = data["hands"][k * n : k * n + n], data["hands_score"][k * n : k * n + n]
    return xy, confidence


def _wrong(path: Path) -> dict[str, float]:
    """Share of the values of each picture that differ by more than 1."""
    with np.load(path) as file:
        poses = {name.split("/")[1] for name in file.files if name.startswith("in/")}
        inputs = {
            pose: {k: file[f"in/{pose}/{k}"] for k in (
                "candidate", "subset", "score", "hands", "hands_score", "faces", "faces_score")}
            for pose in poses
        }  # fmt: skip
        wrong = {}
        for name in file["names"]:
            pose, shape = str(name).split("/")
            height, width = map(int, shape.split("x"))
            xy, confidence = people(inputs[pose])
            ours = draw_pose(xy * (width, height), confidence, (height, width))
            theirs = file[f"out/{name}"].transpose(1, 2, 0)
            wrong[str(name)] = float((np.abs(ours.astype(int) - theirs) > 1).mean())
    return wrong


def test_pictures_equal_the_released_ones() -> None:
    """uint8 within 1 on >= 99.9% of the values, since OpenCV's versions draw a little differently."""
    wrong = _wrong(Path(__file__).with_name("data") / "pose/draw.npz")
    assert len(wrong) == 15
    assert not {k: v for k, v in wrong.items() if v > 1e-3}


def test_more_pictures_equal_the_released_ones(shared: Callable[[str], Path]) -> None:
    """Measured: 99.99% at worst, and most without a difference."""
    wrong = _wrong(shared("parity/goldens/pose/draw.npz"))
    assert len(wrong) > 100
    assert not {k: v for k, v in wrong.items() if v > 1e-3}
    assert np.mean([v == 0 for v in wrong.values()]) > 0.9
