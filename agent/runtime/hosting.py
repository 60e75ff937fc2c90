"""The process that `host/` runs in: started with nothing but what it needs, asked with deadlines, always killed.

Owns the descriptors that hold it: the control socket, the lifeline (a pipe whose last writer is this process: when it
goes, the kernel kills the host and its workers), and the file that its complaints go to, whose size is limited. What
comes back is bytes of bounded length, to be checked by who asked. docs/runner-host.md describes the messages.
"""

import array
import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from agent.errors import ModelError
from agent.runtime.host import wire

_PROGRAM = Path(wire.__file__).with_name("__main__.py")
_KILL_WAIT_S = 5.0
_ENDED_WAIT_S = 2.0
_LAST_WORDS_S = 0.3
_TAIL_BYTES = 2000
_PASSED_ON = ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
"""What a vendor's runtime may need of the environment; everything else stays here."""


class LostError(ModelError):
    """The host is gone, or says nothing any more, or what it says makes no sense."""


class RefusedError(ModelError):
    """The host's answer: it cannot do that. `body` is what it said."""

    def __init__(self, body: bytes) -> None:
        super().__init__("refused")
        self.body = body


class Hosting:
    """One running host. One thread at a time may ask it."""

    def __init__(self, python: Path | None) -> None:
        """Start the host in `python`, or in the one that runs this. Raises LostError when there is no such program."""
        self.python = str(python or sys.executable)
        self._number, self._heard, self._words, self._open = 0, 0, "", True
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        alive, self._lifeline = os.pipe()
        self._said = os.memfd_create("host-says", os.MFD_CLOEXEC)
        fcntl.fcntl(self._said, fcntl.F_SETFL, os.O_APPEND)
        self._control = ours
        try:
            self._process = subprocess.Popen(
                [self.python, "-I", str(_PROGRAM), str(theirs.fileno()), str(alive)],
                stdin=subprocess.DEVNULL, stdout=self._said, stderr=self._said, start_new_session=True, cwd="/",
                env=_environment(), pass_fds=(theirs.fileno(), alive),
            )  # fmt: skip
        except OSError as exc:
            self._let_go()
            raise LostError(f"{self.python} cannot be started: {exc.strerror}: correct the key 'python'") from exc
        finally:
            theirs.close()
            os.close(alive)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, kind: int, body: bytes, limit_s: float, descriptors: Sequence[int] = ()) -> bytes:
        """Send a message, return the answer's body. Raises RefusedError, and LostError also when the limit passes."""
        self._number += 1
        packet = wire.HEAD.pack(kind, self._number) + body
        answer = self._asked(packet, limit_s, descriptors)
        self._heard = self._size()
        return answer

    def connect(self, connection: socket.socket, memory: int, limit_s: float) -> int:
        """Give the host one end of a connection and the memory for its tensors; returns the connection's number."""
        self.ask(wire.CONNECT, b"", limit_s, (connection.fileno(), memory))
        return self._number

    def ended(self, number: int, *, hangs: bool) -> str:
        """See to it that the worker of connection `number` has ended, and say how: it alone, or the whole host.

        Raises LostError when the host is gone with it; then it is closed, too.
        """
        try:
            body = self._asked(wire.HEAD.pack(wire.ENDED, number) + bytes([hangs]), _ENDED_WAIT_S, ())
        except ModelError:
            raise LostError(self.end()) from None
        status = struct.unpack("<i", body)[0] if len(body) == 4 else 0
        try:
            how = _in_words(os.waitstatus_to_exitcode(status))
        except ValueError:  # it says what no process that has ended leaves
            how = f"ended, it is said, with {status}"
        return f"{how}{self._complaint()}"

    def end(self) -> str:
        """Close it after it has hung up or made no sense: how it ended, perhaps by itself, and what it said last."""
        if self._open:
            pidfd = os.pidfd_open(self._process.pid)
            select.select([pidfd], [], [], _LAST_WORDS_S)
            os.close(pidfd)
        self.close()
        return f"{_in_words(self._process.returncode)}{self._words}"

    def close(self) -> None:
        """Kill the host and its workers. A second close does nothing."""
        if self._open:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # not reaped yet, it keeps the group's number
            with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the kernel, and dies when it leaves that
                self._process.wait(_KILL_WAIT_S)
            self._words = self._complaint()
            self._let_go()

    def _asked(self, packet: bytes, limit_s: float, descriptors: Sequence[int]) -> bytes:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        number = wire.HEAD.unpack_from(packet)[1]
        try:
            self._control.settimeout(limit_s)
            self._control.sendmsg([packet], rights)
            answer = self._control.recv(wire.PACKET_BYTES)
        except TimeoutError as exc:
            raise LostError(f"said nothing for {limit_s:g} s") from exc
        except OSError as exc:
            raise LostError(f"cannot be reached: {exc.strerror}") from exc
        return body_of(answer, number)

    def _size(self) -> int:
        """Of what it wrote to standard error, bytes."""
        return os.fstat(self._said).st_size

    def _complaint(self) -> str:
        """The last lines that it wrote since it answered last, ready to stand behind an error message."""
        said = os.pread(self._said, _TAIL_BYTES, max(self._heard, self._size() - _TAIL_BYTES)).decode(errors="replace")
        lines = ["".join(c for c in line if c.isprintable()) for line in said.splitlines() if line.strip()]
        return f"; it said: {' | '.join(lines[-3:])}" if lines else ""

    def _let_go(self) -> None:
        self._open = False
        self._control.close()
        os.close(self._lifeline)
        os.close(self._said)


def body_of(answer: bytes, number: int) -> bytes:
    """The body of an answer to message `number`. Raises RefusedError, or LostError when it is no answer to that."""
    if not answer:
        raise LostError("hung up")
    if len(answer) < wire.HEAD.size:
        raise LostError("gave an answer that means nothing")
    kind, answered = wire.HEAD.unpack_from(answer)
    if answered != number or kind not in (wire.DONE, wire.FAILED):
        raise LostError("gave an answer that means nothing")
    if kind == wire.FAILED:
        raise RefusedError(answer[wire.HEAD.size :])
    return answer[wire.HEAD.size :]


def _environment() -> dict[str, str]:
    """No secrets; one thread for numpy's own arithmetic, which a host never uses."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {"LANG": "C.UTF-8", "HOME": "/", "OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1", **kept}


def _in_words(status: int | None) -> str:
    if status is None:
        return "cannot be killed"
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"ended with {signal.Signals(-status).name}"
    except ValueError:
        return f"ended with signal {-status}"
