"""The child that tries a model before it is added: `python -P -m agent.catalogue.proofrun TASK`, started by `proof`.

It limits itself, then verifies and loads every file that is for this machine and runs the golden inputs. It tells by
JSON lines on the descriptor that was its standard output: {"started": true}, then {"told": ...} or {"why": ...}.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

from agent.errors import LimpetError, ModelError
from agent.golden import selftest
from agent.loading import open_model
from agent.manifest import Artifact, Manifest, load_manifest
from agent.modelchild import teller
from agent.registry import candidates
from agent.views import views


def main(task: dict[str, Any]) -> None:
    """Try the model and tell. Ends by itself, or with its parent, or at its limits."""
    say = teller()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    say(started=True)
    try:
        manifest = load_manifest(Path(task["folder"]))
        say(told="; ".join(_one(manifest, artifact, task["limit_bytes"]) for artifact in candidates(manifest)))
    except LimpetError as exc:
        say(why=str(exc)[:2000])


def _one(manifest: Manifest, artifact: Artifact, limit_bytes: int) -> str:
    """What ran. Raises ModelError when an answer is not the known one."""
    runner = open_model(manifest, only=artifact, limit_bytes=limit_bytes)
    try:
        checks = selftest(manifest, runner, views)
    finally:
        runner.close()
    if failed := [f"{check.input}: {check.reason}" for check in checks if not check.ok]:
        raise ModelError(f"{artifact.file} does not give the known answers on this machine: {'; '.join(failed)}")
    ran = f"{runner.info.runtime} {runner.info.version}"
    return f"{artifact.file}: {len(checks)} of {len(checks)} golden inputs as expected ({ran})"


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
