"""Numbers of events: 64 bit per stream, never reset.

A critical event is published only after its commit, which also records its number. A routine event may be published
before it is written, so its numbers are reserved durably in blocks first; a block covers about two waits, so that the
loss reported after an unclean stop is a close upper bound. A coarse ceiling above all numbers ever used lies in a
file beside the database (`marks`), for the day when the database is gone.
"""

import re
from dataclasses import dataclass

from agent.errors import StoreError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
FINE = 16
"""Smallest reserved block of a stream with routine events."""


@dataclass(slots=True)
class Stream:
    """Where one stream's numbers stand. `key` is its small number in the database."""

    name: str
    key: int
    next: int = 0
    reserved: int = 0
    """Numbers below it are reserved in the database."""
    last: int = -1
    """Highest number that is committed or needs no commit any more."""
    loose: bool = False
    """True once it had a routine event."""
    rows: int = 0
    """Its events in the database."""
    told: int = 0
    """`next` at the last commit, `told_s` monotonic: together they measure its pace."""
    told_s: float = 0.0

    def wanted(self, now_s: float, wait_s: float) -> int:
        """How far to reserve with a commit at `now_s` when events wait up to `wait_s`: two waits ahead."""
        if not self.loose:
            return self.reserved
        pace_hz = (self.next - self.told) / max(1.0, now_s - self.told_s)
        return max(self.reserved, self.next + FINE + min(1 << 16, int(2 * wait_s * pace_hz)))

    def usable(self, seq: int) -> bool:
        """True when an event with this number may leave before it is written."""
        return seq < self.reserved


def checked_name(name: str) -> str:
    """A stream's name stands in a topic. Raises StoreError when it cannot."""
    if not NAME.fullmatch(name) or name == "gap":
        raise StoreError(
            f"stream {name!r}: a name is 1 to 64 letters, digits, '_', '.' or '-', not 'gap': rename it in the pipeline"
        )
    return name
