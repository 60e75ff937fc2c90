"""When the next commit is due: at once for what cannot wait, a moment later for critical events that come densely.

The first critical event after a pause is written at once; what follows within `gather_s` shares the next commit,
unless it fills one. Routine events wait their own time, and acknowledged rows as long before they are deleted.
"""

from collections.abc import Iterable
from typing import Final

from agent.records import EventClass
from agent.settings.store import StoreSettings
from agent.store.tickets import Pending

NEVER_S: Final = float("inf")


class Due:
    """The moment of the next commit. Guarded by the lock of the `Book` that owns it; times are monotonic."""

    def __init__(self, settings: StoreSettings) -> None:
        self._gather_s, self._routine_wait_s = settings.gather_s, settings.routine_wait_s
        self.urgent = False
        """True when something cannot wait."""
        self._collected_s = -NEVER_S
        """When critical events were last collected for a commit."""
        self._critical_s = NEVER_S
        """When those that gather now are due."""
        self._gathering_bytes = 0

    def of(self, event_class: EventClass, now_s: float) -> float:
        """When an event that comes now has to be written."""
        if event_class == "critical":
            return max(now_s, self._collected_s + self._gather_s)
        return now_s + self._routine_wait_s

    def gather(self, pending: Pending, most_bytes: int, *, crowded: bool) -> bool:
        """A critical event waits for its like, while they fit in a commit of `most_bytes` and the memory is not
        `crowded`; True when the writer has to hear of it."""
        self._gathering_bytes += len(pending.body)
        if self._gathering_bytes >= most_bytes or crowded:
            self.urgent = True
            return True
        news = pending.due_s < self._critical_s
        self._critical_s = min(self._critical_s, pending.due_s)
        return news

    def collected(self, inserts: Iterable[Pending], now_s: float) -> None:
        """These go into a commit, and with them all that gathered."""
        self._critical_s, self._gathering_bytes = NEVER_S, 0
        if any(pending.event_class == "critical" for pending in inserts):
            self._collected_s = now_s

    def in_s(self, oldest_routine_s: float | None, oldest_answer_s: float | None, now_s: float) -> float:
        """How long until a commit is due. Given: when the oldest routine event has to be written, and when the oldest
        acknowledgement came whose row is still there."""
        if self.urgent:
            return 0.0
        routine_s = NEVER_S if oldest_routine_s is None else oldest_routine_s
        answered_s = NEVER_S if oldest_answer_s is None else oldest_answer_s + self._routine_wait_s
        return max(0.0, min(self._critical_s, routine_s, answered_s) - now_s)
