"""The vocabulary of a model: ports, artifacts, golden inputs, as frozen types. docs/models.md explains every key.

A field is a key of `model.toml`; its limits are part of its type. What spans several keys is checked in `rules`.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np

from agent.records import Modality
from agent.strict import Match, Range

Dtype = Literal["int8", "uint8", "int16", "uint16", "int32", "int64", "float16", "float32", "float64", "bool"]
Layout = Literal["", "NHWC", "NCHW"]
Rounding = Literal["nearest", "trunc", "floor"]
Format = Literal["tflite", "onnx", "ort"]
Runtime = Literal["litert", "onnxruntime"]

Shape = Annotated[tuple[Annotated[int, Range(0, 2**24)], ...], Range(0, 8)]
Step = Mapping[str, Any]
"""A step as written: key `step` names it, the other keys configure it; `pipelines.make_step` builds it."""

P = TypeVar("P", bound="Port")

RUNTIME_OF: Mapping[Format, Runtime] = {"tflite": "litert", "onnx": "onnxruntime", "ort": "onnxruntime"}


@dataclass(frozen=True, slots=True)
class Port:
    """One tensor that goes into or comes out of a model. real = scale * (raw - zero_point)."""

    name: str
    """What outputs, golden arrays and messages call it."""
    shape: Shape
    """Concrete sizes; a dimension that the graph leaves open gets the size that this model shall run with."""
    dtype: Dtype
    scale: Annotated[float, Range(0)] = 0.0
    """Real value of one quantisation step; 0: the numbers are taken as they are."""
    zero_point: int = 0
    """The raw value that stands for real 0."""
    tensor: str = ""
    """The tensor's name in the graph, when it is not `name`."""

    @property
    def graph_name(self) -> str:
        return self.tensor or self.name

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Input(Port):
    """A port that is fed: by the `[[pre]]` steps, by a constant, or by the state of the stream."""

    layout: Layout = ""
    """NCHW: an image [h, w, c] is turned into [c, h, w] before it is fed; NHWC and empty: fed as it is."""
    rounding: Rounding = "nearest"
    """How `real / scale + zero_point` becomes a whole number; nearest rounds ties to even."""
    value: bool | int | float | None = None
    """A constant that fills the port at every run, e.g. the sampling rate that some audio models ask for."""


@dataclass(frozen=True, slots=True)
class PortChange:
    """How one artifact's port differs from the manifest's. A key left out stays; a new dtype drops the scale."""

    tensor: str | None = None
    shape: Shape | None = None
    dtype: Dtype | None = None
    scale: Annotated[float, Range(0)] | None = None
    zero_point: int | None = None
    layout: Layout | None = None


@dataclass(frozen=True, slots=True)
class StatePair:
    """`output` of one run is fed as `input` of the next; the first run gets real zeros."""

    input: str
    output: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file that can run this model. The first one that fits the machine is used."""

    file: str
    sha256: Annotated[str, Match("[0-9a-f]{64}", "64 lower-case hex digits")]
    format: Format
    runtime: Runtime | None = None
    """The runtime that runs it; left out: litert for tflite, onnxruntime for onnx."""
    arch: Literal["any", "x86_64", "aarch64"] = "any"
    precision: Literal["int8", "int16", "float16", "float32", "mixed"] = "int8"
    memory_mb: Annotated[float, Range(0)] = 0.0
    """Private memory it needs when running, MB; 0: not measured."""
    requires: tuple[str, ...] = ()
    """Execution providers or delegates without which this file is not used, e.g. "CUDAExecutionProvider"."""
    ports: dict[str, PortChange] = dataclasses.field(default_factory=dict)
    """Port name -> what is different in this file."""

    @property
    def runs_on(self) -> Runtime:
        return self.runtime or RUNTIME_OF[self.format]


@dataclass(frozen=True, slots=True)
class Golden:
    """An input with a known answer, checked before a model is trusted."""

    input: str
    """File in the folder: png, bmp, jpg, wav, csv or npy; npz: one raw array per input port, no `[[pre]]`."""
    output: str = ""
    """An npz with one raw array per output port, in the manifest's dtype; empty: only `label` is checked."""
    tolerance: Annotated[float, Range(0)] = 2.0
    """Allowed distance of a quantised output, quantisation steps."""
    atol: Annotated[float, Range(0)] = 1e-3
    """Allowed distance of an output without a scale."""
    label: str | None = None
    """The label that the first finding must carry; "": there must be no finding."""


@dataclass(frozen=True, slots=True)
class Requires:
    """What the model asks of the agent."""

    agent: Annotated[str, Match(r">=\d+(\.\d+){0,2}", 'a least version like ">=0.1"')] = ">=0"


@dataclass(frozen=True, slots=True)
class Budget:
    """What a device can afford for this model; one that cannot keep to it does not take the version."""

    latency_ms: Annotated[float, Range(0, 3_600_000)] = 0.0
    """Longest median time of one run on the slowest device that shall take it, milliseconds; 0: not said."""
    memory_mb: Annotated[float, Range(0, 1 << 20)] = 0.0
    """Most memory that loading and running it may add to a process, MB (10^6 bytes); 0: not said."""


@dataclass(frozen=True, slots=True)
class Table:
    """`model.toml` as it is written."""

    schema: Literal[1]
    name: Annotated[str, Match("[a-z0-9][a-z0-9._-]{0,63}", "lower-case letters, digits, '.', '_', '-', at most 64")]
    version: Annotated[str, Match(r"\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]{1,32})?", 'a version like "1.0.0"')]
    modality: Modality
    input: Annotated[tuple[Input, ...], Range(1, 64)]
    output: Annotated[tuple[Port, ...], Range(1, 64)]
    artifact: Annotated[tuple[Artifact, ...], Range(1, 32)]
    description: str = ""
    licence: str = ""
    origin: str = ""
    training: str = ""
    demonstration: str = ""
    labels: tuple[str, ...] = ()
    labels_file: str = ""
    requires: Requires = Requires()
    budget: Budget = Budget()
    state: tuple[StatePair, ...] = ()
    window: dict[str, Any] | None = None
    pre: tuple[dict[str, Any], ...] = ()
    decoder: dict[str, Any] | None = None
    post: tuple[dict[str, Any], ...] = ()
    golden: tuple[Golden, ...] = ()
    accuracy: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One version of one model, checked. `digest` is the sha256 of `model.toml` and the labels file, in hex."""

    folder: Path
    digest: str
    name: str
    version: str
    modality: Modality
    inputs: tuple[Input, ...]
    outputs: tuple[Port, ...]
    states: tuple[StatePair, ...]
    artifacts: tuple[Artifact, ...]
    labels: tuple[str, ...]
    window: Step | None
    pre: tuple[Step, ...]
    decoder: Step | None
    goldens: tuple[Golden, ...]
    accuracy: Mapping[str, Any]
    labels_file: str = ""
    description: str = ""
    licence: str = ""
    origin: str = ""
    training: str = ""
    demonstration: str = ""
    """Why it is only that; empty: it is meant for use."""
    budget: Budget = Budget()
    post: tuple[Step, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def feeds(self) -> tuple[Input, ...]:
        """The inputs that a view fills through `[[pre]]`: neither constant nor state. The first is the default."""
        held = {pair.input for pair in self.states}
        return tuple(port for port in self.inputs if port.value is None and port.name not in held)

    def inputs_of(self, artifact: Artifact) -> tuple[Input, ...]:
        """The inputs as this artifact has them, in manifest order."""
        return tuple(changed(port, artifact) for port in self.inputs)

    def outputs_of(self, artifact: Artifact) -> tuple[Port, ...]:
        """The outputs as this artifact has them, in manifest order."""
        return tuple(changed(port, artifact) for port in self.outputs)


def changed(port: P, artifact: Artifact) -> P:
    """`port` as `artifact` has it."""
    change = artifact.ports.get(port.name)
    if change is None:
        return port
    values = {f.name: v for f in dataclasses.fields(change) if (v := getattr(change, f.name)) is not None}
    if change.dtype is not None:
        values = {"scale": 0.0, "zero_point": 0} | values
    if not isinstance(port, Input):
        values.pop("layout", None)
    return dataclasses.replace(port, **values)
