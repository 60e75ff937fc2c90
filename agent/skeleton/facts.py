"""All that can be known of a model file without its author: ports, graph, one answer to noise, label files beside it.

Owns the pinning of open dimensions and the trial run. The answer to noise says nothing about the world, but whether
scores add up to one, whether boxes are corners, and how large an output is that the graph leaves open. A graph or an
answer that cannot be had leaves a remark; ports that cannot be had raise ModelError.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agent.errors import ModelError
from agent.manifest import RUNTIME_OF, Format
from agent.records import Array
from agent.runtime import Declared, answers, declared_ports
from agent.skeleton.graph import Graph, PortNote
from agent.skeleton.onnxfile import read_onnx
from agent.skeleton.tflite import read_tflite

FORMATS: Mapping[str, Format] = {".tflite": "tflite", ".lite": "tflite", ".onnx": "onnx", ".ort": "ort"}
_LABEL_FILES = ("*label*.txt", "*.names", "*classes*.txt", "*class_names*.txt", "*categories*.txt")
_LABELS_LIMIT_BYTES = 1 << 20
_MOST_NUMBERS = 1 << 26
"""In all inputs together: a model that takes more is not run on trial."""
SMALLEST_SIDE_PX = 16
"""A port with a shorter side is taken for something else than a picture."""
_NUMBERS = frozenset({
    "bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
})  # fmt: skip
"""Types that numpy has too; a runtime's own (texts, sequences, bfloat16) have another name."""


@dataclass(frozen=True, slots=True)
class Shaped:
    """A port with every dimension as far as it is known; -1 where not. `open`: the dimensions that the file leaves."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0
    open: tuple[int, ...] = ()
    unknown: bool = False
    """The file does not even say how many dimensions."""

    @property
    def bare(self) -> tuple[int, ...]:
        """The shape without dimensions of size 1."""
        return tuple(size for size in self.shape if size != 1)

    @property
    def span(self) -> tuple[float, float]:
        """Smallest and largest real value that fits; an empty one for floats."""
        if not self.scale:
            return 0.0, 0.0
        info = np.iinfo(self.dtype)
        return self.scale * (info.min - self.zero_point), self.scale * (info.max - self.zero_point)


@dataclass(frozen=True, slots=True)
class Facts:
    """What guesses rest on."""

    path: Path
    format: Format
    inputs: tuple[Shaped, ...]
    outputs: tuple[Shaped, ...]
    graph: Graph
    answers: Mapping[str, Array]
    """Real values by output, of one run on noise; empty when there was none."""
    beside: Mapping[str, bytes]
    """Label files in the model's folder."""
    remarks: tuple[str, ...] = ()

    def note(self, port: Shaped) -> PortNote:
        """What TFLite metadata says about a port; an empty note when it says nothing."""
        for ports, notes in ((self.inputs, self.graph.inputs), (self.outputs, self.graph.outputs)):
            if port in ports and len(ports) == len(notes):
                return notes[ports.index(port)]
        return PortNote()

    def said_name(self, port: Shaped) -> str:
        """The port's name, its signature's and its note's, for guesses by words; lower case."""
        return f"{port.name} {self.graph.signature.get(port.name, '')} {self.note(port).name}".lower()


def facts(path: Path) -> Facts:
    """Everything about the file at `path`. Raises ModelError when it is no model that a runtime here can load."""
    if path.suffix.lower() not in FORMATS:
        raise ModelError(f"{path}: it must be a .tflite, .onnx or .ort file")
    kind = FORMATS[path.suffix.lower()]
    takes, gives = declared_ports(path, RUNTIME_OF[kind])
    if not takes or not gives:
        raise ModelError(f"{path}: it has no {'outputs' if takes else 'inputs'}: it is no model that can be fed")
    graph, remarks = _graph(path, kind)
    inputs = _pinned(tuple(_shaped(port, graph) for port in takes), graph)
    outputs = tuple(_shaped(port, graph) for port in gives)
    raw, more = _answers(path, kind, inputs)
    more += _varying_sizes(path, kind, inputs, outputs, raw)
    outputs = tuple(_filled(port, raw.get(port.name)) for port in outputs)
    real = {port.name: _real(raw[port.name], port) for port in outputs if port.name in raw}
    return Facts(path, kind, inputs, outputs, graph, real, _beside(path), (*remarks, *more))


def _graph(path: Path, kind: Format) -> tuple[Graph, tuple[str, ...]]:
    if kind == "ort":
        return Graph(), ("an .ort file shows its ports only: describe the .onnx file that it was made of",)
    try:
        return (read_tflite if kind == "tflite" else read_onnx)(path), ()
    except (ValueError, OSError) as exc:
        return Graph(), (f"the file's own notes cannot be read: {exc}",)


def _shaped(port: Declared, graph: Graph) -> Shaped:
    scale, zero = (port.scale, port.zero_point) if port.quantised else graph.scales.get(port.name, (0.0, 0))
    if port.dtype not in ("int8", "uint8", "int16", "uint16", "int32"):
        scale, zero = 0.0, 0
    sizes = port.shape or ()
    shape = tuple(-1 if size is None else size for size in sizes)
    left = tuple(axis for axis, size in enumerate(sizes) if size is None)
    return Shaped(port.name, shape, port.dtype, scale, zero, left, port.shape is None)


def _pinned(inputs: tuple[Shaped, ...], graph: Graph) -> tuple[Shaped, ...]:
    """Open dimensions that can be guessed: the batch, the size of a picture, what speech models leave open."""
    return tuple(dataclasses.replace(port, shape=_sizes(port, inputs, graph)) for port in inputs)


def _sizes(port: Shaped, inputs: tuple[Shaped, ...], graph: Graph) -> tuple[int, ...]:
    shape = list(port.shape)
    if is_silero(inputs) and port.name == "input":
        return 1, 576
    if is_silero(inputs) and port.name == "state":
        return 2, 1, 128
    if shape and shape[0] == -1:
        shape[0] = 1
    if len(shape) == 4 and -1 in shape:
        high, wide = _picture_size(graph)
        axes = (2, 3) if shape[1] in (1, 3) else (1, 2)
        for axis, size in zip(axes, (high, wide), strict=True):
            shape[axis] = size if shape[axis] == -1 else shape[axis]
    return tuple(shape)


def _picture_size(graph: Graph) -> tuple[int, int]:
    """Height and width where the file leaves both open: what its exporter noted, else the most common one."""
    digits = [int(word) for word in re.findall("[0-9]{1,5}", graph.notes.get("imgsz", ""))]
    if len(digits) == 2 and all(SMALLEST_SIDE_PX <= n <= 4096 for n in digits):
        return digits[0], digits[1]
    return (640, 640) if "stride" in graph.notes else (224, 224)


def is_silero(inputs: tuple[Shaped, ...]) -> bool:
    """Whether the inputs are those of Silero's voice activity detector, version 5 and later."""
    shapes = {port.name: port.shape for port in inputs}
    return shapes.keys() == {"input", "state", "sr"} and shapes["state"] in ((2, -1, 128), (2, 1, 128))


def _answers(path: Path, kind: Format, inputs: tuple[Shaped, ...]) -> tuple[dict[str, Array], tuple[str, ...]]:
    if any(port.unknown or -1 in port.shape for port in inputs):
        return {}, ("no trial run: an input's size is not known",)
    if sum(math.prod(port.shape) for port in inputs) > _MOST_NUMBERS:
        return {}, ("no trial run: the inputs are too large",)
    if strange := [port for port in inputs if port.dtype not in _NUMBERS]:
        return {}, (f"no trial run: input '{strange[0].name}' takes {strange[0].dtype} and no numbers",)
    random = np.random.default_rng(0)
    try:
        raw = answers(path, RUNTIME_OF[kind], {port.name: _noise(port, random) for port in inputs})
    except ModelError as exc:
        return {}, (f"the trial run failed: {str(exc).partition(': ')[2][:200]}",)
    good = {name: made for name, made in raw.items() if isinstance(made, np.ndarray) and made.dtype.kind in "biuf"}
    return good, tuple(f"output '{name}' is no array of numbers: leave it out" for name in raw if name not in good)


def _varying_sizes(
    path: Path, kind: Format, inputs: tuple[Shaped, ...], outputs: tuple[Shaped, ...], raw: Mapping[str, Array]
) -> tuple[str, ...]:
    """A remark for each output whose size depends on what is seen: such ports cannot be described."""
    left = [port for port in outputs if port.name in raw and (port.unknown or any(port.open))]
    if not left:
        return ()
    blank = {port.name: np.zeros_like(_noise(port, np.random.default_rng(0))) for port in inputs if port.shape}
    single = {port.name: _noise(port, np.random.default_rng(0)) for port in inputs if not port.shape}
    try:
        other = answers(path, RUNTIME_OF[kind], blank | single)
    except ModelError as exc:
        return (f"a run on a blank input failed: {str(exc).partition(': ')[2][:200]}",)
    told = "its size depends on what is seen: export the model with a fixed number of rows"
    return tuple(f"output '{port.name}': {told}" for port in left if other[port.name].shape != raw[port.name].shape)


def _noise(port: Shaped, random: np.random.Generator) -> Array:
    dtype = np.dtype(port.dtype)
    if not port.shape:
        return np.array(16000 if dtype.kind in "iu" and dtype.itemsize > 2 else 0, dtype)
    if dtype.kind == "f":
        return random.random(port.shape, np.float32).astype(dtype)
    if dtype.kind in "iu" and dtype.itemsize == 1:
        info = np.iinfo(dtype)
        return random.integers(info.min, info.max, port.shape, dtype, endpoint=True)
    return np.zeros(port.shape, dtype)


def _filled(port: Shaped, answer: Array | None) -> Shaped:
    """The output's open dimensions as they came out; the batch is one when there was no answer."""
    if answer is not None and (port.open or port.unknown or answer.shape != port.shape):
        return dataclasses.replace(port, shape=answer.shape, unknown=False)
    if port.shape and port.shape[0] == -1:
        return dataclasses.replace(port, shape=(1, *port.shape[1:]))
    return port


def _real(raw: Array, port: Shaped) -> Array:
    numbers = raw.astype(np.float32)
    return (numbers - port.zero_point) * np.float32(port.scale) if port.scale else numbers


def _beside(path: Path) -> dict[str, bytes]:
    """Small text files in the folder whose names look like labels; those that name the model come first."""
    found = {name for pattern in _LABEL_FILES for name in path.parent.glob(pattern)}
    found |= {path.with_suffix(suffix) for suffix in (".txt", ".names", ".labels")}
    there = [name for name in found if name.is_file() and name.stat().st_size <= _LABELS_LIMIT_BYTES]
    there.sort(key=lambda name: (not name.name.startswith(path.stem), name.name))
    return {name.name: name.read_bytes() for name in there}
