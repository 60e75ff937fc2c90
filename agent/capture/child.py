"""A command in a process group of its own, whose output is read with deadlines, and which can always be killed.

Whatever can hang in a driver or on the network hangs in here, not in the agent. The command has no terminal and no
input; of what it says on standard error the tail is kept for the error message, secrets masked. It ends with the
agent (see `guard`). Nothing waits longer than it was told.
"""

import contextlib
import fcntl
import os
import re
import select
import selectors
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from agent.capture import guard
from agent.capture.source import Closing, EndOfStream
from agent.errors import CaptureError

_PIPE_BYTES = 1 << 20
_READ_BYTES = 1 << 16
_TAIL_BYTES = 2000
_KILL_WAIT_S = 2.0
_LOGIN = re.compile(r"//[^/@\s]*@")


def mask(text: str) -> str:
    """`text` without the user and password of any URL in it."""
    return _LOGIN.sub("//***@", text)


class Child(Closing):
    """A running command whose standard output is data."""

    def __init__(self, argv: Sequence[str], *, stop_grace_s: float = 1.0, may_end: bool = False) -> None:
        """Start `argv`. `may_end`: exit status 0 is the end of the recording. Raises CaptureError."""
        self.thing = mask(argv[0])
        self._may_end = may_end
        self._stop_grace_s = stop_grace_s
        self._tail = b""
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(guard.__file__)), str(os.getpid()), *argv],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
        except OSError as exc:
            raise CaptureError(f"{self.thing}: cannot be started: {exc.strerror}") from exc
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._out, self._err = self._process.stdout, self._process.stderr
        self._selector = selectors.DefaultSelector()
        for pipe in (self._out, self._err):
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ)
        self._widen()

    def read(self, timeout_s: float) -> bytes:
        """Some bytes of output, b"" when none came in time. Raises CaptureError or EndOfStream when it has ended."""
        buffer = bytearray(_READ_BYTES)
        return bytes(buffer[: self.read_into(memoryview(buffer), timeout_s)])

    def read_into(self, buffer: memoryview, timeout_s: float) -> int:
        """Like `read`, into `buffer`; returns how many bytes, 0 when none came in time."""
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._err:
                self._hear()
                continue
            try:
                count = os.readv(self._out.fileno(), [buffer])
            except BlockingIOError:
                continue
            if not count:
                raise self._ended()
            return count
        return 0

    def close(self) -> None:
        """Ask the whole group to stop, then kill it. Returns within the grace and a moment, come what may."""
        if self._process.returncode is not None:
            return
        self._selector.close()
        self._out.close()
        self._signal(signal.SIGTERM)
        # not reaped yet, the leader keeps the group's number from being given away
        self._wait_for_exit(self._stop_grace_s)
        self._signal(signal.SIGKILL)
        self._wait_for_exit(_KILL_WAIT_S)
        self._process.poll()
        self._err.close()

    def complaint(self) -> str:
        """The last lines of its standard error, masked, ready to stand behind an error message."""
        said = mask(self._tail.decode(errors="replace").strip())
        return f"; it said: {' | '.join(said.splitlines()[-5:])}" if said else ""

    @property
    def pid(self) -> int:
        """Process number; also that of its group."""
        return self._process.pid

    def _wait_for_exit(self, limit_s: float) -> None:
        pidfd = os.pidfd_open(self._process.pid)
        try:
            select.select([pidfd], [], [], limit_s)
        finally:
            os.close(pidfd)

    def _signal(self, number: signal.Signals) -> None:
        # nobody left, or all that is left runs under another user
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _hear(self) -> None:
        try:
            said = os.read(self._err.fileno(), _READ_BYTES)
        except BlockingIOError:
            return
        if not said and self._err in {key.fileobj for key in self._selector.get_map().values()}:
            self._selector.unregister(self._err)
        self._tail = (self._tail + said)[-_TAIL_BYTES:]

    def _ended(self) -> CaptureError:
        self._wait_for_exit(self._stop_grace_s)
        self._hear()
        status = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if status is None:
            return CaptureError(f"{self.thing}: closed its output but runs on{self.complaint()}")
        if status.si_status == 0 and self._may_end:
            return EndOfStream(f"{self.thing}: is over")
        how = f"signal {status.si_status}" if status.si_code != os.CLD_EXITED else f"status {status.si_status}"
        return CaptureError(f"{self.thing}: ended with {how}{self.complaint()}: run the command by hand to see why")

    def _widen(self) -> None:
        """A frame or two fit into the pipe: fewer turns per frame. A smaller pipe works too."""
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._out.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
