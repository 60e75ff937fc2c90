"""Events in memory that are not durable yet: in order of acceptance, bounded in bytes."""

from collections.abc import Iterator

from agent.store.tickets import Pending

OVERHEAD = 512
"""Bytes of memory that a pending event costs beside its body, estimated."""


class Pendings:
    """An ordered set of pending events. Guarded by the lock of the `Book` that owns it."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._all: dict[int, Pending] = {}
        self._routine: dict[int, None] = {}
        self.writing: set[int] = set()
        """Those that a transaction is being made of."""
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, n: int) -> bool:
        return n in self._all

    def __getitem__(self, n: int) -> Pending:
        return self._all[n]

    def __iter__(self) -> Iterator[Pending]:
        return iter(self._all.values())

    def add(self, pending: Pending) -> None:
        """Add the newest."""
        self._all[pending.n] = pending
        self.bytes += len(pending.body) + OVERHEAD
        if pending.event_class == "routine":
            self._routine[pending.n] = None

    def pop(self, n: int) -> Pending:
        """Take one out."""
        pending = self._all.pop(n)
        self._routine.pop(n, None)
        self.bytes -= len(pending.body) + OVERHEAD
        return pending

    def due_s(self) -> float | None:
        """When the oldest routine event has waited long enough, monotonic; None when there is none."""
        first = next(iter(self._routine), None)
        return None if first is None else self._all[first].due_s

    def fits(self, body_bytes: int) -> bool:
        """True when there is room for one more event."""
        return self.bytes + body_bytes + OVERHEAD <= self._limit

    @property
    def crowded(self) -> bool:
        """True when half of the memory is taken."""
        return self.bytes * 2 > self._limit

    def pop_oldest(self, *, routine: bool) -> Pending | None:
        """Take out the oldest (routine) event that may give way: gap records and what is being written stay."""
        for n in self._routine if routine else self._all:
            if n not in self.writing and not self._all[n].gap:
                return self.pop(n)
        return None

    def first(self, most: int, most_bytes: int) -> tuple[list[Pending], bool]:
        """The oldest events up to both limits but at least one, and whether more are left."""
        chosen: list[Pending] = []
        size = 0
        for pending in self._all.values():
            size += len(pending.body)
            if chosen and (len(chosen) >= most or size > most_bytes):
                return chosen, True
            chosen.append(pending)
        return chosen, False
