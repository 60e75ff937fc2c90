"""A model file in ONNX Runtime, with the providers of the order as far as this build has them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from agent.runtime.host.wire import Refused

_CPU = "CPUExecutionProvider"
_DTYPES = {"float": "float32", "double": "float64"}


class Ort:
    """A session of ONNX Runtime: reads and writes the bound arrays in their place."""

    def __init__(self, path: str, order: dict[str, Any]) -> None:
        try:
            import onnxruntime as ort
            from onnxruntime.capi import onnxruntime_pybind11_state as foreign
        except ImportError as exc:
            raise Refused(f"{sys.executable} has no onnxruntime: {exc}", missing=True) from exc
        # its exceptions share no base class of their own, so they are gathered by name
        kinds = [k for k in vars(foreign).values() if isinstance(k, type) and issubclass(k, Exception)]
        self.refusals: tuple[type[Exception], ...] = (*kinds, RuntimeError, ValueError, TypeError, MemoryError)
        self.runtime, self.version, self._ort = "onnxruntime", ort.__version__, ort
        self.fallbacks: list[tuple[str, str]] = []
        ort.set_default_logger_severity(4)
        providers = self._choose(order)
        self._session = self._open(order["prepared"].get("graph", path), order, providers)
        self.used = self._session.get_providers()

    def _choose(self, order: dict[str, Any]) -> list[str]:
        built = self._ort.get_available_providers()
        reason = "this build of ONNX Runtime has only " + ", ".join(built)
        missing = [name for name in order["providers"] if name not in built]
        if missing and order["required"]:
            raise Refused(
                f"provider {missing[0]} is missing: {reason}: install a build that has it, or set required = false"
            )
        self.fallbacks += [(name, reason) for name in missing]
        return [name for name in order["providers"] if name in built and name != _CPU] + [_CPU]

    def _open(self, path: str, order: dict[str, Any], providers: list[str]) -> Any:
        try:
            session = self._ort.InferenceSession(path, self._options(order), providers=providers)
        except self.refusals as exc:
            reason = str(exc).replace(path, "the file")
            if providers == [_CPU] or order["required"]:
                raise Refused(f"ONNX Runtime refuses the model: {reason}") from exc
            self.fallbacks += [(name, f"it refuses the model: {reason}") for name in providers if name != _CPU]
            return self._open(path, order, [_CPU])
        lost = [name for name in providers if name not in session.get_providers()]
        if lost and order["required"]:
            raise Refused(f"provider {lost[0]} does not start here: see its own log for its libraries")
        self.fallbacks += [(name, "it does not start here; its own log names the library") for name in lost]
        return session

    def _options(self, order: dict[str, Any]) -> Any:
        made = self._ort.SessionOptions()
        made.log_severity_level = 4
        made.intra_op_num_threads, made.inter_op_num_threads = order["threads"], 1
        entries = {"session.intra_op.allow_spinning": "1" if order["spin_us"] else "0"}
        if order["spin_us"]:
            entries["session.intra_op.spin_duration_us"] = str(order["spin_us"])
        if "graph" in order["prepared"]:  # it is optimised already; other levels would pack what lies there packed
            made.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if order["format"] == "ort":
            entries["session.load_model_format"] = "ORT"
            entries["session.use_memory_mapped_ort_model"] = "1"
            entries["session.use_ort_model_bytes_for_initializers"] = "1"
        for key, value in entries.items():
            made.add_session_config_entry(key, value)
        return made

    def inputs(self) -> list[dict[str, Any]]:
        return [self._declared(node) for node in self._session.get_inputs()]

    def outputs(self) -> list[dict[str, Any]]:
        return [self._declared(node) for node in self._session.get_outputs()]

    @staticmethod
    def _declared(node: Any) -> dict[str, Any]:
        inner = node.type[len("tensor(") : -1] if node.type.startswith("tensor(") else node.type
        made: dict[str, Any] = {"name": node.name, "dtype": _DTYPES.get(inner, inner)}
        if node.shape is not None:
            made["shape"] = [n if isinstance(n, int) and n >= 0 else -1 for n in node.shape]
        return made

    def lay(self, shapes: dict[str, Any]) -> None:
        """Nothing to plan: a session takes the sizes of what it is fed."""

    def bind(self, ins: dict[str, Any], outs: dict[str, Any]) -> Callable[[], None]:
        binding, session = self._session.io_binding(), self._session
        alias = self._ort.OrtValue.ortvalue_from_numpy
        bound = [(ins, outs)]  # kept: neither a value nor, before 1.24, a binding keeps alive what it was made from
        for name, held in ins.items():
            bound.append(alias(held))
            binding.bind_ortvalue_input(name, bound[-1])
        for name, held in outs.items():
            bound.append(alias(held))
            binding.bind_ortvalue_output(name, bound[-1])

        def run() -> None:
            assert bound
            session.run_with_iobinding(binding)

        return run
