"""Identity similarity: cosine similarity of the embeddings of aligned faces.

Eyes, nose and mouth corners come from the pose estimator's 68 face points. A least-squares similarity transform moves
them to where the network expects them. Frames without a reliable face are excluded from the means and counted
separately.

The network is dlib's, as `mimicmotion weights fetch faces` writes it, or an ONNX file such as ArcFace's, which takes
aligned RGB faces of 112 x 112 pixels, scaled to -1..1. No package index offers such a network under a free licence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8
from numpy import ndarray

from mimicmotion.arrays import Frame
from mimicmotion.errors import WeightsError
from mimicmotion.pose.estimators.base import Person
from mimicmotion.pose.estimators.holistic import HolisticEstimator
from mimicmotion.pose.keypoints import FACE, PoseSequence
from mimicmotion.video.picture import read_picture
from mimicmotion.weights.registry import known

SIDE, DLIB_SIDE = 112, 150
"""Side of an aligned face in pixels."""
PLACES = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
"""Eyes, nose and mouth corners (left to right in the picture) of an aligned face of 112 x 112 pixels, in OpenCV's
coordinates, where pixel centres are integers."""
DLIB_PLACES = np.array([[47.05, 46.10], [99.98, 46.10], [73.51, 76.06], [49.91, 102.52], [97.11, 102.52]])
"""The same for 150 x 150 pixels: dlib's mean face with a margin of a quarter of its size."""
MIN_EYES = 6.0
"""Minimum distance between the eyes, in pixels; it is 35 in an aligned face."""
SURE = 0.5
"""Minimum confidence of a face's five points."""
ALIKE = 0.91
"""Cosine similarity that corresponds to dlib's threshold for the same person, a distance of 0.6 between embeddings.
In real clips, faces of the same person reach 0.96 and more; most pairs of different people stay below 0.89, but
lookalikes reach 0.96."""

# indices into the 68 points: eyes, nose tip, mouth corners; the person's right is on the left
_GROUPS = (slice(36, 42), slice(42, 48), slice(30, 31), slice(48, 49), slice(54, 55))

Embeddings = Float32[ndarray, "frames dim"]


class FaceNetwork:
    """A network that computes the embedding of an aligned face, on the CPU.

    Args:
        path: ONNX file, or safetensors file of dlib's network.

    Attributes:
        side: side of an aligned face in pixels.
        places: positions (x, y) of its eyes, nose and mouth corners in pixels.
        dim: dimension of the embedding.

    Raises:
        WeightsError: the file is not a face embedding network.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._run: Callable[[ndarray], Any]
        if path.suffix == ".safetensors":
            from mimicmotion.evaluation.networks.dlib_faces import load_dlib

            self.side, self.places, self._run = DLIB_SIDE, DLIB_PLACES, load_dlib(path)
        else:
            self.side, self.places, self._run = SIDE, PLACES, self._onnx()
        self.dim = len(self.embed(np.zeros((self.side, self.side, 3), np.uint8)))

    def _onnx(self) -> Callable[[ndarray], Any]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        try:
            session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as e:  # onnxruntime's errors have no common base class other than Exception
            reason = " ".join(str(e).split())[:200]
            raise WeightsError(f"{self.path}: {reason}", "a face network in ONNX format", "correct --identity") from e
        entry = self._check(session.get_inputs())

        def run(face: ndarray) -> Any:
            x = (face.astype(np.float32) - np.float32(127.5)) / np.float32(127.5)
            x = x.transpose(2, 0, 1) if entry.shape[1] == 3 else x
            return session.run(None, {entry.name: np.ascontiguousarray(x[None])})[0]

        return run

    def embed(self, face: UInt8[ndarray, "size size 3"]) -> Float32[ndarray, " dim"]:
        """Compute the embedding of an aligned face (RGB), with length 1.

        Raises:
            WeightsError: the network fails or does not return a vector of finite numbers.
        """
        try:
            output = self._run(face)
        except Exception as e:
            got = f"{self.path} fails on a face: {' '.join(str(e).split())[:200]}"
            raise WeightsError(got, "a network that takes one face", "correct --identity") from e
        vector = np.asarray(output, np.float64).ravel()
        length = float(np.linalg.norm(vector))
        if vector.size < 2 or not np.isfinite(length):
            got = f"{self.path} gives {vector.size} number(s), length {length:g}"
            raise WeightsError(got, "a vector for each face", "use a face embedding network")
        return (vector / max(length, 1e-12)).astype(np.float32)

    def _check(self, inputs: Sequence[Any]) -> Any:
        shape = list(inputs[0].shape) if len(inputs) == 1 else []
        if len(shape) != 4 or 3 not in (shape[1], shape[3]) or inputs[0].type != "tensor(float)":
            got = f"{self.path} takes " + ", ".join(f"{i.name} {i.shape} of {i.type}" for i in inputs)
            raise WeightsError(got, "one float picture (1, 3, side, side)", "use a face embedding network")
        sides = shape[2:] if shape[1] == 3 else shape[1:3]
        wrong = [s for s in sides if isinstance(s, int) and s != SIDE]
        if wrong:
            got = f"{self.path} takes faces of {wrong[0]} pixels"
            raise WeightsError(got, f"{SIDE} pixels", "use a network such as ArcFace")
        return inputs[0]


def five_points(poses: PoseSequence) -> tuple[Float64[ndarray, "frames 5 2"], Float64[ndarray, " frames"]]:
    """Return eyes, nose and mouth corners (x, y) in pixels, and the lowest of their confidences."""
    xy, confidence = poses.xy[:, FACE].astype(np.float64), poses.confidence[:, FACE].astype(np.float64)
    points = np.stack([xy[:, g].mean(1) for g in _GROUPS], 1)
    return points, np.stack([confidence[:, g].min(1) for g in _GROUPS], 1).min(1)


def sure_faces(poses: PoseSequence) -> Bool[ndarray, " frames"]:
    """Mask of frames with a reliable face: all five points reach `SURE`, and the eyes are `MIN_EYES` or more apart."""
    points, confidence = five_points(poses)
    return (confidence >= SURE) & (np.hypot(*(points[:, 1] - points[:, 0]).T) >= MIN_EYES)


def similarity(source: Float[ndarray, "n 2"], target: Float[ndarray, "n 2"]) -> Float64[ndarray, "2 3"]:
    """Fit the similarity transform (rotation, scale, shift) from `source` to `target` by least squares."""
    a, b = np.asarray(source, np.float64), np.asarray(target, np.float64)
    x, y = a[:, 0], a[:, 1]
    one, zero = np.ones_like(x), np.zeros_like(x)
    equations = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    p, q, dx, dy = np.linalg.lstsq(equations, np.concatenate([b[:, 0], b[:, 1]]), rcond=None)[0]
    return np.array([[p, -q, dx], [q, p, dy]])


def aligned_face(frame: Frame, points: Float[ndarray, "5 2"], network: FaceNetwork) -> UInt8[ndarray, "side side 3"]:
    """Crop the face of a frame, with eyes, nose and mouth where the network expects them."""
    import cv2

    # our pixel centres are at integer + 0.5, those of OpenCV and `places` at integers
    matrix, size = similarity(np.asarray(points) - 0.5, network.places), (network.side, network.side)
    # pyrefly: ignore [bad-return]
    return cv2.warpAffine(frame, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def embeddings(
    frames: Iterable[Frame], poses: PoseSequence, network: FaceNetwork
) -> Iterator[Float32[ndarray, " dim"]]:
    """Yield the L2-normalised embedding of each frame's face; NaN without a reliable face.

    Args:
        frames: RGB frames.
        poses: poses detected in these frames, in pixels.
        network: see `FaceNetwork`.
    """
    points, unknown = five_points(poses)[0], np.full(network.dim, np.nan, np.float32)
    for frame, five, sure in zip(frames, points, sure_faces(poses), strict=True):
        yield network.embed(aligned_face(frame, five, network)) if sure else unknown


def identity_numbers(made: Embeddings, real: Embeddings) -> dict[str, float]:
    """Compare generated faces with the real ones in the same frames.

    Args:
        made: embeddings of the generated frames, NaN without a reliable face.
        real: embeddings of the real frames.

    Returns:
        `identity`: mean cosine (-1..1) over the frames with both faces; `identity_missing`: the fraction of frames with
        a real face in which the generated face is missing. Each is NaN if there are no such frames.
    """
    seen, known = np.isfinite(made).all(1), np.isfinite(real).all(1)
    both = seen & known
    nan = float("nan")
    return {
        "identity": float((made[both] * real[both]).sum(1).mean(dtype=np.float64)) if both.any() else nan,
        "identity_missing": float((known & ~seen).sum() / known.sum()) if known.any() else nan,
    }


def likeness(picture: Path, frames: Iterable[Frame], person: Person = "largest") -> float | None:
    """Compute the mean similarity between the faces in a video and the face in a picture, with dlib's network.

    Args:
        picture: the reference picture.
        frames: RGB frames of the video.
        person: person in the picture; see `Person`.

    Returns:
        Mean cosine (-1..1; compare `ALIKE`); None if the network is not installed, or the picture or the video shows no
        reliable face.
    """
    weights = known("faces").find()
    if weights is None:
        return None
    network = FaceNetwork(weights)

    def face(frame: Frame, estimator: HolisticEstimator) -> Float32[ndarray, " dim"]:
        return next(embeddings([frame], estimator.estimate([frame]), network))

    reference = face(read_picture(picture), HolisticEstimator(person=person, static=True))
    estimator = HolisticEstimator(static=True)
    cosines = np.array([face(frame, estimator) @ reference for frame in frames])
    return float(np.nanmean(cosines)) if np.isfinite(cosines).any() else None
