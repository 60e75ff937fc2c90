"""What is said to a broker and what it answers: messages, acknowledgements, refusals in words. Pure."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

TRANSIENT: Final = {0x83, 0x88, 0x89, 0x93, 0x96, 0x97, 0x9F}
"""Refusals that concern the broker's state and not the message: wait and send it again."""

WORDS: Final = {
    0x80: "unspecified error: look at the broker's log",
    0x83: "the broker had an error of its own: look at its log",
    0x84: "the broker does not speak MQTT 5: set [uplink] protocol = \"3.1.1\"",
    0x85: "the broker does not accept this client id: set [uplink] client_id",
    0x86: "user name or password is wrong: check [uplink] username and password_file",
    0x87: "not authorised: check user and password, or the certificate's common name, against the broker's access list",
    0x88: "the broker is not available: it will be tried again",
    0x89: "the broker is busy: it will be tried again",
    0x8A: "this client is banned: ask the broker's operator",
    0x8D: "the broker heard nothing from this device in time",
    0x8E: "another client uses the same client id: give every device its own [device] name",
    0x90: "the broker does not accept this topic",
    0x95: "the message is larger than the broker allows: raise its max_packet_size or lower [store] event_kib",
    0x97: "a quota at the broker is used up: raise it there",
    0x99: "the broker does not accept the format of this payload",
    0x9A: "the broker does not keep retained messages: allow them there",
    0x9F: "the broker limits the rate of connections: it will be tried again",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Message:
    """Something published or received."""

    topic: str
    payload: bytes
    retain: bool = False
    expiry_s: int | None = None
    """v5: the broker forgets it after this time."""
    mid: int = 0
    """Of a received one that is to be acknowledged by hand: the packet's id."""


@dataclass(frozen=True, slots=True)
class Ack:
    """The broker's answer to a publish. `code` is an MQTT v5 reason code; 0x80 and above is a refusal."""

    mid: int
    code: int

    @property
    def refused(self) -> bool:
        """True when the broker did not take the message."""
        return self.code >= 0x80


@dataclass(frozen=True, slots=True)
class Session:
    """What the broker granted."""

    present: bool
    window: int
    """Most messages under way that both sides allow."""
    packet_bytes: int
    """Largest packet the broker takes."""


class Connection(Protocol):
    """One connection to a broker, driven by the thread that uses it; what breaks raises UplinkError."""

    acks: deque[Ack]
    received: deque[Message]

    @property
    def connected(self) -> bool: ...
    @property
    def trouble(self) -> str: ...
    def connect(self, unanswered: int = 0, packet_bytes: int = 0) -> Session: ...
    def publish(self, message: Message) -> int: ...
    def subscribe(self, filters: Sequence[str], *, retained: bool = True) -> None: ...
    def answer(self, mid: int) -> None: ...
    def turn(self, timeout_s: float) -> bool: ...
    def wake(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def words(code: int) -> str:
    """A reason code for people: what it means and what to do."""
    return f"{WORDS.get(code, 'refused')} (MQTT reason 0x{code:02X})"
