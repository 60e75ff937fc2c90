"""Trying a candidate where it can do no harm: in a child with limits, whose whole process group dies at its deadline.

A model is data that native code parses, so it may crash, hang or eat memory. Whatever it does there is told in words.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final

from agent.errors import UpdateError
from agent.updates.trial_run import STARTING, Candidate

OUTPUT_LIMIT_BYTES: Final = 64 * 1024
_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "CREDENTIALS_DIRECTORY", "PYTHONPATH")
_QUIET: Final = {
    "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}  # fmt: skip
"""Arenas and threads that are never used would count as memory of the model."""


def probe(candidate: Candidate) -> str:
    """Try a model of the depot: why it must not run here, in words; empty when nothing speaks against it.

    Raises UpdateError when no child can be started: that says nothing about the model.
    """
    command = [sys.executable, "-P", "-m", "agent.updates.trial_run", json.dumps(asdict(candidate))]
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | _QUIET
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (_code(), environment.get("PYTHONPATH", ""))))
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
            start_new_session=True, cwd="/",
        )  # fmt: skip
    except OSError as exc:
        raise UpdateError(f"the child that tries models cannot be started: {exc.strerror}") from exc
    with child:
        try:
            said, _ = child.communicate(timeout=candidate.time_s)
        except subprocess.TimeoutExpired:
            _kill(child)
            said, _ = child.communicate()
            _refuse_unstarted(said, f"in {candidate.time_s:g} s ([updates] probe_s)", "TIMED_OUT")
            return f"it was not done after {candidate.time_s:g} s (while {_read(said)[0]})"
        finally:
            _kill(child)  # whatever it started dies with it, and so does it when we are interrupted
    return _judged(child.returncode, said)


def _judged(status: int, said: bytes) -> str:
    step, why = _read(said)
    if status == 0 and why is not None:
        return why
    _refuse_unstarted(said, f"(status {status}): is [updates] probe_memory_mb too small for the runtimes?")
    if status < 0:
        name = signal.Signals(-status).name
        more = " (its memory or its time was up)" if name in ("SIGKILL", "SIGABRT", "SIGXCPU", "SIGXFSZ") else ""
        return f"it crashed its process with {name}{more} while {step}"
    return f"its process ended with status {status} while {step}"


def _refuse_unstarted(said: bytes, how: str, reason: str = "FAILED") -> None:
    """What failed before the model was looked at is not the model's fault. Raises UpdateError."""
    if _read(said)[0] == STARTING:
        raise UpdateError(f"the child that tries models did not start {how}", reason)


def _read(said: bytes) -> tuple[str, str | None]:
    """The last step that was told, and the verdict if there was one."""
    step, why = STARTING, None
    for line in said[:OUTPUT_LIMIT_BYTES].splitlines():
        with suppress(ValueError):
            table = json.loads(line)
            if isinstance(table, dict):
                step = str(table.get("step", step))
                why = str(table["why"])[:2000] if "why" in table else why
    return step, why


def _kill(child: subprocess.Popen[bytes]) -> None:
    """The child and all that it started; without effect when they are gone."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _code() -> str:
    """The folder that `agent` is imported from: the child runs elsewhere."""
    return str(Path(__file__).resolve().parent.parent.parent)
