"""A budget for the models that are loaded at the same time: which one gives its memory up when another needs it.

A `Resident` stands for a model whether it is loaded or not: it is opened when it is needed, and closed when it has not
run for longest and another one needs its room. Rules: a model that is running is never closed, who needs the room waits
for the end of that run; one model is opened at a time, after its room was made, so that there are never two copies
more than the budget; what counts is the size of the model file. Refuses a model that is larger than the whole budget.
"""

import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agent.errors import ModelError
from agent.manifest import Input, Port
from agent.records import Array, Tensors
from agent.runtime import Runner, RunnerInfo

log = logging.getLogger(__name__)

WAIT_S: Final = 60.0
"""Longest wait for other models to end their runs, seconds."""


@dataclass(slots=True)
class Tally:
    """Counts since the start."""

    loads: int = 0
    """Models that were opened, the first time or again."""
    evictions: int = 0
    """Models that were closed because another one needed their room."""


class Residency:
    """Owns the budget. Safe to call from several threads."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.lock = threading.Lock()
        """Over what residents say of themselves; a run takes it twice, for a fraction of a microsecond."""
        self.ended = threading.Condition(self.lock)
        self.waiting = False
        """Whether somebody waits for the end of a run."""
        self.ticks = itertools.count()
        self._opening = threading.Lock()
        self._residents: list[Resident] = []
        """Those that are open."""
        self._tally = Tally()

    def lend(self, name: str, size_bytes: int, open_: Callable[[], Runner]) -> "Resident":
        """A model of `size_bytes`, opened now. Raises ModelError."""
        if size_bytes > self._limit_bytes:
            words = f"{name}: its file of {size_bytes / 1e6:.1f} MB is more than all models together may take"
            raise ModelError(f"{words} ({self._limit_bytes / 1e6:g} MB): raise [models] resident_mb")
        resident = Resident(name, size_bytes, open_, self)
        self.opened(resident)
        return resident

    def numbers(self) -> dict[str, float]:
        """For metrics: loaded models and their bytes, the budget, loads and evictions since the start."""
        with self.lock:
            there = [resident.size_bytes for resident in self._residents]
            return {
                "loaded": len(there), "loaded_bytes": sum(there), "budget_bytes": self._limit_bytes,
                "loads": self._tally.loads, "evictions": self._tally.evictions,
            }  # fmt: skip

    # --- for residents --------------------------------------------------------------------------------------------

    def opened(self, resident: "Resident") -> None:
        """Make room for it and open it, unless that has happened meanwhile. Raises ModelError."""
        if not self._opening.acquire(timeout=WAIT_S):
            raise ModelError(f"{resident.name}: another model has been loading for {WAIT_S:g} s: this one had to wait")
        try:
            evicted: list[tuple[Resident, Runner]] = []
            try:
                with self.lock:
                    if resident.runner is not None or resident.gone:
                        return
                    self._make_room(resident, evicted)
            finally:  # those that are out are nobody's, also when there was not room enough
                for other, runner in evicted:
                    runner.close()
                    log.info("model=%r closed for=%r", other.name, resident.name)
            self._open(resident)
        finally:
            self._opening.release()

    def closed(self, resident: "Resident") -> None:
        """It is not needed any more: it will not be opened again."""
        with self.lock:
            resident.gone = True
            runner = self._out(resident)
        if runner is not None:
            runner.close()

    def _open(self, resident: "Resident") -> None:
        runner = resident.make()
        with self.lock:
            resident.show(runner)
            self._tally.loads += 1
            if not resident.gone:  # nobody has closed it while it was loading
                resident.runner, resident.last = runner, next(self.ticks)
                self._residents.append(resident)
                return
        runner.close()

    def _make_room(self, wanted: "Resident", out: "list[tuple[Resident, Runner]]") -> None:
        """Take out who ran longest ago until `wanted` fits; they are closed by the caller, without the lock."""
        while sum(one.size_bytes for one in self._residents) + wanted.size_bytes > self._limit_bytes:
            idle = min((one for one in self._residents if not one.running), key=lambda one: one.last, default=None)
            if idle is None:
                self._wait(wanted)
                continue
            runner = self._out(idle)
            assert runner is not None
            out.append((idle, runner))
            self._tally.evictions += 1

    def _wait(self, wanted: "Resident") -> None:
        """Until a run has ended. Raises ModelError when none does."""
        self.waiting = True
        try:
            if not self.ended.wait(WAIT_S):
                raise ModelError(f"{wanted.name}: no other model has ended its run for {WAIT_S:g} s to make room")
        finally:
            self.waiting = False

    def _out(self, resident: "Resident") -> Runner | None:
        runner, resident.runner = resident.runner, None
        if resident in self._residents:
            self._residents.remove(resident)
        return runner


class Resident:
    """A model behind `agent.runtime.Runner`, in memory or not."""

    def __init__(self, name: str, size_bytes: int, make: Callable[[], Runner], residency: Residency) -> None:
        self.name, self.size_bytes, self.make = name, size_bytes, make
        self._residency = residency
        self.runner: Runner | None = None
        self.running = 0
        """Runs under way."""
        self.last = -1
        """When it ran last, by counting runs."""
        self.gone = False
        self.inputs: tuple[Input, ...] = ()
        self.outputs: tuple[Port, ...] = ()
        self._info: RunnerInfo | None = None

    @property
    def info(self) -> RunnerInfo:
        """Of the runner that is open, or else of the one that was."""
        runner = self.runner
        self._info = runner.info if runner is not None else self._info
        assert self._info is not None
        return self._info

    def show(self, runner: Runner) -> None:
        """What it is, as soon as it was opened."""
        self._info, self.inputs, self.outputs = runner.info, runner.inputs, runner.outputs

    def run(self, inputs: Tensors) -> dict[str, Array]:
        residency = self._residency
        while True:
            with residency.lock:
                if (runner := self.runner) is not None:
                    self.running += 1
                    self.last = next(residency.ticks)
                    break
            if self.gone:
                raise ModelError(f"{self.name}: it is closed: open it again")
            residency.opened(self)
        try:
            return runner.run(inputs)
        finally:
            with residency.lock:
                self.running -= 1
                if residency.waiting:
                    residency.ended.notify_all()

    def close(self) -> None:
        self._residency.closed(self)
