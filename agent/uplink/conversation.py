"""One connection's worth of talking: keys first, then status and facets, then events until the end.

Everything happens in the uplink's lane: sealing, sending, reading acknowledgements. An event leaves the outbox only
when the broker has said yes to the very message that carried it.
"""

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agent import cbor, codec
from agent.broker import TRANSIENT, Ack, Connection, Message, Session, words
from agent.clock import Clock
from agent.envelope import EpochSpentError, KeyEnvelope, MessageType, Topics, Zip
from agent.errors import EnvelopeError, UplinkError
from agent.settings.uplink import UplinkConfig
from agent.uplink.gathering import Gathering
from agent.uplink.keyring import Keyring
from agent.uplink.queue import BUSY_S, Group, Queue, Source, Under
from agent.uplink.refusals import Refusals
from agent.uplink.requests import Requests, Told
from agent.uplink.tally import Tally

log = logging.getLogger(__name__)

TURN_S = 1.0
CONTROL_S = 10.0
"""How long a key envelope or the status may wait for its acknowledgement, seconds."""
GOODBYE_S = 3.0
"""How long a stop waits for acknowledgements, seconds."""
FACETS_S = 5.0
"""How often the facets are looked at for a change, seconds."""
CONTROL_WINDOW = 8
"""States of commands go out only while fewer control messages than this are under way."""
ROOM = 512
"""Bytes of a packet beside its payload: topic, header, properties, seal."""


class Sealing(Protocol):
    """Turns payloads into messages; belongs to the thread that uses it first."""

    @property
    def batches(self) -> bool: ...

    def current_envelope(self) -> KeyEnvelope | None: ...
    def seal(self, message_type: MessageType, stream: str, payload: bytes, zip_: Zip = Zip.NONE) -> bytes: ...


class Outbox(Source, Protocol):
    """The store as the uplink sees it."""

    def acknowledge(self, ns: list[int]) -> None: ...
    def park(self, n: int, reason: str) -> None: ...
    def unpark(self) -> None: ...
    def watch(self, watcher: Callable[[bool], None] | None) -> None: ...
    def remember(self, key: str, text: str) -> bool: ...
    def recall(self, key: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose events these are, and what else is told about it."""

    topics: Topics
    facets: Callable[[], Mapping[str, Mapping[str, Any]]]
    """Facet -> what the twin says about it, looked at every `FACETS_S`."""
    zip: Zip = Zip.DEFLATE_RAW
    requests: Requests | None = None
    """Where requests go and states come from; None: this device takes none."""


class Conversation:
    """Talks over one connection."""

    def __init__(
        self,
        link: Connection,
        granted: Session,
        config: UplinkConfig,
        subject: Subject,
        outbox: Outbox,
        sealer: Sealing,
        refusals: Refusals,
        gathering: Gathering,
        tally: Tally,
        clock: Clock,
        *,
        careful: bool,
    ) -> None:
        """`careful` sends one event at a time, to find the one that makes the broker hang up."""
        self._link = link
        self._config = config
        self._subject = subject
        self._outbox = outbox
        self._sealer = sealer
        self._tally = tally
        self._clock = clock
        self._window = 1 if careful else granted.window
        self._most_bytes = min(config.message_kib << 10, granted.packet_bytes) - ROOM
        self._refusals = refusals
        self._gathering = gathering
        most = config.batch_events if sealer.batches and not careful else 1
        self._queue = Queue(outbox, config, refusals, gathering, most, self._most_bytes - ROOM)
        self._keyring = Keyring(outbox, config.key_retention_s, clock)
        self._topics: dict[tuple[str, bool], str] = {}
        self._under: dict[int, Under] = {}
        self._control: dict[int, str] = {}
        self._facets: dict[str, bytes] = {}
        self._facets_due_s = 0.0
        self._paused_s = 0.0
        self._pauses = 0
        self._envelope: KeyEnvelope | None = None
        self.acked = 0
        """Event messages that the broker took."""
        self.refused = 0
        """Event messages that the broker refused in so many words."""

    @property
    def alone(self) -> int | None:
        """The one event under way, if it is exactly one."""
        if len(self._under) != 1:
            return None
        (under,) = self._under.values()
        return under.ns[0] if len(under.ns) == 1 else None

    @property
    def open_ends(self) -> int:
        """Messages without an answer."""
        return len(self._under)

    # --- the course of it -----------------------------------------------------------------------------------------

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Greet, then publish until `stop` or the end of the connection. Raises UplinkError when it breaks."""
        self._publish_keys(stop, beat)
        self._say_status("online")
        self._listen()
        while not stop.is_set():
            beat()
            self._keep_key(stop, beat)
            if stop.is_set():  # perhaps before the broker had the key: nothing more is sealed
                break
            self._send_events()
            self._keep_up()
            self._turn(self._rest_s(self._clock.mono_s()))
            self._gathering.awake()
        else:
            self._gathering.again(self._clock.mono_s())
            self._send_events()
        self._farewell(beat)

    def _rest_s(self, now_s: float) -> float:
        """How long nothing is to be done but to listen to the broker, if nobody wakes this lane."""
        if self._paused_s > now_s:
            return min(TURN_S, self._paused_s - now_s)
        if len(self._under) >= self._window:  # whatever is due, an answer comes first, and ends the wait
            return TURN_S
        wait_s = min(BUSY_S if self._queue.busy else TURN_S, self._queue.wait_s(now_s))
        return self._gathering.asleep(now_s, wait_s)

    def _turn(self, wait_s: float) -> None:
        if not self._link.turn(wait_s):
            self._read_answers()
            raise UplinkError(f"connection lost: {self._link.trouble}")
        self._read_answers()

    def _farewell(self, beat: Callable[[], None]) -> None:
        until_s = self._clock.mono_s() + GOODBYE_S
        self._serve_requests()
        while self._under and self._clock.mono_s() < until_s:
            beat()
            self._turn(0.1)
        self._say_status("stopped")
        while self._control and self._clock.mono_s() < until_s:
            self._turn(0.1)

    # --- keys, status, facets -------------------------------------------------------------------------------------

    def _keep_key(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Publish a new epoch's key, and have old ones removed."""
        if self._sealer.current_envelope() is not self._envelope:
            self._publish_keys(stop, beat)

    def _keep_up(self) -> None:
        """What is due beside events, and after them: requests, changed facets, posts."""
        now_s = self._clock.mono_s()
        self._serve_requests()
        if now_s >= self._facets_due_s:
            self._facets_due_s = now_s + FACETS_S
            self._tell_facets()
        for message_type, name, body in self._tally.take_posts():
            topics = self._subject.topics
            topic = topics.alarm(name) if message_type is MessageType.ALARM else topics.metric(name)
            self._send_control(topic, message_type, name, body, retain=message_type is MessageType.ALARM)

    def _publish_keys(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Retain the key envelope and wait until the broker has it: nothing may be sealed before."""
        envelope = self._sealer.current_envelope()
        self._envelope = envelope
        if envelope is None:
            return
        topic = f"{self._subject.topics.prefix}/{envelope.tail}"
        keep_s = self._config.key_retention_s + 3600
        mid = self._link.publish(Message(topic, envelope.payload, retain=True, expiry_s=keep_s))
        self._control[mid] = "key envelope"
        until_s = self._clock.mono_s() + CONTROL_S
        while mid in self._control:
            if stop.is_set():
                return
            beat()
            self._turn(0.5)
            if self._clock.mono_s() > until_s:
                raise UplinkError("the broker does not acknowledge the key envelope: nothing can be sealed before")
        for kid in self._keyring.published(envelope.kid.hex()):
            cleared = Message(f"{self._subject.topics.prefix}/keys/{kid}", b"", retain=True)
            self._control[self._link.publish(cleared)] = "old key"
        self._facets.clear()
        self._facets_due_s = 0.0
        if self._subject.requests is not None:
            self._subject.requests.tell_all()

    def _say_status(self, state: str) -> None:
        payload = status(state, self._config, self._clock)
        message = Message(self._subject.topics.status, payload, retain=True)
        self._control[self._link.publish(message)] = "status"

    def _tell_facets(self) -> None:
        for facet, body in self._subject.facets().items():
            payload = cbor.encode(codec.plain(body))
            if self._facets.get(facet) != payload:
                self._facets[facet] = payload
                self._send_control(self._subject.topics.twin(facet), MessageType.TWIN, facet, payload, retain=True)

    def _send_control(self, topic: str, message_type: MessageType, name: str, body: bytes, *, retain: bool) -> None:
        try:
            sealed = self._sealer.seal(message_type, name, body)
        except EpochSpentError:
            self._facets.pop(name, None)  # said again under the next key
            return
        if len(sealed) > self._most_bytes:
            log.error("uplink=too-large topic=%s bytes=%d action=not-sent", topic, len(sealed))
            return
        self._control[self._link.publish(Message(topic, sealed, retain))] = topic

    # --- requests -------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Subscribe to requests. A broker that refuses that gets the events all the same."""
        if self._subject.requests is None:
            return
        self._subject.requests.connected()
        try:
            self._link.subscribe([self._subject.topics.requests], retained=False)
        except UplinkError as exc:
            if not self._link.connected:
                raise
            self._tally.trouble(f"no requests can be received: {exc}")

    def _serve_requests(self) -> None:
        """Hand over what came, acknowledge what is durable, publish how things stand."""
        requests = self._subject.requests
        if requests is None:
            self._link.received.clear()  # of a subscription that the broker still keeps from before
            return
        while self._link.received:
            requests.offer(self._link.received.popleft())
        for mid in requests.settled():
            self._link.answer(mid)
        while len(self._control) < CONTROL_WINDOW and (told := requests.next()) is not None:
            self._tell(told)
        if requests.take_facet_news():
            self._facets_due_s = 0.0

    def _tell(self, told: Told) -> None:
        """A state or a capability; what the spent epoch keeps from being sealed is told again under the next."""
        topic = f"{self._subject.topics.prefix}/cmd/{told.name}"
        try:
            sealed = b"" if told.body is None else self._sealer.seal(told.kind, told.name, told.body)
        except EpochSpentError:
            return
        if len(sealed) > self._most_bytes:
            log.error("uplink=too-large topic=%s bytes=%d action=not-sent", topic, len(sealed))
            return
        self._control[self._link.publish(Message(topic, sealed, told.retain, told.expiry_s))] = topic

    # --- events ---------------------------------------------------------------------------------------------------

    def _send_events(self) -> None:
        while (free := self._window - len(self._under)) > 0:
            now_s = self._clock.mono_s()
            group = self._queue.next(now_s, free) if now_s >= self._paused_s else None
            if group is None or not self._send(group):
                return

    def _send(self, group: Group) -> bool:
        """Seal and publish; False when the epoch has to change first."""
        try:
            payload = self._sealed(group)
        except EpochSpentError:
            self._queue.again(self._clock.mono_s())
            return False
        except EnvelopeError as exc:
            self._set_aside(group.stream, group.ns, f"cannot be sealed: {exc}")
            return True
        if len(payload) > self._most_bytes:
            self._too_large(group, len(payload))
            return True
        mid = self._link.publish(Message(self._topic(group), payload))
        self._under[mid] = Under.of(group, len(payload))
        self._queue.sent(group)
        self._tally.sent(len(payload), len(group.entries))
        return self._link.connected

    def _topic(self, group: Group) -> str:
        topic = self._topics.get((group.stream, group.gap))
        if topic is None:
            topics = self._subject.topics
            topic = topics.gap(group.stream) if group.gap else topics.event(group.stream)
            self._topics[group.stream, group.gap] = topic
        return topic

    def _sealed(self, group: Group) -> bytes:
        bodies = [entry.body for entry in group.entries]
        if len(bodies) > 1:
            array = cbor.head(4, len(bodies)) + b"".join(bodies)
            return self._sealer.seal(MessageType.BATCH, group.stream, array, self._subject.zip)
        return self._sealer.seal(MessageType.GAP if group.gap else MessageType.EVENT, group.stream, bodies[0])

    def _too_large(self, group: Group, size: int) -> None:
        self._tally.count("oversize", 1)
        why = f"message of {size} bytes is larger than {self._most_bytes}: {words(0x95)}"
        self._set_aside(group.stream, group.ns, why)

    def _set_aside(self, stream: str, ns: tuple[int, ...], reason: str) -> None:
        log.warning("uplink=set-aside stream=%s events=%d reason=%r", stream, len(ns), reason)
        for n in ns:
            self._outbox.park(n, reason)
        self._tally.count("parked", len(ns))

    # --- answers --------------------------------------------------------------------------------------------------

    def _read_answers(self) -> None:
        taken: list[Under] = []
        while self._link.acks:
            ack = self._link.acks.popleft()
            under = self._under.pop(ack.mid, None)
            if under is None:
                self._control_answered(ack)
                continue
            self._queue.done(under)
            if ack.refused:
                self._taken(taken)
                taken = []
                self._refused(under, ack)
            else:
                taken.append(under)
        self._taken(taken)

    def _taken(self, taken: list[Under]) -> None:
        """The broker has these: the store may forget them."""
        if not taken:
            return
        self._pauses = 0
        self.acked += len(taken)
        for under in taken:
            self._refusals.accepted(under.stream, under.ns)
        self._tally.acked(taken, self._clock.mono_s())
        self._outbox.acknowledge([n for under in taken for n in under.ns])

    def _control_answered(self, ack: Ack) -> None:
        what = self._control.pop(ack.mid, "")
        if not ack.refused:
            return
        said = f"the broker refused {what}: {words(ack.code)}"
        if what == "key envelope":
            raise UplinkError(f"{said}: allow {self._subject.topics.prefix}/# for writing")
        self._tally.trouble(said)

    def _refused(self, under: Under, ack: Ack) -> None:
        stream, ns, now_s = under.stream, under.ns, self._clock.mono_s()
        self.refused += 1
        self._tally.refused(stream, f"{words(ack.code)}; topic {self._subject.topics.event(stream)}")
        if ack.code in TRANSIENT:
            self._paused_s = now_s + min(
                self._config.refusal_wait_s * 2.0 ** min(self._pauses, 20), self._config.park_retry_s
            )
            self._pauses += 1
            self._queue.again(self._paused_s)
        elif self._refusals.refused(stream, ns, now_s):
            self._set_aside(stream, ns, words(ack.code))
        else:
            self._queue.again(max(self._refusals.wait_until_s(stream, n) for n in ns))


def status(state: str, config: UplinkConfig, clock: Clock) -> bytes:
    """The retained status: plain JSON, because the broker itself sends the last will."""
    said: dict[str, Any] = {"state": state, "mqtt": config.protocol}
    if config.protocol == "3.1.1":
        said["warning"] = "MQTT 3.1.1 cannot report messages that the broker refuses"
    if state != "offline":
        said["t_wall_s"] = round(clock.wall_s(), 3)
    return json.dumps(said).encode()
