"""The uplink's lane: connects, talks, and connects again after a jittered wait, for as long as it takes.

Being offline is not a failure: events stay in the outbox. When the broker hangs up without taking anything, the next
connection is careful and sends one event at a time; an event that ends the connection again and again is set aside.
"""

import logging
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal

from agent.backoff import Backoff
from agent.broker import Connection, Message, Session
from agent.clock import Clock, SystemClock
from agent.errors import ConfigError, UplinkError
from agent.settings.uplink import UplinkConfig
from agent.uplink.conversation import Conversation, Outbox, Sealing, Subject, status
from agent.uplink.gathering import Gathering
from agent.uplink.refusals import Refusals
from agent.uplink.requests import PACKET_BYTES, UNANSWERED
from agent.uplink.tally import Tally

log = logging.getLogger(__name__)

CAREFUL_ACKS = 10
"""Events taken one by one after which a careful connection counts as sound."""


OpenLink = Callable[[UplinkConfig, str, Message], Connection]
"""Makes a connection, not yet connected, of settings, client id and last will."""


def _nothing(_stream: str, _latency_s: float) -> None:
    return


class Uplink:
    """Publishes what the outbox holds. `run` belongs to one lane; the rest may be called from any thread."""

    def __init__(
        self,
        config: UplinkConfig,
        subject: Subject,
        outbox: Outbox,
        make_sealer: Callable[[], Sealing],
        clock: Clock | None = None,
        delivered: Callable[[str, float], None] = _nothing,
        *,
        open_link: OpenLink,
    ) -> None:
        """`make_sealer` is called in the lane: a sealer belongs to one thread. `open_link` is `agent.mqtt.Link`.

        `delivered(stream, seconds)` hears of each live event that was acknowledged.
        """
        self._config = config
        self._subject = subject
        self._outbox = outbox
        self._make_sealer = make_sealer
        self._open_link = open_link
        self._clock = clock or SystemClock()
        self._tally = Tally(delivered)
        self._refusals = Refusals(config)
        self._gathering = Gathering(config.gather_s, config.gather_routine_s)
        self._link: Connection | None = None
        self._careful = False
        self._strikes: dict[int, int] = {}
        self._unparked_s: float | None = None
        if subject.requests is not None:
            subject.requests.watch(self._wake)
        topics = subject.topics
        self._client_id = config.client_id or f"limpet-{topics.site}-{topics.device}"
        self._will = Message(topics.status, status("offline", config, self._clock), retain=True)

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Publish until `stop`; then wait at most 3 s for acknowledgements. Raises ConfigError for unusable keys."""
        sealer = self._make_sealer()
        backoff = Backoff(random.Random(), self._config.reconnect_first_s, self._config.reconnect_cap_s)
        while not stop.is_set():
            beat()
            try:
                self._talk(sealer, backoff, stop, beat)
            except (UplinkError, ConfigError) as exc:
                self._tally.trouble(str(exc))
            wait_s = backoff.failed(self._clock.mono_s())
            while wait_s > 0 and not stop.wait(min(1.0, wait_s)):
                beat()
                wait_s -= 1.0

    def post(self, place: Literal["metric", "alarm"], name: str, body: Mapping[str, Any]) -> None:
        """Have a metric or an alarm published when connected, in order; the newest 64 wait."""
        self._tally.post(place, name, body)
        self._wake()

    def stats(self) -> dict[str, Any]:
        """Counters (messages, events, bytes of payload) since the start, and the connection's state in words."""
        return self._tally.stats() | {
            "broker": self._config.broker,
            "mqtt": self._config.protocol,
            "refusals_reported": self._config.protocol == "5",
        }

    def _talk(self, sealer: Sealing, backoff: Backoff, stop: threading.Event, beat: Callable[[], None]) -> None:
        with self._open_link(self._config, self._client_id, self._will) as link:
            granted = self._connect(link)
            beat()
            self._retry_parked()
            conversation = Conversation(
                link, granted, self._config, self._subject, self._outbox, sealer, self._refusals, self._gathering,
                self._tally, self._clock, careful=self._careful,
            )  # fmt: skip
            self._tally.connected(now=True)
            backoff.started(self._clock.mono_s())
            resumed = "resumed" if granted.present else "new"
            log.info("uplink=connected broker=%s session=%s", self._config.broker, resumed)
            self._link = link
            self._outbox.watch(self._accepted)
            try:
                conversation.run(stop, beat)
            except UplinkError as exc:
                self._judge(conversation, str(exc))
                raise
            finally:
                self._outbox.watch(None)
                self._link = None
                self._tally.connected(now=False)

    def _connect(self, link: Connection) -> Session:
        """Requests are acknowledged by hand; who takes none acknowledges what comes at once, and drops it."""
        if self._subject.requests is None:
            return link.connect()
        return link.connect(UNANSWERED, PACKET_BYTES)

    def _judge(self, conversation: Conversation, why: str) -> None:
        """Learn from a connection that broke: does some event make the broker hang up?"""
        if conversation.acked >= CAREFUL_ACKS:
            self._careful = False
            self._strikes.clear()
        if conversation.refused:  # some brokers refuse in words and then hang up: that says nothing about the rest
            return
        alone = conversation.alone
        if self._careful and alone is not None:
            self._strikes[alone] = self._strikes.get(alone, 0) + 1
            if self._strikes[alone] >= self._config.park_after:
                del self._strikes[alone]
                self._outbox.park(alone, f"the broker hangs up whenever it is sent: {why}")
                self._tally.count("parked", 1)
        elif conversation.open_ends and conversation.acked == 0:
            self._careful = True

    def _retry_parked(self) -> None:
        """Give what was set aside another chance: at the first connection, and then every `park_retry_s`."""
        now_s = self._clock.mono_s()
        if self._unparked_s is None or now_s - self._unparked_s >= self._config.park_retry_s:
            self._unparked_s = now_s
            self._outbox.unpark()

    def _accepted(self, urgent: bool) -> None:
        if self._gathering.tell(urgent=urgent, now_s=self._clock.mono_s()):
            self._wake()

    def _wake(self) -> None:
        link = self._link
        if link is not None:
            link.wake()
