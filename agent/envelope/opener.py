"""Opening, at a reader: from topic and bytes to events that a trusted device said.

Rules. Limits are checked before parsing. Whatever is malformed, forged, replayed or said by a stranger raises
EnvelopeError, which never repeats content; nothing else is raised. A message whose key envelope is missing waits,
bounded, and comes out when the envelope does. Replays are told by (kid, n), duplicates by event id. One thread.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agent import cbor, codec
from agent.envelope import keyenvelope, message, signed, topics
from agent.envelope.keyenvelope import EnvelopeBody
from agent.envelope.keys import ReaderKey
from agent.envelope.memory import SEEN_BUDGET_BYTES, RecentlySeen, SeenCounters, WaitingRoom
from agent.envelope.message import Address, EpochKey, MessageType, Sealed
from agent.envelope.squeeze import expand
from agent.envelope.topics import Place, Tail
from agent.envelope.trust import Trust
from agent.errors import EnvelopeError
from agent.records import Event
from agent.settings.envelope import ReaderLimits

MAX_STATUS_BYTES: Final = 4096
CLOSED_ENTRIES: Final = 131_072
"""Entries about forgotten epochs (two each), so that their messages cannot be replayed."""
MAX_CLAIMS: Final = 4
"""Devices that may claim one kid; kids are random, so a second claim is an attack that must not silence the first."""

_PLACES: Final[dict[MessageType, Place]] = {
    MessageType.EVENT: "event",
    MessageType.BATCH: "event",
    MessageType.GAP: "gap",
    MessageType.TWIN: "twin",
    MessageType.METRIC: "metric",
    MessageType.ALARM: "alarm",
    MessageType.STATE: "state",
    MessageType.CAPABILITY: "capability",
}


class ReplayError(EnvelopeError):
    """This very message was opened before: a duplicate delivery or a replay."""


@dataclass(frozen=True, slots=True)
class Opened:
    """One message that was opened and believed."""

    place: Place
    site: str
    device: str
    name: str
    """Stream, facet, type, operation, or "<op>/<id>"; "" for status."""
    events: tuple[Event, ...] = ()
    """Of an event, batch or gap: those whose id was not seen before."""
    duplicates: int = 0
    """Events left out because their id was seen before."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """Of everything else: the decoded map."""
    sealed: bool = False
    signed: bool = False
    """True when the device's own signature was checked, not only the epoch key that all readers share."""


@dataclass(slots=True)
class _Epoch:
    """One epoch of one device, as this reader knows it. `key` is None when the reader is not among the readers."""

    body: EnvelopeBody
    key: EpochKey | None
    signer: bytes
    """Id of the device key that vouched for it."""
    seen: SeenCounters = field(default_factory=SeenCounters)


class Opener:
    """One reader's eyes. `clock` is monotonic and `wall` is UTC, both in seconds."""

    def __init__(
        self,
        keys: Sequence[ReaderKey],
        trust: Trust,
        limits: ReaderLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._keys, self._trust, self._clock, self._wall = tuple(keys), trust, clock, wall
        self._limits = limits or ReaderLimits()
        self._epochs: OrderedDict[tuple[bytes, str, str], _Epoch] = OrderedDict()
        self._claims: dict[bytes, list[tuple[bytes, str, str]]] = {}
        self._closed = RecentlySeen(CLOSED_ENTRIES)
        self._ids = RecentlySeen(self._limits.event_ids)
        self._room = WaitingRoom(self._limits.held_messages, self._limits.held_bytes, self._limits.held_s)
        self.counts: Counter[str] = Counter()
        """opened, duplicates (events), held, held_expired, held_dropped, held_refused: since the start."""

    def open(self, topic: str, payload: bytes) -> tuple[Opened, ...]:
        """What `payload` says, in order.

        Usually one. None when the message waits for its envelope or clears a retained one; several when an envelope
        arrives that messages waited for. Raises EnvelopeError.
        """
        self.counts["held_expired"] += self._room.expire(self._clock())
        if len(payload) > self._limits.message_bytes:
            raise EnvelopeError(f"message is larger than {self._limits.message_bytes} bytes: it is not looked at")
        tail = topics.read(topic)
        if not payload:
            return ()  # a retained message was cleared; anyone could do that, so nothing is forgotten
        if tail.place == "keys":
            return tuple(self._envelope(tail, payload))
        opened = self._message(topic, tail, payload)
        return () if opened is None else (opened,)

    def _message(self, topic: str, tail: Tail, payload: bytes) -> Opened | None:
        if tail.place == "status":
            opened: Opened | None = self._status(tail, payload)
        elif payload[:1] in (b"{", b"["):
            opened = self._plain(tail, payload)
        else:
            opened = self._sealed(topic, tail, payload)
        self.counts["opened"] += opened is not None
        return opened

    def _envelope(self, tail: Tail, payload: bytes) -> Iterator[Opened]:
        if len(payload) > keyenvelope.MAX_ENVELOPE_BYTES:
            raise EnvelopeError("key envelope is too large: it is not looked at")
        statement = signed.parse(payload)
        body = keyenvelope.parse(statement.payload)
        external = signed.external_of_envelope(body.kid)
        self._trust.verify(statement, external, body.site, body.device, self._wall())
        if body.kid.hex() != tail.name:
            raise EnvelopeError("key envelope stands on the topic of another key id")
        self._learn(body, statement.key_id)
        for waiting in self._room.release(body.kid):
            try:
                opened = self._message(waiting.topic, topics.read(waiting.topic), waiting.payload)
            except EnvelopeError:
                self.counts["held_refused"] += 1
                continue
            if opened is not None:
                yield opened

    def _learn(self, body: EnvelopeBody, signer: bytes) -> None:
        """Remember a verified envelope; a second one for the same epoch may add this reader, never change the key."""
        place = (body.kid, body.site, body.device)
        if place in self._closed:
            raise EnvelopeError("key envelope is for an epoch that this reader has closed")
        key = body.unwrap(self._keys)
        known = self._epochs.get(place)
        if known is None:
            claims = self._claims.setdefault(body.kid, [])
            if len(claims) >= MAX_CLAIMS:
                raise EnvelopeError("key envelope claims a key id that too many devices claim")
            claims.append(place)
            self._epochs[place] = _Epoch(body, key, signer)
            self._forget_oldest()
        elif known.key is None:
            known.key = key
        elif key is not None and known.key != key:
            raise EnvelopeError("key envelope gives another key for a key id that is known already")

    def _forget_oldest(self) -> None:
        while len(self._epochs) > self._limits.epochs or self._seen_bytes() > SEEN_BUDGET_BYTES:
            place, _ = self._epochs.popitem(last=False)
            self._closed.add(place)
            self._closed.add(place[0])
            self._claims[place[0]].remove(place)
            if not self._claims[place[0]]:
                del self._claims[place[0]]

    def _seen_bytes(self) -> int:
        return sum(len(epoch.seen) for epoch in self._epochs.values())

    def _sealed(self, topic: str, tail: Tail, payload: bytes) -> Opened | None:
        sealed = message.parse(payload)
        if _PLACES[sealed.message_type] != tail.place:
            raise EnvelopeError("message of this type does not belong on this topic")
        claims = self._claims.get(sealed.kid)
        if not claims and sealed.kid in self._closed:
            raise EnvelopeError("message is of an epoch that this reader has closed")
        if not claims:
            self.counts["held"] += 1
            self.counts["held_dropped"] += self._room.add(topic, payload, sealed.kid, self._clock())
            return None
        epoch, squeezed = self._decrypt(sealed, tail, [self._epochs[place] for place in claims])
        body = epoch.body
        if self._trust.void(epoch.signer):
            raise EnvelopeError("message is of an epoch whose device key was revoked since")
        if sealed.n in epoch.seen:
            raise ReplayError("message was opened before: a duplicate delivery or a replay")
        epoch.seen.add(sealed.n)
        self._epochs.move_to_end((body.kid, body.site, body.device))
        clear = expand(squeezed, sealed.zip, self._limits.expanded_bytes)
        return self._believe(sealed, tail, body, clear)

    def _decrypt(self, sealed: Sealed, tail: Tail, epochs: list[_Epoch]) -> tuple[_Epoch, bytes]:
        problem = EnvelopeError("this reader is not among the readers of the message: have its key added on the device")
        for epoch in epochs:
            if epoch.key is None:
                continue
            where = Address(epoch.body.site, epoch.body.device, tail.name)
            try:
                return epoch, message.open_(sealed, epoch.key, where)
            except EnvelopeError as exc:
                problem = exc
        raise problem

    def _believe(self, sealed: Sealed, tail: Tail, body: EnvelopeBody, clear: bytes) -> Opened:
        """Decode what was sealed. The epoch key is shared by all readers: alarms and states must be signed inside."""
        kind = sealed.message_type
        if kind.signed:
            statement = signed.parse(clear)
            external = signed.external_of_inner(body.site, body.device, kind, tail.name)
            self._trust.verify(statement, external, body.site, body.device, self._wall())
            clear = statement.payload
        if kind in (MessageType.EVENT, MessageType.GAP):
            events: tuple[Event, ...] = (codec.decode(clear),)
        elif kind is MessageType.BATCH:
            events = codec.decode_batch(clear, self._limits.batch_events)
        else:
            table = _table(cbor.decode(clear))
            return Opened(tail.place, body.site, body.device, tail.name, body=table, sealed=True, signed=kind.signed)
        return self._fresh(tail, body.site, body.device, events, sealed=True)

    def _plain(self, tail: Tail, payload: bytes) -> Opened:
        known = self._trust.device(tail.site, tail.device)
        if known is None or known.mode != "plain":
            raise EnvelopeError("plain message, but this reader expects its device to seal: refused")
        table = codec.read_json(payload)
        if tail.place in ("event", "gap"):
            return self._fresh(tail, tail.site, tail.device, (codec.from_map(table),), sealed=False)
        return Opened(tail.place, tail.site, tail.device, tail.name, body=_table(table))

    def _status(self, tail: Tail, payload: bytes) -> Opened:
        """Status is plain for every device, because the broker itself sends the last will: a hint, not a proof."""
        if len(payload) > MAX_STATUS_BYTES:
            raise EnvelopeError("status is too large: it is not looked at")
        if self._trust.device(tail.site, tail.device) is None:
            raise EnvelopeError("status of a device that this reader does not know")
        return Opened(tail.place, tail.site, tail.device, "", body=_table(codec.read_json(payload)))

    def _fresh(self, tail: Tail, site: str, device: str, events: tuple[Event, ...], sealed: bool) -> Opened:
        """Leave out the events whose id was seen before."""
        if any(event.draft.stream != tail.name for event in events):
            raise EnvelopeError("event belongs to another stream than its topic")
        fresh = []
        for event in events:
            if (site, device, event.id) not in self._ids:
                self._ids.add((site, device, event.id))
                fresh.append(event)
        self.counts["duplicates"] += len(events) - len(fresh)
        return Opened(tail.place, site, device, tail.name, tuple(fresh), len(events) - len(fresh), sealed=sealed)


def _table(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise EnvelopeError("message must hold a map")
    checked: dict[str, Any] = codec.plain(value)
    return checked
