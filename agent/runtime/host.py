"""A model in a process of its own: `host.py CONTROL LIFELINE`, both numbers of open descriptors.

This file stands alone, on purpose: it is run by any Python from 3.8 on that has numpy and the vendor's runtime
(onnxruntime, ai_edge_litert or tflite_runtime), and imports nothing of the agent. docs/runner-host.md describes every
message byte by byte; `agent.runtime.remote` is the other side, and trusts nothing that comes from here.

It loads one model, then forks a worker for each connection: the weights are there once, shared as copy-on-write pages,
and a model that crashes or hangs takes one worker along. A process with threads cannot be forked, and an accelerator's
driver does not live through it: with several threads, a provider or a delegate the process serves its connections
itself, one run at a time. It ends by SIGKILL, sent by the kernel, when the last writer of LIFELINE is gone.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import math
import mmap
import os
import resource
import selectors
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

PROTOCOL = 1
OPEN, LAYOUT, CONNECT, ENDED, RUN, DONE, FAILED = 1, 2, 3, 4, 5, 16, 17
HEAD = struct.Struct("<II")
PACKET_BYTES = 1 << 17
SAID_BYTES = 1 << 20
"""Most that standard error and files may grow to: the agent reads the tail, nobody reads a gigabyte of complaints."""
_CPU = "CPUExecutionProvider"
_PACKAGES = (("ai_edge_litert.interpreter", "ai-edge-litert"), ("tflite_runtime.interpreter", "tflite-runtime"))
_ORT_DTYPES = {"float": "float32", "double": "float64"}
_F_SETSIG = 10
WRITE, EVERYTHING = 0x7FF3, 0x7FFF
"""Rights to files as landlock(7) counts them: to change and to run any, and to read them too."""


class Refused(Exception):  # noqa: N818  it is an answer, not a fault of this program
    """What the other side is told. `missing`: this Python has no runtime for such a file."""

    def __init__(self, text: str, missing: bool = False) -> None:
        super().__init__(text)
        self.missing = missing


class Ort:
    """A session of ONNX Runtime. `run` of what `bind` returns computes from and into the bound arrays."""

    def __init__(self, path: str, order: dict[str, Any]) -> None:
        try:
            import onnxruntime as ort
            from onnxruntime.capi import onnxruntime_pybind11_state as foreign
        except ImportError as exc:
            raise Refused(f"{sys.executable} has no onnxruntime: {exc}", missing=True) from exc
        kinds = [k for k in vars(foreign).values() if isinstance(k, type) and issubclass(k, Exception)]
        self.refusals: tuple[type[Exception], ...] = (*kinds, RuntimeError, ValueError, TypeError, MemoryError)
        # its own share no base of their own
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
        made: dict[str, Any] = {"name": node.name, "dtype": _ORT_DTYPES.get(inner, inner)}
        if node.shape is not None:
            made["shape"] = [n if isinstance(n, int) and n >= 0 else -1 for n in node.shape]
        return made

    def lay(self, shapes: dict[str, Any]) -> None:
        """Nothing to plan: a session takes the sizes of what it is fed."""

    def bind(self, ins: dict[str, Any], outs: dict[str, Any]) -> Any:
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


class Lite:
    """An interpreter of LiteRT, or of tflite-runtime where that is all there is."""

    refusals = (ValueError, RuntimeError, TypeError, MemoryError, OSError)

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

    def bind(self, ins: dict[str, Any], outs: dict[str, Any]) -> Any:
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

    def bind(self, ins: dict[str, Any], outs: dict[str, Any]) -> Any:
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


class Host:
    """Answers what comes over the control socket: OPEN, LAYOUT, then CONNECT and ENDED as often as wanted."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._engine: Any = None
        self._layout: dict[str, Any] = {}
        self._forks = True
        self._workers: dict[int, int] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)

    def serve(self) -> None:
        """Until the other side hangs up."""
        while True:
            for key, _ in self._selector.select():
                connection: Any = key.fileobj
                if connection is not self._control:
                    if not answer(connection, key.data, self._engine.refusals):
                        self._selector.unregister(connection)
                        connection.close()
                elif not self._obey():
                    return

    def _obey(self) -> bool:
        packet, descriptors = receive(self._control)
        if len(packet) < HEAD.size:
            return False
        kind, number = HEAD.unpack_from(packet)
        try:
            body = self._done(kind, number, packet[HEAD.size :], descriptors)
        except Refused as exc:
            said = json.dumps({"missing": exc.missing, "text": str(exc)[:4000]}).encode()
            self._control.send(HEAD.pack(FAILED, number) + said)
        else:
            self._control.send(HEAD.pack(DONE, number) + body)
        return True

    def _done(self, kind: int, number: int, body: bytes, descriptors: list[int]) -> bytes:
        if kind == OPEN:
            return self._open(json.loads(body), descriptors[0])
        if kind == LAYOUT:
            self._layout = json.loads(body)
            self._engine.lay({p["tensor"]: tuple(p["shape"]) for p in self._layout["inputs"]})
            _give_back_freed_memory()
            gc.freeze()
            return json.dumps({"outputs": self._engine.outputs()}).encode()
        if kind == CONNECT:
            self._connect(number, descriptors)
            return b""
        if kind == ENDED:
            return struct.pack("<i", self._ended(number, body == b"\1"))
        raise Refused(f"message of kind {kind} means nothing in protocol {PROTOCOL}")

    def _open(self, order: dict[str, Any], model: int) -> bytes:
        if order["protocol"] != PROTOCOL:
            raise Refused(f"this host speaks protocol {PROTOCOL}, it was asked for {order['protocol']}")
        self._forks = order["threads"] == 1 and not order["providers"] and not order["delegates"]
        if not order["providers"] and not order["delegates"]:  # whose drivers write to devices
            wall_off(WRITE)
        limit_memory(order["memory_bytes"])
        lite = Compiled if "cache" in order["prepared"] else Lite
        engine = lite if order["runtime"] == "litert" else Ort
        self._engine = made = engine(f"/proc/self/fd/{model}", order)
        os.close(model)
        told = {
            "runtime": made.runtime, "version": made.version, "used": list(made.used), "fallbacks": made.fallbacks,
            "python": ".".join(map(str, sys.version_info[:3])), "forks": self._forks, "inputs": made.inputs(),
        }  # fmt: skip
        return json.dumps(told).encode()

    def _connect(self, number: int, descriptors: list[int]) -> None:
        connection, memory = socket.socket(fileno=descriptors[0]), descriptors[1]
        if not self._forks:
            self._selector.register(connection, selectors.EVENT_READ, self._bound(memory))
            return
        parent, pid = os.getpid(), os.fork()
        if pid:
            self._workers[number] = pid
            connection.close()
            os.close(memory)
            return
        die_with_parent(parent)
        self._control.close()
        run = self._bound(memory)
        wall_off(EVERYTHING)
        while answer(connection, run, self._engine.refusals):
            pass
        os._exit(0)

    def _bound(self, memory: int) -> Any:
        held = mmap.mmap(memory, self._layout["bytes"])
        os.close(memory)
        return self._engine.bind(_views(held, self._layout["inputs"]), _views(held, self._layout["outputs"]))

    def _ended(self, number: int, hangs: bool) -> int:
        """The wait status of that connection's worker, which does not live on after this."""
        pid = self._workers.pop(number, 0)
        for _ in range(0 if hangs or not pid else 60):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return status
            time.sleep(0.005)  # it has hung up, and is about to end by itself
        if not pid:
            return 0
        os.kill(pid, signal.SIGKILL)
        return os.waitpid(pid, 0)[1]


def answer(connection: socket.socket, run: Any, refusals: tuple[type[Exception], ...]) -> bool:
    """Serve one run; False when the other side has hung up."""
    packet = connection.recv(HEAD.size)
    if len(packet) < HEAD.size:
        return False
    number = HEAD.unpack(packet)[1]
    try:
        run()
    except Refused as exc:
        connection.send(HEAD.pack(FAILED, number) + str(exc)[:4000].encode(errors="replace"))
    except refusals as exc:
        connection.send(HEAD.pack(FAILED, number) + str(exc)[:4000].encode(errors="replace"))
    else:
        connection.send(HEAD.pack(DONE, number))
    return True


def receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """One packet and the descriptors that came with it; an empty packet when the other side has hung up."""
    packet, ancillary, _, _ = connection.recvmsg(PACKET_BYTES, socket.CMSG_SPACE(16), socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return packet, list(descriptors)


def die_with(lifeline: int) -> None:
    """SIGKILL for this process group when the last writer of the pipe `lifeline` is gone; see fcntl(2), F_SETSIG.

    PR_SET_PDEATHSIG would come when the *thread* that started this process ends. This needs no look-out of our own,
    so it works in the middle of a call that hangs.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def die_with_parent(parent: int) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; the parent has one thread
    if os.getppid() != parent:
        os._exit(1)


def restrain(keep: set[int]) -> None:
    """Give up what a model has no need of: other descriptors, rights gained by exec, core dumps, big files.

    When memory runs out, this process goes and not the agent. What the kernel or the service's filter refuses is left
    out: each of these is one wall of several.
    """
    for open_one in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if open_one > 2 and open_one not in keep:
            os.closerange(open_one, open_one + 1)
    os.chdir("/")
    ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    for kind, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, SAID_BYTES)):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most, most))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def wall_off(rights: int) -> None:
    """No more of these `rights` to files, no TCP, and no signals to others, for this thread and what it forks.

    landlock(7): only what is opened from now on is meant, descriptors and mapped files stay. A kernel before 5.13 has
    no such wall, before 6.7 none for TCP, before 6.12 none for signals and abstract sockets.
    """
    libc = ctypes.CDLL(None)
    version = libc.syscall(444, None, 0, 1)
    if version < 1:
        return
    known = (1 << (13 if version < 2 else 14 if version < 3 else 15)) - 1  # REFER and TRUNCATE came later
    # BIND_TCP, CONNECT_TCP; SCOPE_ABSTRACT_UNIX_SOCKET, SCOPE_SIGNAL
    asked = struct.pack("<QQQ", rights & known, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    ruleset = libc.syscall(444, asked, 8 if version < 4 else 16 if version < 6 else 24, 0)
    if ruleset >= 0:
        libc.syscall(446, ruleset, 0)
        os.close(ruleset)


def limit_memory(size_bytes: int) -> None:
    if size_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (size_bytes, size_bytes))


def _views(memory: mmap.mmap, ports: list[Any]) -> dict[str, Any]:
    """An array over each port's place in the shared memory, by the tensor's name."""
    made = {}
    for port in ports:
        count = math.prod(port["shape"])
        flat = np.frombuffer(memory, np.dtype(port["dtype"]), count, port["offset"])
        made[port["tensor"]] = flat.reshape(port["shape"])
    return made


def _version(package: str) -> str:
    from importlib import metadata

    return metadata.version(package)


def _give_back_freed_memory() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if trim is not None:
        trim(0)


def main() -> None:
    """Never returns before the other side hangs up."""
    control, lifeline = int(sys.argv[1]), int(sys.argv[2])
    die_with(lifeline)
    restrain({control, lifeline})
    Host(socket.socket(fileno=control)).serve()


if __name__ == "__main__":
    main()
