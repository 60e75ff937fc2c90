"""Names of events: UUIDv7 made from whatever the wall clock says."""

import os
import threading
from collections.abc import Callable

from agent.store.tickets import text_id

_TAIL_BYTES = 8


class EventIds:
    """Makes UUIDv7 (RFC 9562): 48 bits of milliseconds, 12 bits of counter, 62 random bits.

    Within one process ids only grow, also when the wall clock steps back or stands still: a stalled clock borrows
    the next millisecond. Two ids differ by 62 random bits whatever the clock says, 1970 included. The kernel is asked
    for many random bits at once: each call would hand the interpreter to another thread.
    """

    def __init__(self, wall_s: Callable[[], float]) -> None:
        self._wall_s = wall_s
        self._last = 0
        self._tails: list[bytes] = []
        self._lock = threading.Lock()

    def make(self) -> str:
        """The next id, 36 characters."""
        with self._lock:
            self._last = max(self._last + 1, max(0, int(self._wall_s() * 1000)) << 12)
            stamp = self._last
            if not self._tails:
                random = os.urandom(64 * _TAIL_BYTES)
                self._tails = [random[i : i + _TAIL_BYTES] for i in range(0, len(random), _TAIL_BYTES)]
            tail = int.from_bytes(self._tails.pop()) >> 2
        high = (stamp >> 12) << 16 | 0x7 << 12 | stamp & 0xFFF
        return text_id((high << 64 | 0b10 << 62 | tail).to_bytes(16))
