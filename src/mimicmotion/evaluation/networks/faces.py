"""Face embedding networks: dlib's, as `mimicmotion weights fetch faces` writes it, or ONNX files such as ArcFace.

ArcFace and similar networks take aligned RGB faces of 112 x 112 pixels, scaled to -1..1. No package index offers such a
network under a free licence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from mimicmotion.errors import WeightsError

SIDE, DLIB_SIDE = 112, 150
"""Side of an aligned face in pixels."""
PLACES = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
"""Eyes, nose and mouth corners (left to right in the picture) of an aligned face of 112 x 112 pixels, in OpenCV's
coordinates, where pixel centres are integers."""
DLIB_PLACES = np.array([[47.05, 46.10], [99.98, 46.10], [73.51, 76.06], [49.91, 102.52], [97.11, 102.52]])
"""The same for 150 x 150 pixels: dlib's mean face with a margin of a quarter of its size."""


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
            raise WeightsError(f"{self.path}: {reason}", "a face network as ONNX", "correct --identity") from e
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
