"""The place of a pipeline in its lane: which model looks, which one is tried beside it or in its stead, and the change
from one to another between two samples.

A `Seat` is fed like a pipeline. Rules: a change waits for the next sample and costs no sample; numbers, windows, gate
and rules go on where the one before stopped; a view on which a tried model fails is looked at again by the one
before, at once, so that a bad candidate costs no view either. A candidate in the shadow sees what the current model
sees and tells nobody.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Final

from agent.pipeline import Carried, Outcome, Pipeline
from agent.records import ModelRef, Sample
from agent.runtime import RunnerInfo
from agent.settings.core import PipelineConfig
from agent.trial.attempt import FAULTS, Attempt, paired, run_ms
from agent.trial.judge import Verdict

RECENT: Final = 64
"""Runs over which a model's pace is told."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a seat is asked to do before its next sample."""

    pipeline: Pipeline
    """Takes the seat, or with `beside` runs beside who has it."""
    attempt: Attempt | None = None
    """Its trial; None: it stays."""
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Swap:
    """A change that has happened."""

    pipeline: str
    before: ModelRef | None
    after: ModelRef | None
    spent_s: float
    """How long it kept the lane from looking at samples, seconds."""


@dataclass(frozen=True, slots=True)
class _Entered:
    """A sample that a candidate looks at now."""

    since_s: float
    carried: Carried | None
    """What was remembered before it; None for a candidate in the shadow."""


class Seat:
    """Feeds one pipeline, and lets another take its place. One lane feeds it; others only offer and read."""

    def __init__(
        self,
        pipeline: Pipeline,
        leave: Callable[[Pipeline], None] = lambda _: None,
        changed: Callable[[Swap], None] = lambda _: None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`leave` gets every pipeline that is not needed any more; `changed` hears of every change."""
        self._now = pipeline
        self._other: Pipeline | None = None
        """On trial live: the one before. In the shadow: the candidate."""
        self._attempt: Attempt | None = None
        self._beside = False
        self._lock = threading.Lock()
        self._offered: Change | None = None
        self._recent_ms: deque[float] = deque(maxlen=RECENT)
        self._entered: _Entered | None = None
        self._leave, self._changed, self._timer = leave, changed, timer

    @property
    def config(self) -> PipelineConfig:
        return self._now.config

    @property
    def pipeline(self) -> Pipeline:
        """Who has the seat."""
        return self._now

    @property
    def model(self) -> ModelRef | None:
        return self._now.model

    @property
    def runner(self) -> RunnerInfo | None:
        return self._now.runner

    @property
    def demonstration(self) -> str:
        """Why the model is only a demonstration; empty when it is meant for use."""
        return self._now.demonstration

    @property
    def pace_ms(self) -> float:
        """Median of the newest computed runs outside a trial, milliseconds; 0 when there was none."""
        return median(self._recent_ms) if self._recent_ms else 0.0

    def offer(self, change: Change) -> None:
        """Ask for a change before the next sample. One that was offered before and not taken yet is dropped."""
        with self._lock:
            dropped, self._offered = self._offered, change
        if dropped is not None:
            self._leave(dropped.pipeline)

    def feed(self, sample: Sample) -> Iterator[Outcome]:
        """Run every view that `sample` completes. Raises ModelError when the model that counts refuses one."""
        self._settle()
        if self._attempt is None or self._other is None:
            yield from self._alone(sample)
        elif self._beside:
            yield from self._compared(sample, self._other, self._attempt)
        else:
            yield from self._tried(sample, self._other, self._attempt)

    @property
    def hangs_s(self) -> float:
        """How long a candidate has been looking at one sample, seconds."""
        entered = self._entered
        return self._timer() - entered.since_s if entered is not None else 0.0

    def leave_behind(self) -> None:
        """The lane's thread hangs in a candidate: leave it there, and let another thread go on without it.

        Called by the main thread before it starts that thread. The sample in hand is lost, and the candidate's memory
        until the process ends, because nobody can know what the thread still does with it.
        """
        entered, before = self._entered, self._other
        if entered is not None and before is not None and not self._beside:
            before.go_on_from(self._now, entered.carried)
            self._now = before
        self._entered = self._other = self._attempt = None

    # --- changes ------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        if self._attempt is not None and self._attempt.verdict is not None:
            self._conclude(self._attempt.verdict)
        if self._offered is not None:
            with self._lock:
                change, self._offered = self._offered, None
            if change is not None:
                self._take(_decided(change))

    def _take(self, change: Change | Pipeline) -> None:
        if isinstance(change, Pipeline):
            self._leave(change)
            return
        begin = self._timer()
        old, self._attempt, self._beside = self._other, change.attempt, change.beside
        change.pipeline.go_on_from(self._now)
        _compute_all(change.pipeline, change.attempt is not None)
        if change.beside:
            self._other = change.pipeline
        else:
            before, self._now = self._now, change.pipeline
            self._recent_ms.clear()
            self._other = before if change.attempt is not None else None
            self._tell(before, begin)
            if change.attempt is None:
                self._leave(before)
        if old is not None:
            self._leave(old)

    def _conclude(self, verdict: Verdict) -> None:
        """The trial is over: in the shadow nothing changes, live a bad one leaves the seat to the one before."""
        if self._other is not None and not self._beside and verdict.decision == "roll_back":
            self._back(self._other)
        elif self._other is not None:
            self._leave(self._other)
        _compute_all(self._now, False)
        self._other, self._attempt = None, None

    def _back(self, before: Pipeline) -> None:
        begin = self._timer()
        before.go_on_from(self._now)
        gone, self._now = self._now, before
        self._tell(gone, begin)
        self._leave(gone)

    def _tell(self, before: Pipeline, begin_s: float) -> None:
        self._changed(Swap(self.config.name, before.model, self.model, self._timer() - begin_s))

    # --- looking ------------------------------------------------------------------------------------------------

    def _alone(self, sample: Sample) -> Iterator[Outcome]:
        for outcome in self._now.feed(sample):
            if (spent_ms := run_ms(outcome.result)) is not None:
                self._recent_ms.append(spent_ms)
            yield outcome

    def _tried(self, sample: Sample, before: Pipeline, attempt: Attempt) -> Iterator[Outcome]:
        carried, done = self._now.carried, 0
        self._entered = entered = _Entered(self._timer(), carried)
        try:
            for outcome in self._now.feed(sample):
                attempt.saw(outcome.result)
                yield outcome
                done += 1
        except FAULTS as exc:
            if self._attempt is not attempt:
                return  # it hung, and the seat went on without it
            yield from self._again(sample, before, carried, done)
            attempt.failed(exc)
        finally:
            self._entered = None if self._entered is entered else self._entered
        self._look_at(attempt)

    def _look_at(self, attempt: Attempt) -> None:
        verdict = attempt.look()
        if verdict is not None and self._attempt is attempt:
            self._conclude(verdict)

    def _again(self, sample: Sample, before: Pipeline, carried: Carried, done: int) -> Iterator[Outcome]:
        """Look once more with the model before, and leave it the seat; the first `done` views were told.

        Raises ModelError when it refuses the view too: then it is not the candidate's fault.
        """
        begin = self._timer()
        before.go_on_from(self._now, carried)
        rest = [outcome for i, outcome in enumerate(before.feed(sample)) if i >= done]
        gone, self._now, self._other, self._attempt = self._now, before, None, None
        self._tell(gone, begin)
        self._leave(gone)
        yield from rest

    def _compared(self, sample: Sample, other: Pipeline, attempt: Attempt) -> Iterator[Outcome]:
        """The current model's outcomes, told as ever; then the candidate looks at the same sample."""
        told: list[Outcome] = []
        whole = False
        try:
            for outcome in self._alone(sample):
                told.append(outcome)
                yield outcome
            whole = True
        finally:  # also when the current model refuses a view: both have to stay at the same place in the stream
            self._shadow(sample, told if whole else None, other, attempt)

    def _shadow(self, sample: Sample, told: list[Outcome] | None, other: Pipeline, attempt: Attempt) -> None:
        """Let the candidate look, too; `told` is None when the current model refused the sample: nothing to compare."""
        self._entered = entered = _Entered(self._timer(), None)
        try:
            seen = list(other.feed(sample))
        except FAULTS as exc:
            if told is not None:
                attempt.failed(exc)
        else:
            for now, then in paired(told, seen) if told is not None else ():
                attempt.compare(now, then)
        finally:
            self._entered = None if self._entered is entered else self._entered
        self._look_at(attempt)


def _compute_all(pipeline: Pipeline, on: bool) -> None:
    """On trial nothing is taken from the cache: an answer that was known proves nothing."""
    if pipeline.inference is not None:
        pipeline.inference.computes_all = on


def _decided(change: Change) -> Change | Pipeline:
    """The change as it is due now: its trial may have ended before this seat had a sample. A pipeline: it goes."""
    verdict = change.attempt.verdict if change.attempt is not None else None
    if verdict is None:
        return change
    return Change(change.pipeline) if verdict.decision == "commit" else change.pipeline
