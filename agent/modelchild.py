"""Children that look at a model for this process: a module of the agent, run in a process group of its own.

A model is data that native code parses: it may crash its process, hang it or eat its memory. Owns what such a child is
given (this very code, one thread for arithmetic, nothing of the environment but what it needs), its end (with all that
it started, at its deadline or with its parent), and how it tells: lines of JSON on what was its standard output, for
native libraries print where they like. What the lines mean is the business of parent and child.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
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


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a child."""

    said: bytes
    """All that it told."""
    status: int | None
    """As `subprocess` says it, below 0 the signal; None: it was killed at its deadline."""

    @property
    def how(self) -> str:
        """Its end in words: "with SIGSEGV", "with status 3"."""
        if self.status is None:
            return "at its deadline"
        return f"with {signal.Signals(-self.status).name}" if self.status < 0 else f"with status {self.status}"


def run_child(
    module: str, task: str, time_s: float, *, passed_on: Sequence[str] = (), become: Mapping[str, Any] | None = None
) -> Ended:
    """Run `python -P -m module task` for at most `time_s` seconds; whatever it started is gone when this returns.

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
            said, _ = child.communicate(timeout=time_s)
        except subprocess.TimeoutExpired:
            _kill(child)
            return Ended(child.communicate()[0], None)
        finally:
            _kill(child)  # whatever it started dies with it, and so does it when we are interrupted
    return Ended(said, child.returncode)


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
    """The child and all that it started; without effect when they are gone."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _code() -> str:
    return str(Path(__file__).resolve().parent.parent)
