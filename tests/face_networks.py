"""Small networks that stand in for face embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def mean_network(path: Path, size: int = 112, *, last: bool = False, batch: str | int = "n", outputs: int = 3) -> Path:
    """A network that returns the mean of each colour."""
    shape = [batch, size, size, 3] if last else [batch, 3, size, size]
    axes = numpy_helper.from_array(np.array([1, 2] if last else [2, 3]), "axes")
    nodes = [helper.make_node("ReduceMean", ["face", "axes"], ["mean"], keepdims=0)]
    if outputs == 1:
        axes = numpy_helper.from_array(np.array([1, 2, 3]), "axes")
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("face", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, [batch, outputs][: 1 if outputs == 1 else 2])],
        [axes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(path))
    return path


def quarters_network(path: Path, size: int = 112) -> Path:
    """A network that returns the colours of a face's sixteenths."""
    side = size // 4
    node = helper.make_node("AveragePool", ["face"], ["colours"], kernel_shape=[side, side], strides=[side, side])
    faces, colours = [1, 3, size, size], [1, 3, 4, 4]
    inputs = [helper.make_tensor_value_info("face", TensorProto.FLOAT, faces)]
    graph = helper.make_graph(
        [node], "colours", inputs, [helper.make_tensor_value_info("colours", TensorProto.FLOAT, colours)]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(path))
    return path
