"""The unit files that belong to the releases in use, and the few words that are said to systemd.

What is installed follows from the links alone (`wanted`), so that doing it again mends whatever a power cut broke off.
While a release is on probation its limpet.service runs under a drop-in of ours: whatever that unit says, a try is burnt
before every start, it is started again after every end, and it has to report that it is ready and alive.
"""

import logging
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.durable import read_limited, sync_folder, write_durably
from agent.errors import UpdateError
from agent.release.place import Place

log = logging.getLogger(__name__)

AGENT_UNIT: Final = "limpet.service"
DROP_IN: Final = Path("etc/systemd/system/limpet.service.d/zz-limpet-trial.conf")
TRIAL: Final = b"""\
# Written while a release is on probation, and removed when it stays or goes.
[Unit]
Wants=limpet-try.service
After=limpet-try.service
StartLimitIntervalSec=0
[Service]
Type=notify
Restart=always
RestartSec=1
RestartPreventExitStatus=
TimeoutStartSec=25
WatchdogSec=30
"""
UNIT_LIMIT_BYTES: Final = 64 * 1024
_SYSTEM: Final = Path("etc/systemd/system")
_ELSEWHERE: Final = {
    "limpet.sysusers": Path("etc/sysusers.d/limpet.conf"),
    "limpet.tmpfiles": Path("etc/tmpfiles.d/limpet.conf"),
    "limpet.sh": Path("usr/local/bin/limpet"),
}
_KINDS: Final = (".service", ".path", ".timer")


def wanted(place: Place) -> dict[Path, bytes]:
    """What has to stand where, by path below the root, as the links say. Raises OSError, ValueError when too large."""
    told = {}
    for path in (place.folder(place.good) / "share" / "limpet" / "systemd").glob("limpet*"):
        if home := _home(path):
            told[home] = read_limited(path, UNIT_LIMIT_BYTES)
    if place.current != place.good:
        own = place.folder(place.current) / "share" / "limpet" / "systemd" / AGENT_UNIT
        told[_SYSTEM / AGENT_UNIT] = read_limited(own, UNIT_LIMIT_BYTES)
        told[DROP_IN] = TRIAL
    return told


def install(files: Mapping[Path, bytes], root: Path = Path("/")) -> frozenset[Path]:
    """Write what is different, and take our drop-in away when it is not wanted; what has changed. Raises OSError."""
    changed = {path for path, data in files.items() if not _holds(root / path, data)}
    for path in changed:
        (root / path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_durably(root / path, files[path], 0o755 if path == _ELSEWHERE["limpet.sh"] else 0o644)
    drop_in = root / DROP_IN
    if DROP_IN not in files and drop_in.exists():
        drop_in.unlink()
        sync_folder(drop_in.parent)
        changed.add(DROP_IN)
    return frozenset(changed)


def _home(path: Path) -> Path | None:
    """Where a file of a release's units belongs; None for what is not installed by itself."""
    return _SYSTEM / path.name if path.suffix in _KINDS else _ELSEWHERE.get(path.name)


def _holds(path: Path, data: bytes) -> bool:
    try:
        return read_limited(path, UNIT_LIMIT_BYTES) == data
    except (OSError, ValueError):
        return False


@dataclass(frozen=True, slots=True)
class Systemd:
    """systemctl and its relatives. Each call has a time limit; nothing here waits for a service."""

    limit_s: float = 60.0

    def apply(self, changed: frozenset[Path]) -> None:
        """Make what `install` changed count. Raises UpdateError."""
        if _ELSEWHERE["limpet.sysusers"] in changed:
            self._say("systemd-sysusers", "/etc/sysusers.d/limpet.conf")
        if _ELSEWHERE["limpet.tmpfiles"] in changed:
            self._say("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/limpet.conf")
        if changed:
            self._say("systemctl", "daemon-reload")
        if again := [path.name for path in changed if path.suffix in (".path", ".timer")]:
            self._say("systemctl", "try-restart", "--no-block", *again)

    def restart_agent(self) -> None:
        """Start what the links now say, unless the operator keeps the agent stopped. Raises UpdateError.

        Failed counts as wanted: the release may be the one that mends it.
        """
        if self._state() in ("inactive", "deactivating") and self._ask("is-enabled", AGENT_UNIT) != "enabled":
            log.info("switch unit=%s state=stopped: the release waits for its start", AGENT_UNIT)
            return
        self._say("systemctl", "reset-failed", AGENT_UNIT, check=False)
        self._say("systemctl", "restart", "--no-block", AGENT_UNIT)

    def can_run_agent(self) -> bool:
        """Whether systemd understands limpet.service as it is installed."""
        return self._ask("show", "-P", "LoadState", AGENT_UNIT) == "loaded"

    def wake_updater(self) -> None:
        """Let the updater read the answer."""
        self._say("systemctl", "start", "--no-block", "limpet-update.service", check=False)

    def _state(self) -> str:
        return self._ask("is-active", AGENT_UNIT)

    def _ask(self, *words: str) -> str:
        return self._say("systemctl", *words, check=False).strip()

    def _say(self, *words: str, check: bool = True) -> str:
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=self.limit_s, check=False)
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise UpdateError(f"{' '.join(words)}: {exc}: look at systemctl status") from exc
        if check and done.returncode:
            raise UpdateError(f"{' '.join(words)}: {(done.stderr or done.stdout).strip()[-500:]}")
        return done.stdout
