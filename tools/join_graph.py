"""The graph that `tools.join_models` writes: copies of other graphs, and the rows that are kept between two runs.

Owns pinned shapes, opsets and state ports. What connects the copies (Mul, Add, Reshape, Concat, Slice) changes no
number. Refuses graphs with several fed inputs, with inputs other than float32, and counts that no shape fits.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnx import TensorProto, compose, helper, numpy_helper, version_converter
from onnxruntime.capi import onnxruntime_pybind11_state as foreign

from agent.errors import ModelError

LEAST_OPSET = 13
_REFUSALS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(foreign).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError, ValueError,
)  # fmt: skip
"""ONNX Runtime's exceptions share no base of their own, so they are gathered by name."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Rows that are carried from run to run, a pair of ports NAME and NAME_next."""

    name: str
    shape: tuple[int, int]


@dataclass(slots=True)
class Joined:
    """The graph under construction. `kept` are its state ports, `steps` how many runs fill each of them."""

    samples: int
    opset: int
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    domains: dict[str, int] = field(default_factory=dict)

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"join/{output}", **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def reshaped(self, source: str, shape: tuple[int, ...], output: str) -> str:
        return self.node("Reshape", [source, self.constant(f"{output}/shape", np.array(shape, np.int64))], output)

    def newest(self, source: str, rows: int, output: str) -> str:
        """The last `rows` rows of [n, features]."""
        ends = [self.constant(f"{output}/{k}", np.array([v], np.int64)) for k, v in (("from", -rows), ("to", 2**62))]
        return self.node("Slice", [source, *ends, self.constant(f"{output}/axis", np.array([0], np.int64))], output)

    def graph(self, path: Path, prefix: str, source: str, count: int) -> tuple[str, tuple[int, ...]]:
        """Copy a graph that is fed the `count` values of `source`; its output and that one's concrete shape."""
        model = _loaded(path, self.opset)
        (taken,) = _fed(model)
        shape = _pinned(path, taken, count)
        given = _output_shape(path, model, taken.name, shape)
        copied = compose.add_prefix(model, prefix)
        self.reshaped(source, shape, prefix + taken.name)
        self.nodes += copied.graph.node
        self.constants += copied.graph.initializer
        self.domains |= {entry.domain: entry.version for entry in copied.opset_import if entry.domain}
        return prefix + model.graph.output[0].name, given

    def buffered(self, source: str, new: int, width: int, rows: int, name: str) -> str:
        """The newest `rows` rows, of which `new` come from `source` and the others from the runs before."""
        if rows <= new:
            return self.newest(source, rows, f"{name}/newest")
        self.kept.append(Kept(name, (rows - new, width)))
        self.steps.append(math.ceil((rows - new) / new))
        whole = self.node("Concat", [name, source], f"{name}/all", axis=0)
        self.newest(whole, rows - new, f"{name}_next")
        return whole

    def model(self, labels: int) -> Any:
        """The whole, with `labels` scores. Raises onnx.checker.ValidationError when it was put together wrongly."""
        takes = [_port("samples", (self.samples,)), *(_port(kept.name, kept.shape) for kept in self.kept)]
        gives = [_port("scores", (1, labels)), *(_port(f"{kept.name}_next", kept.shape) for kept in self.kept)]
        graph = helper.make_graph(self.nodes, "joined", takes, gives, self.constants)
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, v) for d, v in self.domains.items())]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="limpet", ir_version=9)
        onnx.checker.check_model(model)
        return model


def newest_opset(paths: list[Path]) -> int:
    """The opset that all the files can be raised to. Raises ModelError when one cannot be read."""
    return max(LEAST_OPSET, *(_opset(_read(path)) for path in paths))


def _port(name: str, shape: tuple[int, ...]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _opset(model: Any) -> int:
    entries = model.opset_import
    return max((entry.version for entry in entries if entry.domain in ("", "ai.onnx")), default=LEAST_OPSET)


def _read(path: Path) -> Any:
    try:
        return onnx.load(str(path), load_external_data=False)
    except (OSError, DecodeError) as exc:
        raise ModelError(f"{path}: this cannot be read as ONNX: {exc}") from exc


def _loaded(path: Path, opset: int) -> Any:
    """The model at `opset`, its inputs without its constants. Raises ModelError."""
    model = _read(path)
    if _opset(model) != opset:
        try:
            model = version_converter.convert_version(model, opset)
        except (RuntimeError, ValueError) as exc:
            raise ModelError(f"{path}: it cannot be raised to opset {opset}: {exc}: export it with that opset") from exc
    if model.functions:
        raise ModelError(f"{path}: it has functions of its own: export it without them")
    fed = _fed(model)
    if len(fed) != 1 or fed[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        names = ", ".join(port.name for port in fed)
        raise ModelError(f"{path}: it takes {names}: only graphs with one float32 input can be joined")
    return model


def _fed(model: Any) -> list[Any]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return [port for port in model.graph.input if port.name not in constants]


def _pinned(path: Path, port: Any, count: int) -> tuple[int, ...]:
    """The shape for `count` values: dimensions left open become 1, the last of them what is left."""
    sizes = [d.dim_value if d.HasField("dim_value") else 0 for d in port.type.tensor_type.shape.dim]
    fixed = math.prod(size for size in sizes if size)
    open_at = [i for i, size in enumerate(sizes) if not size]
    if count % fixed or (not open_at and count != fixed):
        shape = [size or "?" for size in sizes]
        raise ModelError(f"{path}: it takes {shape}, it would be given {count} values: correct rows or samples")
    pinned = [size or 1 for size in sizes]
    if open_at:
        pinned[open_at[-1]] = count // fixed
    return tuple(pinned)


def _output_shape(path: Path, model: Any, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """What the graph gives for zeros: the only way to know, where dimensions are left open."""
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        given = session.run(None, {name: np.zeros(shape, np.float32)})[0]
    except _REFUSALS as exc:
        raise ModelError(f"{path}: it cannot run on {list(shape)}: {exc}") from exc
    return tuple(given.shape) or (1,)
