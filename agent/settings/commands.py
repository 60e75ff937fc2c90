"""[commands] of limpet.toml: whether this device takes requests over MQTT, from whom, and how many."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from agent.settings.names import AnyName
from agent.strict import Match, Range

_Scope = tuple[Annotated[str, Match(r"\*|[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", 'a name, or "*" for all')], ...]


@dataclass(frozen=True, slots=True)
class CommandKey:
    """[[commands.key]]: a technician known to this device alone. Fleets deliver trust/technicians.json instead."""

    public: Path
    """Public signing key (PEM): Ed25519 or P-256."""
    role: Literal["viewer", "technician", "admin"]
    """viewer asks whether the device is there; technician updates, rolls back, looks; admin changes settings too."""
    name: AnyName
    """Who it is: stands in states and in the audit trail."""
    sites: Annotated[_Scope, Range(1, 64)] = ("*",)
    """Sites on which the key counts; "*" is all."""
    devices: Annotated[_Scope, Range(1, 64)] = ("*",)
    """Devices on which the key counts; "*" is all."""


@dataclass(frozen=True, slots=True)
class CommandsConfig:
    """[commands]: signed requests of technicians (docs/commands.md)."""

    enabled: bool = False
    """True takes requests. Without a key below or in trust/technicians.json all of them are refused."""
    audience: Annotated[str, Match(r"[A-Za-z0-9_.-]{1,8}", "1 to 8 letters, digits, '_', '.' or '-'")] = "limpet"
    """Name of the fleet: a request for another one is refused, even where sites, devices and technicians are named
    alike."""
    journal: Path = Path("/var/lib/limpet/commands.db")
    """Database of commands, counters and the audit trail; its folder belongs to the agent's user."""
    key: Annotated[tuple[CommandKey, ...], Range(0, 64)] = ()
    """[[commands.key]]: keys known to this device alone."""
    retention_days: Annotated[float, Range(8, 3660)] = 30.0
    """How long a command is remembered after its end, days: a repeated id is answered and not run again."""
    state_days: Annotated[float, Range(0.01, 366)] = 7.0
    """How long the broker keeps the last state of a command, days; then this device clears it."""
    states: Annotated[int, Range(1, 1000)] = 64
    """Most ended commands whose state the broker keeps; the oldest is cleared for a new one."""
    queue: Annotated[int, Range(1, 64)] = 8
    """Changing commands that may wait for the one under way; more are refused as REJECTED_BUSY."""
    per_minute: Annotated[int, Range(1, 600)] = 30
    """Requests per minute that one key may send, and refusals per minute that are written down one by one."""
    snapshot: bool = False
    """True lets technicians take a picture, a clip or a window of a source, which leaves the device for its readers."""
    restart: bool = True
    """True lets technicians restart the agent, where systemd starts it again."""
