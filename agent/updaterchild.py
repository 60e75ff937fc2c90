"""The updater as a child of the agent, for a checkout without systemd's units.

Watches the spool and starts `limpet update --jobs` when a job lies there, one at a time. Weaker than the unit of its
own: the child has the agent's user, so it could read the agent's keys and write what the agent writes. A child that is
under way when the agent ends is ended too, by force if need be; its jobs are resumed by the next one.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

TURN_S = 0.5
"""How often the spool is looked at, seconds."""
PAUSE_S = 5.0
"""After a child that failed, before the next one, seconds."""
END_S = 2.0
"""Time that a child has to end with the agent, seconds."""


class UpdaterChild:
    """Body of a lane that plays systemd's path unit."""

    def __init__(self, config: Path, spool: Path) -> None:
        """`config`: limpet.toml, which the child reads as well."""
        self._command = [sys.executable, "-P", "-m", "agent", "update", "--config", str(config), "--jobs"]
        self._spool = spool

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Start children until `stop`. The spool is made here: nobody else would, without systemd's units."""
        try:
            self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            log.error("updater=child spool=%s cannot be made: %s; set [updates] spool", self._spool, exc.strerror)
        while not stop.wait(TURN_S):
            beat()
            if any(path.suffix == ".json" for path in _listed(self._spool)):
                self._work(stop, beat)

    def _work(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        child = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, start_new_session=True)
        while child.poll() is None and not stop.is_set():
            beat()
            stop.wait(TURN_S / 5)
        if child.poll() is None:
            _end(child)
        elif child.returncode:
            log.error("updater=child exit=%d next-try-s=%g", child.returncode, PAUSE_S)
            stop.wait(PAUSE_S)


def _end(child: "subprocess.Popen[bytes]") -> None:
    """The child and what it tries a candidate in."""
    os.killpg(child.pid, signal.SIGTERM)
    try:
        child.wait(END_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
