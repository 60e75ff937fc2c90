"""Tiny TFLite models that remember inside: a recurrent cell with a variable tensor, and a resource variable.

cell: y = x + h, then h = y, the variable tensor `h` of a built-in RNN cell. variable: y = x + v, then v = y, where v is
a resource that a second graph sets once. apart: s = x + v, then v = s and y = v + x, read anew.
"""

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as lite

from agent.manifest import load_manifest
from tests.tiny_models import manifest_text

SIZE = 4


def make_recurrent(folder, kind, begins=0.0):
    """Write the file and its model.toml into `folder`; returns the loaded manifest. `begins`: what v is at first."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    path = folder / f"{kind}.tflite"
    path.write_bytes(_cell() if kind == "cell" else _variable(begins, apart=kind == "apart"))
    (folder / "model.toml").write_text(manifest_text(path, kind, shape=(1, SIZE), name=kind))
    for file in (path, folder / "model.toml"):
        file.chmod(0o644)
    return load_manifest(folder)


def _tensor(name, shape, buffer=0, kind=lite.TensorType.FLOAT32, variable=False):
    made = lite.TensorT()
    made.name, made.shape, made.buffer, made.type, made.isVariable = name, list(shape), buffer, kind, variable
    return made


def _graph(tensors, takes, gives, operators):
    made = lite.SubGraphT()
    made.tensors, made.inputs, made.outputs, made.operators = tensors, takes, gives, operators
    return made


def _operator(code, takes, gives, options=None):
    made = lite.OperatorT()
    made.opcodeIndex, made.inputs, made.outputs = code, takes, gives
    if options is not None:
        made.builtinOptions = options
        made.builtinOptionsType = getattr(lite.BuiltinOptions, type(options).__name__.removesuffix("T"))
    return made


def _packed(codes, graphs, constants):
    model = lite.ModelT()
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, graphs, [], [lite.BufferT()]
    for code in codes:
        entry = lite.OperatorCodeT()
        entry.builtinCode, entry.version, entry.deprecatedBuiltinCode = code, 1, min(code, 127)
        model.operatorCodes.append(entry)
    for constant in constants:
        buffer = lite.BufferT()
        buffer.data = np.frombuffer(constant.astype(np.float32).tobytes(), np.uint8)
        model.buffers.append(buffer)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _cell():
    square, row = (SIZE, SIZE), (1, SIZE)
    tensors = [
        _tensor("x", row), _tensor("w", square, 1), _tensor("r", square, 1), _tensor("b", (SIZE,), 2),
        _tensor("h", row, variable=True), _tensor("y", row),
    ]  # fmt: skip
    options = lite.RNNOptionsT()
    options.fusedActivationFunction = lite.ActivationFunctionType.NONE
    graph = _graph(tensors, [0], [5], [_operator(0, [0, 1, 2, 3, 4], [5], options)])
    return _packed([lite.BuiltinOperator.RNN], [graph], [np.eye(SIZE), np.zeros(SIZE)])


def _variable(begins, *, apart):
    codes = [
        lite.BuiltinOperator.VAR_HANDLE, lite.BuiltinOperator.READ_VARIABLE, lite.BuiltinOperator.ADD,
        lite.BuiltinOperator.ASSIGN_VARIABLE, lite.BuiltinOperator.CALL_ONCE,
    ]  # fmt: skip
    handle, once = lite.VarHandleOptionsT(), lite.CallOnceOptionsT()
    handle.sharedName, handle.container, once.initSubgraphIndex = "v", "", 1
    resource, row = lite.TensorType.RESOURCE, (1, SIZE)
    names = ["x", "v", "old", "s", "new", "y"] if apart else ["x", "v", "old", "y"]
    tensors = [_tensor(name, row) if name != "v" else _tensor("v", (1,), kind=resource) for name in names]
    operators = [
        _operator(4, [], [], once), _operator(0, [], [1], handle),
        _operator(1, [1], [2], lite.ReadVariableOptionsT()), _operator(2, [0, 2], [3], lite.AddOptionsT()),
        _operator(3, [1, 3], [], lite.AssignVariableOptionsT()),
    ]  # fmt: skip
    if apart:
        operators.append(_operator(1, [1], [4], lite.ReadVariableOptionsT()))
        operators.append(_operator(2, [4, 0], [5], lite.AddOptionsT()))
    main = _graph(tensors, [0], [names.index("y")], operators)
    first = _graph(
        [_tensor("v1", (1,), kind=resource), _tensor("zero", row, 1)], [], [],
        [_operator(0, [], [0], handle), _operator(3, [0, 1], [], lite.AssignVariableOptionsT())],
    )  # fmt: skip
    return _packed(codes, [main, first], [np.full((1, SIZE), begins)])
