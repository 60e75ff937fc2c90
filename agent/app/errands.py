"""Commands in the running agent: the desk with everything that it hands requests to.

Builds the table of what this device can be asked, from its configuration and the parts it is given; without
[commands] enabled there is none of it, nobody subscribes to anything, and none of its code is imported.
"""

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from agent import __version__
from agent.clock import Clock
from agent.config import Config
from agent.logs import LineFormatter, Redactor
from agent.records import Draft
from agent.supervisor import Lane
from agent.uplink.requests import Requests

if TYPE_CHECKING:
    from agent.commands import Desk, Table
    from agent.commands.configure import Reconfiguring
    from agent.commands.diagnostics import Tail
    from agent.commands.snapshot import Shutter

Status = Callable[[], Mapping[str, Any]]


class Errands:
    """Owns the desk, the port to the uplink and the shutters."""

    def __init__(
        self, config: Config, clock: Clock, alarm: Callable[[str, str | None], None], redactor: Redactor
    ) -> None:
        self._config, self._clock, self._alarm = config, clock, alarm
        self.requests = Requests() if config.commands.enabled else None
        self._shutters: dict[str, Shutter] = {}
        self._tail: Tail | None = None
        self._desk: Desk | None = None
        if self.requests is not None:
            from agent.commands import diagnostics

            self._tail = diagnostics.Tail(LineFormatter(False, redactor))
            logging.getLogger().addHandler(self._tail)

    def shutter(self, source: str) -> "list[Shutter]":
        """What stands among the inboxes of that source's lane."""
        if self.requests is None or not self._config.commands.snapshot:
            return []
        from agent.commands import snapshot

        return [self._shutters.setdefault(source, snapshot.Shutter())]

    def open(
        self, status: Status, accept: Callable[[Draft], object], start_anew: Callable[[str], None],
        reconfiguring: "Reconfiguring",
    ) -> list[Lane]:  # fmt: skip
        """The commands' lane, or none. Raises ConfigError for a key that cannot be read."""
        config, commands = self._config, self._config.commands
        if self.requests is None or self._tail is None:
            return []
        from agent.commands import Desk, Device, Holders, Outside, configure, diagnostics, simple, snapshot, updates

        tail = self._tail
        boot = secrets.token_hex(8)

        def table(desk: Desk) -> "Table":
            made = updates.operations(config.updates.spool, config.updates.folder, config.updates.download_s)
            made |= {
                "ping": simple.ping(lambda: {"version": __version__, "health": status().get("health", "")}),
                "cancel": simple.cancelling(desk.cancel),
                "collect-diagnostics": diagnostics.operation(status, tail),
            }
            if config.remote.enabled:
                made["set-config"] = configure.operation(reconfiguring)
            if commands.restart:
                made["restart"] = simple.restart(lambda: start_anew("a technician asked for it"), boot, "")
            if commands.snapshot:
                made["snapshot"] = snapshot.operation(self._shutters, accept)
            return made

        site, device = config.device.site, config.device.name
        holders = Holders(commands.key, config.updates.folder, site, device)
        outside = Outside(self.requests, holders, table, self._clock, self._alarm, boot, self._weaker())
        self._desk = Desk(commands, Device(site, device, commands.audience), outside)
        return [Lane("commands", self._desk.run, 120.0)]

    def facets(self) -> dict[str, Any]:
        """The twin facet `commands`, if this device takes any."""
        return {} if self._desk is None else {"commands": self._desk.facet()}

    def questions(self) -> dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]]:
        """What the agent's socket answers about commands."""
        return {} if self._desk is None else {"audit": self._desk.audit}

    def _weaker(self) -> str:
        if self._config.uplink.protocol == "5":
            return ""
        return (
            "MQTT 3.1.1: a request that is sent as retained while this device is connected cannot be told from others, "
            "requests do not expire at the broker, and the size of what it sends is not limited"
        )
