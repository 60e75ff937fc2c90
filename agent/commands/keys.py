"""Whose key may ask: the entries of limpet.toml and of trust/technicians.json, less what trust/revoked.json voids.

A role comes from here and from nowhere else. The files are read again when they change. A list that is there and cannot
be read is not an empty list: then nobody may ask until it can be.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from agent import codec
from agent.durable import read_limited
from agent.envelope.keys import VerifyKey
from agent.errors import CommandError, ConfigError, UpdateError
from agent.package.names import REVOKED_PATH, TECHNICIANS_PATH
from agent.package.trust import TRUST_LIMIT_BYTES, Revoked, Role, Technician, Technicians
from agent.settings.commands import CommandKey

T = TypeVar("T")
log = logging.getLogger(__name__)

_Stamp = tuple[int, int, int] | None
_FILES: Final = (TECHNICIANS_PATH, REVOKED_PATH)


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody whose key is known, and what the entry says."""

    key: VerifyKey = field(repr=False)
    name: str
    role: Role
    not_after_s: int | None = None
    """When the entry ends, seconds since 1970; None: never."""
    revoked: str | None = None
    """Why the key is void; None: it is not."""


class Holders:
    """The keys that count on this device. One thread."""

    def __init__(self, local: Iterable[CommandKey], depot: Path, site: str, device: str) -> None:
        """Raises ConfigError for a local key that cannot be read: an operator is there to mend it."""
        self._depot, self._site, self._device = depot, site, device
        self._local = dict(self._configured(local))
        self._known: Mapping[bytes, Holder] = self._local
        self._stamps: tuple[_Stamp, ...] | None = None
        self.trouble = ""
        """Why nobody may ask at present; "" when all lists could be read."""

    def find(self, key_id: bytes) -> Holder | None:
        """The entry of that key on this device, a void one included; None for a stranger.

        Raises CommandError (REJECTED_UNAUTHORIZED) while a list cannot be read.
        """
        self.refresh()
        if self.trouble:
            raise CommandError(self.trouble, "REJECTED_UNAUTHORIZED")
        return self._known.get(key_id)

    def refresh(self) -> None:
        """Read the lists again if they changed; costs two stats when they did not."""
        stamps = tuple(_stamp(self._depot / name) for name in _FILES)
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            self._known = self._merged()
        except (OSError, ValueError, UpdateError, ConfigError) as exc:
            self._known, self.trouble = {}, f"a trust list cannot be used, so nobody may ask: {exc}"
            log.error("commands=closed reason=%r", self.trouble)
        else:
            self.trouble = ""
            log.info("commands=keys known=%d", len(self._known))

    @property
    def count(self) -> int:
        """How many keys count."""
        return sum(holder.revoked is None for holder in self._known.values())

    def _merged(self) -> dict[bytes, Holder]:
        """Raises OSError, ValueError, UpdateError or ConfigError for a list that cannot be used."""
        listed = _read(self._depot / TECHNICIANS_PATH, Technicians.decode)
        void = _read(self._depot / REVOKED_PATH, Revoked.decode)
        known = dict(self._delivered(listed.keys if listed else ())) | self._local
        for kid, reason in ((entry.kid, entry.reason) for entry in (void.keys if void else ())):
            if holder := known.get(bytes.fromhex(kid)):
                known[bytes.fromhex(kid)] = _void(holder, reason)
        return known

    def _configured(self, local: Iterable[CommandKey]) -> Iterable[tuple[bytes, Holder]]:
        for entry in local:
            key = VerifyKey.load(entry.public)
            if _covers(entry.sites, self._site) and _covers(entry.devices, self._device):
                yield key.key_id, Holder(key, entry.name, entry.role)

    def _delivered(self, listed: Iterable[Technician]) -> Iterable[tuple[bytes, Holder]]:
        for entry in listed:
            if entry.covers(self._site, self._device):
                key = VerifyKey.from_bytes(entry.spki, f"{TECHNICIANS_PATH}: key {entry.kid}")
                name = str(codec.plain(entry.name)) or entry.kid  # JSON can hold what is no Unicode
                yield key.key_id, Holder(key, name, entry.role, entry.not_after)


def _void(holder: Holder, reason: str) -> Holder:
    return Holder(holder.key, holder.name, holder.role, holder.not_after_s, reason or "no reason given")


def _read(path: Path, decode: Callable[[bytes], T]) -> T | None:
    """The list, or None when none was ever delivered."""
    try:
        return decode(read_limited(path, TRUST_LIMIT_BYTES))
    except FileNotFoundError:
        return None


def _stamp(path: Path) -> _Stamp:
    """Tells one content of a file from the next; None when there is none, -1 when it may not be looked at."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    except OSError:
        return (-1, -1, -1)
    return about.st_mtime_ns, about.st_size, about.st_ino


def _covers(names: tuple[str, ...], name: str) -> bool:
    return "*" in names or name in names
