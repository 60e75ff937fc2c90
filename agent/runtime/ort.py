"""ONNX and ORT files by ONNX Runtime.

The file is given by path (creating a session from bytes holds the GIL and one copy more). An .ort file is mapped and
its weights are read where they lie; an .onnx file cannot be, ONNX Runtime parses it into private memory. Either way the
kernels keep a packed copy of the weights that they multiply with: without it they share everything and take 1.5 to 8
times as long. Prepared files hold the packed weights of dense layers, which are mapped then; those of convolutions are
not saved by ONNX Runtime and stay private. `malloc_trim` gives back what loading left over. A run reads its inputs
where they lie and gives arrays of its own, from as many threads as want to.
"""

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as foreign

from agent.errors import ModelError
from agent.manifest import Artifact, Manifest
from agent.records import Array, Tensors
from agent.runtime.contract import (
    Declared,
    Fallback,
    RunnerInfo,
    Slots,
    check_inputs,
    check_output,
    match_ports,
    reference,
    turn,
)
from agent.runtime.prepared import GRAPH, WEIGHTS, Prepared
from agent.settings.runtime import RuntimeOptions

_CPU = "CPUExecutionProvider"
_DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool",
    "tensor(int8)": "int8", "tensor(uint8)": "uint8", "tensor(int16)": "int16", "tensor(uint16)": "uint16",
    "tensor(int32)": "int32", "tensor(int64)": "int64",
}  # fmt: skip
_REFUSALS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(foreign).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError, ValueError, TypeError, MemoryError,
)  # fmt: skip
"""Its exceptions share no base class of their own, so they are gathered by name."""
_SAVING = {
    "optimized_model_external_initializers_file_name": WEIGHTS,
    "optimized_model_external_initializers_min_size_in_bytes": "1024",
    "save_external_prepacked_constant_initializers": "1",
}
"""What makes a session write its weights, packed ones included, into a file of their own."""
Load = Literal["plain", "mapped", "saved"]
"""An .onnx file, an .ort file, or the graph that `save_prepared` wrote."""


class OrtRunner:
    """An ONNX model; see `agent.runtime.contract.Runner` for what its methods promise."""

    def __init__(
        self, manifest: Manifest, artifact: Artifact, options: RuntimeOptions, path: Path, slots: Slots = None,
        notes: tuple[Fallback, ...] = (), prepared: Prepared | None = None,
    ) -> None:  # fmt: skip
        self._where = f"{manifest} ({artifact.file})"
        self._slots = slots
        self.inputs, self.outputs = manifest.inputs_of(artifact), manifest.outputs_of(artifact)
        providers, missing = _choose(options, self._where)
        if prepared is not None:
            path = prepared.files[GRAPH]
        load: Load = "saved" if prepared else "mapped" if artifact.format == "ort" else "plain"
        session, lost = _session(path, options, providers, self._where, load)
        match_ports(self._where, self.inputs, map(_declared, session.get_inputs()), all_of_them=True)
        match_ports(self._where, self.outputs, map(_declared, session.get_outputs()), all_of_them=False)
        self._by_name = {port.name: port for port in self.inputs}
        self._output_names = [port.graph_name for port in self.outputs]
        self._session: Any = session
        _give_back_freed_memory()
        self.info = RunnerInfo(
            reference(manifest, artifact), "onnxruntime", ort.__version__, tuple(session.get_providers()),
            (*notes, *missing, *lost), options.threads, prepared.recipe if prepared else "",
        )  # fmt: skip

    def run(self, inputs: Tensors) -> dict[str, Array]:
        check_inputs(self._where, self._by_name, inputs)
        session = self._session
        if session is None:
            raise ModelError(f"{self._where}: it is closed: open it again")
        feeds = {port.graph_name: inputs[port.name] for port in self.inputs}
        try:
            with turn(self._slots):
                # bound arrays would spare 2 microseconds of binding and cost a copy of every input
                made = session.run(self._output_names, feeds)
        except _REFUSALS as exc:
            raise ModelError(f"{self._where}: ONNX Runtime failed while running it: {exc}") from exc
        for port, array in zip(self.outputs, made, strict=True):
            check_output(self._where, port, array)
        return {port.name: array for port, array in zip(self.outputs, made, strict=True)}

    def close(self) -> None:
        self._session = None


def declared_ports(path: Path) -> tuple[tuple[Declared, ...], tuple[Declared, ...]]:
    """The inputs and outputs that the file declares. Raises ModelError."""
    session = _session_of_file(path)
    return tuple(map(_declared, session.get_inputs())), tuple(map(_declared, session.get_outputs()))


def answers(path: Path, inputs: Tensors) -> dict[str, Array]:
    """Every output for `inputs`, by the file's own names. Raises ModelError."""
    session = _session_of_file(path)
    names = [node.name for node in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))
    except _REFUSALS as exc:
        raise ModelError(f"{path}: ONNX Runtime failed while running it: {exc}") from exc


def save_prepared(path: Path, folder: Path, where: str) -> None:
    """Write the optimised graph of an .onnx file into `folder`, its weights beside it as they are and packed.

    Optimised in full: a graph saved at a lower level loses the layout of convolutions when it is loaded (1.2 to 1.3
    times as slow, measured). Raises ModelError.
    """
    options = _options(RuntimeOptions(), "plain")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(folder / GRAPH)
    for name, value in _SAVING.items():
        options.add_session_config_entry(f"session.{name}", value)
    try:
        ort.InferenceSession(str(path), options, providers=[_CPU])
    except _REFUSALS as exc:
        raise ModelError(f"{where}: ONNX Runtime cannot save it prepared: {exc}") from exc


def _choose(options: RuntimeOptions, where: str) -> tuple[list[str], list[Fallback]]:
    """The providers that this build has, best first, and those that it has not."""
    built = ort.get_available_providers()
    missing = [name for name in options.providers if name not in built]
    reason = f"this build of ONNX Runtime has only {', '.join(built)}"
    if missing and options.required:
        words = f"{where}: provider {missing[0]} is missing: {reason}"
        raise ModelError(f"{words}: install a build that has it, or set required = false to run on the CPU")
    chosen = [name for name in options.providers if name in built and name != _CPU]
    return [*chosen, _CPU], [Fallback(name, reason) for name in missing]


def _session(
    path: Path, options: RuntimeOptions, providers: list[str], where: str, load: Load
) -> tuple[Any, list[Fallback]]:
    """A session, and the providers that were there but would not take the model."""
    ort.set_default_logger_severity(4)  # its findings about a graph are for the publisher, not for a device's log
    try:
        session = ort.InferenceSession(str(path), _options(options, load), providers=providers)
    except _REFUSALS as exc:
        if providers == [_CPU] or options.required:
            reason = str(exc).replace(str(path), "the file")
            raise ModelError(f"{where}: ONNX Runtime refuses the model: {reason}") from exc
        session, _ = _session(path, options, [_CPU], where, load)
        return session, [Fallback(name, f"it refuses the model: {exc}") for name in providers if name != _CPU]
    lost = [name for name in providers if name not in session.get_providers()]
    if lost and options.required:
        raise ModelError(f"{where}: provider {lost[0]} does not start here: see its own log for its libraries")
    return session, [Fallback(name, "it does not start here; its own log names the library") for name in lost]


def _session_of_file(path: Path) -> Any:
    """A session on the CPU for a file that no manifest describes yet."""
    session, _ = _session(path, RuntimeOptions(), [_CPU], str(path), "mapped" if path.suffix == ".ort" else "plain")
    return session


def _options(options: RuntimeOptions, load: Load) -> Any:
    made = ort.SessionOptions()
    made.log_severity_level = 4
    made.intra_op_num_threads = options.threads
    made.inter_op_num_threads = 1
    made.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.spin_us else "0")
    if options.spin_us:
        made.add_session_config_entry("session.intra_op.spin_duration_us", str(options.spin_us))
    if load == "saved":  # the graph is optimised already; other levels would pack what lies there packed
        made.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if load == "mapped":
        made.add_session_config_entry("session.load_model_format", "ORT")
        made.add_session_config_entry("session.use_memory_mapped_ort_model", "1")
        made.add_session_config_entry("session.use_ort_model_bytes_for_initializers", "1")
    return made


def _declared(node: Any) -> Declared:
    shape = None if node.shape is None else tuple(n if isinstance(n, int) and n >= 0 else None for n in node.shape)
    return Declared(node.name, shape, _DTYPES.get(node.type, node.type))


def _give_back_freed_memory() -> None:
    """What loading freed stays with glibc otherwise: a third of a large model's memory, measured."""
    with contextlib.suppress(OSError, AttributeError):  # another C library has no malloc_trim, and no such habit
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
        trim(0)
