"""[technician] of reader.toml: whose requests `limpet request` signs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from agent.strict import Match, Range


@dataclass(frozen=True, slots=True)
class TechnicianConfig:
    """[technician]: the asking side. What the key may do is decided on each device, by the key's entry there."""

    key: Path | None = None
    """The technician's private signing key (PEM; Ed25519 or P-256): `limpet keys new technician`."""
    audience: Annotated[str, Match(r"[A-Za-z0-9_.-]{1,8}", "1 to 8 letters, digits, '_', '.' or '-'")] = "limpet"
    """Name of the fleet, as in [commands] audience of its devices."""
    counters: Path | None = None
    """Where the last counters are kept; default: beside the key. A lost file locks nobody out."""
    expires_s: Annotated[int, Range(30, 7 * 86400)] = 86400
    """How long a device that is away may still take a request, seconds, unless the command says otherwise."""
