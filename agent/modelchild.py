"""Children that look at a model for this process: a module of the agent, run in a process group of its own.

A model is data that native code parses: it may crash its process, hang it or eat its memory. Owns what such a child is
given (this very code, one thread for arithmetic, nothing of the environment but what it needs), its end (with its
process group, at its deadline or with its parent), and how it tells: lines of JSON on what was its standard output, for
native libraries print where they like. What the lines mean is the business of parent and child.

A model that takes its process over may leave the process group and live on, as the same user: the control group of the
unit, which systemd kills as a whole, is what ends that.
"""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_PASSED_ON: Final = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH")
_QUIET: Final = {
    "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}  # fmt: skip
"""Arenas and threads that are never used would count as memory of the model."""
_PARENT_GONE: Final = 1  # PR_SET_PDEATHSIG
_SAID_BYTES: Final = 1 << 20
"""Most that is kept of what a child tells."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a child."""

    said: bytes
    """What it told, the first megabyte."""
    status: int | None
    """As `subprocess` says it, below 0 the signal; None: it was killed at its deadline."""

    @property
    def how(self) -> str:
        """Its end in words: "with SIGSEGV", "with status 3"."""
        if self.status is None:
            return "at its deadline"
        named = {-one.value: one.name for one in signal.Signals}
        return f"with {named.get(self.status, f'signal {-self.status}')}" if self.status < 0 else (
            f"with status {self.status}")


def run_child(
    module: str, task: str, time_s: float, *, passed_on: Sequence[str] = (), become: Mapping[str, Any] | None = None
) -> Ended:
    """Run `python -P -m module task` for at most `time_s` seconds; its process group is gone when this returns.

    `passed_on`: variables of the environment that it needs besides the usual ones. `become`: user and groups, as
    `subprocess.Popen` takes them. Raises OSError when it cannot be started.
    """
    names = (*_PASSED_ON, *passed_on)
    environment = {name: os.environ[name] for name in names if name in os.environ} | _QUIET
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", module, task], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, env=environment | {"PYTHONPATH": import_path()}, start_new_session=True, cwd="/",
        **(become or {}),
    )  # fmt: skip
    with child:
        try:
            said, in_time = _heard(child, time.monotonic() + time_s)
        finally:
            _kill(child)  # what it started dies with it, and so does it when we are interrupted
    return Ended(said, child.returncode if in_time else None)


def _heard(child: "subprocess.Popen[bytes]", until_s: float) -> tuple[bytes, bool]:
    """What the child tells until it ends, and whether that was in time.

    Its own end counts and not that of the pipe: who left its process group may hold that open, or write without end.
    """
    assert child.stdout is not None
    pipe, process, said = child.stdout.fileno(), os.pidfd_open(child.pid), bytearray()
    os.set_blocking(pipe, False)
    waited = [pipe, process]
    try:
        while (left_s := until_s - time.monotonic()) > 0:
            ready, _, _ = select.select(waited, [], [], left_s)
            over = process in ready
            while pipe in ready and (more := _read(pipe)) is not None:
                said += more[: _SAID_BYTES - len(said)]
                if not more:
                    waited.remove(pipe)  # it has closed it, and may go on all the same
                if not more or not over or len(said) >= _SAID_BYTES:
                    break
            if over:
                return bytes(said), True
    finally:
        os.close(process)
    return bytes(said), False


def _read(pipe: int) -> bytes | None:
    """None: there is nothing just now."""
    try:
        return os.read(pipe, 1 << 16)
    except BlockingIOError:
        return None


def import_path() -> str:
    """PYTHONPATH of a child: the folder that `agent` is imported from comes first, because it runs elsewhere."""
    return os.pathsep.join(filter(None, (_code(), os.environ.get("PYTHONPATH", ""))))


def teller() -> Callable[..., None]:
    """For the child: what writes its keywords as a line of JSON to the parent.

    From now on it ends with its parent, and what anybody prints goes to standard error.
    """
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    ctypes.CDLL(None).prctl(_PARENT_GONE, signal.SIGKILL, 0, 0, 0)

    def tell(**what: Any) -> None:
        told.write(json.dumps(what) + "\n")
        told.flush()

    return tell


def _kill(child: "subprocess.Popen[bytes]") -> None:
    """The child and its process group; without effect when they are gone."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _code() -> str:
    return str(Path(__file__).resolve().parent.parent)
