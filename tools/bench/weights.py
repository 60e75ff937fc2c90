"""Large int8 networks made for measuring memory: dense and convolutional, as ONNX and as TFLite, of any size.

The weights are random and the activations keep their spread from layer to layer, so that no output saturates and every
wrong weight shows. ONNX: QuantizeLinear/DequantizeLinear pairs, activations uint8, weights int8, which ONNX Runtime
fuses completely. They say nothing about accuracy.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as lite
from onnx import TensorProto, helper, numpy_helper

Kind = Literal["dense", "conv"]
Format = Literal["onnx", "tflite"]
WIDTH: Final = 4096
"""Inputs and outputs of a dense layer."""
CHANNELS: Final = 512
SIDE: Final = 7
"""Height and width of what the 3x3 convolutions see, pixels."""
MOST: Final = 52
"""Largest weight, steps; they are evenly spread from -MOST to MOST."""
SPREAD: Final = float(np.sqrt(MOST * (MOST + 1) / 3))
"""Their standard deviation."""


def write_heavy(
    folder: Path, kind: Kind, form: Format, size_mb: float, *, seed: int = 0, version: str = "1.0.0"
) -> Path:
    """Write a model folder `folder` whose weights take about `size_mb` MB (10^6 bytes); returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind}.{form}"
    weights = _layers(kind, form, size_mb, seed)
    if form == "onnx":
        onnx.save(_onnx(kind, weights), str(path))
    else:
        path.write_bytes(_tflite(kind, list(weights)))
    (folder / "model.toml").write_text(_manifest(kind, form, path, version))
    for made in (path, folder / "model.toml"):
        made.chmod(0o644)
    folder.chmod(0o755)
    return folder


def _layers(kind: Kind, form: Format, size_mb: float, seed: int) -> Iterator[np.ndarray]:
    """The weights of each layer, int8. ONNX: [in, out] or OIHW. TFLite: [out, in] or OHWI."""
    width = WIDTH
    while kind == "dense" and width > 16 and size_mb * 1e6 < width * width:
        width //= 2
    dense, conv = (width, width), (CHANNELS, CHANNELS, 3, 3) if form == "onnx" else (CHANNELS, 3, 3, CHANNELS)
    shape = dense if kind == "dense" else conv
    rng = np.random.default_rng(seed)
    for _ in range(max(1, round(size_mb * 1e6 / np.prod(shape)))):
        yield rng.integers(-MOST, MOST, shape, np.int8, endpoint=True)


def _weight_scale(kind: Kind, weights: np.ndarray) -> float:
    """Of a layer whose outputs spread as its inputs do."""
    fan_in = weights.shape[0] if kind == "dense" else CHANNELS * 9
    return float(np.float32(1.0 / (SPREAD * np.sqrt(fan_in))))


def _shape(kind: Kind, form: Format, width: int = WIDTH) -> list[int]:
    if kind == "dense":
        return [1, width]
    return [1, CHANNELS, SIDE, SIDE] if form == "onnx" else [1, SIDE, SIDE, CHANNELS]


def _manifest(kind: Kind, form: Format, path: Path, version: str) -> str:
    dtype, zero_point = ("uint8", 128) if form == "onnx" else ("int8", 0)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    text = f'schema = 1\nname = "heavy-{kind}"\nversion = "{version}"\nmodality = "tensor"\n'
    for table, port in (("input", "x"), ("output", "y")):
        text += f'[[{table}]]\nname = "{port}"\nshape = {_declared_shape(path, kind, form)}\ndtype = "{dtype}"\n'
        text += f"scale = 1.0\nzero_point = {zero_point}\n"
    return text + f'[[artifact]]\nfile = "{path.name}"\nsha256 = "{sha256}"\nformat = "{form}"\n'


def _declared_shape(path: Path, kind: Kind, form: Format) -> list[int]:
    if kind == "conv":
        return _shape(kind, form)
    if form == "onnx":
        graph = onnx.load(str(path), load_external_data=False).graph
        return [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    model = lite.Model.GetRootAsModel(path.read_bytes(), 0)
    return [int(n) for n in model.Subgraphs(0).Tensors(0).ShapeAsNumpy()]


# --- ONNX ---------------------------------------------------------------------------------------------------------


def _onnx(kind: Kind, layers: Iterator[np.ndarray]) -> Any:
    nodes: list[Any] = []
    constants = [
        numpy_helper.from_array(np.float32(1.0), "step"), numpy_helper.from_array(np.uint8(128), "middle"),
        numpy_helper.from_array(np.int8(0), "none"),
    ]  # fmt: skip
    at, width = "x", WIDTH
    for number, weights in enumerate(layers):
        name = f"layer{number}"
        width = weights.shape[0]
        scale = np.float32(_weight_scale(kind, weights))
        constants += [numpy_helper.from_array(weights, f"{name}/w"), numpy_helper.from_array(scale, f"{name}/s")]
        nodes += _onnx_layer(kind, name, at)
        at = f"{name}/y"
    nodes[-1].output[0] = "y"
    ports = [helper.make_tensor_value_info(n, TensorProto.UINT8, _shape(kind, "onnx", width)) for n in ("x", "y")]
    graph = helper.make_graph(nodes, kind, ports[:1], ports[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _onnx_layer(kind: Kind, name: str, at: str) -> list[Any]:
    more: dict[str, Any] = {} if kind == "dense" else {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    return [
        helper.make_node("DequantizeLinear", [at, "step", "middle"], [f"{name}/x"]),
        helper.make_node("DequantizeLinear", [f"{name}/w", f"{name}/s", "none"], [f"{name}/real"]),
        helper.make_node("MatMul" if kind == "dense" else "Conv", [f"{name}/x", f"{name}/real"], [f"{name}/z"], **more),
        helper.make_node("QuantizeLinear", [f"{name}/z", "step", "middle"], [f"{name}/y"]),
    ]


# --- TFLite -------------------------------------------------------------------------------------------------------


def _tflite(kind: Kind, layers: list[np.ndarray]) -> bytes:
    graph, model = lite.SubGraphT(), lite.ModelT()
    model.buffers = [lite.BufferT()]
    activation = _shape(kind, "tflite", layers[0].shape[0])
    graph.tensors = [_tensor("x", lite.TensorType.INT8, activation, 0, 1.0)]
    graph.operators = []
    for number, weights in enumerate(layers):
        scale = _weight_scale(kind, weights)
        takes = [len(graph.tensors) - 1, *_constants(graph, model, number, weights, scale)]
        graph.tensors.append(_tensor(f"layer{number}/y", lite.TensorType.INT8, activation, 0, 1.0))
        graph.operators.append(_operator(kind, takes, len(graph.tensors) - 1))
    graph.tensors[-1].name = "y"
    graph.inputs, graph.outputs = [0], [len(graph.tensors) - 1]
    code = lite.OperatorCodeT()
    kinds = lite.BuiltinOperator
    code.builtinCode = kinds.FULLY_CONNECTED if kind == "dense" else kinds.CONV_2D
    code.deprecatedBuiltinCode, code.version = code.builtinCode, 4 if kind == "dense" else 3
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    builder = flatbuffers.Builder(sum(weights.nbytes for weights in layers) + (1 << 20))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _constants(graph: Any, model: Any, number: int, weights: np.ndarray, scale: float) -> list[int]:
    """Weights and zero bias as tensors; their indices."""
    outs, first = weights.shape[0], len(graph.tensors)
    for name, data, dtype in (
        ("w", weights, lite.TensorType.INT8), ("b", np.zeros(outs, np.int32), lite.TensorType.INT32),
    ):  # fmt: skip
        buffer = lite.BufferT()
        buffer.data = np.frombuffer(data.tobytes(), np.uint8)
        model.buffers.append(buffer)
        at = len(model.buffers) - 1
        graph.tensors.append(_tensor(f"layer{number}/{name}", dtype, list(data.shape), at, scale))
    return [first, first + 1]


def _tensor(name: str, dtype: Any, shape: list[int], buffer: int, scale: float) -> Any:
    tensor = lite.TensorT()
    tensor.name, tensor.type, tensor.shape, tensor.buffer = name, dtype, shape, buffer
    tensor.quantization = lite.QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [0]
    return tensor


def _operator(kind: Kind, takes: list[int], gives: int) -> Any:
    operator = lite.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, takes, [gives]
    if kind == "dense":
        operator.builtinOptionsType = lite.BuiltinOptions.FullyConnectedOptions
        operator.builtinOptions = lite.FullyConnectedOptionsT()
    else:
        operator.builtinOptionsType = lite.BuiltinOptions.Conv2DOptions
        operator.builtinOptions = lite.Conv2DOptionsT()
        operator.builtinOptions.padding = lite.Padding.SAME
        operator.builtinOptions.strideH = operator.builtinOptions.strideW = 1
    return operator
