"""Whether an added model works on this machine: tried in a child, whatever a runtime makes of it there.

A model is data that native code parses: it may crash or hang, and who adds it is often root. So the child has a
deadline, and where Limpet is installed it is the agent's user. What it does is `agent.catalogue.proofrun`; what came of
it is told in words.
"""

import json
import os
import pwd
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from agent.codec import read_json
from agent.errors import EnvelopeError, ModelError
from agent.modelchild import Ended, run_child

AGENT_USER: Final = "limpet"
TIME_S: Final = 120.0
"""Longest time for loading and all golden inputs, seconds."""
_SAID_LIMIT_BYTES = 64 * 1024


def proved(folder: Path, limit_bytes: int = 512_000_000, time_s: float = TIME_S) -> str:
    """Run the self-test of the model in `folder`; says what was run. Raises ModelError.

    `limit_bytes`: the agent takes no larger file.
    """
    task = json.dumps({"folder": str(folder.absolute()), "limit_bytes": limit_bytes})
    said = _child(task, time_s, _agents_user())
    if "started" not in said:  # that user may not run this Python, as in a checkout in somebody's home
        said = _child(task, time_s, {})
    if "told" in said:
        return str(said["told"])
    raise ModelError(f"{folder.parent.name}: it does not work on this machine, so it was not added: {said['why']}")


def _agents_user() -> dict[str, Any]:
    """How `subprocess` is told to become the agent's user; nothing where there is none, or this is not root."""
    try:
        found = pwd.getpwnam(AGENT_USER)
    except KeyError:
        return {}
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": ()} if os.geteuid() == 0 else {}


def _child(task: str, time_s: float, user: dict[str, Any]) -> dict[str, Any]:
    try:
        ended = run_child("agent.catalogue.proofrun", task, time_s, become=user)
    except OSError as exc:
        return {"why": f"the child that tries it cannot be started: {exc.strerror}"}
    if ended.status is None:
        return {"started": True, "why": f"its self-test was not done after {time_s:g} s"}
    return _read(ended)


def _read(ended: Ended) -> dict[str, Any]:
    """What the child told, line by line, and how it ended."""
    found: dict[str, Any] = {}
    for line in ended.said[:_SAID_LIMIT_BYTES].splitlines():
        with suppress(EnvelopeError):
            table = read_json(line)
            found |= table if isinstance(table, dict) else {}
    if "told" in found or "why" in found:
        return found
    return found | {"why": f"it ended the process that tries it {ended.how}"}
