"""When live events go out: at once after a pause, and together while they come densely.

A message costs the device about as much as dozens of events that share one: waking the radio, a TLS record, an
acknowledgement. So the first event after a pause goes at once, and what comes within a short while after a message
waits for the end of that while, a longer one when all of it is routine. Also owns whether the uplink's lane has to be
woken, because waking it for an event that may not go yet costs as much as sending it.
"""

import threading
from typing import Final

NEVER_S: Final = float("inf")


class Gathering:
    """The pace of live messages. `tell` may be called from any thread, the rest belongs to the uplink's lane."""

    def __init__(self, urgent_s: float, routine_s: float) -> None:
        """Least time between live messages that carry an urgent event, and between those that carry none, seconds."""
        self._urgent_s, self._routine_s = urgent_s, max(urgent_s, routine_s)
        self._lock = threading.Lock()
        self._went_s = -NEVER_S
        self._due_s = NEVER_S
        self._sleeps_until_s = -NEVER_S

    def tell(self, *, urgent: bool, now_s: float) -> bool:
        """Something was accepted. True: the lane would sleep too long and has to be woken."""
        with self._lock:
            apart_s = self._urgent_s if urgent else self._routine_s
            self._due_s = min(self._due_s, max(now_s, self._went_s + apart_s))
            return self._due_s < self._sleeps_until_s

    def take_turn(self, now_s: float) -> bool:
        """True when what waits may go now; whoever asked then takes everything that waits, or says `again`."""
        with self._lock:
            if now_s < self._due_s:
                return False
            self._due_s = NEVER_S
            return True

    def again(self, at_s: float) -> None:
        """Not everything could be taken, or it has to be taken once more: that is due at `at_s`."""
        with self._lock:
            self._due_s = at_s

    def blocked(self, until_s: float) -> None:
        """Nothing can go before `until_s`, whatever is due."""
        with self._lock:
            self._due_s = max(self._due_s, until_s)

    def went(self, now_s: float) -> None:
        """A live message left."""
        with self._lock:
            self._went_s = now_s

    def asleep(self, now_s: float, wait_s: float) -> float:
        """The lane goes to sleep for `wait_s` at most; how long it may, seconds. `tell` wakes it when needed."""
        with self._lock:
            wait_s = max(0.0, min(wait_s, self._due_s - now_s))
            self._sleeps_until_s = now_s + wait_s
            return wait_s

    def awake(self) -> None:
        """The lane looks by itself before it sleeps again."""
        with self._lock:
            self._sleeps_until_s = -NEVER_S
