"""Face embedding networks, given as ONNX files.

ArcFace and similar networks take aligned RGB faces of 112 x 112 pixels, scaled to -1..1. No package index has such a
network under a free licence.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from mimicmotion.errors import WeightsError

SIDE = 112
"""Side of an aligned face in pixels."""


class FaceNetwork:
    """An ONNX network from one picture to one vector, on the CPU.

    Args:
        path: the file.

    Raises:
        WeightsError: the file is not such a network.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        self.path = path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as e:  # onnxruntime has an exception class for each kind of damage
            reason = " ".join(str(e).split())[:200]
            raise WeightsError(f"{path}: {reason}", "a face network as ONNX", "correct --identity") from e
        self.session = session
        self._input = self._check(session.get_inputs())
        self._channels_last = self._input.shape[1] != 3
        self.dim = len(self.embed(np.zeros((SIDE, SIDE, 3), np.uint8)))

    def embed(self, face: UInt8[ndarray, "size size 3"]) -> Float32[ndarray, " dim"]:
        """The embedding of an aligned face (RGB), of length 1.

        Raises:
            WeightsError: the network does not give a vector of finite numbers.
        """
        x = (face.astype(np.float32) - np.float32(127.5)) / np.float32(127.5)
        x = x[None] if self._channels_last else x.transpose(2, 0, 1)[None]
        try:
            outputs: Any = self.session.run(None, {self._input.name: np.ascontiguousarray(x)})
        except Exception as e:
            got = f"{self.path} fails on a face: {' '.join(str(e).split())[:200]}"
            raise WeightsError(got, "a network of one face", "correct --identity") from e
        vector = np.asarray(outputs[0], np.float64).ravel()
        length = float(np.linalg.norm(vector))
        if vector.size < 2 or not np.isfinite(length):
            got = f"{self.path} gives {vector.size} number(s), length {length:g}"
            raise WeightsError(got, "a vector for each face", "give a network of face embeddings")
        return (vector / max(length, 1e-12)).astype(np.float32)

    def _check(self, inputs: Sequence[Any]) -> Any:
        shape = list(inputs[0].shape) if len(inputs) == 1 else []
        if len(shape) != 4 or 3 not in (shape[1], shape[3]) or inputs[0].type != "tensor(float)":
            got = f"{self.path} takes " + ", ".join(f"{i.name} {i.shape} of {i.type}" for i in inputs)
            raise WeightsError(got, "one float picture (1, 3, side, side)", "give a network of face embeddings")
        sides = shape[2:] if shape[1] == 3 else shape[1:3]
        wrong = [s for s in sides if isinstance(s, int) and s != SIDE]
        if wrong:
            got = f"{self.path} takes faces of {wrong[0]} pixels"
            raise WeightsError(got, f"{SIDE} pixels", "give a network such as ArcFace")
        return inputs[0]
