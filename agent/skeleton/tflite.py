"""Reads operators, signatures and TFLite metadata from a .tflite file.

Owns the field numbers of two public schemas, TFLite's and its metadata's. Attached files (labels) lie as a zip archive
behind the model; they are taken up to a limit. Raises ValueError where the file is not what it claims.
"""

import mmap
import struct
import zipfile
import zlib
from pathlib import Path

from agent.skeleton.flatbuffer import Table, root
from agent.skeleton.graph import Graph, Op, PortNote

_CUSTOM = 32  # BuiltinOperator
_BUILTINS = {0: "ADD", 2: "CONCATENATION", 6: "DEQUANTIZE", 14: "LOGISTIC", 18: "MUL", 25: "SOFTMAX", 41: "SUB",
             42: "DIV", 56: "ARG_MAX", 114: "QUANTIZE"}  # fmt: skip
_METADATA = "TFLITE_METADATA"
_COLOURS = {1: "rgb", 2: "grey"}
_IMAGE, _AUDIO = 2, 4  # ContentProperties
_NORMALISATION = 1  # ProcessUnitOptions
_LABELS = 2  # AssociatedFileType: TENSOR_AXIS_LABELS
_FILE_LIMIT_BYTES = 1 << 20
_MOST_FILES = 16
"""Attached files that are read, and the largest of them."""


def read_tflite(path: Path) -> Graph:
    """The graph's own words. Raises ValueError when the file cannot be read as one."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # closed with its last slice, an error's included
    try:
        return _graph(root(memoryview(mapped), b"TFL3"), path)
    except (struct.error, IndexError) as exc:
        raise ValueError(str(exc)) from exc


def _graph(model: Table, path: Path) -> Graph:
    main = model.tables(2)[0]
    tensors = tuple(tensor.text(3) for tensor in main.tables(0))
    about = _metadata(model)
    part = about.tables(3)[0] if about and about.tables(3) else None
    notes = {key: about.text(field) for key, field in (("name", 0), ("description", 1), ("author", 4), ("licence", 5))
             if about.text(field)} if about else {}  # fmt: skip
    return Graph(
        ops=_ops(model, main, tensors),
        producer=model.text(3),
        notes=notes,
        inputs=tuple(_note(table) for table in part.tables(2)) if part else (),
        outputs=tuple(_note(table) for table in part.tables(3)) if part else (),
        files=_files(path),
        shapes={tensor.text(3): tuple(int(n) for n in tensor.numbers(0)) for tensor in main.tables(0)},
        signature=_signature(model, tensors),
    )


def _ops(model: Table, main: Table, tensors: tuple[str, ...]) -> tuple[Op, ...]:
    kinds = []
    for code in model.tables(1):
        number = max(code.number(0, "<b"), code.number(3, "<i"))  # the old field ends at 127
        kinds.append(code.text(1) if number == _CUSTOM else _BUILTINS.get(number, str(number)))
    made = []
    for op in main.tables(3):
        inputs, outputs = ([tensors[int(i)] for i in op.numbers(field) if i >= 0] for field in (1, 2))
        made.append(Op(kinds[op.number(0, "<I")], tuple(inputs), tuple(outputs)))
    return tuple(made)


def _signature(model: Table, tensors: tuple[str, ...]) -> dict[str, str]:
    """Tensor -> name, of the only signature; several say nothing about the ports."""
    several = model.tables(7)
    if len(several) != 1:
        return {}
    return {tensors[pair.number(1, "<I")]: pair.text(0) for field in (0, 1) for pair in several[0].tables(field)}


def _metadata(model: Table) -> Table | None:
    for entry in model.tables(6):
        if entry.text(0) == _METADATA:
            return root(model.tables(4)[entry.number(1, "<I")].blob(0), b"M001")
    return None


def _note(table: Table) -> PortNote:
    content, colour, rate_hz = table.table(3), "", 0
    properties = content.table(1) if content else None
    if content and properties:
        kind = content.number(0, "<B")
        colour = _COLOURS.get(properties.number(0, "<B"), "") if kind == _IMAGE else ""
        rate_hz = properties.number(0, "<I") if kind == _AUDIO else 0
    mean, std = _normalisation(table)
    attached = sorted(table.tables(6), key=lambda file: file.number(2, "<B") != _LABELS)
    return PortNote(table.text(0), table.text(1), colour, rate_hz, mean, std, tuple(f.text(0) for f in attached))


def _normalisation(table: Table) -> tuple[tuple[float, ...], tuple[float, ...]]:
    for unit in table.tables(4):
        options = unit.table(1)
        if unit.number(0, "<B") == _NORMALISATION and options:
            return options.numbers(0, "<f"), options.numbers(1, "<f")
    return (), ()


def _files(path: Path) -> dict[str, bytes]:
    """Attached files, the small ones; none when there is no archive behind the model."""
    if not zipfile.is_zipfile(path):
        return {}
    try:
        with zipfile.ZipFile(path) as archive:
            small = [entry for entry in archive.infolist() if _is_small(entry)][:_MOST_FILES]
            return {entry.filename: _content(archive, entry) for entry in small}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, OverflowError) as exc:
        raise ValueError(f"the files attached to it cannot be read: {exc}") from exc


def _is_small(entry: zipfile.ZipInfo) -> bool:
    """By what it says of itself. Other ways to pack unpack as much as a few bytes ask for, all at once."""
    return entry.file_size <= _FILE_LIMIT_BYTES and entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Unpacked no further than it says: ZipFile.read() would unpack everything that is there, and cut it then."""
    with archive.open(entry) as packed:
        return packed.read(_FILE_LIMIT_BYTES)
