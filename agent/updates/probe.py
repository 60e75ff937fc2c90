"""Trying a candidate where it can do no harm: in a child with limits, whose whole process group dies at its deadline.

A model is data that native code parses, so it may crash, hang or eat memory. Whatever it does there is told in words.
"""

import json
import signal
from contextlib import suppress
from dataclasses import asdict
from typing import Final

from agent.errors import UpdateError
from agent.modelchild import run_child
from agent.updates.trial_run import STARTING, Candidate

OUTPUT_LIMIT_BYTES: Final = 64 * 1024


def probe(candidate: Candidate) -> str:
    """Try a model of the depot: why it must not run here, in words; empty when nothing speaks against it.

    Raises UpdateError when no child can be started: that says nothing about the model.
    """
    task = json.dumps(asdict(candidate))
    try:
        ended = run_child("agent.updates.trial_run", task, candidate.time_s, passed_on=("CREDENTIALS_DIRECTORY",))
    except OSError as exc:
        raise UpdateError(f"the child that tries models cannot be started: {exc.strerror}") from exc
    if ended.status is None:
        _refuse_unstarted(ended.said, f"in {candidate.time_s:g} s ([updates] probe_s)", "TIMED_OUT")
        return f"it was not done after {candidate.time_s:g} s (while {_read(ended.said)[0]})"
    return _judged(ended.status, ended.said)


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
