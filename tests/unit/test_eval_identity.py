"""Faces are aligned by five points and compared by a network given by path, unless a face is uncertain."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray

from face_networks import mean_network
from mimicmotion.errors import WeightsError
from mimicmotion.evaluation.metrics.identity import (
    DLIB_PLACES,
    PLACES,
    FaceNetwork,
    aligned_face,
    embeddings,
    five_points,
    identity_numbers,
    similarity,
    sure_faces,
)
from mimicmotion.pose.keypoints import FACE, NUM_POINTS, PoseSequence


def face_pose(frames: int, centre: tuple[float, float], scale: float, turn: float = 0.0) -> PoseSequence:
    """68 points whose five lie as in the network's square, scaled about its middle, turned and put to `centre`."""
    matrix = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    five = (PLACES + 0.5 - 56) @ matrix.T + np.array(centre)
    xy = np.full((frames, NUM_POINTS, 2), 1.0, np.float32)
    for part, point in zip((slice(36, 42), slice(42, 48), 30, 48, 54), five, strict=True):
        xy[:, FACE][:, part] = point
    return PoseSequence(xy, np.ones((frames, NUM_POINTS), np.float32), (200, 200), 10.0)


def test_an_aligned_face_is_the_square_it_came_from(tmp_path: Path) -> None:
    network = FaceNetwork(mean_network(tmp_path / "mean.onnx"))
    square = np.random.default_rng(0).integers(0, 256, (14, 14, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    frame = np.zeros((200, 200, 3), np.uint8)
    frame[30:142, 50:162] = square
    points, confidence = five_points(face_pose(1, (106.0, 86.0), 1.0))
    assert confidence[0] == 1
    assert (
        np.abs(aligned_face(frame, points[0], network).astype(int) - square).max() <= 1
    )  # OpenCV counts in 1/32 pixel
    upright, _ = five_points(face_pose(1, (106.0, 86.0), 1.0, math.pi))
    turned = aligned_face(np.ascontiguousarray(frame), upright[0], network)  # a head upside down is put upright
    assert np.abs(turned[1:, 1:].astype(int) - square[::-1, ::-1][:-1, :-1]).mean() < 20


def test_both_networks_take_nearly_the_same_face() -> None:
    moved = similarity(PLACES, DLIB_PLACES)
    apart = PLACES @ moved[:, :2].T + moved[:, 2] - DLIB_PLACES
    assert np.hypot(*apart.T).max() < 3  # of 150 pixels


@given(st.floats(-3, 3), st.floats(0.2, 5), st.floats(-90, 90), st.floats(-90, 90))
def test_a_similarity_is_found_again(turn: float, scale: float, dx: float, dy: float) -> None:
    matrix = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    target = PLACES @ matrix.T + [dx, dy]
    found = similarity(PLACES, target)
    assert np.allclose(found[:, :2], matrix, atol=1e-6)
    assert np.allclose(PLACES @ found[:, :2].T + found[:, 2], target, atol=1e-6)


def test_what_is_a_sure_face() -> None:
    poses = face_pose(4, (100, 100), 1.0)
    poses.confidence[1, FACE.start + 30] = 0.4  # the nose is doubtful
    poses.confidence[2, FACE.start] = 0.0  # a point of the cheek doesn't matter
    assert sure_faces(poses).tolist() == [True, False, True, True]
    assert not sure_faces(face_pose(1, (100, 100), 0.1)).any()  # eyes 3.5 pixels apart


@pytest.mark.parametrize("last", [False, True])
def test_conventions_of_the_input(tmp_path: Path, last: bool) -> None:
    face = np.zeros((112, 112, 3), np.uint8)
    face[...] = (255, 51, 0)
    path = mean_network(tmp_path / "means.onnx", last=last)
    got = FaceNetwork(path).embed(face)
    want = np.array([1, -0.6, -1]) / np.linalg.norm([1, -0.6, -1])
    assert np.allclose(got, want, atol=1e-4)  # a mean of 12,544 pixels in float32


def test_files_that_are_no_face_network(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="takes faces of 16 pixels"):
        FaceNetwork(mean_network(tmp_path / "small.onnx", 16))
    (tmp_path / "no.onnx").write_bytes(b"no network")
    with pytest.raises(WeightsError, match="in ONNX format"):
        FaceNetwork(tmp_path / "no.onnx")
    with pytest.raises(WeightsError, match=r"1 number\(s\)"):
        FaceNetwork(mean_network(tmp_path / "one.onnx", outputs=1))
    wrong = mean_network(tmp_path / "wide.onnx", batch=2)
    with pytest.raises(WeightsError, match="fails on a face"):
        FaceNetwork(wrong)


def vectors(*rows: tuple[float, float] | None) -> ndarray:
    return np.array([(math.nan, math.nan) if r is None else r for r in rows], np.float32)


def test_only_frames_with_both_faces_count() -> None:
    made, real = vectors((1, 0), None, (0, 1), (1, 0)), vectors((1, 0), (1, 0), (1, 0), None)
    got = identity_numbers(made, real)
    assert got == {"identity": pytest.approx(0.5), "identity_missing": pytest.approx(1 / 3)}
    nobody = identity_numbers(vectors(None, None), real[:2])
    assert math.isnan(nobody["identity"])
    assert nobody["identity_missing"] == 1
    assert math.isnan(identity_numbers(made, vectors(None, None, None, None))["identity_missing"])


def test_faces_of_a_clip(tmp_path: Path) -> None:
    frames = np.zeros((3, 200, 200, 3), np.uint8)
    frames[0], frames[2] = (200, 100, 50), (50, 100, 200)
    poses = face_pose(3, (100, 100), 1.0)
    poses.confidence[1] = 0
    got = np.stack(list(embeddings(frames, poses, FaceNetwork(mean_network(tmp_path / "m.onnx")))))
    assert np.isnan(got[1]).all()
    assert np.allclose(got[0], got[2][::-1], atol=1e-6)
    assert np.isclose((got[0] ** 2).sum(), 1)
