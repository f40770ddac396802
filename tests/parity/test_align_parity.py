"""The released retargeting: one linear fit for the whole video, and the pictures drawn from its result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy import ndarray

from mimicmotion.pose.align import fit_alignment
from mimicmotion.pose.guidance.skeleton import DrawnPoses, PoseDrawer
from mimicmotion.pose.keypoints import BODY, FACE, LEFT_HAND, NUM_POINTS, RIGHT_HAND, PoseSequence

DATA = Path(__file__).with_name("data")
PARTS = (("candidate", BODY), ("faces", FACE), ("hands", slice(LEFT_HAND.start, RIGHT_HAND.stop)))


def sequence(file: dict[str, ndarray], names: list[str], size: tuple[int, int]) -> PoseSequence:
    xy, confidence = np.zeros((len(names), NUM_POINTS, 2)), np.zeros((len(names), NUM_POINTS))
    for i, name in enumerate(names):
        for part, place in PARTS:
            xy[i, place] = file[f"{name}/{part}"].reshape(-1, 2)
        confidence[i, BODY] = file[f"{name}/score"][0]
        confidence[i, PARTS[1][1]] = file[f"{name}/faces_score"].ravel()
        confidence[i, PARTS[2][1]] = file[f"{name}/hands_score"].ravel()
    return PoseSequence(xy * size[::-1], confidence.astype(np.float32), size)


@pytest.mark.parametrize("case", ["same_size", "upper_body_reference"])
def test_the_released_fit_is_found(case: str) -> None:
    _check(DATA / f"pose/rescale_{case}.npz")


@pytest.mark.parametrize("case", ["fps60", "some_frames_low", "wide_to_tall"])
def test_the_released_fit_is_found_in_more_cases(shared: Callable[[str], Path], case: str) -> None:
    _check(shared(f"parity/goldens/pose/rescale_{case}.npz"))


def _check(path: Path) -> None:
    with np.load(path) as data:
        file = dict(data)
    count = sum(name.startswith("pose") and name.endswith("/subset") for name in file)
    (frame_height, frame_width), (height, width) = file["frame_hw"].tolist(), file["image_hw"].tolist()
    driving = sequence(file, [f"pose{i}" for i in range(count)], (frame_height, frame_width))
    reference = sequence(file, ["ref"], (height, width))
    fit = fit_alignment(driving, reference, (height, width), "released")

    scale = fit.scale[0] * frame_width / width, fit.scale[1] * frame_height / height  # in fractions of the frames
    np.testing.assert_allclose(scale, [file["ax"], file["ay"]], atol=1e-6)
    offset = fit.offset[0] / width, fit.offset[1] / height
    np.testing.assert_allclose(offset, [file["bx"], file["by"]], atol=1e-6)
    aligned = fit.apply(driving)
    for i in range(count):
        for part, place in PARTS:
            theirs = file[f"out{i}/{part}"].reshape(-1, 2)
            np.testing.assert_allclose(aligned.xy[i, place] / (width, height), theirs, atol=1e-6)

    drawer = PoseDrawer(aligned.size)
    pictures = DrawnPoses(aligned, drawer)[:]
    assert len(pictures) == len(file["images"])
    for ours, theirs in zip(pictures, file["images"].transpose(0, 2, 3, 1), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    own = drawer.draw(reference.xy[0], reference.confidence[0])
    np.testing.assert_array_equal(own, file["ref_image_pose"].transpose(1, 2, 0))
