"""The host at work: what comes over the control socket, a worker for each connection, one run after the other.

It loads one model, then forks a worker for each connection: the weights are there once, shared as copy-on-write pages,
and a model that crashes or hangs takes one worker along. A process with threads cannot be forked, and an accelerator's
driver does not live through it: with several threads, a provider or a delegate the process serves its connections
itself, one run at a time.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import mmap
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from agent.runtime.host import wire
from agent.runtime.host.engine import Engine
from agent.runtime.host.lite import Compiled, Lite
from agent.runtime.host.ort import Ort
from agent.runtime.host.walls import EVERYTHING, WRITE, die_with, die_with_parent, limit_memory, restrain, wall_off


def main(control: int, lifeline: int) -> None:
    """Serve; returns when the other side has hung up. Both are numbers of open descriptors."""
    die_with(lifeline)
    restrain({control, lifeline})
    Host(socket.socket(fileno=control)).serve()


class Host:
    """Answers what comes over the control socket: OPEN, LAYOUT, then CONNECT and ENDED as often as wanted."""

    _engine: Engine

    def __init__(self, control: socket.socket) -> None:
        self._control = control
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
        packet, descriptors = wire.receive(self._control)
        if len(packet) < wire.HEAD.size:
            return False
        kind, number = wire.HEAD.unpack_from(packet)
        try:
            body = self._done(kind, number, packet[wire.HEAD.size :], descriptors)
        except wire.Refused as exc:
            said = json.dumps({"missing": exc.missing, "text": str(exc)[:4000]}).encode()
            self._control.send(wire.HEAD.pack(wire.FAILED, number) + said)
        else:
            self._control.send(wire.HEAD.pack(wire.DONE, number) + body)
        return True

    def _done(self, kind: int, number: int, body: bytes, descriptors: list[int]) -> bytes:
        if kind == wire.OPEN:
            return self._open(json.loads(body), descriptors[0])
        if kind == wire.LAYOUT:
            self._layout = json.loads(body)
            self._engine.lay({p["tensor"]: tuple(p["shape"]) for p in self._layout["inputs"]})
            _give_back_freed_memory()
            gc.freeze()
            return json.dumps({"outputs": self._engine.outputs()}).encode()
        if kind == wire.CONNECT:
            self._connect(number, descriptors)
            return b""
        if kind == wire.ENDED:
            return struct.pack("<i", self._ended(number, body == b"\1"))
        raise wire.Refused(f"message of kind {kind} means nothing in protocol {wire.PROTOCOL}")

    def _open(self, order: dict[str, Any], model: int) -> bytes:
        if order["protocol"] != wire.PROTOCOL:
            raise wire.Refused(f"this host speaks protocol {wire.PROTOCOL}, it was asked for {order['protocol']}")
        self._forks = order["threads"] == 1 and not order["providers"] and not order["delegates"]
        if not order["providers"] and not order["delegates"]:  # whose drivers write to devices
            wall_off(WRITE)
        limit_memory(order["memory_bytes"])
        lite = Compiled if "cache" in order["prepared"] else Lite
        made = self._engine = (lite if order["runtime"] == "litert" else Ort)(f"/proc/self/fd/{model}", order)
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

    def _bound(self, memory: int) -> Callable[[], None]:
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


def answer(connection: socket.socket, run: Callable[[], None], refusals: tuple[type[Exception], ...]) -> bool:
    """Serve one run; False when the other side has hung up."""
    packet = connection.recv(wire.HEAD.size)
    if len(packet) < wire.HEAD.size:
        return False
    number = wire.HEAD.unpack(packet)[1]
    refused: tuple[type[Exception], ...] = (wire.Refused, *refusals)
    try:
        run()
    except refused as exc:
        connection.send(wire.HEAD.pack(wire.FAILED, number) + str(exc)[:4000].encode(errors="replace"))
    else:
        connection.send(wire.HEAD.pack(wire.DONE, number))
    return True


def _views(memory: mmap.mmap, ports: list[Any]) -> dict[str, Any]:
    """An array over each port's place in the shared memory, by the tensor's name."""
    made = {}
    for port in ports:
        count = math.prod(port["shape"])
        flat = np.frombuffer(memory, np.dtype(port["dtype"]), count, port["offset"])
        made[port["tensor"]] = flat.reshape(port["shape"])
    return made


def _give_back_freed_memory() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if trim is not None:
        trim(0)
