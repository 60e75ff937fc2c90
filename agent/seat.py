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

from agent.attempt import Attempt, paired, run_ms
from agent.errors import ModelError
from agent.pipeline import Carried, Outcome, Pipeline
from agent.records import ModelRef, Sample
from agent.runtime import RunnerInfo
from agent.settings.core import PipelineConfig
from agent.trial import Verdict

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


class Seat:
    """Feeds one pipeline, and lets another take its place. One lane feeds it; others only offer and read."""

    def __init__(
        self,
        pipeline: Pipeline,
        leave: Callable[[Pipeline], None] = lambda _: None,
        changed: Callable[[str, float], None] = lambda _name, _s: None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`leave` gets every pipeline that is not needed any more; `changed` the name and seconds of each change."""
        self._now = pipeline
        self._other: Pipeline | None = None
        """On trial live: the one before. In the shadow: the candidate."""
        self._attempt: Attempt | None = None
        self._beside = False
        self._lock = threading.Lock()
        self._offered: Change | None = None
        self._recent_ms: deque[float] = deque(maxlen=RECENT)
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

    # --- changes ------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        if self._attempt is not None and self._attempt.verdict is not None:
            self._conclude(self._attempt.verdict)
        if self._offered is not None:
            with self._lock:
                change, self._offered = self._offered, None
            if change is not None:
                self._take(change)

    def _take(self, change: Change) -> None:
        begin = self._timer()
        old, self._attempt, self._beside = self._other, change.attempt, change.beside
        change.pipeline.go_on_from(self._now)
        if change.beside:
            self._other = change.pipeline
        else:
            before, self._now = self._now, change.pipeline
            self._recent_ms.clear()
            self._other = before if change.attempt is not None else None
            self._changed(self.config.name, self._timer() - begin)
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
        self._other, self._attempt = None, None

    def _back(self, before: Pipeline, carried: Carried | None = None) -> None:
        begin = self._timer()
        before.go_on_from(self._now, carried)
        gone, self._now = self._now, before
        self._changed(self.config.name, self._timer() - begin)
        self._leave(gone)

    # --- looking ------------------------------------------------------------------------------------------------

    def _alone(self, sample: Sample) -> Iterator[Outcome]:
        for outcome in self._now.feed(sample):
            if (spent_ms := run_ms(outcome.result)) is not None:
                self._recent_ms.append(spent_ms)
            yield outcome

    def _tried(self, sample: Sample, before: Pipeline, attempt: Attempt) -> Iterator[Outcome]:
        candidate, carried, done = self._now, self._now.carried, 0
        try:
            for outcome in candidate.feed(sample):
                attempt.saw(outcome.result)
                yield outcome
                done += 1
        except ModelError as exc:
            yield from self._again(sample, before, carried, done)
            attempt.failed(exc)
        if (verdict := attempt.look()) is not None and self._now is candidate:
            self._conclude(verdict)

    def _again(self, sample: Sample, before: Pipeline, carried: Carried, done: int) -> Iterator[Outcome]:
        """Look once more with the model before, and leave it the seat; the first `done` views were told.

        Raises ModelError when it refuses the view too: then it is not the candidate's fault.
        """
        before.go_on_from(self._now, carried)
        rest = [outcome for i, outcome in enumerate(before.feed(sample)) if i >= done]
        gone, self._now, self._other, self._attempt = self._now, before, None, None
        self._leave(gone)
        yield from rest

    def _compared(self, sample: Sample, other: Pipeline, attempt: Attempt) -> Iterator[Outcome]:
        """The current model's outcomes, told as ever; then the candidate looks at the same sample."""
        told: list[Outcome] = []
        try:
            for outcome in self._alone(sample):
                told.append(outcome)
                yield outcome
        finally:  # also when the current model refuses a view: both have to stay at the same place in the stream
            self._shadow(sample, told, other, attempt)

    def _shadow(self, sample: Sample, told: list[Outcome], other: Pipeline, attempt: Attempt) -> None:
        try:
            seen = list(other.feed(sample))
        except ModelError as exc:
            if told:
                attempt.failed(exc)
        else:
            for now, then in paired(told, seen):
                attempt.compare(now, then)
        if (verdict := attempt.look()) is not None:
            self._conclude(verdict)
