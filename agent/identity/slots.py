"""Two slots for the TLS pair, so that a renewal interrupted anywhere leaves the old pair or the new one, never none.

    <folder>/state.json      {"schema": 1, "active": "a", "candidate": "b"}   replaced in one step
    <folder>/a/tls.key       private key (0600)
    <folder>/a/request.csr   the request, kept until the pair has connected once
    <folder>/a/tls.pem       certificate and chain

Rules. The active slot is never written. A renewal fills the other one in the order key, request, certificate, each
durable before the next, and names it candidate last; it becomes active when it has connected, and only then may what
was active be overwritten. A slot with request and certificate that nobody named is a candidate too: the power went
between the two. If state.json is lost, both whole pairs are tried. The lock orders the agent and `limpet enroll`.
"""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from agent.durable import read_limited, sync_folder, write_durably
from agent.envelope.keyfiles import read_private, read_public
from agent.errors import ConfigError
from agent.identity import keys
from agent.identity.certificate import Certified, describe, parse, public_der

log = logging.getLogger(__name__)

Slot = Literal["a", "b"]
SLOTS: Final[tuple[Slot, Slot]] = ("a", "b")
STATE_LIMIT_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class State:
    """Which slot is in use, and which is to be tried."""

    active: Slot | None = None
    candidate: Slot | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, and the slot they lie in."""

    slot: Slot
    certificate: Path
    key: Path


class Slots:
    """The two slots in `folder`. Raises ConfigError for what cannot be read or written, with what to do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def state(self) -> State:
        """What is in use and what is to be tried; mended from the slots themselves when state.json is lost."""
        recorded = self._recorded()
        whole = [slot for slot in SLOTS if self._whole(slot)]
        if recorded is None or recorded.active not in whole:
            return self._recovered(whole)
        other = _other(recorded.active)
        waiting = other in whole and (recorded.candidate == other or self._path(other, "request.csr").exists())
        return State(recorded.active, other if waiting else None)

    def pair(self, slot: Slot) -> Pair:
        """Where the pair of a slot lies."""
        return Pair(slot, self._path(slot, "tls.pem"), self._path(slot, "tls.key"))

    def certified(self, slot: Slot) -> Certified:
        """What the certificate in a slot says."""
        path = self._path(slot, "tls.pem")
        return describe(parse(read_public(path), str(path))[0])

    def request(self) -> tuple[Slot, bytes, bytes] | None:
        """The slot, request (PEM) and public key (DER) under way: with a key and without a certificate."""
        slot = self.spare()
        key, request = self._path(slot, "tls.key"), self._path(slot, "request.csr")
        if self._path(slot, "tls.pem").exists() or not (key.exists() and request.exists()):
            return None
        try:
            data = read_public(request)
            _, asked = keys.request_der(data, request)
            public = keys.public_bytes(keys.load_private(key))
        except ConfigError as exc:
            log.warning("identity=request-dropped slot=%s reason=%r", slot, str(exc))
            return None
        return (slot, data, public) if asked == public else None

    def spare(self) -> Slot:
        """The slot that may be written: never the active one."""
        active = self.state().active
        return "a" if active is None else _other(active)

    def begin(self, key: bytes, request: bytes) -> Slot:
        """Put a new key and its request (both PEM) into the spare slot, in place of whatever lies there."""
        with self._held():
            slot = self.spare()
            self._clear(slot)
            self._write(self._path(slot, "tls.key"), key)
            self._write(self._path(slot, "request.csr"), request)
        return slot

    def fill(self, slot: Slot, certificate: bytes) -> None:
        """Put the certificate for the request in `slot`: a candidate, or at once the pair when there is none."""
        with self._held():
            active = self.state().active
            if slot == active:
                raise ConfigError(f"{self.folder}: slot {slot} is in use and is not written: begin a new request")
            self._write(self._path(slot, "tls.pem"), certificate)
            self._record(State(slot) if active is None else State(active, slot))

    def promote(self, slot: Slot) -> None:
        """The pair in `slot` has connected: it is the one from now on, the other may be overwritten."""
        with self._held():
            self._remove(self._path(_other(slot), "request.csr"))  # or the old pair would look like a newer one
            self._record(State(slot))
            self._remove(self._path(slot, "request.csr"))

    def discard(self, slot: Slot) -> None:
        """Give a candidate up. The active slot is left alone whatever the caller says."""
        with self._held():
            state = self.state()
            if slot == state.active:
                raise ConfigError(f"{self.folder}: slot {slot} is in use and is not discarded")
            self._record(State(state.active))
            self._clear(slot)

    def prepare(self) -> None:
        """Make the folders. Raises ConfigError."""
        try:
            for folder in (self.folder, *(self.folder / slot for slot in SLOTS)):
                folder.mkdir(mode=0o700, parents=folder == self.folder, exist_ok=True)
            sync_folder(self.folder)
        except OSError as exc:
            raise self._refused(exc) from exc

    # --- the files ------------------------------------------------------------------------------------------------

    def _path(self, slot: Slot, name: str) -> Path:
        return self.folder / slot / name

    def _whole(self, slot: Slot) -> bool:
        """Whether the slot holds a key and a certificate for it. A half or damaged pair is none."""
        certificate, key = self._path(slot, "tls.pem"), self._path(slot, "tls.key")
        try:
            if not (certificate.exists() and key.exists()):
                return False
            private = keys.private_of(read_private(key), key)
            return public_der(parse(read_public(certificate), str(certificate))[0]) == keys.public_bytes(private)
        except PermissionError as exc:
            raise self._refused(exc) from exc
        except ConfigError as exc:
            if isinstance(exc.__cause__, PermissionError) or "chmod" in str(exc):
                raise  # unreadable or open to others is not the same as absent
            log.warning("identity=slot-damaged slot=%s reason=%r", slot, str(exc))
            return False

    def _recorded(self) -> State | None:
        """What state.json says, None when it is missing or damaged."""
        path = self.folder / "state.json"
        try:
            match json.loads(read_limited(path, STATE_LIMIT_BYTES)):
                case {"schema": 1, "active": ("a" | "b") as active, "candidate": ("a" | "b" | None) as candidate}:
                    return State(active, candidate if candidate != active else None)
        except FileNotFoundError:
            return None
        except PermissionError as exc:
            raise self._refused(exc) from exc
        except (OSError, ValueError) as exc:
            log.warning("identity=state-damaged file=%s reason=%r", path, str(exc))
        return None

    def _recovered(self, whole: list[Slot]) -> State:
        """Without a record: the pair that was asked for last is a candidate, the other is in use."""
        if len(whole) < len(SLOTS):
            return State(whole[0] if whole else None)
        first, second = sorted(whole, key=lambda slot: self.certified(slot).not_before_s)
        asked = [slot for slot in whole if self._path(slot, "request.csr").exists()]
        candidate = asked[0] if len(asked) == 1 else second
        return State(second if candidate == first else first, candidate)

    def _record(self, state: State) -> None:
        table = {"schema": 1, "active": state.active, "candidate": state.candidate}
        self._write(self.folder / "state.json", json.dumps(table).encode())

    def _clear(self, slot: Slot) -> None:
        """The certificate first: what is left is no pair."""
        for name in ("tls.pem", "request.csr", "tls.key"):
            self._remove(self._path(slot, name))

    def _write(self, path: Path, data: bytes) -> None:
        try:
            write_durably(path, data, 0o600)
        except OSError as exc:
            raise self._refused(exc) from exc

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
            sync_folder(path.parent)
        except OSError as exc:
            raise self._refused(exc) from exc

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        self.prepare()
        try:
            handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise self._refused(exc) from exc
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _refused(self, exc: OSError) -> ConfigError:
        where = exc.filename or self.folder
        remedy = "[identity] folder must belong to the agent's user, who must be let into the folders above it"
        return ConfigError(f"{where}: {exc.strerror or exc}: {remedy}")


def _other(slot: Slot) -> Slot:
    return "b" if slot == "a" else "a"
