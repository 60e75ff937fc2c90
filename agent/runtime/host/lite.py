"""A model file in LiteRT or tflite-runtime: as an interpreter, or compiled over a file of packed weights."""

from __future__ import annotations

import ctypes
import importlib
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from agent.runtime.host.wire import Refused

_PACKAGES = (("ai_edge_litert.interpreter", "ai-edge-litert"), ("tflite_runtime.interpreter", "tflite-runtime"))


class Lite:
    """An interpreter of LiteRT, or of tflite-runtime where that is all there is."""

    refusals: tuple[type[Exception], ...] = (ValueError, RuntimeError, TypeError, MemoryError, OSError)

    def __init__(self, path: str, order: dict[str, Any]) -> None:
        self.fallbacks: list[tuple[str, str]] = []
        self._module, self.runtime = self._library()
        self.version = _version(self.runtime)
        delegates = self._delegates(order)
        self._interpreter, used = self._open(path, order, delegates)
        self.used = [*used, *(["xnnpack"] if order["xnnpack"] else []), "cpu"]

    def _library(self) -> tuple[Any, str]:
        for name, package in _PACKAGES:
            try:
                return importlib.import_module(name), package
            except ImportError as exc:
                self.fallbacks.append((package, f"it cannot be imported: {exc}"))
        reasons = "; ".join(f"{asked}: {reason}" for asked, reason in self.fallbacks)
        raise Refused(f"{sys.executable} has no runtime for TFLite files: {reasons}", missing=True)

    def _delegates(self, order: dict[str, Any]) -> list[tuple[str, Any]]:
        loaded = []
        for path, options in order["delegates"]:
            try:
                ctypes.CDLL(path)  # names the reason, which the vendor's class loses when it fails
                loaded.append((path, self._module.load_delegate(path, options)))
            except (ValueError, OSError, RuntimeError) as exc:
                if order["required"]:
                    words = f"delegate {path} cannot be loaded: {exc}"
                    raise Refused(f"{words}: install it, or set required = false to run on the CPU") from exc
                self.fallbacks.append((path, f"it cannot be loaded: {exc}"))
        return loaded

    def _open(self, path: str, order: dict[str, Any], delegates: list[Any]) -> tuple[Any, list[str]]:
        kinds = self._module.OpResolverType
        resolver = kinds.AUTO if order["xnnpack"] else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        try:
            made = self._module.Interpreter(
                model_path=path,
                num_threads=order["threads"],
                experimental_delegates=[one for _, one in delegates] or None,
                experimental_op_resolver_type=resolver,
            )
        except SystemError as exc:
            words = f"{self.runtime} cannot work in {sys.executable}: {exc}"
            raise Refused(f"{words}: tflite-runtime needs numpy 1", missing=True) from exc
        except self.refusals as exc:
            if not delegates or order["required"]:
                raise Refused(f"{self.runtime} refuses the model: {exc}") from exc
            self.fallbacks += [(name, f"it refuses the model: {exc}") for name, _ in delegates]
            return self._open(path, order, [])
        return made, [name for name, _ in delegates]

    def inputs(self) -> list[dict[str, Any]]:
        return [self._declared(detail) for detail in self._interpreter.get_input_details()]

    def outputs(self) -> list[dict[str, Any]]:
        return [self._declared(detail) for detail in self._interpreter.get_output_details()]

    @staticmethod
    def _declared(detail: dict[str, Any]) -> dict[str, Any]:
        signature = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
        scales = detail["quantization_parameters"]["scales"]
        if len(scales) > 1:
            words = f"tensor '{detail['name']}' has {len(scales)} scales, one per channel"
            raise Refused(f"{words}: an input or output must have a single scale, convert the model again")
        scale, zero_point = detail["quantization"]
        if not math.isfinite(scale) or scale < 0:
            raise Refused(f"tensor '{detail['name']}' has scale {scale}, which means nothing: convert it again")
        return {
            "name": detail["name"], "shape": [max(-1, int(n)) for n in signature],
            "dtype": np.dtype(detail["dtype"]).name, "scale": float(scale), "zero_point": int(zero_point),
            "quantised": True,
        }  # fmt: skip

    def lay(self, shapes: dict[str, Any]) -> None:
        """Pin the dimensions that the file left open, plan the memory, refuse state that streams would share."""
        try:
            for detail in self._interpreter.get_input_details():
                if tuple(detail["shape"]) != shapes[detail["name"]]:
                    self._interpreter.resize_tensor_input(detail["index"], list(shapes[detail["name"]]), strict=True)
            self._interpreter.allocate_tensors()
        except self.refusals as exc:
            raise Refused(f"{self.runtime} cannot prepare it: {exc}: convert it again for LiteRT") from exc
        ops: list[dict[str, Any]] = getattr(self._interpreter, "_get_ops_details", list)()  # no public call tells
        if any(op["op_name"] == "VAR_HANDLE" for op in ops):
            words = "the graph keeps its state in variables of its own, which streams would share"
            raise Refused(f"{words}: export it with the state as inputs and outputs (tools/open_state.py)")

    def bind(self, ins: dict[str, Any], outs: dict[str, Any]) -> Callable[[], None]:
        lite = self._interpreter
        feeds = [(d["index"], ins[d["name"]]) for d in lite.get_input_details()]
        reads = [(d["name"], d["index"]) for d in lite.get_output_details() if d["name"] in outs]

        def run() -> None:
            for index, held in feeds:
                lite.set_tensor(index, held)
            lite.reset_all_variables()
            lite.invoke()
            for name, index in reads:
                made, held = lite.tensor(index)(), outs[name]  # looked at in its place: one copy less than get_tensor
                if made.shape != held.shape or made.dtype != held.dtype:
                    ours = f"{held.dtype} {list(held.shape)}"
                    words = f"output '{name}' came out as {made.dtype} {list(made.shape)}, the manifest says {ours}"
                    raise Refused(f"{words}: correct the manifest")
                held[...] = made

        return run


class Compiled(Lite):
    """LiteRT's compiled model, the only interface that takes a file of packed weights, and maps it.

    It holds Python's lock while it runs, which nobody waits for here. A plain interpreter tells of the tensors.
    """

    def __init__(self, path: str, order: dict[str, Any]) -> None:
        super().__init__(path, {**order, "xnnpack": False})
        try:
            from ai_edge_litert import compiled_model as lite
        except ImportError as exc:
            raise Refused(f"{sys.executable} has no LiteRT that maps packed weights: {exc}") from exc
        cpu = lite.CpuOptions(num_threads=order["threads"], xnnpack_weight_cache_path=order["prepared"]["cache"])
        how = lite.Options(hardware_accelerators=lite.HardwareAccelerator.CPU, cpu_options=cpu)
        try:
            self._model = lite.CompiledModel.from_file(path, options=how)
        except self.refusals as exc:
            raise Refused(f"LiteRT refuses the model with packed weights: {exc}") from exc
        self.used = ["xnnpack", "cpu"]

    def lay(self, shapes: dict[str, Any]) -> None:
        for detail in self._interpreter.get_input_details():
            if tuple(detail["shape"]) != shapes[detail["name"]]:
                raise Refused(f"'{detail['name']}' leaves its shape open, which packed weights cannot")
        super().lay(shapes)

    def bind(self, ins: dict[str, Any], outs: dict[str, Any]) -> Callable[[], None]:
        model, takes, gives = self._model, self._model.create_input_buffers(0), self._model.create_output_buffers(0)
        feeds = [(buffer, ins[name]) for buffer, name in self._named(takes, "inputs")]
        reads = [(buffer, outs[name]) for buffer, name in self._named(gives, "outputs") if name in outs]

        def run() -> None:
            for buffer, held in feeds:
                buffer.write(held)
            model.run_by_index(0, takes, gives)
            for buffer, held in reads:
                held[...] = buffer.read(held.size, held.dtype.type).reshape(held.shape)

        return run

    def _named(self, buffers: list[Any], side: str) -> list[tuple[Any, str]]:
        """The buffers, which come in the order of the signature, with the names that the graph has for them."""
        signature = self._model.get_signature_by_index(0)
        indices = self._interpreter._get_full_signature_list().get(signature["key"], {}).get(side, {})
        details = (*self._interpreter.get_input_details(), *self._interpreter.get_output_details())
        graph = {detail["index"]: detail["name"] for detail in details}
        return [(buffer, graph.get(indices.get(name), name)) for buffer, name in zip(buffers, signature[side])]  # noqa: B905


def _version(package: str) -> str:
    from importlib import metadata

    return metadata.version(package)
