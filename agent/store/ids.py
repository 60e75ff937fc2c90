"""Names of events: UUIDv7 made from whatever the wall clock says."""

import os
import threading
import uuid
from collections.abc import Callable


class EventIds:
    """Makes UUIDv7 (RFC 9562): 48 bits of milliseconds, 12 bits of counter, 62 random bits.

    Within one process ids only grow, also when the wall clock steps back or stands still: a stalled clock borrows
    the next millisecond. Two ids differ by 62 random bits whatever the clock says, 1970 included.
    """

    def __init__(self, wall_s: Callable[[], float]) -> None:
        self._wall_s = wall_s
        self._last = 0
        self._lock = threading.Lock()

    def make(self) -> uuid.UUID:
        """The next id."""
        with self._lock:
            self._last = max(self._last + 1, max(0, int(self._wall_s() * 1000)) << 12)
            stamp = self._last
        value = (stamp >> 12) << 80 | 0x7 << 76 | (stamp & 0xFFF) << 64
        return uuid.UUID(int=value | 0b10 << 62 | int.from_bytes(os.urandom(8)) >> 2)
