"""One connection to a host: the memory that both share, and a socket that says whose turn it is.

This side makes the memory, seals its size (the other side cannot take pages away under our hands) and decides where
each tensor lies. A run is eight bytes there and eight bytes back, or the reason why not; see docs/runner-host.md.
"""

import fcntl
import math
import mmap
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.manifest import Port
from agent.records import Array, Tensors
from agent.runtime.host import wire
from agent.runtime.hosting import Hosting, LostError, RefusedError, body_of

_ALIGN_BYTES = 64
"""A cache line, and what vector units want."""
_CONNECT_S = 10.0
_ANSWER_BYTES = 4096 + wire.HEAD.size


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each port's tensor lies in the memory: bytes from its start."""

    inputs: tuple[tuple[Port, int], ...]
    outputs: tuple[tuple[Port, int], ...]
    size_bytes: int

    @classmethod
    def of(cls, inputs: Iterable[Port], outputs: Iterable[Port]) -> "Layout":
        """One after the other, each on a cache line of its own."""
        end = 0
        placed: list[list[tuple[Port, int]]] = [[], []]
        for side, ports in zip(placed, (inputs, outputs), strict=True):
            for port in ports:
                side.append((port, end))
                end += -(-port.nbytes // _ALIGN_BYTES) * _ALIGN_BYTES
        return cls(tuple(placed[0]), tuple(placed[1]), max(end, _ALIGN_BYTES))

    def fields(self) -> dict[str, Any]:
        """The body of a LAYOUT message."""
        return {"inputs": _fields(self.inputs), "outputs": _fields(self.outputs), "bytes": self.size_bytes}


class Connection:
    """A worker's other end. One thread at a time may use it."""

    def __init__(self, hosting: Hosting, layout: Layout, deadline_s: float) -> None:
        """Raises LostError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        memory = os.memfd_create("tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(memory, layout.size_bytes)
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            held = mmap.mmap(memory, layout.size_bytes)
            self.number = hosting.connect(theirs, memory, _CONNECT_S)
            self.hosting = hosting
        except RefusedError as exc:
            ours.close()
            raise LostError("takes no connection") from exc
        except LostError:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(memory)
        seconds = int(deadline_s)
        limit = struct.pack("@ll", seconds, int((deadline_s - seconds) * 1e6))
        for side in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):  # saves the poll() of Python's own timeout
            ours.setsockopt(socket.SOL_SOCKET, side, limit)  # who answers without reading would fill the way there
        self._socket, self._deadline_s, self._turn = ours, deadline_s, 0
        self._ins = {port.name: _view(held, port, at) for port, at in layout.inputs}
        self._outs = {port.name: _view(held, port, at) for port, at in layout.outputs}

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Checked inputs -> outputs, the caller's own. Raises RefusedError; LostError after which it is of no use."""
        for name, view in self._ins.items():
            np.copyto(view, inputs[name])
        self._turn = self._turn % 0xFFFFFFFF + 1
        try:
            self._socket.send(wire.HEAD.pack(wire.RUN, self._turn))
            answer = self._socket.recv(_ANSWER_BYTES)
        except BlockingIOError as exc:
            raise HungError(f"a run took longer than {self._deadline_s:g} s") from exc
        except OSError as exc:
            raise LostError(f"cannot be reached: {exc.strerror}") from exc
        body_of(answer, self._turn)
        return {name: _own(view) for name, view in self._outs.items()}

    def close(self) -> None:
        """Hang up: the worker ends."""
        self._socket.close()
        self._ins, self._outs = {}, {}


class HungError(LostError):
    """A run has passed its deadline."""


def _own(view: Array) -> Array:
    """A copy. A byte that is neither 0 nor 1 makes no bool."""
    return view.view(np.uint8) != 0 if view.dtype == np.bool_ else view.copy()


def _view(memory: mmap.mmap, port: Port, at: int) -> Array:
    return np.frombuffer(memory, np.dtype(port.dtype), math.prod(port.shape), at).reshape(port.shape)


def _fields(placed: Iterable[tuple[Port, int]]) -> list[dict[str, Any]]:
    return [{"tensor": p.graph_name, "dtype": p.dtype, "shape": list(p.shape), "offset": at} for p, at in placed]
