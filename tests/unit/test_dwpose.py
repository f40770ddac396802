from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy import ndarray
from onnx import TensorProto, helper, numpy_helper

from mimicmotion.errors import ConfigError, PoseError, WeightsError
from mimicmotion.pose.estimators import dwpose, session
from mimicmotion.pose.estimators.base import PoseEstimator
from mimicmotion.pose.estimators.dwpose import DWPoseEstimator
from mimicmotion.pose.estimators.open import open_estimator
from mimicmotion.pose.keypoints import LEFT_HAND, NECK, NOSE

ANCHORS = 8400
BRIGHT = 200.0


def save(path: Path, nodes: list[Any], shape: list[int], outputs: list[str], constants: dict[str, ndarray]) -> Path:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def detector(path: Path, boxes: list[tuple[float, float, float, float]]) -> Path:
    """Finds these boxes (left, top, right, bottom in 640 x 640) if the frame is bright in its middle, else nothing."""
    rows = np.zeros((1, ANCHORS, 85), np.float32)
    for k, (left, top, right, bottom) in enumerate(boxes):
        rows[0, k, :2] = np.array([(left + right) / 2, (top + bottom) / 2]) / 8 - (k % 80, k // 80)
        rows[0, k, 2:4] = np.log(np.array([right - left, bottom - top]) / 8)
        rows[0, k, 4:6] = 0.9
    size_and_place, scores = rows.copy(), rows.copy()
    size_and_place[..., 4:], scores[..., :4] = 0, 0
    nodes = [
        helper.make_node("ReduceMax", ["images"], ["peak"], keepdims=0),
        helper.make_node("Greater", ["peak", "limit"], ["lit"]),
        helper.make_node("Cast", ["lit"], ["on"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scores", "on"], ["shown"]),
        helper.make_node("Add", ["shown", "places"], ["output"]),
    ]
    constants = {"places": size_and_place, "scores": scores, "limit": np.float32(BRIGHT)}
    return save(path, nodes, [1, 3, 640, 640], ["output"], constants)


def network(path: Path, size: tuple[int, int] = (256, 192), points: int = 133) -> Path:
    """Puts point k at column k % 100, row k // 2 of its input, at 2 bins a pixel, whatever it sees."""
    x, y = np.zeros((1, points, 2 * size[1]), np.float32), np.zeros((1, points, 2 * size[0]), np.float32)
    k = np.arange(points)
    x[0, k, 2 * (k % 100)], y[0, k, 2 * (k // 2)] = 1.02, 0.9
    nodes = [
        helper.make_node("ReduceSum", ["images"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["x", "nothing"], ["simcc_x"]),
        helper.make_node("Add", ["y", "nothing"], ["simcc_y"]),
    ]
    return save(path, nodes, [1, 3, *size], ["simcc_x", "simcc_y"], {"x": x, "y": y, "zero": np.float32(0)})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("dwpose")
    boxes = [(100.0, 100.0, 220.0, 500.0), (400.0, 50.0, 580.0, 550.0)]
    return detector(folder / "yolox.onnx", boxes), network(folder / "pose.onnx")


LIT, DARK = np.full((320, 320, 3), 255, np.uint8), np.zeros((320, 320, 3), np.uint8)


def test_the_largest_person_is_located_in_pixels_of_the_frame(files: tuple[Path, Path]) -> None:
    estimator = DWPoseEstimator(*files, threads=1, device="cpu")
    assert isinstance(estimator, PoseEstimator)
    assert estimator.provider == "CPUExecutionProvider"
    poses = estimator.estimate([LIT], fps=12.0)
    # the right box in the frame (half the size): centre (245, 150), 90 x 250, padded 1.25 and widened to 3:4
    height = 250 * 1.25
    expected = (245 - height * 0.75 / 2, 150 - height / 2)
    np.testing.assert_allclose(poses.xy[0, NOSE], expected, atol=1e-3)
    pixel = height / 256
    k = LEFT_HAND.start - 1  # COCO has no neck
    np.testing.assert_allclose(poses.xy[0, k + 1], np.add(expected, (k % 100 * pixel, k // 2 * pixel)), atol=1e-3)
    assert poses.confidence[0, NOSE] == pytest.approx(0.9)
    assert poses.confidence[0, NECK] == 1
    assert (poses.size, poses.fps, poses.source) == ((320, 320), 12.0, "dwpose pose.onnx")


def test_another_person_can_be_chosen(files: tuple[Path, Path]) -> None:
    left = DWPoseEstimator(*files, person=0, device="cpu").estimate([LIT]).xy[0, NOSE, 0]
    assert left < DWPoseEstimator(*files, person=1, device="cpu").estimate([LIT]).xy[0, NOSE, 0]


def test_a_person_who_is_never_seen_is_an_error(files: tuple[Path, Path]) -> None:
    with pytest.raises(PoseError, match="person 7"):
        DWPoseEstimator(*files, person=7, device="cpu").estimate([LIT, LIT])


def test_a_frame_without_a_person_has_no_confidence(files: tuple[Path, Path]) -> None:
    poses = DWPoseEstimator(*files, device="cpu").estimate([DARK, LIT, DARK])
    np.testing.assert_array_equal(poses.confidence.any(1), [False, True, False])


def test_frames_stream_one_by_one(files: tuple[Path, Path]) -> None:
    asked = []

    def frames() -> Any:
        for k in range(3):
            asked.append(k)
            yield LIT

    stream = DWPoseEstimator(*files, device="cpu").estimate_stream(frames())
    next(stream)
    assert asked == [0]


def test_boxes_and_labels_of_mmdeploy_are_read_too(files: tuple[Path, Path], tmp_path: Path) -> None:
    boxes = np.array([[[100, 100, 220, 500, 0.9], [0, 0, 50, 50, 0.9], [9, 9, 80, 80, 0.1]]], np.float32)
    labels = np.array([[0, 7, 0]], np.int64)
    nodes = [
        helper.make_node("ReduceSum", ["images"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["boxes", "nothing"], ["dets"]),
        helper.make_node("Identity", ["l"], ["labels"]),
    ]
    path = save(
        tmp_path / "d.onnx", nodes, [1, 3, 640, 640], ["dets"], {"boxes": boxes, "l": labels, "zero": np.float32(0)}
    )
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("labels", TensorProto.INT64, None))
    onnx.save(model, path)
    np.testing.assert_allclose(DWPoseEstimator(path, files[1], device="cpu").detect(LIT), [[50, 50, 110, 250]])


def test_wrong_files_are_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a network")
    with pytest.raises(WeightsError, match="missing.onnx does not exist"):
        DWPoseEstimator(tmp_path / "missing.onnx", files[1], device="cpu")
    with pytest.raises(WeightsError, match="broken.onnx"):
        DWPoseEstimator(files[0], broken, device="cpu")
    with pytest.raises(WeightsError, match="133 points"):
        DWPoseEstimator(files[0], files[0], device="cpu")
    with pytest.raises(WeightsError, match="133 points"):
        DWPoseEstimator(files[0], network(tmp_path / "p17.onnx", points=17), device="cpu")
    with pytest.raises(WeightsError, match="anchors"):
        dwpose.decode_grid(np.zeros((1, 100, 85), np.float32), (640, 640))


def test_a_gpu_that_onnxruntime_cannot_use_is_warned_of(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import onnxruntime as ort

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(session, "gpu_present", lambda: True)
    with caplog.at_level(logging.INFO):
        assert DWPoseEstimator(*files).provider == "CPUExecutionProvider"
    assert "onnxruntime-gpu" in caplog.text
    assert "runs on CPUExecutionProvider" in caplog.text
    caplog.clear()
    DWPoseEstimator(*files, device="cpu")
    assert "onnxruntime-gpu" not in caplog.text
    with pytest.raises(ConfigError, match="onnxruntime-gpu"):
        DWPoseEstimator(*files, device="cuda")


def test_it_opens_by_name(files: tuple[Path, Path]) -> None:
    opened = open_estimator("dwpose", detector_path=files[0], pose_path=files[1], device="cpu")
    assert isinstance(opened, DWPoseEstimator)
    with pytest.raises(ConfigError, match="detector_path"):
        open_estimator("dwpose", pose_path=files[1])
    with pytest.raises(PoseError, match="without frames"):
        opened.estimate([])
