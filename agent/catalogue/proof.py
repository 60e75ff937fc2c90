"""Whether an added model works on this machine: tried in a child, whatever a runtime makes of it there.

A model is data that native code parses: it may crash or hang, and who adds it is often root. So the child has a
deadline, and where Limpet is installed it is the agent's user. What it does is `agent.catalogue.proofrun`; what came of
it is told in words.
"""

import json
import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from agent.errors import ModelError

AGENT_USER: Final = "limpet"
TIME_S: Final = 120.0
"""Longest time for loading and all golden inputs, seconds."""
_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH")
_QUIET: Final = {"OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1", "PYTHONDONTWRITEBYTECODE": "1"}
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
    command = [sys.executable, "-P", "-m", "agent.catalogue.proofrun", task]
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | _QUIET
    code = str(Path(__file__).resolve().parent.parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (code, environment.get("PYTHONPATH", ""))))
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
            cwd="/", timeout=time_s, check=False, **user,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"started": True, "why": f"its self-test was not done after {time_s:g} s"}
    except OSError as exc:
        return {"why": f"the child that tries it cannot be started: {exc.strerror}"}
    return _read(done.returncode, done.stdout)


def _read(status: int, said: bytes) -> dict[str, Any]:
    """What the child told, line by line, and how it ended."""
    found: dict[str, Any] = {}
    for line in said[:_SAID_LIMIT_BYTES].splitlines():
        try:
            found |= json.loads(line)
        except (ValueError, TypeError):
            continue
    how = f"with {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    return found if "told" in found or "why" in found else found | {"why": f"it ended the process that tries it {how}"}
