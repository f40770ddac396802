"""DWPose's pre- and post-processing as in the released code, step by step and through whole networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy import ndarray

from mimicmotion.pose.estimators import dwpose

SIZE = (384, 288)


class Replay:
    """A session that returns given outputs and records its inputs."""

    def __init__(self, shape: list[int], answers: list[list[ndarray]]) -> None:
        self.shape, self.answers, self.feeds = shape, answers, []

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="x", shape=self.shape, type="tensor(float)")]

    def run(self, names: None, feed: dict[str, ndarray]) -> list[ndarray]:
        self.feeds.append(feed["x"])
        return self.answers[(len(self.feeds) - 1) % len(self.answers)]


@pytest.fixture(scope="module")
def data() -> dict[str, ndarray]:
    with np.load(Path(__file__).with_name("data") / "pose/postprocess.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def more(shared: Callable[[str], Path]) -> dict[str, ndarray]:
    """Data that includes whole pictures."""
    with np.load(shared("parity/goldens/pose/onnx.npz")) as file:
        return dict(file)


@pytest.fixture
def estimator(shared: Callable[[str], Path]) -> dwpose.DWPoseEstimator:
    folder = shared("parity/tiny_dwpose")
    return dwpose.DWPoseEstimator(folder / "yolox_l.onnx", folder / "dw-ll_ucoco_384.onnx", threads=1, device="cpu")


@pytest.mark.parametrize("case", ["nms0", "nms1", "nms2", "nmstie"])
def test_nms(data: dict[str, ndarray], case: str) -> None:
    boxes, scores = data[f"{case}/boxes"], data[f"{case}/scores"]
    np.testing.assert_array_equal(dwpose.nms(boxes, scores, 0.45), data[f"{case}/keep45"])
    if case != "nmstie":
        np.testing.assert_array_equal(dwpose.nms(boxes, scores, 0.1), data[f"{case}/keep10"])
        multi = dwpose.multiclass_nms(boxes, data[f"{case}/cls"], 0.45, 0.1)
        np.testing.assert_allclose(multi, data[f"{case}/multi"], atol=1e-12)


def test_letterbox(data: dict[str, ndarray]) -> None:
    picture, ratio = dwpose.letterbox(data["letterbox0/img"], (640, 640))
    np.testing.assert_array_equal(picture.transpose(2, 0, 1)[:, 4::9, 4::9], data["letterbox0/out_every_9th"])
    assert ratio == data["letterbox0/ratio"]


@pytest.mark.parametrize("k", range(5))
def test_more_letterboxes(more: dict[str, ndarray], k: int) -> None:
    picture, ratio = dwpose.letterbox(more[f"letterbox{k}/img"], (640, 640))
    np.testing.assert_array_equal(picture.transpose(2, 0, 1), more[f"letterbox{k}/out"])
    assert ratio == more[f"letterbox{k}/ratio"]


def test_grid(more: dict[str, ndarray]) -> None:
    rows = np.zeros((1, 8400, 85), np.float32)
    rows[:, ::37] = more["grid/in"]
    decoded = dwpose.decode_grid(rows, (640, 640))[:, ::37]
    np.testing.assert_allclose(decoded, more["grid/out_rows"], rtol=1e-6)


def test_detector(estimator: dwpose.DWPoseEstimator, more: dict[str, ndarray]) -> None:
    rows = np.zeros((1, 8400, 85), np.float32)
    rows[0, more["detector/rows"]] = more["detector/raw_rows"]
    estimator._detector = session = Replay([1, 3, 640, 640], [[rows]])
    np.testing.assert_allclose(estimator.detect(more["detector/img"]), more["detector/boxes"], atol=1e-5)
    np.testing.assert_array_equal(session.feeds[0], more["detector/feed_uint8"])
    estimator._detector = Replay([1, 3, 640, 640], [[rows * 0]])
    assert estimator.detect(more["detector/img"]).shape == (0, 4)


@pytest.mark.parametrize("padding", [1.0, 1.25])
def test_centre_and_scale(data: dict[str, ndarray], padding: float) -> None:
    centre, scale = dwpose.box_centre_scale(data["cs/boxes"], padding)
    np.testing.assert_array_equal(centre, data[f"cs/pad{padding}/center"])
    np.testing.assert_array_equal(scale, data[f"cs/pad{padding}/scale"])


@pytest.mark.parametrize("k", range(5))
def test_crop(data: dict[str, ndarray], k: int) -> None:
    scale = dwpose.fit_aspect(data[f"affine{k}/scale_in"], SIZE)
    np.testing.assert_array_equal(scale, data[f"affine{k}/scale"])
    matrix = dwpose.crop_matrix(data[f"affine{k}/center"], scale, SIZE)
    np.testing.assert_allclose(matrix, data[f"affine{k}/matrix"], atol=1e-12)


@pytest.mark.parametrize("k", range(5))
def test_pixels_of_a_crop(more: dict[str, ndarray], k: int) -> None:
    import cv2

    matrix = dwpose.crop_matrix(more[f"affine{k}/center"], more[f"affine{k}/scale"], SIZE)
    crop = cv2.warpAffine(more["detector/img"], matrix, SIZE[::-1], flags=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(crop, more[f"affine{k}/crop"])


def test_simcc(data: dict[str, ndarray]) -> None:
    points, scores = dwpose.decode_simcc(data["simcc/x"], data["simcc/y"], (2, 2))
    np.testing.assert_array_equal(points, data["simcc/keypoints"])
    np.testing.assert_array_equal(scores, data["simcc/scores"])


def test_points_of_several_people(estimator: dwpose.DWPoseEstimator, more: dict[str, ndarray]) -> None:
    frame = more["detector/img"]
    answers = [[more["simcc/x"][k : k + 1], more["simcc/y"][k : k + 1]] for k in (0, 1)]
    estimator._network = Replay([1, 3, *SIZE], answers)
    keypoints, scores = estimator.locate(frame, more["pose/boxes"])
    np.testing.assert_allclose(keypoints, more["pose/keypoints"], atol=1e-9)
    np.testing.assert_array_equal(scores, more["pose/scores"])

    xy, confidence = dwpose.order_points(*estimator.locate(frame, more["detector/boxes"]))
    np.testing.assert_allclose(xy, more["wholebody0/keypoints"], atol=1e-9)
    np.testing.assert_allclose(confidence, more["wholebody0/scores"], atol=1e-9)
    fractions = xy / (frame.shape[1], frame.shape[0])
    np.testing.assert_allclose(fractions[:, :18].reshape(-1, 2), more["dict0/candidate"], atol=1e-12)
    np.testing.assert_allclose(fractions[:, 24:92], more["dict0/faces"], atol=1e-12)
    hands = np.concatenate([fractions[:, 92:113], fractions[:, 113:]])
    np.testing.assert_allclose(hands, more["dict0/hands"], atol=1e-12)


@pytest.mark.parametrize("k", range(3))
def test_order_of_the_points(data: dict[str, ndarray], k: int) -> None:
    index = np.arange(133.0)
    xy, confidence = dwpose.order_points(np.stack([index, 1000 + index], -1)[None], data[f"order{k}/in_scores"])
    np.testing.assert_array_equal(xy, data[f"order{k}/keypoints"])
    np.testing.assert_array_equal(confidence, data[f"order{k}/scores"])


def test_whole_networks(estimator: dwpose.DWPoseEstimator, more: dict[str, ndarray]) -> None:
    """The networks' own outputs, decoded here by the released formulas in other words, give the same points."""
    frame = more["detector/img"]
    found = estimator.detect(frame)
    feed = np.full((640, 640, 3), 114, np.float32)
    feed[:] = dwpose.letterbox(frame, (640, 640))[0]
    rows = estimator._detector.run(None, {"images": feed.transpose(2, 0, 1)[None]})[0][0].astype(np.float64)
    side = np.concatenate([np.full((640 // s) ** 2, 640 // s) for s in (8, 16, 32)])
    cell = np.concatenate([np.arange((640 // s) ** 2) for s in (8, 16, 32)])
    middle = (rows[:, :2] + np.stack([cell % side, cell // side], 1)) * (640 / side)[:, None]
    half = np.exp(rows[:, 2:4]) * (640 / side)[:, None] / 2
    score = rows[:, 4] * rows[:, 5]
    best = score.argmax()
    assert score[best] > 0.3
    box = np.concatenate([middle - half, middle + half], 1)[best] / (640 / 480)
    np.testing.assert_allclose(found[0], box, atol=1e-3)

    keypoints, scores = estimator.locate(frame, found[:1])
    picture, centre, extent = dwpose.crop_person(frame, found[0], SIZE)
    feed = ((picture - dwpose.MEAN) / dwpose.STD).astype(np.float32).transpose(2, 0, 1)[None]
    x, y = (out[0] for out in estimator._network.run(None, {"input": feed}))
    for k in range(133):
        peak = min(x[k].max(), y[k].max())
        place = np.array([x[k].argmax(), y[k].argmax()]) / 2 if peak > 0 else np.array([-0.5, -0.5])
        np.testing.assert_allclose(keypoints[0, k], place * extent[0] / 288 + centre - extent / 2, atol=1e-3)
        assert scores[0, k] == peak
