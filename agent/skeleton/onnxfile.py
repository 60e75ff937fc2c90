"""Reads operators, the exporter's notes and the ports' scales from an .onnx file.

Owns the few field numbers of ONNX's protobuf schema that are needed; weights are stepped over, never copied. Raises
ValueError where the file is not what it claims. Source: onnx.proto, and protobuf's description of its encoding.
"""

import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from agent.skeleton.graph import Graph, Op

_SMALL_BYTES = 64
_FLOAT, _UINT8, _INT8, _FLOAT16 = 1, 2, 3, 10  # TensorProto.DataType
_RAW = {_FLOAT: "<f", _UINT8: "<B", _INT8: "<b", _FLOAT16: "<e"}
_PASSING = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"}
"""Operators that leave every number as it is."""


def read_onnx(path: Path) -> Graph:
    """The graph's own words. Raises ValueError when the file cannot be read as one."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # closed with its last slice, an error's included
    try:
        return _graph(memoryview(mapped))
    except (struct.error, IndexError) as exc:
        raise ValueError(str(exc)) from exc


def _graph(data: memoryview) -> Graph:
    producer, notes, ops, numbers, ports = "", {}, list[Op](), dict[str, float](), list[str]()
    for field, value in _fields(data):
        if field == 2:
            producer = _text(value)
        elif field == 14:
            pair = {key: _text(part) for key, part in _fields(value)}
            notes[pair.get(1, "")] = pair.get(2, "")
        elif field == 7:
            for part, content in _fields(value):
                if part == 1:
                    ops.append(_op(content, numbers))
                elif part == 5:
                    _remember(content, numbers)
                elif part in (11, 12):
                    ports += [_text(name) for key, name in _fields(content) if key == 1]
    return Graph(tuple(ops), producer, notes, _scales(ops, numbers, ports))


def _op(content: memoryview | int, numbers: dict[str, float]) -> Op:
    inputs, outputs, kind, constant = [], [], "", None
    for field, value in _fields(content):
        if field == 1:
            inputs.append(_text(value))
        elif field == 2:
            outputs.append(_text(value))
        elif field == 4:
            kind = _text(value)
        elif field == 5:
            constant = next((tensor for key, tensor in _fields(value) if key == 5), constant)
    if kind == "Constant" and constant is not None and outputs:
        _remember(constant, numbers, outputs[0])
    return Op(kind, tuple(inputs), tuple(outputs))


def _remember(tensor: memoryview | int, numbers: dict[str, float], name: str = "") -> None:
    """Keep a tensor of a single number, such as a scale."""
    kind, number = 0, None
    for field, value in _fields(tensor):
        if field == 2 and isinstance(value, int):
            kind = value
        elif field == 8 and not name:
            name = _text(value)
        elif field in (4, 9) and isinstance(value, memoryview) and 0 < len(value) <= _SMALL_BYTES:
            form = "<f" if field == 4 else _RAW.get(kind, "")
            if form and len(value) == struct.calcsize(form):
                number = struct.unpack(form, value)[0]
        elif field == 5:
            number = _signed(_varint(value, 0)[0] if isinstance(value, memoryview) and len(value) else value)
    if number is not None and name:
        numbers[name] = number


def _scales(ops: list[Op], numbers: Mapping[str, float], ports: list[str]) -> dict[str, tuple[float, int]]:
    """Scale and zero point of the ports that a (De)QuantizeLinear stands beside."""
    reads = {tensor: op for op in reversed(ops) for tensor in op.inputs[:1]}
    writes = {tensor: op for op in ops for tensor in op.outputs[:1]}
    made = {}
    for port in ports:
        op = _beside(port, reads, "DequantizeLinear", forward=True) or _beside(
            port, writes, "QuantizeLinear", forward=False
        )
        if op is not None and len(op.inputs) > 1 and op.inputs[1] in numbers:
            zero = numbers.get(op.inputs[2], 0) if len(op.inputs) > 2 else 0
            made[port] = numbers[op.inputs[1]], int(zero)
    return made


def _beside(port: str, known: Mapping[str, Op], kind: str, *, forward: bool) -> Op | None:
    """The operator of a kind next to a port, with nothing between them that changes numbers."""
    for _ in range(8):
        op = known.get(port)
        if op is None or op.kind == kind:
            return op
        if op.kind not in _PASSING or not op.inputs or not op.outputs:
            return None
        port = op.outputs[0] if forward else op.inputs[0]
    return None


def _fields(data: memoryview | int) -> Iterator[tuple[int, memoryview | int]]:
    """Field numbers and values of a message: numbers, or bytes. Raises ValueError when it is none."""
    if isinstance(data, int):
        raise ValueError("a number stands where a message belongs")
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at} is not protobuf")
        if at + size > len(data):
            raise ValueError(f"a field of {size} bytes at byte {at} leads out of the file")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if not byte & 128:
            return value, at
        if shift > 63:
            raise ValueError(f"a number at byte {at} is longer than 64 bits")


def _signed(value: memoryview | int) -> int | None:
    """int32 and int64 are written as 64 bits in two's complement."""
    return None if isinstance(value, memoryview) else value - (1 << 64) if value >> 63 else value


def _text(value: memoryview | int) -> str:
    return "" if isinstance(value, int) else bytes(value).decode("utf-8", "replace")
