"""Notices that the updater has put other fleet layers into the depot, and says why some are not used."""

from collections.abc import Callable
from typing import Final

from agent.config import Config
from agent.errors import ConfigError
from agent.layerfiles import read_fleet
from agent.layers.record import Record, Remote

LOOK_S: Final = 2.0
"""How often the layers are looked at, seconds; a change counts once two looks in a row saw the same."""
AGAIN_S: Final = 60.0
"""Layers that could not be used are validated again after this time, seconds: the model they name may have come."""


class FleetWatch:
    """One thread's view of the depot's layers."""

    def __init__(self, config: Config, local_digest: str, alarm: Callable[[str, str | None], None]) -> None:
        """`alarm(name, text or None)`; `local_digest` names the limpet.toml of this start."""
        self._config = config
        self._local_digest = local_digest
        self._alarm = alarm
        self._looked_s = -LOOK_S
        self._seen: Remote | None = None
        self._told = ""
        self._invalid: Remote | None = None
        self._again_s = 0.0

    def due(self, record: Record, now_s: float) -> Remote | None:
        """What to try: other layers than those committed, steady, and not refused before with this limpet.toml."""
        if now_s - self._looked_s < LOOK_S:
            return None
        self._looked_s = now_s
        try:
            found = Remote(read_fleet(self._config), record.committed.settings)
        except ConfigError as exc:
            self.tell(str(exc))
            return None
        steady, self._seen = found == self._seen, found
        if found.fleet == record.committed.fleet:
            self.tell("")
        elif refused := record.refuses(found, self._local_digest):
            self.tell(f"fleet layers are not used: {refused}")
        elif steady and (found != self._invalid or now_s >= self._again_s):
            return found
        return None

    def invalid(self, remote: Remote, why: str, now_s: float) -> None:
        """`remote` was not even tried; not again until it changes, or a while has passed."""
        self._invalid, self._again_s = remote, now_s + AGAIN_S
        self.tell(f"fleet layers are not used: {why}")

    def tell(self, text: str) -> None:
        """Raise the alarm with `text`, or clear it with ""; once."""
        if text != self._told:
            self._told = text
            self._alarm("fleet-configuration", text or None)
