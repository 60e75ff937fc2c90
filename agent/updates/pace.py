"""How fast, how long, how much: the limits of all transfers, kept where every received byte passes.

Headers count like bodies, so a server that trickles either is refused. Slow means: over `grace_s` of waiting for the
network less than `slowest_bytes_s` came. Only waiting counts, so a card that stalls for seconds while it writes is not
taken for a slow link, and neither are the pauses of the bandwidth cap. The clock is passed in; no thread, no signal.
"""

import io
import socket
from dataclasses import dataclass

from agent.clock import Clock
from agent.errors import UpdateError

_BURST_S = 0.25
_LEAST_BURST_BYTES = 2048


@dataclass(frozen=True, slots=True)
class Limits:
    """What a transfer may take."""

    connect_s: float = 15.0
    """Longest wait for a connection, seconds."""
    silence_s: float = 30.0
    """Longest wait for the next byte, seconds."""
    slowest_bytes_s: float = 1024.0
    """Least average rate over each `grace_s` of waiting."""
    grace_s: float = 10.0
    total_s: float = 6 * 3600.0
    """Longest time for all transfers of one fetcher together, seconds."""
    bandwidth_bytes_s: float = 0.0
    """Most bytes per second; 0: no limit."""
    redirects: int = 5
    tries: int = 4
    """Failures in a row, without progress between them, after which a transfer is given up."""
    retry_s: float = 1.0
    """Ceiling of the first wait before another try; it doubles, with full jitter, up to a minute."""
    keep_free_bytes: int = 64_000_000
    """Room that a download must leave on the disk."""


class Pace:
    """Keeps the limits of one fetcher, over all its transfers."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._ends_s = clock.mono_s() + limits.total_s
        self._burst = max(limits.bandwidth_bytes_s * _BURST_S, float(_LEAST_BURST_BYTES))
        self._tokens = self._burst
        self._filled_s = clock.mono_s()
        self.received_bytes = 0
        """All that came from the network: headers, bodies, and what was thrown away."""
        self.begin()

    def begin(self) -> None:
        """A request is sent. The wait for its first byte is the server's thinking, not its rate."""
        self._thinking = True
        self._window_s = 0.0
        self._window_bytes = 0

    def patience_s(self) -> float:
        """How long the next read may block. Raises UpdateError (TIMED_OUT) when the time for everything is up."""
        left_s = self._ends_s - self._clock.mono_s()
        if left_s <= 0:
            raise UpdateError(
                f"the downloads took longer than {self._limits.total_s:g} s: they go on next time"
                " ([updates] download_s)", "TIMED_OUT",
            )  # fmt: skip
        return min(self._limits.silence_s, left_s)

    def allowed(self, wanted: int) -> int:
        """How many of `wanted` bytes may be read now; waits until that is at least one."""
        rate = self._limits.bandwidth_bytes_s
        if not rate:
            return wanted
        self._fill()
        enough = min(float(wanted), self._burst / 2)
        if self._tokens < enough:
            self._clock.sleep((enough - self._tokens) / rate)
            self._fill()
        return max(1, min(wanted, int(self._tokens)))

    def received(self, count: int, waited_s: float) -> None:
        """`count` bytes came after `waited_s`. Raises UpdateError (TIMED_OUT) when the link is too slow."""
        self.received_bytes += count
        self._tokens -= count
        if self._thinking:
            self._thinking = False
            return
        self._window_bytes += count
        self._window_s += waited_s
        if self._window_s >= self._limits.grace_s:
            self._judge()

    def wait(self, seconds: float) -> None:
        """Pause before another try. Raises UpdateError (TIMED_OUT) when the time for everything ends before."""
        self._clock.sleep(min(seconds, self.patience_s()))
        self.patience_s()

    def _fill(self) -> None:
        now_s = self._clock.mono_s()
        self._tokens = min(self._burst, self._tokens + (now_s - self._filled_s) * self._limits.bandwidth_bytes_s)
        self._filled_s = now_s

    def _judge(self) -> None:
        rate = self._window_bytes / self._window_s
        if rate < self._limits.slowest_bytes_s:
            raise UpdateError(
                f"the server sends {rate:.0f} bytes per second, less than {self._limits.slowest_bytes_s:g}"
                " ([updates] slowest_bytes_s): broken off, the next try goes on from there", "TIMED_OUT",
            )  # fmt: skip
        self._window_s, self._window_bytes = 0.0, 0


class Metered(io.RawIOBase):
    """What a socket receives, through a pace."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, pace: Pace, clock: Clock) -> None:
        """`raw`: the unbuffered file of `sock`; closed with this one."""
        self._raw = raw
        self._sock = sock
        self._pace = pace
        self._clock = clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview | bytearray") -> int | None:  # type: ignore[override]
        """At most one receive. Raises OSError (silence, reset) and UpdateError (TIMED_OUT)."""
        room = self._pace.allowed(len(buffer))
        self._sock.settimeout(self._pace.patience_s())
        asked_s = self._clock.mono_s()
        count = self._raw.readinto(memoryview(buffer)[:room])
        self._pace.received(count or 0, self._clock.mono_s() - asked_s)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
