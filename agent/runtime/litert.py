"""TFLite files by LiteRT's classic Interpreter, or by tflite-runtime where LiteRT cannot be imported.

The file is given by path, so it is memory-mapped: without XNNPACK the weights stay shared file pages, with XNNPACK
(2 to 13 times faster) they are packed into private memory besides. The interpreter is not thread-safe: one run at a
time, under a lock; `invoke` releases the GIL. Recurrent operators keep their state inside the interpreter: it is set
back before every run, and graphs whose variables cannot be set back are refused. tflite-runtime 2.14 imports under
numpy 2 and then fails when an interpreter is built, so what counts is the building, not the import.
"""

import ctypes
import importlib
import math
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import ModelError
from agent.manifest import Artifact, Manifest
from agent.records import Array, Tensors
from agent.runtime.contract import (
    Declared,
    Fallback,
    RunnerInfo,
    RuntimeMissingError,
    Slots,
    check_inputs,
    check_output,
    match_ports,
    reference,
    turn,
)
from agent.runtime.prepared import installed_version
from agent.settings.runtime import DelegateOptions, RuntimeOptions

_PACKAGES = (("ai_edge_litert.interpreter", "ai-edge-litert"), ("tflite_runtime.interpreter", "tflite-runtime"))
_REFUSALS = (ValueError, RuntimeError, TypeError, MemoryError, OSError)
_MOST_WORDS = 240
"""Characters of what the runtime says about a file."""


class LiteRunner:
    """A TFLite model; see `agent.runtime.contract.Runner` for what its methods promise."""

    def __init__(
        self, manifest: Manifest, artifact: Artifact, options: RuntimeOptions, path: Path, slots: Slots = None,
        notes: tuple[Fallback, ...] = (),
    ) -> None:  # fmt: skip
        self._where = f"{manifest} ({artifact.file})"
        self._lock = threading.Lock()
        self._slots = slots
        self.inputs, self.outputs = manifest.inputs_of(artifact), manifest.outputs_of(artifact)
        module, package, fallbacks = _library()
        delegates, more = _delegates(module, options, self._where)
        self._interpreter, used, reasons = _build(module, path, options, delegates, self._where)
        ins = self._interpreter.get_input_details()
        match_ports(self._where, self.inputs, (_declared(d, self._where) for d in ins), all_of_them=True)
        self._by_name = {port.name: port for port in self.inputs}
        self._feeds = _indices(ins, {port.graph_name: port.name for port in self.inputs})
        now = {detail["index"]: tuple(detail["shape"].tolist()) for detail in ins}
        pinned = {self._feeds[p.name]: p.shape for p in self.inputs if now[self._feeds[p.name]] != p.shape}
        _allocate(self._interpreter, pinned, self._where)
        _refuse_variables(self._interpreter, self._where)
        outs = self._interpreter.get_output_details()  # custom operators tell their shapes only now
        match_ports(self._where, self.outputs, (_declared(d, self._where) for d in outs), all_of_them=False)
        self._reads = _indices(outs, {port.graph_name: port.name for port in self.outputs})
        self.info = RunnerInfo(
            reference(manifest, artifact), package, installed_version(package), used,
            (*notes, *fallbacks, *more, *reasons), options.threads,
        )  # fmt: skip

    def run(self, inputs: Tensors) -> dict[str, Array]:
        check_inputs(self._where, self._by_name, inputs)
        with self._lock, turn(self._slots):  # in this order: who waits for the model holds no slot
            if self._interpreter is None:
                raise ModelError(f"{self._where}: it is closed: open it again")
            try:
                for name, index in self._feeds.items():
                    self._interpreter.set_tensor(index, inputs[name])
                self._interpreter.reset_all_variables()  # 0.7 µs
                self._interpreter.invoke()
                raw = {port.name: self._interpreter.get_tensor(self._reads[port.name]) for port in self.outputs}
            except _REFUSALS as exc:
                raise ModelError(f"{self._where}: {self.info.runtime} failed while running it: {exc}") from exc
        for port in self.outputs:
            check_output(self._where, port, raw[port.name])
        return raw

    def close(self) -> None:
        with self._lock:
            self._interpreter = None


def preload() -> None:
    """Import the foreign package now. Raises RuntimeMissingError."""
    _library()


def declared_ports(path: Path) -> tuple[tuple[Declared, ...], tuple[Declared, ...]]:
    """The inputs and outputs that the file declares. Raises ModelError."""
    module, _, _ = _library()
    interpreter, _, _ = _build(module, path, RuntimeOptions(xnnpack=False), [], str(path))
    _allocate(interpreter, {}, str(path))
    try:
        ins, outs = interpreter.get_input_details(), interpreter.get_output_details()
    except _REFUSALS as exc:  # a damaged name is no UTF-8
        raise ModelError(f"{path}: its ports cannot be read: {exc}: the file is damaged, copy it again") from exc
    return tuple(_declared(d, str(path)) for d in ins), tuple(_declared(d, str(path)) for d in outs)


def answers(path: Path, inputs: Tensors) -> dict[str, Array]:
    """Every output for `inputs`, by the file's own names. Raises ModelError."""
    module, _, _ = _library()
    interpreter, _, _ = _build(module, path, RuntimeOptions(xnnpack=False), [], str(path))
    places = {detail["name"]: detail["index"] for detail in interpreter.get_input_details()}
    _allocate(interpreter, {places[name]: array.shape for name, array in inputs.items()}, str(path))
    try:
        for name, array in inputs.items():
            interpreter.set_tensor(places[name], array)
        interpreter.invoke()
    except _REFUSALS as exc:
        raise ModelError(f"{path}: {module.__name__} failed while running it: {exc}") from exc
    return {detail["name"]: interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()}


def _library() -> tuple[Any, str, tuple[Fallback, ...]]:
    """The module, its package and why an earlier choice was not possible. Raises RuntimeMissingError."""
    failed: list[Fallback] = []
    for name, package in _PACKAGES:
        try:
            return importlib.import_module(name), package, tuple(failed)
        except ImportError as exc:
            failed.append(Fallback(package, f"it cannot be imported: {exc}"))
    reasons = "; ".join(f"{f.asked}: {f.reason}" for f in failed)
    raise RuntimeMissingError(f"no runtime for TFLite files: {reasons}: install ai-edge-litert")


def _delegates(
    module: Any, options: RuntimeOptions, where: str
) -> tuple[list[tuple[DelegateOptions, Any]], list[Fallback]]:
    loaded, failed = [], []
    for delegate in options.delegates:
        try:
            ctypes.CDLL(str(delegate.path))  # names the reason, which the vendor's class loses when it fails
            loaded.append((delegate, module.load_delegate(str(delegate.path), dict(delegate.options))))
        except (ValueError, OSError, RuntimeError) as exc:
            if options.required:
                words = f"{where}: delegate {delegate.path} cannot be loaded: {exc}"
                raise ModelError(f"{words}: install it, or set required = false to run on the CPU") from exc
            failed.append(Fallback(str(delegate.path), f"it cannot be loaded: {exc}"))
    return loaded, failed


def _build(
    module: Any, path: Path, options: RuntimeOptions, delegates: list[tuple[DelegateOptions, Any]], where: str
) -> tuple[Any, tuple[str, ...], list[Fallback]]:
    """The interpreter, what it uses, and what it could not use. A delegate that refuses the graph is left out."""
    names = tuple(str(option.path) for option, _ in delegates)
    try:
        made = _interpreter(module, path, options, [loaded for _, loaded in delegates])
    except SystemError as exc:
        words = f"{where}: {module.__name__} cannot work in this Python: {exc}"
        raise RuntimeMissingError(f"{words}: tflite-runtime needs numpy 1, see docs/dependencies.md") from exc
    except _REFUSALS as exc:
        if not delegates or options.required:
            words = f"{where}: {module.__name__} refuses the model: {_said(exc)}"
            raise ModelError(f"{words}: convert it again for LiteRT, or take another") from exc
        made, used, _ = _build(module, path, options, [], where)
        return made, used, [Fallback(name, f"it refuses the model: {exc}") for name in names]
    return made, (*names, *(("xnnpack",) if options.xnnpack else ()), "cpu"), []


def _interpreter(module: Any, path: Path, options: RuntimeOptions, delegates: Iterable[Any]) -> Any:
    resolver = module.OpResolverType.AUTO
    if not options.xnnpack:
        resolver = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return module.Interpreter(
        model_path=str(path),
        num_threads=options.threads,
        experimental_delegates=list(delegates) or None,
        experimental_op_resolver_type=resolver,
    )


def _allocate(interpreter: Any, pinned: Mapping[int, tuple[int, ...]], where: str) -> None:
    """Pin the dimensions that the file left open (tensor index -> shape), then plan the memory. Raises ModelError."""
    try:
        for index, shape in pinned.items():
            interpreter.resize_tensor_input(index, list(shape), strict=True)
        interpreter.allocate_tensors()
    except _REFUSALS as exc:
        raise ModelError(f"{where}: LiteRT cannot prepare it: {_said(exc)}: convert it again for LiteRT") from exc


def _said(exc: Exception) -> str:
    """What the runtime said, in one line: it tells the same of every tensor."""
    words = " ".join(str(exc).split())
    return words.rstrip(".") if len(words) <= _MOST_WORDS else f"{words[:_MOST_WORDS].rsplit(' ', 1)[0]} ..."


def _refuse_variables(interpreter: Any, where: str) -> None:
    """Resource variables live as long as the interpreter, and nothing sets them back. Raises ModelError."""
    ops: list[dict[str, Any]] = getattr(interpreter, "_get_ops_details", list)()  # no public call tells
    if any(op["op_name"] == "VAR_HANDLE" for op in ops):
        words = f"{where}: the graph keeps its state in variables of its own, which streams would share"
        raise ModelError(f"{words}: export it with the state as inputs and outputs (tools/open_state.py)")


def _indices(details: Iterable[dict[str, Any]], names: Mapping[str, str]) -> dict[str, int]:
    """Port name -> index of its tensor; `names` maps graph names to port names."""
    return {names[detail["name"]]: detail["index"] for detail in details if detail["name"] in names}


def _declared(detail: dict[str, Any], where: str) -> Declared:
    signature = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
    shape = tuple(None if n < 0 else int(n) for n in signature)
    scales = detail["quantization_parameters"]["scales"]
    if len(scales) > 1:
        raise ModelError(
            f"{where}: tensor '{detail['name']}' has {len(scales)} scales, one per channel: "
            "an input or output must have a single scale, convert the model again"
        )
    scale, zero_point = detail["quantization"]
    if not math.isfinite(scale) or scale < 0:
        raise ModelError(f"{where}: tensor '{detail['name']}' has scale {scale}, which means nothing: convert it again")
    return Declared(detail["name"], shape, np.dtype(detail["dtype"]).name, float(scale), int(zero_point), True)
