"""Writes the quantised network of an int8 TFLite file as ONNX with the same weights, scales and zero points.

For small convolutional networks: CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED, RESHAPE, SOFTMAX. Every tensor keeps the
numbers that TFLite has; in between, activations are uint8 instead of int8 (zero point + 128, same real values), because
ONNX Runtime fuses convolutions only for uint8 activations with int8 weights. Input and output ports stay int8, so that
one manifest describes both files. Refuses every other operator by name.

    python -m tools.tflite_to_onnx model.tflite model.onnx
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tensorflow.lite.python import schema_py_generated as schema

_OPERATORS = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
_RELU = 1
_SAME = 0


@dataclass(slots=True)
class _Graph:
    """The ONNX graph under construction; `real` maps a TFLite tensor to the ONNX name of its real values (NCHW)."""

    model: Any
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    real: dict[int, str] = field(default_factory=dict)

    @property
    def tensors(self) -> Any:
        return self.model.subgraphs[0].tensors

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def numbers(self, index: int) -> np.ndarray:
        tensor = self.tensors[index]
        kind = {schema.TensorType.INT8: np.int8, schema.TensorType.INT32: np.int32}[tensor.type]
        return np.frombuffer(bytes(self.model.buffers[tensor.buffer].data), kind).reshape(tensor.shape)

    def shape(self, index: int) -> list[int]:
        return [int(size) for size in self.tensors[index].shape]

    def scales(self, index: int) -> np.ndarray:
        return np.asarray(self.tensors[index].quantization.scale, np.float32)

    def stepped(self, index: int, real: str) -> str:
        """`real` brought to the steps of tensor `index`, as uint8, and back: the pair that the runtime fuses."""
        name, scale = f"t{index}", self.scales(index)[0]
        zero = np.uint8(int(self.tensors[index].quantization.zeroPoint[0]) + 128)
        pair = [self.constant(f"{name}_scale", np.float32(scale)), self.constant(f"{name}_zero", zero)]
        self.node("QuantizeLinear", [real, *pair], f"{name}_u8")
        self.real[index] = self.node("DequantizeLinear", [f"{name}_u8", *pair], f"{name}_real")
        return self.real[index]


def convert(tflite: bytes) -> bytes:
    """The ONNX file with the network of the TFLite file `tflite`. Raises ValueError on an operator it does not know."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(tflite, 0))
    graph, subgraph = _Graph(model), model.subgraphs[0]
    (first,), (last,) = subgraph.inputs, subgraph.outputs
    _open(graph, first)
    for operator in subgraph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        name = _OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]
        if name not in _WRITERS:
            raise ValueError(f"tflite_to_onnx: operator {name} is not supported: there are {', '.join(_WRITERS)}")
        _WRITERS[name](graph, operator)
    _close(graph, last)
    ports = [helper.make_tensor_value_info(_name(graph, i), TensorProto.INT8, graph.shape(i))
             for i in (first, last)]  # fmt: skip
    made = helper.make_graph(graph.nodes, "from_tflite", ports[:1], ports[1:], graph.constants)
    whole = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name="limpet")
    onnx.checker.check_model(whole, full_check=True)
    return whole.SerializeToString(deterministic=True)


def _name(graph: _Graph, index: int) -> str:
    return graph.tensors[index].name.decode()


def _pair(graph: _Graph, index: int, what: str) -> list[str]:
    zero = np.int8(graph.tensors[index].quantization.zeroPoint[0])
    return [graph.constant(f"{what}_scale", graph.scales(index)[0]), graph.constant(f"{what}_zero", zero)]


def _open(graph: _Graph, index: int) -> None:
    batch, height, width, channels = graph.shape(index)
    real = graph.node("DequantizeLinear", [_name(graph, index), *_pair(graph, index, "input")], "input_real")
    if channels == 1:
        shape = graph.constant("input_shape", np.array([batch, 1, height, width], np.int64))
        turned = graph.node("Reshape", [real, shape], "input_nchw")
    else:
        turned = graph.node("Transpose", [real], "input_nchw", perm=[0, 3, 1, 2])
    graph.stepped(index, turned)


def _close(graph: _Graph, index: int) -> None:
    graph.node("QuantizeLinear", [graph.real[index], *_pair(graph, index, "output")], _name(graph, index))


def _weights(graph: _Graph, index: int, numbers: np.ndarray, axis: int) -> str:
    scale = graph.constant(f"t{index}_scale", graph.scales(index))
    zero = graph.constant(f"t{index}_zero", np.zeros(graph.scales(index).shape, np.int8))
    raw = graph.constant(f"t{index}_i8", np.ascontiguousarray(numbers))
    return graph.node("DequantizeLinear", [raw, scale, zero], f"t{index}_real", axis=axis)


def _bias(graph: _Graph, index: int) -> str:
    scale = graph.constant(f"t{index}_scale", graph.scales(index))
    raw = graph.constant(f"t{index}_i32", graph.numbers(index))
    return graph.node("DequantizeLinear", [raw, scale], f"t{index}_real", axis=0)


def _convolution(graph: _Graph, operator: Any, depthwise: bool) -> None:
    x, weights, bias = operator.inputs
    (y,) = operator.outputs
    options, numbers = operator.builtinOptions, graph.numbers(weights)
    kernel, strides = numbers.shape[1:3], (options.strideH, options.strideW)
    pads = [0, 0, 0, 0]
    if options.padding == _SAME:
        for axis in range(2):
            size = graph.shape(x)[1 + axis]
            total = max((-(-size // strides[axis]) - 1) * strides[axis] + kernel[axis] - size, 0)
            pads[axis], pads[2 + axis] = total // 2, total - total // 2
    turned = numbers.transpose(3, 0, 1, 2) if depthwise else numbers.transpose(0, 3, 1, 2)
    inputs = [graph.real[x], _weights(graph, weights, turned, 0), _bias(graph, bias)]
    group = numbers.shape[3] if depthwise else 1
    shape = {"kernel_shape": list(kernel), "strides": list(strides), "pads": pads, "group": group}
    real = graph.node("Conv", inputs, f"t{y}_conv", **shape)
    _activated(graph, y, real, options.fusedActivationFunction)


def _fully_connected(graph: _Graph, operator: Any) -> None:
    x, weights, bias = operator.inputs
    (y,) = operator.outputs
    inputs = [graph.real[x], _weights(graph, weights, graph.numbers(weights), 0), _bias(graph, bias)]
    real = graph.node("Gemm", inputs, f"t{y}_gemm", transB=1)
    _activated(graph, y, real, operator.builtinOptions.fusedActivationFunction)


def _activated(graph: _Graph, index: int, real: str, function: int) -> None:
    """A fused ReLU needs no node when real 0 is the lowest step: quantising clips there."""
    if function not in (0, _RELU):
        raise ValueError(f"tflite_to_onnx: fused activation {function} is not supported: use ReLU or none")
    if function == _RELU and graph.tensors[index].quantization.zeroPoint[0] != -128:
        real = graph.node("Relu", [real], f"{real}_relu")
    graph.stepped(index, real)


def _reshape(graph: _Graph, operator: Any) -> None:
    """To a row: the order of the numbers is that of height, width, channels, so they are turned back first."""
    (y,) = operator.outputs
    real = graph.real[operator.inputs[0]]
    if len(graph.shape(operator.inputs[0])) == 4:
        real = graph.node("Transpose", [real], f"t{y}_nhwc", perm=[0, 2, 3, 1])
    if len(graph.shape(y)) != 2:
        raise ValueError(f"tflite_to_onnx: RESHAPE to {graph.shape(y)} is not supported: only to [n, numbers]")
    shape = graph.constant(f"t{y}_shape", np.array(graph.shape(y), np.int64))
    graph.stepped(y, graph.node("Reshape", [real, shape], f"t{y}_row"))


def _softmax(graph: _Graph, operator: Any) -> None:
    (y,) = operator.outputs
    graph.real[y] = graph.node("Softmax", [graph.real[operator.inputs[0]]], f"t{y}_real", axis=-1)


_WRITERS = {
    "CONV_2D": lambda graph, operator: _convolution(graph, operator, depthwise=False),
    "DEPTHWISE_CONV_2D": lambda graph, operator: _convolution(graph, operator, depthwise=True),
    "FULLY_CONNECTED": _fully_connected,
    "RESHAPE": _reshape,
    "SOFTMAX": _softmax,
}

if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(convert(Path(sys.argv[1]).read_bytes()))
