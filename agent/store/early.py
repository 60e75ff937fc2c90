"""Events that are offered before the database could be opened for the first time: they have no numbers yet.

Bounded in memory; what does not fit is refused at once, and counted per stream until it can be told.
"""

from agent.records import Draft
from agent.store.pendings import OVERHEAD
from agent.store.tickets import Ticket


class Early:
    """What waits for its number. Guarded by the lock of the `Book` that owns it."""

    def __init__(self, limit_bytes: int) -> None:
        """`limit_bytes` of memory, estimated: bodies are not written yet."""
        self._most = limit_bytes // (2 * OVERHEAD)
        self._held: list[tuple[Draft, Ticket]] = []
        self._lost: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, draft: Draft, ticket: Ticket) -> bool:
        """Hold an event; False when there is no room, and then its ticket says so."""
        if len(self._held) < self._most:
            self._held.append((draft, ticket))
            return True
        ticket.state, ticket.reason = "evicted", "memory full before the outbox could be opened"
        self._lost[draft.stream] = self._lost.get(draft.stream, 0) + 1
        return False

    def take(self) -> tuple[list[tuple[Draft, Ticket]], dict[str, int]]:
        """Everything that waits, in order, and how many events each stream lost; then there is nothing."""
        taken = (self._held, self._lost)
        self._held, self._lost = [], {}
        return taken
