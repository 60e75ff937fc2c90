"""Keeps the lanes running: starts, revives, notices the stuck, and stops them all in time.

A lane is a named function `run(stop, beat)` with a deadline. The supervisor is a reconciler: on every turn it compares
what should run with what runs. A lane that raises is revived after a jittered, growing wait; one that returns by
itself has ended (a recording that is over). A thread that hangs in C cannot be cancelled in Python: such a lane is
reported as stuck, and if it is essential the agent is unhealthy, so that systemd's watchdog restarts the process.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agent.backoff import Backoff
from agent.health import LanePhase, LaneState

log = logging.getLogger(__name__)

Beat = Callable[[], None]
LaneBody = Callable[[threading.Event, Beat], None]


@dataclass(frozen=True, slots=True)
class Lane:
    """A named function that runs in a thread of its own.

    `deadline_s` is how long it may go without a beat before it counts as stuck.
    """

    name: str
    run: LaneBody
    deadline_s: float = 30.0
    essential: bool = False


class _Running:
    """One lane and its thread: written by the thread (`beat_s`, `error`, `done`), read by the supervisor."""

    def __init__(
        self, lane: Lane, backoff: Backoff, mono_s: Callable[[], float], *, passing: bool = False
    ) -> None:
        self.lane = lane
        self.passing = passing
        self.backoff = backoff
        self.mono_s = mono_s
        self.thread: threading.Thread | None = None
        self.phase: LanePhase = "waiting"
        self.failures = 0
        self.error = ""
        self.beat_s = mono_s()
        self.alive_s: float | None = None
        """Its first own beat since it was started."""
        self.due_s = 0.0
        self.told_stuck = False

    def beat(self) -> None:
        self.beat_s = self.mono_s()
        self.alive_s = self.beat_s if self.alive_s is None else self.alive_s
        self.backoff.started(self.beat_s)

    def body(self, stop: threading.Event) -> None:
        try:
            self.lane.run(stop, self.beat)
        except Exception as exc:
            if threading.current_thread() is not self.thread:
                return  # left behind while it hung: another thread speaks for the lane
            self.error = f"{type(exc).__name__}: {exc}"
            log.error("lane=%s failed error=%r", self.lane.name, self.error, exc_info=log.isEnabledFor(logging.DEBUG))
            self.phase = "failed"
        else:
            if threading.current_thread() is self.thread:
                self.phase = "ended"


class Supervisor:
    """Owns every thread of the agent but the main one."""

    def __init__(
        self,
        lanes: Iterable[Lane],
        backoff: Callable[[], Backoff],
        mono_s: Callable[[], float],
        settled_s: float = 3.0,
    ) -> None:
        """`backoff` makes the wait policy of one lane; `mono_s` is the monotonic clock.

        `settled_s` is how long a revived lane must beat before its failure is forgiven.
        """
        self._settled_s = settled_s
        self._mono_s = mono_s
        self._backoff = backoff
        self._stop = threading.Event()
        self._running = [_Running(lane, backoff(), mono_s) for lane in lanes]

    def add(self, lane: Lane) -> None:
        """Run one more lane, for a task that ends by itself and is forgotten then.

        Called by the thread that reconciles.
        """
        self._running.append(_Running(lane, self._backoff(), self._mono_s, passing=True))
        self._revive(self._running[-1], self._mono_s())

    def replace_thread(self, name: str) -> None:
        """Leave the thread of lane `name` behind, which hangs, and start another one for the same lane.

        The lane itself has to see to it that the old thread does nothing more when it wakes up.
        """
        for it in self._running:
            if it.lane.name == name and it.thread is not None and it.thread.is_alive():
                log.error("lane=%s thread left behind: it hangs", name)
                it.thread, it.due_s = None, self._mono_s()
                self._revive(it, self._mono_s())

    def reconcile(self) -> tuple[LaneState, ...]:
        """Start what is due, notice what is stuck; returns the state of every lane."""
        now_s = self._mono_s()
        self._running = [it for it in self._running if not (it.passing and it.phase == "ended")]
        for it in self._running:
            if it.thread is None or not it.thread.is_alive():
                self._revive(it, now_s)
            else:
                self._watch(it, now_s)
        return self.states()

    def states(self) -> tuple[LaneState, ...]:
        """The state of every lane, as of now."""
        now_s = self._mono_s()
        return tuple(
            LaneState(it.lane.name, it.lane.essential, self._seen(it, now_s), it.failures, it.error, now_s - it.beat_s)
            for it in self._running
        )

    def stop(self, limit_s: float) -> tuple[str, ...]:
        """Tell all lanes to leave and wait, at most `limit_s` seconds together; returns those that stayed."""
        self._stop.set()
        until_s = self._mono_s() + limit_s
        for it in self._running:
            if it.thread is not None:
                it.thread.join(max(0.0, until_s - self._mono_s()))
        return tuple(it.lane.name for it in self._running if it.thread is not None and it.thread.is_alive())

    def _seen(self, it: _Running, now_s: float) -> LanePhase:
        """A lane that failed counts as failed until its next life has lasted a while: opening is not yet delivering."""
        settled = it.alive_s is not None and now_s - it.alive_s >= self._settled_s
        return "failed" if it.phase == "running" and it.error and not settled else it.phase

    def _revive(self, it: _Running, now_s: float) -> None:
        if it.thread is not None and it.phase == "failed":
            it.failures += 1
            it.due_s = now_s + it.backoff.failed(now_s)
            it.thread = None
            log.info("lane=%s revive_in_s=%.1f failures=%d", it.lane.name, it.due_s - now_s, it.failures)
        if it.phase == "ended" or now_s < it.due_s or self._stop.is_set():
            return
        it.phase, it.told_stuck = "running", False
        it.beat_s, it.alive_s = now_s, None
        it.thread = threading.Thread(target=it.body, args=(self._stop,), name=it.lane.name, daemon=True)
        it.thread.start()

    def _watch(self, it: _Running, now_s: float) -> None:
        stuck = now_s - it.beat_s > it.lane.deadline_s
        if stuck and not it.told_stuck:
            silent_s = now_s - it.beat_s
            log.error("lane=%s stuck silent_s=%.0f deadline_s=%.0f", it.lane.name, silent_s, it.lane.deadline_s)
        elif it.told_stuck and not stuck:
            log.info("lane=%s moves again", it.lane.name)
        it.told_stuck = stuck
        if it.phase in ("running", "stuck"):
            it.phase = "stuck" if stuck else "running"
