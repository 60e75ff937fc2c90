"""What a reader remembers, all of it bounded: counters seen, event ids seen, messages that wait for an envelope."""

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Final

SEEN_BUDGET_BYTES: Final = 16 * 1024 * 1024


class SeenCounters:
    """Which n of one epoch were opened: one bit each, at most 128 KiB (n < 2^20). Exact, in any order of arrival."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def __contains__(self, n: int) -> bool:
        return n >> 3 < len(self._bits) and bool(self._bits[n >> 3] & 1 << (n & 7))

    def add(self, n: int) -> None:
        short = (n >> 3) + 1 - len(self._bits)
        if short > 0:
            self._bits.extend(bytes(short))
        self._bits[n >> 3] |= 1 << (n & 7)

    def __len__(self) -> int:
        """Bytes held."""
        return len(self._bits)


class RecentlySeen:
    """The last `limit` things seen; the oldest is forgotten first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: OrderedDict[Hashable, None] = OrderedDict()

    def __contains__(self, thing: Hashable) -> bool:
        return thing in self._seen

    def add(self, thing: Hashable) -> None:
        self._seen[thing] = None
        self._seen.move_to_end(thing)
        if len(self._seen) > self._limit:
            self._seen.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message whose key envelope has not come yet."""

    topic: str
    payload: bytes
    kid: bytes
    until_mono_s: float


class WaitingRoom:
    """Messages that wait for their envelope: bounded in number, bytes and time; the oldest leaves first."""

    def __init__(self, messages: int, total_bytes: int, wait_s: float) -> None:
        self._messages, self._bytes, self._wait_s = messages, total_bytes, wait_s
        self._queue: deque[Waiting] = deque()
        self._held_bytes = 0

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, topic: str, payload: bytes, kid: bytes, now_mono_s: float) -> int:
        """Keep a message; returns how many older ones had to leave for it."""
        self._queue.append(Waiting(topic, payload, kid, now_mono_s + self._wait_s))
        self._held_bytes += len(payload)
        dropped = 0
        while len(self._queue) > self._messages or self._held_bytes > self._bytes:
            self._forget(self._queue.popleft())
            dropped += 1
        return dropped

    def expire(self, now_mono_s: float) -> int:
        """Drop what waited too long; returns how many."""
        dropped = 0
        while self._queue and self._queue[0].until_mono_s <= now_mono_s:
            self._forget(self._queue.popleft())
            dropped += 1
        return dropped

    def release(self, kid: bytes) -> Iterator[Waiting]:
        """Take out all that waited for `kid`, in order of arrival."""
        mine = [w for w in self._queue if w.kid == kid]
        self._queue = deque(w for w in self._queue if w.kid != kid)
        for waiting in mine:
            self._forget(waiting)
        return iter(mine)

    def _forget(self, waiting: Waiting) -> None:
        self._held_bytes -= len(waiting.payload)
