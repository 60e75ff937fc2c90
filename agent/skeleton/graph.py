"""What a model file says about itself beyond its ports: operators, notes of the exporter, scales, attached files.

Owns the records that both readers (`tflite`, `onnxfile`) fill. Everything may be missing: a graph that cannot be read,
such as an .ort file, is an empty one, and guessing goes on with the ports alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Op:
    """One operator: its kind as the format names it, and the tensors that go in and come out."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PortNote:
    """What TFLite metadata says about one tensor."""

    name: str = ""
    description: str = ""
    colour: str = ""
    """rgb or grey, for pictures."""
    rate_hz: int = 0
    """Of sound; 0: not said."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    files: tuple[str, ...] = ()
    """Names of attached files that belong to the tensor, label files first."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A model file's own words."""

    ops: tuple[Op, ...] = ()
    producer: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Free pairs of the exporter: metadata_props of ONNX, name and description of TFLite metadata."""
    scales: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    """Port -> scale and zero point, where the graph keeps them in operators beside the port (ONNX)."""
    inputs: tuple[PortNote, ...] = ()
    outputs: tuple[PortNote, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Attached text files by name."""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Tensor -> shape, where the file says it of every tensor (TFLite)."""
    signature: Mapping[str, str] = field(default_factory=dict)
    """Tensor -> the name that its signature gives it (TFLite)."""

    def op(self, kind: str) -> Op | None:
        """The first operator of a kind."""
        return next((op for op in self.ops if op.kind == kind), None)
