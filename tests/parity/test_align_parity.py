"""The released retargeting: one straight line for the whole video."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy import ndarray

from mimicmotion.pose.align import fit_alignment
from mimicmotion.pose.keypoints import BODY, FACE, LEFT_HAND, NUM_POINTS, RIGHT_HAND, PoseSequence

PARTS = (("candidate", BODY), ("faces", FACE), ("hands", slice(LEFT_HAND.start, RIGHT_HAND.stop)))


def sequence(file: dict[str, ndarray], names: list[str], size: tuple[int, int]) -> PoseSequence:
    xy, confidence = np.zeros((len(names), NUM_POINTS, 2)), np.zeros((len(names), NUM_POINTS))
    for i, name in enumerate(names):
        for part, place in PARTS:
            xy[i, place] = file[f"{name}/{part}"].reshape(-1, 2)
        confidence[i, BODY] = file[f"{name}/score"][0]
    return PoseSequence((xy * size[::-1]).astype(np.float32), confidence.astype(np.float32), size)


@pytest.mark.parametrize("case", ["fps60", "same_size", "some_frames_low", "upper_body_reference", "wide_to_tall"])
def test_the_released_fit_is_found(shared: Callable[[str], Path], case: str) -> None:
    with np.load(shared(f"parity/goldens/pose/rescale_{case}.npz")) as data:
        file = dict(data)
    count = sum(name.startswith("pose") and name.endswith("/subset") for name in file)
    (frame_height, frame_width), (height, width) = file["frame_hw"].tolist(), file["image_hw"].tolist()
    driving = sequence(file, [f"pose{i}" for i in range(count)], (frame_height, frame_width))
    fit = fit_alignment(driving, sequence(file, ["ref"], (height, width)), (height, width), "released")

    scale = fit.scale[0] * frame_width / width, fit.scale[1] * frame_height / height  # in fractions of the frames
    np.testing.assert_allclose(scale, [file["ax"], file["ay"]], atol=1e-6)
    offset = fit.offset[0] / width, fit.offset[1] / height
    np.testing.assert_allclose(offset, [file["bx"], file["by"]], atol=1e-6)
    aligned = fit.apply(driving)
    for i in range(count):
        for part, place in PARTS:
            theirs = file[f"out{i}/{part}"].reshape(-1, 2)
            np.testing.assert_allclose(aligned.xy[i, place] / (width, height), theirs, atol=1e-6)
