"""A time limit on a step, whatever it hangs in: the alarm clock of the process, kept on the monotonic clock.

Only the updater uses it, and only in its main thread: it is a process of one job at a time. A limit inside another
limit, and whoever set the alarm before, get their time back.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from agent.errors import UpdateError


@contextmanager
def within(seconds: float, step: str) -> Iterator[None]:
    """Raises UpdateError (TIMED_OUT) in the block when it takes longer than `seconds`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise UpdateError(f"{step} took longer than {seconds:g} s", "TIMED_OUT")

    before: Any = signal.signal(signal.SIGALRM, ring)
    began_s = time.monotonic()
    left_s, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left_s:
            signal.setitimer(signal.ITIMER_REAL, max(0.001, left_s - (time.monotonic() - began_s)))
