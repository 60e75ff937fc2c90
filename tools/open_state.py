"""Turns the variables of a TFLite graph into inputs and outputs, so that its state belongs to a stream.

Streaming wake words are often exported with their state inside (VAR_HANDLE, READ_VARIABLE, ASSIGN_VARIABLE, set to zero
once by a second graph). The agent refuses those, because nothing sets such variables back and two streams would share
them. Opened, each variable is an input `NAME` (what was read) and an output `NAME_next` (what was assigned last); all
other operators and all weights stay as they are. Refuses what would change the answers: variables that do not begin at
zero, and state that goes in with another scale than it comes out.

    python -m tools.open_state wakeword.tflite opened.tflite

prints the `[[state]]` tables for model.toml; `limpet models new opened.tflite` writes the rest. Needs ai-edge-litert,
which knows the file's schema.
"""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as lite

from agent.errors import ModelError

_OPS = lite.BuiltinOperator
_VARIABLE_OPS = {_OPS.VAR_HANDLE, _OPS.READ_VARIABLE, _OPS.ASSIGN_VARIABLE, _OPS.CALL_ONCE}
_NUMPY = {lite.TensorType.FLOAT32: np.float32, lite.TensorType.INT8: np.int8, lite.TensorType.UINT8: np.uint8,
          lite.TensorType.INT16: np.int16, lite.TensorType.INT32: np.int32}  # fmt: skip


@dataclass(frozen=True, slots=True)
class State:
    """One variable as two ports of the opened graph."""

    input: str
    output: str
    """`INPUT_next`, or the name of the output that it is already."""
    tensor: Any
    """What goes in; what comes out is like it."""


@dataclass(slots=True)
class Variable:
    """One variable on its way to two ports."""

    read: int | None = None
    """Tensor that holds it at the start of a run."""
    now: int | None = None
    """Tensor that holds it at the operator in hand."""


@dataclass(slots=True)
class Walk:
    """What is known while the operators are walked in order."""

    of_tensor: dict[int, str] = field(default_factory=dict)
    """Handle tensor -> name of the variable."""
    variables: dict[str, Variable] = field(default_factory=dict)
    same: dict[int, int] = field(default_factory=dict)
    """Tensor that a later read made -> tensor that holds the value."""
    kept: list[Any] = field(default_factory=list)
    """Operators that stay."""


def opened(data: bytes, where: str) -> tuple[bytes, tuple[State, ...]]:
    """The file without variables, and its states. Raises ModelError."""
    model = lite.ModelT.InitFromPackedBuf(data, 0)
    codes = [max(entry.builtinCode, entry.deprecatedBuiltinCode) for entry in model.operatorCodes]
    graph, walk = model.subgraphs[0], Walk()
    for operator in graph.operators:
        _walk(operator, codes, walk, where)
    if not walk.variables:
        raise ModelError(f"{where}: it has no variables: it can be used as it is")
    _need_zeros(model, codes, where)
    graph.operators = walk.kept
    graph.outputs = [walk.same.get(int(i), int(i)) for i in graph.outputs]
    states = tuple(_open(graph, name, held, where) for name, held in walk.variables.items())
    model.subgraphs = [graph]
    model.signatureDefs = None  # they name the old ports
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output()), states


def _walk(operator: Any, codes: list[int], walk: Walk, where: str) -> None:
    """Take one operator into account, in the order in which they run."""
    code = codes[operator.opcodeIndex]
    if code == _OPS.VAR_HANDLE:
        name = _text(operator.builtinOptions.sharedName) or f"state{len(walk.variables)}"
        walk.of_tensor[int(operator.outputs[0])] = name
        walk.variables.setdefault(name, Variable())
    elif code == _OPS.READ_VARIABLE:
        held, made = _held(operator, walk, where), int(operator.outputs[0])
        if held.now is None:
            held.read = held.now = made
        elif held.now != made:
            walk.same[made] = held.now
    elif code == _OPS.ASSIGN_VARIABLE:
        held = _held(operator, walk, where)
        held.now = walk.same.get(int(operator.inputs[1]), int(operator.inputs[1]))
    elif code in (_OPS.WHILE, _OPS.IF):
        raise ModelError(f"{where}: it branches or loops: variables inside cannot be followed")
    elif code != _OPS.CALL_ONCE:
        operator.inputs = [walk.same.get(int(i), int(i)) for i in operator.inputs]
        walk.kept.append(operator)


def _held(operator: Any, walk: Walk, where: str) -> Variable:
    name = walk.of_tensor.get(int(operator.inputs[0]))
    if name is None:
        raise ModelError(f"{where}: a variable comes from elsewhere than VAR_HANDLE: it cannot be followed")
    return walk.variables[name]


def _open(graph: Any, name: str, held: Variable, where: str) -> State:
    """Make ports of what is read first and what is assigned last. Raises ModelError."""
    if held.read is None or held.now is None or held.now == held.read:
        raise ModelError(f"{where}: variable '{name}' is not read before it is assigned: it is no state")
    taken, given = graph.tensors[held.read], graph.tensors[held.now]
    if _meaning(taken) != _meaning(given):
        raise ModelError(f"{where}: variable '{name}' goes in otherwise than it comes out: {_meaning(taken)}, "
                         f"{_meaning(given)}")  # fmt: skip
    taken.name = name
    graph.inputs = [*graph.inputs, held.read]
    if held.now not in graph.outputs:
        given.name = f"{name}_next"
        graph.outputs = [*graph.outputs, held.now]
    return State(name, _text(given.name), taken)


def _meaning(tensor: Any) -> tuple[list[int], int, list[float], list[int]]:
    """Shape, type, scales and zero points."""
    held = tensor.quantization
    scales = [] if held is None or held.scale is None else [float(x) for x in held.scale]
    zeros = [] if held is None or held.zeroPoint is None else [int(x) for x in held.zeroPoint]
    return [int(n) for n in tensor.shape], tensor.type, scales, zeros


def _need_zeros(model: Any, codes: list[int], where: str) -> None:
    """The agent's state begins at real zeros, so the variables must too. Raises ModelError."""
    for graph in model.subgraphs[1:]:
        for operator in graph.operators:
            if codes[operator.opcodeIndex] != _OPS.ASSIGN_VARIABLE:
                continue
            tensor = graph.tensors[int(operator.inputs[1])]
            data, zeros = model.buffers[tensor.buffer].data, _meaning(tensor)[3]
            if data is None or tensor.type not in _NUMPY:
                raise ModelError(f"{where}: a variable does not begin with a constant: export it without state")
            numbers = np.frombuffer(bytes(data), _NUMPY[tensor.type])
            if (numbers != (zeros[0] if zeros else 0)).any():
                raise ModelError(f"{where}: a variable does not begin at zero: export it without state")


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else name or ""


def tables(states: tuple[State, ...]) -> str:
    """The `[[state]]` tables for model.toml; `limpet models new` writes the ports."""
    return "\n".join(f'[[state]]\ninput = "{state.input}"\noutput = "{state.output}"\n' for state in states)


def main(argv: list[str] | None = None) -> int:
    """Write the opened file; 1 with a message when that is not possible."""
    parser = argparse.ArgumentParser(description="Turn the variables of a TFLite graph into inputs and outputs.")
    parser.add_argument("file", type=Path, metavar="MODEL.tflite")
    parser.add_argument("out", type=Path, metavar="OPENED.tflite")
    args = parser.parse_args(argv)
    try:
        data, states = opened(args.file.read_bytes(), str(args.file))
    except (ModelError, OSError) as exc:
        print(exc, file=sys.stderr)
        return 1
    args.out.write_bytes(data)
    print(tables(states))
    return 0


if __name__ == "__main__":
    sys.exit(main())
