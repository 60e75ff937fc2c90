"""Where things lie in the depot, and the token that proves a burnt try.

    <folder>/state.json state.bak.json record.lock     the record          lock                 one job at a time
    <folder>/models/<name>/<version>-<sha12>/          models              releases/<version>-<sha12>/  agent releases
    <folder>/parts/                                    downloads under way, and what is being removed
    <folder>/metadata/ trust/*.json config/*.toml      from the repository
    <folder>/jobs/<id>.json                            how far each job has come

The token lies in a folder of /run that only the updater's user may write. Before every start of the agent it is taken
away, the tries are burnt, and only then is it written again: who finds none runs no candidate.
"""

import contextlib
from pathlib import Path
from typing import Final

from agent.durable import read_limited, write_durably
from agent.errors import UpdateError

AGENT: Final = "@agent"
"""The name under which the agent's own releases stand in the record; no model can be called so."""
RECORD: Final = "state.json"
BACKUP: Final = "state.bak.json"
RECORD_LOCK: Final = "record.lock"
JOB_LOCK: Final = "lock"
PACKAGE_FILE: Final = "package.json"
"""The package manifest, in each object."""
TRUST: Final = "trust"
CONFIG: Final = "config"
PARTS: Final = "parts"


def read_token(path: Path) -> int | None:
    """The generation whose tries were burnt before this start; None when there is none or it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return int(read_limited(path, 32))
    return None


def drop_token(path: Path) -> None:
    """Take the token away, so that a burn that fails leaves none. Raises UpdateError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        raise UpdateError(f"{path}: the token of the last start cannot be removed: {exc.strerror}") from exc


def write_token(path: Path, generation: int) -> None:
    """Say that the record of `generation` has burnt its tries. Raises UpdateError."""
    try:
        write_durably(path, b"%d\n" % generation, 0o644)
    except OSError as exc:
        raise UpdateError(f"{path}: the token cannot be written: {exc.strerror}: no candidate will run") from exc
