"""The reading side: subscribes to devices and yields what they said, opened and believed, across reconnects.

Subscribes at QoS 1 in a session of its own. Key envelopes are retained, so that a reader that comes late can open
what comes next. What cannot be opened is yielded as `Refused` with its reason, never its content.
"""

import random
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from agent.backoff import Backoff
from agent.broker import words
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
    """The connection came up ("" as reason) or went away, or cannot be had for another reason than before."""

    up: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """What the broker said to a message of ours: "" when it took it, else why not."""

    topic: str
    refusal: str = ""


Said = Heard | Refused | Connection | Answered


def filters(site: str = "+", device: str = "+") -> tuple[str, ...]:
    """The topics that a reader of events needs."""
    base = f"{ROOT}/{site}/{device}"
    return tuple(f"{base}/{tail}" for tail in ("keys/+", "status", "e/+", "e/+/gap", "twin/+", "a/+"))


def listen(
    broker: UplinkConfig,
    client_id: str,
    opener: Opener,
    topics: tuple[str, ...],
    stop: threading.Event,
    clock: Clock,
    outgoing: deque[Message] | None = None,
) -> Iterator[Said | None]:
    """Yield what is said until `stop`; None when nothing came for a moment. Raises ConfigError for unusable files.

    What the caller puts into `outgoing` is published, again after a lost connection until the broker has answered.
    """
    speech = _Speech(outgoing if outgoing is not None else deque())
    backoff, trouble = Backoff(random.Random(), broker.reconnect_first_s, broker.reconnect_cap_s), ""
    while not stop.is_set():
        try:
            with Link(broker, client_id) as link:
                link.connect()
                link.subscribe(topics)
                backoff.started(clock.mono_s())
                trouble = ""
                yield Connection(True)
                yield from _messages(link, opener, stop, speech)
                if not stop.is_set():
                    raise UplinkError(link.trouble)
        except UplinkError as exc:
            speech.lost()
            said = str(exc).replace("[uplink]", "[broker]")  # reader.toml's name for that table
            if said != trouble:
                yield Connection(False, said)
            trouble = said
            yield from _pause(backoff.failed(clock.mono_s()), stop, clock)


class _Speech:
    """What is to be said: taken from `outgoing`, under way until the broker answers, back in the queue without one."""

    def __init__(self, outgoing: deque[Message]) -> None:
        self._outgoing = outgoing
        self._under: dict[int, Message] = {}

    def speak(self, link: Link) -> None:
        while self._outgoing and link.connected:
            message = self._outgoing.popleft()
            self._under[link.publish(message)] = message

    def answers(self, link: Link) -> Iterator[Answered]:
        while link.acks:
            ack = link.acks.popleft()
            if (message := self._under.pop(ack.mid, None)) is not None:
                yield Answered(message.topic, words(ack.code) if ack.refused else "")

    def lost(self) -> None:
        self._outgoing.extendleft(reversed(self._under.values()))
        self._under.clear()


def _messages(link: Link, opener: Opener, stop: threading.Event, speech: _Speech) -> Iterator[Said | None]:
    while not stop.is_set():
        speech.speak(link)
        alive = link.turn(TURN_S)
        yield from speech.answers(link)
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
