"""Tiny real models, made when a test needs them: the same function as an ONNX, an ORT and a TFLite file.

copy: y = x, any dtype. add: y = x + x on int8 with scales. total: hn = h + x, y = hn + x, a state that is carried.
"""

import hashlib

import flatbuffers
import numpy as np
import onnx
import onnxruntime
from ai_edge_litert import schema_py_generated as lite
from onnx import TensorProto, helper

from agent.manifest import load_manifest

FORMATS = ("onnx", "ort", "tflite")
ADD_IN, ADD_OUT = (0.5, -3), (1.0, 5)
"""Scale and zero point of `add`."""


def write_model(folder, kind, model_format, *, dtype="float32", shape=(1, 4), open_batch=False, scales=()):
    """Write the model file into `folder`; returns its path. `scales`: one per channel of a TFLite input `x`."""
    path = folder / f"{kind}.{model_format}"
    if model_format == "tflite":
        path.write_bytes(_tflite(kind, dtype, tuple(shape), open_batch, scales))
    elif model_format == "onnx":
        path.write_bytes(_onnx(kind, dtype, tuple(shape), open_batch))
    else:
        write_ort(_onnx(kind, dtype, tuple(shape), open_batch), path)
    path.chmod(0o644)
    folder.chmod(0o755)
    return path


def write_ort(model, path):
    """Write an ONNX model in ONNX Runtime's own format, as its converter does."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def manifest_text(path, kind, *, dtype="float32", shape=(1, 4), name="tiny", extra=""):
    """A model.toml for a file that `write_model` made."""
    shape, state = list(shape), ""
    ports = [("input", "x"), ("output", "y")]
    if kind == "total":
        ports = [("input", "x"), ("input", "h"), ("output", "y"), ("output", "hn")]
        state = '[[state]]\ninput = "h"\noutput = "hn"\n'
    text = f'schema = 1\nname = "{name}"\nversion = "1.0.0"\nmodality = "tensor"\n'
    text += "".join(line + "\n" for line in extra.splitlines() if "=" in line and not line.startswith("["))
    for table, port in ports:
        text += f'[[{table}]]\nname = "{port}"\nshape = {shape}\ndtype = "{"int8" if kind == "add" else dtype}"\n'
        if kind == "add":
            scale, zero_point = ADD_IN if table == "input" else ADD_OUT
            text += f"scale = {scale}\nzero_point = {zero_point}\n"
    return text + state + artifact_text(path)


def artifact_text(path):
    """The [[artifact]] table of a model file."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return f'[[artifact]]\nfile = "{path.name}"\nsha256 = "{sha256}"\nformat = "{path.suffix[1:]}"\n'


def make_model(folder, kind, model_format, *, name="tiny", extra="", **how):
    """Write file and model.toml into `folder`; returns the loaded manifest. `extra`: lines for the top of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = write_model(folder, kind, model_format, **how)
    how.pop("open_batch", None)
    (folder / "model.toml").write_text(manifest_text(path, kind, name=name, extra=extra, **how))
    (folder / "model.toml").chmod(0o644)
    return load_manifest(folder)


def _onnx(kind, dtype, shape, open_batch):
    declared = ("n", *shape[1:]) if open_batch else shape
    number = TensorProto.INT8 if kind == "add" else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    value = lambda name: helper.make_tensor_value_info(name, number, declared)  # noqa: E731
    constants, names = [], (["x"], ["y"])
    if kind == "copy":
        nodes = [helper.make_node("Identity", ["x"], ["y"])]
    elif kind == "total":
        nodes = [helper.make_node("Add", ["h", "x"], ["hn"]), helper.make_node("Add", ["hn", "x"], ["y"])]
        names = (["x", "h"], ["y", "hn"])
    else:
        for side, (scale, zero_point) in (("in", ADD_IN), ("out", ADD_OUT)):
            constants.append(helper.make_tensor(f"{side}_scale", TensorProto.FLOAT, [], [scale]))
            constants.append(helper.make_tensor(f"{side}_zero", TensorProto.INT8, [], [zero_point]))
        nodes = [
            helper.make_node("DequantizeLinear", ["x", "in_scale", "in_zero"], ["real"]),
            helper.make_node("Add", ["real", "real"], ["twice"]),
            helper.make_node("QuantizeLinear", ["twice", "out_scale", "out_zero"], ["y"]),
        ]
    graph = helper.make_graph(nodes, kind, [value(n) for n in names[0]], [value(n) for n in names[1]], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


_LITE_DTYPES = {
    "float32": lite.TensorType.FLOAT32, "float16": lite.TensorType.FLOAT16, "int8": lite.TensorType.INT8,
    "uint8": lite.TensorType.UINT8, "int16": lite.TensorType.INT16, "int32": lite.TensorType.INT32,
    "int64": lite.TensorType.INT64, "bool": lite.TensorType.BOOL,
}  # fmt: skip


def _tflite(kind, dtype, shape, open_batch, scales):
    quantised = {"x": ADD_IN, "y": ADD_OUT} if kind == "add" else {}
    names = ["x", "y"] if kind != "total" else ["x", "h", "y", "hn"]
    tensors = [_tensor(n, "int8" if kind == "add" else dtype, shape, open_batch, quantised.get(n)) for n in names]
    at = names.index
    if scales:
        tensors[0].quantization = lite.QuantizationParametersT()
        tensors[0].quantization.scale, tensors[0].quantization.zeroPoint = list(scales), [0] * len(scales)
        tensors[0].quantization.quantizedDimension = len(shape) - 1
    steps = {
        "copy": [([at("x")], [at("y")])],
        "add": [([at("x"), at("x")], [at("y")])],
        "total": [(["h", "x"], ["hn"]), (["hn", "x"], ["y"])],
    }[kind]
    index = lambda names: [at(n) if isinstance(n, str) else n for n in names]  # noqa: E731
    steps = [(index(takes), index(gives)) for takes, gives in steps]
    graph = lite.SubGraphT()
    graph.tensors = tensors
    graph.inputs = [at("x")] + ([at("h")] if kind == "total" else [])
    graph.outputs = [at("y")] + ([at("hn")] if kind == "total" else [])
    graph.operators = [_operator(kind, takes, gives, shape) for takes, gives in steps]
    code = lite.OperatorCodeT()
    code.builtinCode = lite.BuiltinOperator.RESHAPE if kind == "copy" else lite.BuiltinOperator.ADD
    code.deprecatedBuiltinCode, code.version = code.builtinCode, 1
    model = lite.ModelT()
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [lite.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(name, dtype, shape, open_batch, quantised):
    tensor = lite.TensorT()
    tensor.name, tensor.type, tensor.shape, tensor.buffer = name, _LITE_DTYPES[dtype], list(shape), 0
    if open_batch:
        tensor.shape = [1, *shape[1:]]
        tensor.shapeSignature = [-1, *shape[1:]]
    if quantised:
        tensor.quantization = lite.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [quantised[0]], [quantised[1]]
    return tensor


def _operator(kind, takes, gives, shape):
    operator = lite.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, takes, gives
    if kind == "copy":
        operator.builtinOptionsType = lite.BuiltinOptions.ReshapeOptions
        operator.builtinOptions = lite.ReshapeOptionsT()
        operator.builtinOptions.newShape = [-1, *shape[1:]] if shape else []
    else:
        operator.builtinOptionsType = lite.BuiltinOptions.AddOptions
        operator.builtinOptions = lite.AddOptionsT()
    return operator
