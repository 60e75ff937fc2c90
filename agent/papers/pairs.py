"""Which pair the uplink shows to the broker: the one in use, or a renewed one that has yet to connect.

A renewed pair is tried with a connection of its own. When the broker welcomes it, it is in use from then on; when it
fails and the old pair connects after it, that is a strike, and the old pair serves for a while; after `STRIKES` the
renewed one is given up and renewing begins anew. A network that is down proves nothing: the pairs take turns.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from agent.broker import Message, Session
from agent.clock import Clock
from agent.errors import ConfigError, UplinkError
from agent.identity import Pair, Slots
from agent.mqtt import Link
from agent.settings.uplink import UplinkConfig

log = logging.getLogger(__name__)

STRIKES: Final = 3
BENCH_S: Final = 300.0
"""How long the old pair serves after a strike before the renewed one is tried again, seconds."""
LOOK_S: Final = 5.0
"""How often a connection looks whether a renewed pair waits, seconds."""
ALARM: Final = "renewed-certificate"

Alarm = Callable[[str, str | None], None]


class Pairs:
    """Chooses a pair for each connection. Used by the uplink's lane alone."""

    def __init__(self, slots: Slots, clock: Clock, alarm: Alarm, bench_s: float = BENCH_S) -> None:
        self._slots = slots
        self._clock = clock
        self._alarm = alarm
        self._bench_s = bench_s
        self._strikes = 0
        self._benched_until_s = -1e9
        self._failed: tuple[Pair, str] | None = None
        self._looked_s = -1e9

    def choose(self) -> Pair:
        """The pair for the next connection. Raises ConfigError when there is none: never a connection without."""
        state = self._slots.state()
        if state.active is None:
            folder = self._slots.folder
            raise ConfigError(f"[identity] {folder}: no certificate and key there: run 'limpet enroll', then restart")
        pair = self._slots.pair(state.active)
        if state.candidate is None or self._clock.mono_s() < self._benched_until_s:
            return pair
        candidate = self._slots.pair(state.candidate)
        return pair if self._failed is not None and self._failed[0] == candidate else candidate

    def connected(self, pair: Pair) -> None:
        """The broker welcomed `pair`. A disk that takes no note of it costs no connection: it is noted next time."""
        failed, self._failed = self._failed, None
        try:
            candidate = self._slots.state().candidate
            if pair.slot == candidate:
                self._promote(pair)
            elif failed is not None and failed[0].slot == candidate:
                self._strike(*failed)
        except ConfigError as exc:
            log.error("identity=not-noted slot=%s reason=%r", pair.slot, str(exc))

    def failed(self, pair: Pair, why: str) -> None:
        """The connection with `pair` did not come about: the other pair is next."""
        self._failed = (pair, why)

    def waiting(self, pair: Pair) -> bool:
        """Whether another pair than `pair` should be tried now; looked up every `LOOK_S`."""
        now_s = self._clock.mono_s()
        if now_s - self._looked_s < LOOK_S:
            return False
        self._looked_s = now_s
        try:
            return self.choose() != pair
        except ConfigError as exc:  # what is connected stays connected
            log.error("identity=unreadable reason=%r", str(exc))
            return False

    def _promote(self, pair: Pair) -> None:
        self._slots.promote(pair.slot)
        self._strikes = 0
        self._alarm(ALARM, None)
        log.info("identity=renewed slot=%s valid-until=%r", pair.slot, self._slots.certified(pair.slot).until())

    def _strike(self, pair: Pair, why: str) -> None:
        self._strikes += 1
        self._benched_until_s = self._clock.mono_s() + self._bench_s
        given_up = self._strikes >= STRIKES
        if given_up:
            self._slots.discard(pair.slot)
            self._strikes = 0
        then = "it is given up, and another is asked for" if given_up else "it is tried again"
        self._alarm(ALARM, f"the renewed certificate does not connect, the old one serves: {why}: {then}")


class PairedLink(Link):
    """A connection that shows one pair to the broker, and ends when a renewed one waits to be tried."""

    def __init__(self, pairs: Pairs, config: UplinkConfig, client_id: str, will: Message | None = None) -> None:
        """Raises ConfigError without a pair."""
        self._pairs = pairs
        self._pair = pairs.choose()
        shown = replace(config, certificate=self._pair.certificate, key=self._pair.key)
        super().__init__(shown, client_id, will)

    def connect(self, unanswered: int = 0, packet_bytes: int = 0) -> Session:
        """Connect, and say how it went. Raises UplinkError or ConfigError."""
        try:
            session = super().connect(unanswered, packet_bytes)
        except (UplinkError, ConfigError) as exc:
            self._pairs.failed(self._pair, str(exc))
            raise
        self._pairs.connected(self._pair)
        return session

    def turn(self, timeout_s: float) -> bool:
        """Like any link's; False when the connection was ended in good order for the renewed pair."""
        if self.connected and self._pairs.waiting(self._pair):
            self.leave("connecting anew with the renewed certificate")
            return False
        return super().turn(timeout_s)
