"""A small converter from TensorFlow Lite to ONNX: the 21 operations that MediaPipe's networks use.

Feature maps become channels-first; weights stay in the precision of the file (float16, with a cast to float32).
Needs `pip install tflite onnx`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tflite
from numpy import ndarray
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 18, 9
TO_FIRST, TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]  # N H W C -> N C H W and back
AXIS_FIRST = {0: 0, 1: 2, 2: 3, 3: 1}  # axis of N H W C to axis of N C H W
OP_NAMES = {v: k for k, v in vars(tflite.BuiltinOperator).items() if isinstance(v, int)}
KIND = tflite.TensorType
DTYPES = {KIND.FLOAT32: np.float32, KIND.FLOAT16: np.float16, KIND.INT32: np.int32}


class Converter:
    """Converts a TFLite graph to an ONNX graph."""

    def __init__(self, data: bytes, keep_outputs: Sequence[str]) -> None:
        self.model = tflite.Model.GetRootAsModel(data, 0)
        self.graph = self.model.Subgraphs(0)
        self.keep_outputs = list(keep_outputs)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.names: dict[int, str] = {}  # TFLite tensor -> ONNX value (4-D values are channels-first)
        self.constants: dict[int, ndarray] = {}
        self.counter = 0

    # -- reading ---------------------------------------------------------------------------------------------------
    def shape(self, index: int) -> list[int]:
        return [int(n) for n in self.graph.Tensors(index).ShapeAsNumpy()]

    def constant(self, index: int) -> ndarray | None:
        """The values of a weight tensor, densified if sparse; None for an activation."""
        if index in self.constants:
            return self.constants[index]
        tensor = self.graph.Tensors(index)
        buffer = self.model.Buffers(tensor.Buffer())
        if buffer.DataLength() == 0:
            return None
        values = buffer.DataAsNumpy().view(DTYPES[tensor.Type()])
        if tensor.Sparsity() is not None:
            values = fill_sparse(values, tensor.Sparsity(), self.shape(index))
        self.constants[index] = values.reshape(self.shape(index))
        return self.constants[index]

    def options(self, op: Any, kind: type) -> Any:
        table = kind()
        table.Init(op.BuiltinOptions().Bytes, op.BuiltinOptions().Pos)
        return table

    # -- writing ---------------------------------------------------------------------------------------------------
    def add(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        self.counter += 1
        name = f"{op_type.lower()}_{self.counter}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def initializer(self, values: ndarray) -> str:
        self.counter += 1
        name = f"const_{self.counter}"
        self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def weight(self, values: ndarray) -> str:
        """Add a weight as float32: stored in its own format, with a cast if that is float16."""
        name = self.initializer(values)
        return self.add("Cast", [name], to=TensorProto.FLOAT) if values.dtype == np.float16 else name

    def activate(self, name: str, code: int) -> str:
        kind = tflite.ActivationFunctionType
        if code == kind.NONE:
            return name
        if code == kind.RELU:
            return self.add("Relu", [name])
        if code == kind.RELU6:
            return self.add("Clip", [name, self.initializer(np.float32(0)), self.initializer(np.float32(6))])
        raise NotImplementedError(f"fused activation {code}")

    def pads(self, op: Any, padding: int, kernel: Sequence[int], strides: Sequence[int]) -> list[int]:
        """[top, left, bottom, right] of TFLite's SAME (the odd pixel at the end) or VALID."""
        if padding == tflite.Padding.VALID:
            return [0, 0, 0, 0]
        total = [
            max(0, (math.ceil(size / stride) - 1) * stride + extent - size)
            for size, extent, stride in zip(self.shape(op.Inputs(0))[1:3], kernel, strides, strict=True)
        ]
        return [total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2]

    # -- operations ------------------------------------------------------------------------------------------------
    def conv(self, op: Any, depthwise: bool) -> str:
        kind = tflite.DepthwiseConv2DOptions if depthwise else tflite.Conv2DOptions
        options = self.options(op, kind)
        kernel, bias = self.constant(op.Inputs(1)), self.constant(op.Inputs(2))
        assert kernel is not None
        assert bias is not None
        kernel = kernel.transpose(3, 0, 1, 2) if depthwise else kernel.transpose(0, 3, 1, 2)
        strides = [options.StrideH(), options.StrideW()]
        dilations = [options.DilationHFactor(), options.DilationWFactor()]
        extent = [(n - 1) * d + 1 for n, d in zip(kernel.shape[2:], dilations, strict=True)]
        out = self.add(
            "Conv",
            [self.names[op.Inputs(0)], self.weight(kernel), self.weight(bias)],
            kernel_shape=list(kernel.shape[2:]),
            strides=strides,
            dilations=dilations,
            pads=self.pads(op, options.Padding(), extent, strides),
            group=self.shape(op.Inputs(0))[3] if depthwise else 1,
        )
        return self.activate(out, options.FusedActivationFunction())

    def max_pool(self, op: Any) -> str:
        options = self.options(op, tflite.Pool2DOptions)
        kernel, strides = [options.FilterHeight(), options.FilterWidth()], [options.StrideH(), options.StrideW()]
        pads = self.pads(op, options.Padding(), kernel, strides)
        out = self.add("MaxPool", [self.names[op.Inputs(0)]], kernel_shape=kernel, strides=strides, pads=pads)
        return self.activate(out, options.FusedActivationFunction())

    def average_pool(self, op: Any) -> str:
        options = self.options(op, tflite.Pool2DOptions)
        kernel, strides = [options.FilterHeight(), options.FilterWidth()], [options.StrideH(), options.StrideW()]
        if any(self.pads(op, options.Padding(), kernel, strides)):
            raise NotImplementedError("average pooling with padding")
        out = self.add("AveragePool", [self.names[op.Inputs(0)]], kernel_shape=kernel, strides=strides)
        return self.activate(out, options.FusedActivationFunction())

    def transposed_conv(self, op: Any) -> str:
        """MediaPipe's own Convolution2DTransposeBias; its options are TFLite's struct of padding and strides."""
        padding, *strides = op.CustomOptionsAsNumpy().view(np.int32)[:3].tolist()
        kernel, bias = self.constant(op.Inputs(1)), self.constant(op.Inputs(2))
        assert kernel is not None
        assert bias is not None
        if strides != list(kernel.shape[1:3]) or self.shape(op.Outputs(0))[1:3] != [
            size * stride for size, stride in zip(self.shape(op.Inputs(0))[1:3], strides, strict=True)
        ]:
            raise NotImplementedError(f"transposed convolution of padding {padding} that overlaps or cuts")
        weights = [self.weight(kernel.transpose(3, 0, 1, 2)), self.weight(bias)]
        return self.add("ConvTranspose", [self.names[op.Inputs(0)], *weights], strides=strides)

    def binary(self, op: Any, op_type: str, kind: type) -> str:
        out = self.add(op_type, [self.names[op.Inputs(0)], self.names[op.Inputs(1)]])
        return self.activate(out, self.options(op, kind).FusedActivationFunction())

    def pad(self, op: Any) -> str:
        pads = self.constant(op.Inputs(1))
        assert pads is not None
        values = pads[TO_FIRST].T.reshape(-1).astype(np.int64)
        return self.add("Pad", [self.names[op.Inputs(0)], self.initializer(values)], mode="constant")

    def prelu(self, op: Any) -> str:
        """max(x, 0) - alpha * max(-x, 0) by depthwise convolutions: three times as fast as PRelu in onnxruntime."""
        alpha, x = self.constant(op.Inputs(1)), self.names[op.Inputs(0)]
        assert alpha is not None

        def scaled(name: str, factors: ndarray) -> str:
            weight = self.weight(factors.reshape(-1, 1, 1, 1))
            return self.add("Conv", [name, weight], kernel_shape=[1, 1], group=factors.size)

        below = self.add("Relu", [scaled(x, np.full_like(alpha, -1))])
        return self.add("Add", [scaled(below, -alpha), self.add("Relu", [x])])

    def resize(self, op: Any) -> str:
        options = self.options(op, tflite.ResizeBilinearOptions)
        mode = "half_pixel" if options.HalfPixelCenters() else "asymmetric"
        mode = "align_corners" if options.AlignCorners() else mode
        batch, height, width, channels = self.shape(op.Outputs(0))
        sizes = self.initializer(np.array([batch, channels, height, width], np.int64))
        inputs = [self.names[op.Inputs(0)], "", "", sizes]
        return self.add("Resize", inputs, mode="linear", coordinate_transformation_mode=mode)

    def depth_to_space(self, op: Any) -> str:
        block = self.options(op, tflite.DepthToSpaceOptions).BlockSize()
        return self.add("DepthToSpace", [self.names[op.Inputs(0)]], blocksize=block, mode="DCR")

    def reshape(self, op: Any) -> str:
        name, shape = self.channels_last(op.Inputs(0)), self.shape(op.Outputs(0))
        out = self.add("Reshape", [name, self.initializer(np.array(shape, np.int64))])
        return self.add("Transpose", [out], perm=TO_FIRST) if len(shape) == 4 else out

    def concat(self, op: Any) -> str:
        options = self.options(op, tflite.ConcatenationOptions)
        rank = len(self.shape(op.Outputs(0)))
        axis = options.Axis() % rank
        names = [self.names[op.Inputs(i)] for i in range(op.InputsLength())]
        out = self.add("Concat", names, axis=AXIS_FIRST[axis] if rank == 4 else axis)
        return self.activate(out, options.FusedActivationFunction())

    def mean(self, op: Any) -> str:
        axes = self.constant(op.Inputs(1))
        assert axes is not None
        keep = bool(self.options(op, tflite.ReducerOptions).KeepDims())
        if sorted(axes.reshape(-1).tolist()) != [1, 2]:
            raise NotImplementedError(f"mean over {axes}")
        axis = self.initializer(np.array([2, 3], np.int64))  # only channels are left, so no order to restore
        return self.add("ReduceMean", [self.names[op.Inputs(0)], axis], keepdims=int(keep))

    def fully_connected(self, op: Any) -> str:
        kernel, bias = self.constant(op.Inputs(1)), self.constant(op.Inputs(2))
        assert kernel is not None
        assert bias is not None
        flat = self.initializer(np.array([-1, kernel.shape[1]], np.int64))
        rows = self.add("Reshape", [self.channels_last(op.Inputs(0)), flat])
        out = self.add("Gemm", [rows, self.weight(kernel), self.weight(bias)], transB=1)
        return self.activate(out, self.options(op, tflite.FullyConnectedOptions).FusedActivationFunction())

    def strided_slice(self, op: Any) -> str:
        options = self.options(op, tflite.StridedSliceOptions)
        if options.EllipsisMask() or options.NewAxisMask() or options.ShrinkAxisMask():
            raise NotImplementedError("strided slice with ellipsis, new or dropped axes")
        begin, end, step = (np.array(self.constant(op.Inputs(i)), np.int64) for i in (1, 2, 3))
        for axis, size in enumerate(self.shape(op.Inputs(0))):
            begin[axis] = 0 if options.BeginMask() >> axis & 1 else begin[axis]
            end[axis] = size if options.EndMask() >> axis & 1 else end[axis]
        axes = np.array([AXIS_FIRST[i] for i in range(len(begin))], np.int64)
        names = [self.initializer(values) for values in (begin, end, axes, step)]
        return self.add("Slice", [self.names[op.Inputs(0)], *names])

    def channels_last(self, index: int) -> str:
        """The value in TFLite's order of axes."""
        if len(self.shape(index)) != 4:
            return self.names[index]
        return self.add("Transpose", [self.names[index]], perm=TO_LAST)

    # -- the whole -------------------------------------------------------------------------------------------------
    def convert_op(self, op: Any) -> None:
        code = self.model.OperatorCodes(op.OpcodeIndex())
        kind = OP_NAMES[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        kind = code.CustomCode().decode() if kind == "CUSTOM" else kind
        if kind in ("DEQUANTIZE", "DENSIFY"):  # weights, whose values `constant` already returns
            values = self.constant(op.Inputs(0))
            if values is None:
                raise NotImplementedError(f"{kind} of an activation")
            self.constants[op.Outputs(0)] = values
            return
        simple: dict[str, Callable[[Any], str]] = {
            "CONV_2D": lambda o: self.conv(o, depthwise=False),
            "DEPTHWISE_CONV_2D": lambda o: self.conv(o, depthwise=True),
            "MAX_POOL_2D": self.max_pool,
            "AVERAGE_POOL_2D": self.average_pool,
            "Convolution2DTransposeBias": self.transposed_conv,
            "ADD": lambda o: self.binary(o, "Add", tflite.AddOptions),
            "MUL": lambda o: self.binary(o, "Mul", tflite.MulOptions),
            "PAD": self.pad,
            "PRELU": self.prelu,
            "RELU": lambda o: self.add("Relu", [self.names[o.Inputs(0)]]),
            "HARD_SWISH": lambda o: self.add("HardSwish", [self.names[o.Inputs(0)]]),
            "LOGISTIC": lambda o: self.add("Sigmoid", [self.names[o.Inputs(0)]]),
            "RESIZE_BILINEAR": self.resize,
            "DEPTH_TO_SPACE": self.depth_to_space,
            "RESHAPE": self.reshape,
            "CONCATENATION": self.concat,
            "MEAN": self.mean,
            "FULLY_CONNECTED": self.fully_connected,
            "STRIDED_SLICE": self.strided_slice,
        }
        if kind not in simple:
            raise NotImplementedError(f"operation {kind}")
        self.names[op.Outputs(0)] = simple[kind](op)

    def convert(self, name: str) -> onnx.ModelProto:
        """Build the ONNX model, with one input "input" (channels last) and the kept outputs under their own names."""
        source = self.graph.Inputs(0)
        self.names[source] = self.add("Transpose", ["input"], perm=TO_FIRST)
        for i in range(self.graph.OperatorsLength()):
            self.convert_op(self.graph.Operators(i))
        by_name = {
            self.graph.Tensors(i).Name().decode(): i for i in map(self.graph.Outputs, range(self.graph.OutputsLength()))
        }
        outputs = []
        for wanted in self.keep_outputs:
            index = by_name[wanted]
            self.nodes.append(helper.make_node("Identity", [self.channels_last(index)], [wanted], name=wanted))
            outputs.append(helper.make_tensor_value_info(wanted, TensorProto.FLOAT, self.shape(index)))
        self.drop_unused()
        inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, self.shape(source))]
        graph = helper.make_graph(self.nodes, name, inputs, outputs, list(self.initializers.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="mimicmotion")
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        return model

    def drop_unused(self) -> None:
        """Remove operations that only lead to outputs that are not kept."""
        needed, kept = set(self.keep_outputs), []
        for node in reversed(self.nodes):
            if node.output[0] in needed:
                kept.append(node)
                needed.update(node.input)
        self.nodes = kept[::-1]
        self.initializers = {k: v for k, v in self.initializers.items() if k in needed}


def fill_sparse(values: ndarray, sparsity: Any, shape: Sequence[int]) -> ndarray:
    """Make a dense tensor from TFLite's block-sparse storage.

    The stored dimensions are the tensor's own (some divided by a block size), then those of the blocks, in traversal
    order; each is either dense (all indices present) or compressed (segments of index lists).
    """
    order = [int(i) for i in sparsity.TraversalOrderAsNumpy()]
    blocks = [int(i) for i in sparsity.BlockMapAsNumpy()] if sparsity.BlockMapLength() else []
    metadata = [sparsity.DimMetadata(i) for i in range(sparsity.DimMetadataLength())]
    positions: list[list[int]] = [[]]
    slots = [0]
    for level in metadata:
        next_positions, next_slots = [], []
        if level.Format() == tflite.DimensionType.DENSE:
            size = level.DenseSize()
            for position, slot in zip(positions, slots, strict=True):
                for i in range(size):
                    next_positions.append([*position, i])
                    next_slots.append(slot * size + i)
        else:
            segments, indices = (read_index_vector(level, part) for part in ("ArraySegments", "ArrayIndices"))
            for position, slot in zip(positions, slots, strict=True):
                for k in range(int(segments[slot]), int(segments[slot + 1])):
                    next_positions.append([*position, int(indices[k])])
                    next_slots.append(k)
        positions, slots = next_positions, next_slots
    rank = len(shape)
    block_size = {axis: metadata[order.index(rank + i)].DenseSize() for i, axis in enumerate(blocks)}
    stored = np.array(positions)
    index = np.zeros((len(stored), rank), np.int64)
    for column, axis in enumerate(order):
        if axis < rank:
            index[:, axis] += stored[:, column] * block_size.get(axis, 1)
        else:
            index[:, blocks[axis - rank]] += stored[:, column]
    dense = np.zeros(shape, values.dtype)
    dense[tuple(index.T)] = values[slots]
    return dense


def read_index_vector(level: Any, part: str) -> ndarray:
    """The indices of a compressed dimension, stored as int32, uint16 or uint8."""
    table = getattr(level, part)()
    kinds = {1: tflite.Int32Vector, 2: tflite.Uint16Vector, 3: tflite.Uint8Vector}
    vector = kinds[getattr(level, f"{part}Type")()]()
    vector.Init(table.Bytes, table.Pos)
    return vector.ValuesAsNumpy()


def convert_file(source: Path, target: Path, keep_outputs: Sequence[str]) -> None:
    """Convert one .tflite file."""
    onnx.save(Converter(source.read_bytes(), keep_outputs).convert(source.stem), target)
