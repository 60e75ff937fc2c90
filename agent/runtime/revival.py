"""Keeps a host alive as long as its runner is open: starts it, starts it again after a growing wait, and counts.

A worker that ends alone costs its connection; the next one is another fork of the loaded model, some milliseconds. A
host that ends takes every connection along and is loaded again. In both cases there is a wait first (full jitter), in
which every connection is refused at once: a model that crashes on every view must not keep a device busy with dying.
"""

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import replace

from agent.backoff import Backoff
from agent.errors import ModelError
from agent.runtime.connection import Connection, HungError, Layout
from agent.runtime.contract import HostTally
from agent.runtime.hosting import Hosting, LostError

log = logging.getLogger(__name__)

_FIRST_S, _CAP_S = 0.5, 60.0


class Revival:
    """The host of one runner. Safe to use from several threads."""

    def __init__(
        self, where: str, start: Callable[[], Hosting], layout: Layout, deadline_s: float,
        mono_s: Callable[[], float],
    ) -> None:  # fmt: skip
        """Start the first one. `start` returns a host that has loaded the model; raises what it raises."""
        self._where, self._start, self._layout = where, start, layout
        self._deadline_s, self._mono_s = deadline_s, mono_s
        self._lock = threading.Lock()
        self._backoff, self._due_s = Backoff(random.Random(), _FIRST_S, _CAP_S), 0.0
        self._hosting: Hosting | None = start()
        self.tally = HostTally(self._hosting.python)

    def connection(self) -> Connection:
        """A new connection, to a new host if need be. Raises ModelError while it is too early, or when it fails."""
        with self._lock:
            wait_s = self._due_s - self._mono_s()
            if wait_s > 0:
                raise ModelError(f"{self._where}: its host {self.tally.last}: tried again in {wait_s:.1f} s")
            if self._hosting is None:
                self._hosting = self._started_again()
            try:
                made = Connection(self._hosting, self._layout, self._deadline_s)
            except LostError as exc:
                raise self._lost(f"{exc}, it {self._hosting.end()}", all_of_it=True) from exc
            self._backoff.started(self._mono_s())
            return made

    def bury(self, connection: Connection, why: LostError) -> ModelError:
        """Close a connection that was lost, see to it that its worker is gone, count it; the error to raise."""
        with self._lock:
            connection.close()
            if connection.hosting is not self._hosting:
                return ModelError(f"{self._where}: its host {self.tally.last}")  # it was counted when it went
            hung, gone = isinstance(why, HungError), False
            try:
                how = connection.hosting.ended(connection.number, hangs=hung)
            except LostError as exc:
                how, gone = str(exc), True
            return self._lost(f"was killed because {why}" if hung else how, all_of_it=gone, hung=hung)

    def close(self) -> None:
        """Kill the host. A second close does nothing."""
        with self._lock:
            if self._hosting is not None:
                self._hosting.close()
            self._hosting = None

    def _started_again(self) -> Hosting:
        try:
            made = self._start()
        except ModelError as exc:
            self._due_s = self._mono_s() + self._backoff.failed(self._mono_s())
            self.tally = replace(self.tally, last=f"cannot be started again: {exc}")
            raise
        self.tally = replace(self.tally, starts=self.tally.starts + 1)
        log.info("model=%r host started again pid=%d starts=%d", self._where, made.pid, self.tally.starts)
        return made

    def _lost(self, how: str, *, all_of_it: bool, hung: bool = False) -> ModelError:
        """Under the lock."""
        if all_of_it:
            self._hosting = None
        wait_s = self._backoff.failed(self._mono_s())
        self._due_s = self._mono_s() + wait_s
        was = self.tally
        self.tally = replace(was, crashes=was.crashes + (not hung), hangs=was.hangs + hung, last=how)
        log.error("model=%r host %s crashes=%d hangs=%d", self._where, how, self.tally.crashes, self.tally.hangs)
        return ModelError(f"{self._where}: its host {how}: tried again in {wait_s:.1f} s")
