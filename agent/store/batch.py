"""What one commit is asked to do, and what came of it."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from agent.store.tickets import Pending

GapKey = tuple[int, str, bool]
"""Stream key, reason, whether the count is an upper bound."""
EventRow = tuple[int, bytes, int, int, int, float, bytes]
"""A sealed event as it lies in the file: n, id, stream key, seq, gap, t_mono_s, body. No class of its own, because a
backlog is read by the hundred thousand."""


@dataclass(slots=True)
class Span:
    """Numbers removed: `count` of those between `first` and `last`, inclusive."""

    first: int
    last: int
    count: int


class Gaps:
    """A loss ledger in memory, merged per stream and reason."""

    def __init__(self) -> None:
        self.spans: dict[GapKey, Span] = {}

    def add(self, key: int, reason: str, first: int, last: int, count: int, *, bound: bool = False) -> None:
        """Count a removal."""
        span = self.spans.get((key, reason, bound))
        if span is None:
            self.spans[key, reason, bound] = Span(first, last, count)
            return
        span.first, span.last, span.count = min(span.first, first), max(span.last, last), span.count + count

    def merge(self, other: "Gaps") -> None:
        """Add everything of `other`."""
        for (key, reason, bound), span in other.spans.items():
            self.add(key, reason, span.first, span.last, span.count, bound=bound)


@dataclass(frozen=True, slots=True)
class StreamMark:
    """A stream's row as it shall stand after the commit, but for its count of rows."""

    name: str
    key: int
    reserved: int
    last: int
    loose: bool
    next: int


@dataclass(slots=True)
class Batch:
    """One transaction: deletions ride with the next insertions."""

    inserts: list[Pending] = field(default_factory=list)
    deletes: list[int] = field(default_factory=list)
    parks: dict[int, str] = field(default_factory=dict)
    unpark: bool = False
    gaps: Gaps = field(default_factory=Gaps)
    told: list[tuple[GapKey, int]] = field(default_factory=list)
    """Ledger rows that became events, with the count to take off."""
    streams: list[StreamMark] = field(default_factory=list)
    clean: bool = False
    """True for the last commit of an orderly stop."""

    def __bool__(self) -> bool:
        return bool(
            self.inserts or self.deletes or self.parks or self.unpark or self.gaps.spans or self.streams or self.clean
        )


@dataclass(slots=True)
class Outcome:
    """What a commit did beyond what it was asked."""

    rows: dict[int, int] = field(default_factory=dict)
    """Stream key -> change of its number of rows."""
    refused: set[int] = field(default_factory=set)
    """Insertions (n) for which there was no room."""
    evicted: int = 0
    gap_rows: int = 0
    """Rows in the ledger table now."""
    parked: int = 0
    """Events set aside now."""

    def count(self, keys: Iterable[int], step: int) -> None:
        """Note that a row of each of these streams came or went."""
        for key in keys:
            self.rows[key] = self.rows.get(key, 0) + step
