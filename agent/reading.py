"""The reading side: subscribes to devices and yields what they said, opened and believed, across reconnects.

Subscribes at QoS 1 in a session of its own. Key envelopes are retained, so that a reader that comes late can open
what comes next. What cannot be opened is yielded as `Refused` with its reason, never its content.
"""

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from agent.backoff import Backoff
from agent.clock import Clock
from agent.envelope.opener import Opened, Opener, ReplayError
from agent.envelope.topics import ROOT
from agent.errors import EnvelopeError, UplinkError
from agent.mqtt import Link, Message
from agent.settings.uplink import UplinkConfig

TURN_S = 0.2
"""Longest wait for the network before the caller gets a word in, seconds."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A message that was opened. `retained`: it is an old one that the broker kept."""

    topic: str
    opened: Opened
    retained: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that is not believed, and why."""

    topic: str
    reason: str


@dataclass(frozen=True, slots=True)
class Connection:
    """The connection came up ("" as reason) or went away."""

    up: bool
    reason: str = ""


Said = Heard | Refused | Connection


def filters(site: str = "+", device: str = "+") -> tuple[str, ...]:
    """The topics that a reader of events needs."""
    base = f"{ROOT}/{site}/{device}"
    return tuple(f"{base}/{tail}" for tail in ("keys/+", "status", "e/+", "e/+/gap", "twin/+", "a/+"))


def listen(
    broker: UplinkConfig, client_id: str, opener: Opener, topics: tuple[str, ...], stop: threading.Event, clock: Clock
) -> Iterator[Said | None]:
    """Yield what is said until `stop`; None when nothing came for a moment. Raises ConfigError for unusable files."""
    backoff = Backoff(random.Random(), broker.reconnect_first_s, broker.reconnect_cap_s)
    while not stop.is_set():
        try:
            with Link(broker, client_id) as link:
                link.connect()
                link.subscribe(topics)
                backoff.started(clock.mono_s())
                yield Connection(True)
                yield from _messages(link, opener, stop)
                if not stop.is_set():
                    raise UplinkError(link.trouble)
        except UplinkError as exc:
            yield Connection(False, str(exc))
            yield from _pause(backoff.failed(clock.mono_s()), stop, clock)


def _messages(link: Link, opener: Opener, stop: threading.Event) -> Iterator[Said | None]:
    while not stop.is_set():
        alive = link.turn(TURN_S)
        if not link.received:
            yield None
        while link.received:
            yield from _open(opener, link.received.popleft())
        if not alive:
            return


def _open(opener: Opener, message: Message) -> Iterator[Said]:
    try:
        for opened in opener.open(message.topic, message.payload):
            yield Heard(message.topic, opened, message.retain)
    except ReplayError:
        return  # at least once: a second delivery of the same message is the broker's right
    except EnvelopeError as exc:
        yield Refused(message.topic, str(exc))


def _pause(wait_s: float, stop: threading.Event, clock: Clock) -> Iterator[None]:
    until_s = clock.mono_s() + wait_s
    while clock.mono_s() < until_s and not stop.wait(TURN_S):
        yield None
