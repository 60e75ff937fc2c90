"""The newest durable events, still in memory: what was written a moment ago is published without reading it back.

Owns entries alone; the disk stays the truth. Rules: every event of the disk above `floor` that may be taken is here,
or none is; whoever removes or brings back rows says `forget`, and from then on the disk is asked. Guarded by the lock
of the `Book` that owns it.
"""

from collections.abc import Iterable, Iterator

from agent.store.tickets import Entry

KEPT = 64
"""Events kept at most; a commit of more is read back, because then there is a backlog to be worked off in batches."""
KEPT_BYTES = 256 << 10
"""Bytes of bodies kept at most."""


class Recent:
    """Entries in order of acceptance."""

    def __init__(self) -> None:
        self.floor = 0
        """Events up to this place have to be read from the disk."""
        self._all: dict[int, Entry] = {}
        self._bytes = 0

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._all.values())

    def add(self, entry: Entry) -> None:
        """Keep one more, newer than all others; the oldest give way."""
        self._all[entry.n] = entry
        self._bytes += len(entry.body)
        while len(self._all) > KEPT or self._bytes > KEPT_BYTES:
            self.floor = next(iter(self._all))
            self.drop((self.floor,))

    def drop(self, ns: Iterable[int]) -> None:
        """The broker has these."""
        for n in ns if self._all else ():
            gone = self._all.pop(n, None)
            if gone is not None:
                self._bytes -= len(gone.body)

    def forget(self, durable_n: int) -> None:
        """Keep nothing: the disk is asked for everything up to `durable_n`."""
        self._all.clear()
        self._bytes, self.floor = 0, durable_n
