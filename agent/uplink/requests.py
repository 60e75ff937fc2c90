"""The uplink's side door: requests come in and are acknowledged by hand, states and capabilities go out.

Two threads meet here. The uplink offers what it received, asks what to acknowledge and what to publish; the commands'
lane takes requests, settles each once its row is durable, and says how things stand. What stands is kept here, one
message per topic, so that it can be published again after every reconnect and under every new key. A request that was
not settled when its connection broke stays here and is settled for the broker by its redelivery.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agent.broker import Message
from agent.envelope import MessageType

UNANSWERED: Final = 16
"""Requests that may be under way from the broker without an acknowledgement (MQTT 5, Receive Maximum)."""
WAITING: Final = 256
"""Requests that may wait here; more are neither kept nor acknowledged, and come again with the next connection. More
than `UNANSWERED`, because brokers were seen to overstep that (mosquitto 2.0.11), and MQTT 3.1.1 has no such limit."""
PACKET_BYTES: Final = 16 * 1024
"""Largest packet the broker may send (MQTT 5, Maximum Packet Size): a request of 8 KiB with its topic fits."""
ONCE: Final = 64
"""Answers to refused requests that may wait for the connection; the oldest give way."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A request as it came, and over which connection."""

    message: Message
    connection: int


@dataclass(frozen=True, slots=True)
class Told:
    """Something to publish: a state ("<op>/<id>") or a capability ("<op>"). No body: its retained message goes."""

    kind: MessageType
    name: str
    body: bytes | None
    """CBOR of a map."""
    retain: bool = True
    expiry_s: int | None = None


class Requests:
    """The meeting place. Every method may be called from any thread and returns at once, but for `take`."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._arrived: deque[Arrived] = deque()
        self._acks: deque[int] = deque()
        self._connection = 0
        self._standing: OrderedDict[str, Told] = OrderedDict()
        self._unsent: OrderedDict[str, None] = OrderedDict()
        self._once: deque[Told] = deque(maxlen=ONCE)
        self._wake: Callable[[], None] = lambda: None
        self._facet_news = False
        self.turned_away = 0
        """Requests that were not taken because too many waited."""

    # --- the commands' side ---------------------------------------------------------------------------------------

    def take(self, timeout_s: float) -> Arrived | None:
        """The oldest request, or None when none came in time. It stays first until it is settled."""
        with self._change:
            self._change.wait_for(lambda: bool(self._arrived), timeout_s)
            return self._arrived[0] if self._arrived else None

    def settle(self, arrived: Arrived) -> None:
        """All that had to be written about it is durable: the broker may forget it."""
        with self._change:
            if self._arrived and self._arrived[0] is arrived:
                self._arrived.popleft()
            if arrived.connection == self._connection and arrived.message.mid:
                self._acks.append(arrived.message.mid)
        self._wake()

    def tell(self, told: Told) -> None:
        """Publish this now, and again whenever that is needed; it replaces what stood under its name."""
        with self._change:
            if not told.retain:
                self._once.append(told)
            else:
                self._standing[told.name] = told
                self._unsent[told.name] = None
        self._wake()

    def facet_changed(self) -> None:
        """The twin facet of the commands is to be told now, and not at its next turn."""
        with self._change:
            self._facet_news = True
        self._wake()

    # --- the uplink's side ----------------------------------------------------------------------------------------

    def watch(self, wake: Callable[[], None]) -> None:
        """`wake` is called when there is something to acknowledge or to publish."""
        self._wake = wake

    def connected(self) -> None:
        """A new connection: old acknowledgements have no meaning there, and everything that stands is told again."""
        with self._change:
            self._connection += 1
            self._acks.clear()
        self.tell_all()

    def tell_all(self) -> None:
        """A new connection or key: what stands is published again."""
        with self._change:
            self._unsent = OrderedDict.fromkeys(self._standing)

    def offer(self, message: Message) -> None:
        """A request arrived."""
        with self._change:
            if len(self._arrived) >= WAITING:
                self.turned_away += 1
                return
            self._arrived.append(Arrived(message, self._connection))
            self._change.notify_all()

    def settled(self) -> list[int]:
        """Message ids to acknowledge now, in the order of their arrival."""
        with self._change:
            mids = list(self._acks)
            self._acks.clear()
        return mids

    def next(self) -> Told | None:
        """The next thing to publish, or None."""
        with self._change:
            if self._unsent:
                name, _ = self._unsent.popitem(last=False)
                told = self._standing[name]
                if told.body is None:
                    del self._standing[name]  # cleared once is cleared; a broker that was wiped has nothing to clear
                return told
            return self._once.popleft() if self._once else None

    def take_facet_news(self) -> bool:
        """Whether the facet is to be told now; asked once."""
        with self._change:
            news, self._facet_news = self._facet_news, False
            return news
