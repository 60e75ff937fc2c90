"""What the uplink counts, what troubles it, and what others ask it to post. Read and written by several threads."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from agent import cbor, codec
from agent.envelope import MessageType
from agent.uplink.queue import Under

log = logging.getLogger(__name__)

POSTS = 64
"""Posts that may wait for a connection."""
NAMES = (
    "connects", "disconnects", "sent_messages", "sent_events", "sent_bytes", "acked_messages", "acked_events",
    "acked_bytes", "refused", "parked", "oversize",
)  # fmt: skip


class Tally:
    """Counters since the start, and the connection's state."""

    def __init__(self, delivered: Callable[[str, float], None]) -> None:
        """`delivered(stream, seconds)` is told how long a live event took from its sample to its acknowledgement."""
        self._lock = threading.Lock()
        self._counters = dict.fromkeys(NAMES, 0)
        self._delivered = delivered
        self._posts: deque[tuple[MessageType, str, bytes]] = deque(maxlen=POSTS)
        self._refusals: dict[str, str] = {}
        self._connected = False
        self._trouble = ""

    def count(self, name: str, by: int) -> None:
        """Add to a counter."""
        with self._lock:
            self._counters[name] += by

    def sent(self, size: int, events: int) -> None:
        """A message of `size` bytes of payload left."""
        with self._lock:
            self._counters["sent_messages"] += 1
            self._counters["sent_events"] += events
            self._counters["sent_bytes"] += size

    def acked(self, taken: Sequence[Under], now_s: float) -> None:
        """The broker took these messages."""
        with self._lock:
            for under in taken:
                self._counters["acked_messages"] += 1
                self._counters["acked_events"] += len(under.ns)
                self._counters["acked_bytes"] += under.size
                self._refusals.pop(under.stream, None)
        for under in taken:
            for sampled_s in under.sampled_s:
                self._delivered(under.stream, now_s - sampled_s)

    def refused(self, stream: str, why: str) -> None:
        """The broker refused a message of `stream`; logged once until one is taken."""
        with self._lock:
            self._counters["refused"] += 1
            news = self._refusals.get(stream) != why
            self._refusals[stream] = why
        if news:
            log.warning("uplink=refused stream=%s reason=%r", stream, why)

    def connected(self, now: bool) -> None:
        """The connection came or went."""
        with self._lock:
            self._counters["connects" if now else "disconnects"] += 1
            self._connected = now
            self._trouble = "" if now else self._trouble

    def trouble(self, text: str) -> None:
        """Something an operator has to look at; logged when it changes."""
        with self._lock:
            news = text != self._trouble
            self._trouble = text
        if news:
            log.warning("uplink=trouble %s", text)

    def post(self, place: Literal["metric", "alarm"], name: str, body: Mapping[str, Any]) -> None:
        """Have `body` published, in order: an alarm that was cleared at once is told too. Over `POSTS` the oldest go.

        Raises EnvelopeError for what cannot be written.
        """
        kind = MessageType.ALARM if place == "alarm" else MessageType.METRIC
        payload = cbor.encode(codec.plain(body))
        with self._lock:
            self._posts.append((kind, name, payload))

    def take_posts(self) -> list[tuple[MessageType, str, bytes]]:
        """What was posted since the last call."""
        with self._lock:
            posts = list(self._posts)
            self._posts.clear()
        return posts

    def stats(self) -> dict[str, Any]:
        """Counters and state."""
        with self._lock:
            return {
                "connected": self._connected,
                "trouble": self._trouble,
                "refusals": dict(self._refusals),
                **self._counters,
            }
