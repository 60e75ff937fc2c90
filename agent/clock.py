"""The time: monotonic for durations, wall for people, and whether the wall clock can be believed.

Everything that needs to know the time is given a `Clock`; nobody else calls `time`. "synced" is said only when
the kernel or systemd-timesyncd says so: a Pi without a battery starts in the past and looks as sure as ever.
"""

import ctypes
import time
from pathlib import Path
from typing import Protocol

from agent.records import ClockState

_OLDEST_CREDIBLE_S = 1_735_689_600.0  # 2025-01-01 UTC: this code did not exist before
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES = 1024  # struct timex is 208 bytes on 64-bit Linux; the kernel writes no more than its own size
_STATE_TTL_S = 10.0


class Clock(Protocol):
    """What a component may ask about time."""

    def mono_s(self) -> float: ...
    def wall_s(self) -> float: ...
    def state(self) -> ClockState: ...
    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clocks."""

    def __init__(self, timesync: Path = Path("/run/systemd/timesync/synchronized")) -> None:
        self._timesync = timesync
        self._state: ClockState = "unsynced"
        self._asked_s = -_STATE_TTL_S

    def mono_s(self) -> float:
        """Seconds since an arbitrary point; never jumps."""
        return time.monotonic()

    def wall_s(self) -> float:
        """Seconds since 1970 UTC; may jump."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait. Callers pass short times: nothing can interrupt it."""
        time.sleep(max(0.0, seconds))

    def state(self) -> ClockState:
        """Whether the wall clock follows a time server; asked of the system at most every 10 s."""
        now = self.mono_s()
        if now - self._asked_s >= _STATE_TTL_S:
            self._asked_s = now
            self._state = self._ask()
        return self._state

    def _ask(self) -> ClockState:
        if self.wall_s() < _OLDEST_CREDIBLE_S:
            return "unsynced"
        return "synced" if self._timesync.exists() or kernel_synced() else "unsynced"


def kernel_synced() -> bool:
    """True when adjtimex(2) reports a synchronised clock; False also when it may not be asked (seccomp)."""
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes = 0: read only
    state: int = ctypes.CDLL(None).adjtimex(timex)
    return 0 <= state < _TIME_ERROR
