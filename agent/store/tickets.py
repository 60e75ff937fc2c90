"""What the store is given and hands out: a key; a ticket for an offer, an entry for a publisher."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from agent.records import EventClass

State = Literal["pending", "durable", "published", "evicted"]
"""pending: in memory. durable: committed and synced. published: acknowledged before it had to be written.
evicted: refused or removed by a limit, and counted in a gap record."""


class StoreKey(Protocol):
    """Seals what lies on the disk (AES-256-GCM with a random nonce). `open` raises EnvelopeError."""

    def seal(self, plain: bytes, aad: bytes) -> bytes: ...
    def seal_all(self, items: Sequence[tuple[bytes, bytes]]) -> list[bytes]: ...
    def open(self, sealed: bytes, aad: bytes) -> bytes: ...
    def open_all(self, items: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]: ...


class Ticket:
    """The store's promise for one event. Reading `state` never blocks."""

    __slots__ = ("_changed", "_hurry", "id", "reason", "seq", "state", "stream")

    def __init__(
        self, event_id: str, stream: str, seq: int, changed: threading.Condition,
        hurry: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """`changed` is notified when a ticket is settled; `hurry` is called under its lock when somebody waits."""
        self.id = event_id
        self.stream = stream
        self.seq = seq
        self.state: State = "pending"
        self.reason = ""
        self._changed = changed
        self._hurry = hurry

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is settled; True when durable or published, False when evicted or still pending.

        A critical event that somebody waits for is written at once; a routine one takes its time.
        """
        with self._changed:
            if self._hurry is not None and self.state == "pending":
                self._hurry()
            self._changed.wait_for(lambda: self.state != "pending", timeout_s)
        return self.state in ("durable", "published")


class Entry(NamedTuple):
    """One accepted event on its way out. `n` is its place in the order of acceptance on this device. A tuple, because a
    backlog is read by the hundred thousand."""

    n: int
    raw_id: bytes
    stream: str
    seq: int
    gap: bool
    """True for a gap record, which goes to the stream's own loss ledger."""
    body: bytes
    """The event as CBOR."""
    t_mono_s: float | None = None
    """When the sample was taken, monotonic; None when that was before this start of the agent."""

    @property
    def id(self) -> str:
        """Its UUIDv7 as text."""
        return text_id(self.raw_id)


@dataclass(slots=True)
class Pending:
    """An event in memory that is not durable yet."""

    ticket: Ticket
    n: int
    event_class: EventClass
    replay: bool
    gap: bool
    body: bytes
    t_wall_s: float
    t_mono_s: float
    due_s: float
    """When it must be written, monotonic."""
    parked: str = ""
    """Why the uplink gave it up for now."""


def aad_of(stream: str, event_id: bytes) -> bytes:
    """What a stored body is bound to: its stream and its 16 bytes of id."""
    return stream.encode() + b"\0" + event_id


def raw_id(text: str) -> bytes:
    """The 16 bytes of an id."""
    return bytes.fromhex(text.replace("-", ""))


def text_id(raw: bytes) -> str:
    """An id as text."""
    h = raw.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"
