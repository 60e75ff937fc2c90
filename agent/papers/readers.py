"""Who may read: the readers of limpet.toml and of the signed list, less those whose key is void.

The updater brings trust/readers.json and trust/revoked.json; they are looked at while the agent runs. The void keys win
over both. A list that cannot be read is never taken for an empty one: what was read last goes on to count, and at the
start nothing is sealed before the void keys are known. Without a reader nothing is published; events stay where they
are.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from agent.clock import Clock
from agent.durable import read_limited
from agent.envelope import KeyEnvelope, MessageType, ReaderPublic, Sealer, Zip
from agent.envelope.keyenvelope import MAX_READERS
from agent.errors import ConfigError, UpdateError
from agent.package.trust import TRUST_LIMIT_BYTES, Reader, Readers, Revoked
from agent.papers.pairs import Alarm

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""How often the lists are looked at, seconds."""
NO_READERS: Final = "no-readers"
REVOKED: Final = "revoked"
UNREADABLE: Final = "trust-unreadable"
_Stamp = tuple[int, int, int] | None
T = TypeVar("T")


class Readership:
    """The lists as they stand. Used by the thread that seals."""

    def __init__(
        self, listed: Sequence[ReaderPublic], trust: Path, site: str, device: str, own_kid: str, alarm: Alarm
    ) -> None:
        """`listed` are those of limpet.toml; `trust` is the folder of the signed lists; `own_kid` the device's key."""
        self._listed = tuple(listed)
        self._trust = trust
        self._site, self._device = site, device
        self._own_kid = own_kid
        self._alarm = alarm
        self._alarms: dict[str, str] = {}
        self._stamps: dict[str, _Stamp] = {}
        self._signed: tuple[Reader, ...] = ()
        self._void: frozenset[str] | None = None

    def changed(self) -> bool:
        """Read what is new; True when the readers may be others than before."""
        troubles: list[str] = []
        readers = self._fresh("readers.json", Readers.decode, troubles)
        revoked = self._fresh("revoked.json", Revoked.decode, troubles)
        if readers is not None:
            self._signed = readers.readers
        if revoked is not None:
            self._void = revoked.kids
        elif self._void is None and not (self._trust / "revoked.json").exists() and not troubles:
            self._void = frozenset()
        if troubles or readers is not None or revoked is not None:
            self._tell(UNREADABLE, "; ".join(troubles))
        return readers is not None or revoked is not None

    def current(self) -> tuple[ReaderPublic, ...]:
        """Those who may read now, limpet.toml's first. Raises ConfigError when that is nobody, or not known."""
        if self._void is None:
            raise ConfigError(f"{self._trust}/revoked.json cannot be read: nothing is sealed before it is: mend it")
        readers = {reader.key_id: reader for reader in (*self._listed, *self._covering())}
        left = tuple(reader for kid, reader in readers.items() if kid.hex() not in self._void)
        own = f"key {self._own_kid} of this device is revoked: readers refuse what it signs: enrol the device anew"
        self._tell(REVOKED, own if self._own_kid in self._void else "")
        if not left:
            self._tell(NO_READERS, f"{len(readers)} readers are known and all are revoked: nothing is published")
            raise ConfigError("[envelope] readers: none is left that is not revoked: name one, or sign a list with one")
        many = f"{len(left)} readers, the first {MAX_READERS} are served" if len(left) > MAX_READERS else ""
        self._tell(NO_READERS, many)
        return left[:MAX_READERS]

    def _covering(self) -> list[ReaderPublic]:
        """The signed list's readers of this device; an entry with a key of another kind is left out and said."""
        found: list[ReaderPublic] = []
        for entry in self._signed:
            if not entry.covers(self._site, self._device):
                continue
            try:
                found.append(ReaderPublic.from_bytes(entry.spki, f"trust/readers.json, {entry.name!r}"))
            except ConfigError as exc:
                log.warning("readers=left-out reason=%r", str(exc))
        return found

    def _fresh(self, name: str, decode: Callable[[bytes], T], troubles: list[str]) -> T | None:
        """The list when its file is another than the last time, else None; a problem goes to `troubles`."""
        path = self._trust / name
        try:
            about = path.stat()
            stamp = (about.st_mtime_ns, about.st_ino, about.st_size)
            if self._stamps.get(name) == stamp:
                return None
            made = decode(read_limited(path, TRUST_LIMIT_BYTES))
        except FileNotFoundError:
            return None  # not delivered (yet): what was read last goes on to count
        except (OSError, ValueError, UpdateError) as exc:
            troubles.append(f"{path}: {exc}: what was read before goes on to count")
            return None
        self._stamps[name] = stamp
        return made

    def _tell(self, name: str, text: str) -> None:
        """Raise or clear an alarm when it changes."""
        if self._alarms.get(name, "") != text:
            self._alarms[name] = text
            self._alarm(name, text or None)


class WatchedSealer:
    """A sealer whose readers follow the lists: someone new gets this epoch's key, a removal begins a new epoch."""

    batches: Final = True

    def __init__(self, sealer: Sealer, readership: Readership, clock: Clock) -> None:
        self._sealer = sealer
        self._readership = readership
        self._clock = clock
        self._looked_s = -1e9
        self._known: frozenset[bytes] | None = None

    def current_envelope(self) -> KeyEnvelope:
        """Like `Sealer.current_envelope`, for the readers of now. Raises ConfigError when there is none."""
        now_s = self._clock.mono_s()
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            if self._readership.changed() or self._known is None:
                self._follow()
        if not self._known:
            self._follow()
        return self._sealer.current_envelope()

    def seal(self, message_type: MessageType, stream: str, payload: bytes, zip_: Zip = Zip.NONE) -> bytes:
        """Like `Sealer.seal`."""
        return self._sealer.seal(message_type, stream, payload, zip_)

    def _follow(self) -> None:
        try:
            readers = self._readership.current()
        except ConfigError:
            self._known = frozenset()
            self._sealer.set_readers(())
            raise
        kids = frozenset(reader.key_id for reader in readers)
        if kids != self._known:
            log.info("readers=%d", len(readers))
            self._known = kids
            self._sealer.set_readers(readers)
