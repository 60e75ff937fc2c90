"""What a refusal leads to. Pure: the time is passed in.

An event that the broker refuses is tried again after a growing wait and set aside after `park_after` refusals. A stream
of which nothing is accepted any more is left alone for a growing time, then probed with a single event; the other
streams go on meanwhile. A refused batch is sent again as single events, so that only the culprit is set aside.
"""

from dataclasses import dataclass

from agent.settings.uplink import UplinkConfig

STREAK = 3
"""Refusals in a row, with nothing accepted between, that say the stream is refused and not the event."""


@dataclass(slots=True)
class _Stream:
    streak: int = 0
    until_s: float = 0.0
    singles: int = 0
    """Events still to be sent one by one after a batch was refused."""


class Refusals:
    """Remembers refusals, across connections: some brokers answer and then hang up."""

    def __init__(self, config: UplinkConfig) -> None:
        self._config = config
        self._tries: dict[int, int] = {}
        self._due_s: dict[int, float] = {}
        self._streams: dict[str, _Stream] = {}

    @property
    def none(self) -> bool:
        """True when nothing has to wait, and nothing travels alone."""
        return not self._due_s and not self._streams

    def wait_until_s(self, stream: str, n: int) -> float:
        """When (monotonic) the event may be sent; 0 when at once."""
        held = self._streams.get(stream)
        return max(held.until_s if held else 0.0, self._due_s.get(n, 0.0))

    def most(self, stream: str) -> int:
        """How many of the stream's events may go in one message now."""
        held = self._streams.get(stream)
        return 1 if held and (held.singles > 0 or held.streak > 0) else self._config.batch_events

    def probing(self, stream: str) -> bool:
        """True when only one message of this stream may be under way."""
        held = self._streams.get(stream)
        return held is not None and held.streak >= STREAK

    def accepted(self, stream: str, ns: tuple[int, ...]) -> None:
        """The broker took these."""
        for n in ns if self._tries else ():
            self._tries.pop(n, None)
            self._due_s.pop(n, None)
        held = self._streams.get(stream)
        if held is not None:
            held.streak, held.until_s, held.singles = 0, 0.0, held.singles - len(ns)
            if held.singles <= 0:
                del self._streams[stream]

    def refused(self, stream: str, ns: tuple[int, ...], now_s: float) -> bool:
        """The broker refused these; True when the (single) event has to be set aside."""
        held = self._streams.setdefault(stream, _Stream())
        if now_s >= held.until_s:  # what else was under way when the first answer came says nothing new
            held.streak += 1
            if held.streak >= STREAK or len(ns) > 1:
                wait_s = self._config.refusal_wait_s * 2.0 ** min(held.streak - 1, 20)
                held.until_s = now_s + min(wait_s, self._config.park_retry_s)
        if len(ns) > 1:
            held.singles = max(held.singles, len(ns))
            return False
        tries = self._tries.get(ns[0], 0) + 1
        self._tries[ns[0]] = tries
        self._due_s[ns[0]] = now_s + self._config.refusal_wait_s * 2.0 ** min(tries - 1, 20)
        if tries < self._config.park_after:
            return False
        del self._tries[ns[0]], self._due_s[ns[0]]
        return True

    def held(self) -> tuple[str, ...]:
        """Streams that are left alone at present or on probation."""
        return tuple(name for name, held in self._streams.items() if held.streak >= STREAK)
