"""TFLite files by LiteRT's compiled model, whose packed weights can lie in a file that is mapped.

Only this interface of LiteRT takes a weight cache. It is called through the C functions that LiteRT's library exports
(`litecalls`), not through its Python module, which holds Python's lock while the model runs (every other thread waits
for the whole of a run), prints two dozen lines and loads GPU libraries. So a model only runs this way where a child
process has run it so with the very same version, and its answers were those of the plain interpreter
(`agent.prepared`); with any other version it is loaded plainly.
"""

import ctypes
import threading
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from agent.errors import ModelError
from agent.manifest import Artifact, Manifest, Port
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
from agent.runtime.litecalls import Calls, Option, Quantised, TensorType, Value, given_away
from agent.runtime.prepared import installed_version
from agent.settings.runtime import RuntimeOptions

PACKAGE: Final = "ai-edge-litert"
_CPU: Final = 1
_ACCELERATORS, _LOGS, _WHOLE_NUMBER = 24, 25, 2
"""Tags of an environment's options, and of a value that is a whole number."""
_ERRORS_ONLY: Final = 3
_READ, _WRITE = 0, 1
_DTYPES: Final = {
    1: "float32", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8", 10: "float16", 11: "float64",
    17: "uint16",
}  # fmt: skip
_PER_TENSOR: Final = 1
Side = Literal["Input", "Output"]


@dataclass(frozen=True, slots=True)
class _Held:
    """A tensor that goes in or comes out, and the runtime's memory for it."""

    declared: Declared
    buffer: c_void_p
    size_bytes: int


class CompiledRunner:
    """A TFLite model with prepared weights; see `agent.runtime.contract.Runner` for what its methods promise."""

    def __init__(
        self, manifest: Manifest, artifact: Artifact, options: RuntimeOptions, path: Path, cache: Path,
        slots: Slots = None, notes: tuple[Fallback, ...] = (), recipe: str = "",
    ) -> None:  # fmt: skip
        """`cache`: XNNPACK's weight cache of this very model. One that is not there yet is made, where it may be."""
        self._where = f"{manifest} ({artifact.file})"
        self._lock = threading.Lock()
        self._slots = slots
        self.inputs, self.outputs = manifest.inputs_of(artifact), manifest.outputs_of(artifact)
        self._by_name = {port.name: port for port in self.inputs}
        self._calls = Calls(self._where)
        try:
            self._open(path, cache, options)
        except ModelError:
            self._calls.close()
            raise
        version = installed_version(PACKAGE)
        self.info = RunnerInfo(
            reference(manifest, artifact), PACKAGE, version, ("xnnpack", "cpu"), notes, options.threads, recipe,
        )  # fmt: skip

    def run(self, inputs: Tensors) -> dict[str, Array]:
        check_inputs(self._where, self._by_name, inputs)
        with self._lock, turn(self._slots):
            if self._calls.closed:
                raise ModelError(f"{self._where}: it is closed: open it again")
            for fed in self.inputs:
                self._write(self._ins[fed.graph_name], np.ascontiguousarray(inputs[fed.name]))
            self._calls(
                "RunCompiledModel", self._model, 0, len(self._ins), self._in_row, len(self._outs), self._out_row
            )
            raw = {port.name: self._read(port) for port in self.outputs}
        for port in self.outputs:
            check_output(self._where, port, raw[port.name])
        return raw

    def close(self) -> None:
        with self._lock:
            self._calls.close()

    def _open(self, path: Path, cache: Path, options: RuntimeOptions) -> None:
        calls = self._calls
        quiet = (Option * 2)(
            Option(_ACCELERATORS, Value(_WHOLE_NUMBER, _CPU)), Option(_LOGS, Value(_WHOLE_NUMBER, _ERRORS_ONLY))
        )
        environment = calls.made("CreateEnvironment", "DestroyEnvironment", 2, quiet)
        model = calls.made("CreateModelFromFile", "DestroyModel", environment, str(path).encode())
        how = calls.made("CreateOptions", "DestroyOptions")
        calls("SetOptionsHardwareAccelerators", how, _CPU)
        text = f"num_threads = {options.threads}\nweight_cache_file_path = {_quoted(self._where, cache)}\n"
        calls("AddOpaqueOptions", how, calls.got("CreateOpaqueOptions", b"xnnpack", *given_away(text)))
        self._model = calls.made("CreateCompiledModel", "DestroyCompiledModel", environment, model, how)
        self._ins, self._outs = (self._tensors(environment, model, side) for side in ("Input", "Output"))
        match_ports(self._where, self.inputs, (held.declared for held in self._ins.values()), all_of_them=True)
        match_ports(self._where, self.outputs, (held.declared for held in self._outs.values()), all_of_them=False)
        self._refuse_open_shapes()
        self._in_row = (c_void_p * len(self._ins))(*(held.buffer for held in self._ins.values()))
        self._out_row = (c_void_p * len(self._outs))(*(held.buffer for held in self._outs.values()))

    def _tensors(self, environment: c_void_p, model: c_void_p, side: Side) -> dict[str, _Held]:
        """The tensors of one side by their names in the graph, in its order."""
        calls = self._calls
        signature, count, found = calls.got("GetModelSignature", model, 0), c_size_t(), {}
        calls(f"GetNumSignature{side}s", signature, byref(count))
        for number in range(count.value):
            tensor = calls.got(f"GetSignature{side}TensorByIndex", signature, number)
            kind, size = TensorType(), c_size_t()
            calls("GetRankedTensorType", tensor, byref(kind))
            needs = calls.got(f"GetCompiledModel{side}BufferRequirements", self._model, 0, number)
            make = "CreateManagedTensorBufferFromRequirements"
            buffer = calls.made(make, "DestroyTensorBuffer", environment, byref(kind), needs)
            calls("GetTensorBufferPackedSize", buffer, byref(size))
            declared = _declared(calls, tensor, kind)
            found[declared.name] = _Held(declared, buffer, size.value)
        return found

    def _refuse_open_shapes(self) -> None:
        ins = [(port, self._ins[port.graph_name]) for port in self.inputs]
        for port, held in (*ins, *((port, self._outs[port.graph_name]) for port in self.outputs)):
            if held.declared.shape != port.shape or held.size_bytes != np.zeros(port.shape, port.dtype).nbytes:
                raise ModelError(f"{self._where}: '{port.name}' leaves its shape open, which prepared files cannot")

    def _write(self, held: _Held, array: Array) -> None:
        address = self._calls.got("LockTensorBuffer", held.buffer, last=_WRITE)
        ctypes.memmove(address, array.ctypes.data, held.size_bytes)
        self._calls("UnlockTensorBuffer", held.buffer)

    def _read(self, port: Port) -> Array:
        held = self._outs[port.graph_name]
        address = self._calls.got("LockTensorBuffer", held.buffer, last=_READ)
        array = np.empty(port.shape, port.dtype)
        ctypes.memmove(array.ctypes.data, address, held.size_bytes)
        self._calls("UnlockTensorBuffer", held.buffer)
        return array


def _quoted(where: str, path: Path) -> str:
    """The path as LiteRT's options have it: its reader of them knows quotes, and nothing that is escaped in them.

    Raises ModelError for what would end the quotes, or the line.
    """
    if not str(path).isprintable() or set(str(path)) & {'"', "\\"}:
        words = f"{str(path)!r} has a quote, a backslash or a character that cannot be seen, which LiteRT does not take"
        raise ModelError(f"{where}: {words}: choose another folder in [models] prepared")
    return f'"{path}"'


def _declared(calls: Calls, tensor: c_void_p, kind: TensorType) -> Declared:
    name, quantisation, step = c_char_p(), c_int(), Quantised()
    calls("GetTensorName", tensor, byref(name))
    calls("GetQuantizationTypeId", tensor, byref(quantisation))
    if quantisation.value == _PER_TENSOR:
        calls("GetPerTensorQuantization", tensor, byref(step))
    elif quantisation.value:
        raise ModelError(f"tensor '{_text(name)}' has one scale per channel, a port needs a single one")
    sizes = tuple(None if n < 0 else n for n in kind.layout.dimensions[: kind.layout.rank])
    dtype = _DTYPES.get(kind.element, f"element type {kind.element}")
    return Declared(_text(name), sizes, dtype, step.scale, step.zero_point, True)


def _text(name: c_char_p) -> str:
    return (name.value or b"").decode(errors="replace")
