"""The gate: what becomes of a request, by rules in a fixed order. Decides and changes nothing.

    1 not retained   2 size   3 shape   4 a known key   5 its signature   6 not void   7 this fleet   8 not seen before
    9 not too often  10 in time, by a clock that can be believed, or with this device's nonce
    11 counted after the last of its key   12 role   13 arguments   14 room

Before the signature holds nothing is answered, because the topic's id may be somebody else's; up to rule 11 nothing is
stored, because the counter has not moved; from rule 12 on a refusal is a row like any other, and a repeated request
gets the same answer. What may be installed is not decided here: a request only asks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from agent.clock import Clock
from agent.commands.keys import Holder
from agent.commands.rate import Rate
from agent.commands.table import Operation, Table
from agent.envelope import topics
from agent.errors import CommandError, EnvelopeError
from agent.journal import Command
from agent.progress import Reason
from agent.request import Request, Target, Unverified, parse_request

AHEAD_S: Final = 15 * 60
"""A request issued or counted further ahead of a trusted clock is refused, seconds."""
Fate = Literal["deny", "answer", "repeat", "reject", "admit"]
"""deny: written down only; answer: told, not stored; repeat: the stored state is told again; reject: stored as failed;
admit: stored, and will be done."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one request, and all that is known about it."""

    fate: Fate
    operation: str = ""
    id: str = ""
    key_id: bytes = b""
    digest: str = ""
    reason: Reason | str = ""
    text: str = ""
    holder: Holder | None = None
    request: Request | None = None
    stored: Command | None = None
    """Of a repeated one: the row."""
    used_nonce: bool = False


class Memory(Protocol):
    """The part of the journal that is asked."""

    @property
    def born_ms(self) -> int | None: ...
    def find(self, id_: str) -> Command | None: ...
    def counter(self, key_id: bytes) -> int: ...


class Keys(Protocol):
    """Whose key counts."""

    def find(self, key_id: bytes) -> Holder | None: ...


@dataclass(frozen=True, slots=True)
class Device:
    """Who is asked."""

    site: str
    device: str
    audience: str


class _RefusedError(CommandError):
    """One rule was broken."""

    def __init__(self, fate: Fate, text: str, reason: Reason) -> None:
        super().__init__(text, reason)
        self.fate: Fate = fate


class Gate:
    """Judges requests to one device. One thread."""

    def __init__(
        self, device: Device, keys: Keys, table: Table, clock: Clock, per_minute: int, room: Callable[[], bool]
    ) -> None:
        """`room`: whether one more changing command may wait."""
        self._device, self._keys, self._table, self._clock, self._room = device, keys, table, clock, room
        self._rate = Rate(per_minute)

    def judge(self, topic: str, payload: bytes, retained: bool, memory: Memory, nonce: bytes) -> Verdict:
        """Apply the rules. `nonce` is the one that the device shows now. Raises StoreError."""
        known = Verdict("deny")
        try:
            if retained:
                raise _RefusedError("deny", "it is retained: requests never are", "REJECTED_UNSUPPORTED")
            target = self._target(topic)
            known = Verdict("deny", target.operation, target.id)
            unverified = parse_request(payload, target)
            known = Verdict("deny", target.operation, target.id, unverified.key_id, unverified.digest)
            return self._authentic(known, unverified, memory, nonce)
        except _RefusedError as exc:
            return _refused(known, exc.fate, exc)
        except CommandError as exc:
            return _refused(known, "deny", exc)

    def _target(self, topic: str) -> Target:
        try:
            tail = topics.read(topic)
        except EnvelopeError as exc:
            raise CommandError(str(exc), "REJECTED_UNSUPPORTED") from exc
        if tail.place != "request":
            raise CommandError("this is no topic of requests", "REJECTED_UNSUPPORTED")
        operation, _, id_ = tail.name.partition("/")
        return Target(self._device.site, self._device.device, operation, id_)

    def _authentic(self, known: Verdict, unverified: Unverified, memory: Memory, nonce: bytes) -> Verdict:
        holder = self._keys.find(unverified.key_id)
        if holder is None:
            raise CommandError("the key is not listed for this device", "REJECTED_UNAUTHORIZED")
        request = unverified.verified(holder.key)
        known = replace(known, holder=holder, request=request)
        try:
            return self._fresh(known, holder, request, memory, nonce)
        except _RefusedError as exc:
            return _refused(known, exc.fate, exc)

    def _fresh(self, known: Verdict, holder: Holder, request: Request, memory: Memory, nonce: bytes) -> Verdict:
        """Rules 6 to 11, all of them about a request that a known key has signed."""
        if holder.revoked is not None:
            raise _RefusedError("answer", f"the key was revoked: {holder.revoked}", "REJECTED_UNAUTHORIZED")
        if request.audience != self._device.audience:
            raise _RefusedError("answer", "it is meant for another fleet: check the audience", "REJECTED_UNAUTHORIZED")
        stored = memory.find(known.id)
        if stored is not None and stored.digest == known.digest:
            return replace(known, fate="repeat", stored=stored)
        if stored is not None:
            raise _RefusedError("deny", "its id was used before, for another request", "REJECTED_UNSUPPORTED")
        if not self._rate.take(holder.name, self._clock.mono_s()):
            raise _RefusedError("answer", "too many requests by this key: wait a minute", "REJECTED_BUSY")
        operation = self._table.get(known.operation)
        used = self._in_time(holder, request, operation, memory, nonce)
        self._counted(known, request, memory)
        try:
            self._allowed(known.operation, operation, holder, request)
        except CommandError as exc:
            return _refused(known, "reject", exc, used)
        return replace(known, fate="admit", used_nonce=used)

    def _in_time(
        self, holder: Holder, request: Request, operation: Operation | None, memory: Memory, nonce: bytes
    ) -> bool:
        """Rule 10; True when the nonce stood in for the time."""
        floor_s, trusted = (memory.born_ms or 0) / 1000, self._clock.state() == "synced"
        now_s = self._clock.wall_s() if trusted else floor_s
        if request.expires_s < now_s:
            raise _RefusedError("answer", "it has expired: send it anew", "REJECTED_EXPIRED")
        if holder.not_after_s is not None and holder.not_after_s < now_s:
            raise _RefusedError("answer", "the key's entry has expired", "REJECTED_UNAUTHORIZED")
        if trusted:
            if request.issued_s > now_s + AHEAD_S:
                words = "it was issued in the future: set the clock of the machine that signs"
                raise _RefusedError("answer", words, "REJECTED_EXPIRED")
            return False
        if operation is not None and operation.mutating and (not nonce or request.nonce != nonce):
            words = "this device does not know the time: repeat it with the nonce that its twin facet 'commands' shows"
            raise _RefusedError("answer", words, "REJECTED_EXPIRED")
        return bool(request.nonce)

    def _counted(self, known: Verdict, request: Request, memory: Memory) -> None:
        """Rule 11: strictly increasing, never far ahead of the time, and never from before this journal's birth.

        A stored counter that is itself far ahead comes from a time when the clock was wrong: it binds no more, and what
        it stood against is known by its id.
        """
        last, born_ms = memory.counter(known.key_id), memory.born_ms or 0
        if self._clock.state() == "synced":
            most = int((self._clock.wall_s() + AHEAD_S) * 1000)
            last = last if last <= most else 0
            if request.counter > most:
                words = "its counter is over 15 minutes ahead of the time: it counts milliseconds since 1970"
                raise _RefusedError("answer", words, "REJECTED_EXPIRED")
        if request.counter <= last:
            words = "its counter is not above the last one of this key: it is a replay, or came too late; sign it anew"
            raise _RefusedError("answer", words, "REJECTED_EXPIRED")
        if min(request.counter, request.issued_s * 1000 + 999) < born_ms:
            words = "it was signed before this device began to keep count: sign it anew"
            raise _RefusedError("answer", words, "REJECTED_EXPIRED")

    def _allowed(self, name: str, operation: Operation | None, holder: Holder, request: Request) -> None:
        """Rules 12 to 14. Raises CommandError."""
        if operation is None:
            known = ", ".join(sorted(self._table))
            raise CommandError(f"no operation {name}: this device knows {known}", "REJECTED_UNSUPPORTED")
        if not operation.allows(holder.role):
            words = f"{name} takes the role {operation.role}, and {holder.name} is {holder.role}"
            raise CommandError(words, "REJECTED_UNAUTHORIZED")
        operation.read(request.args, name)
        if operation.mutating and not self._room():
            raise CommandError("too many commands wait already: try again later", "REJECTED_BUSY")


def _refused(known: Verdict, fate: Fate, exc: CommandError, used_nonce: bool = False) -> Verdict:
    return replace(known, fate=fate, reason=exc.reason, text=str(exc), used_nonce=used_nonce)
