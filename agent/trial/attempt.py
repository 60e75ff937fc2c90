"""One candidate's trial while it runs: the judge that its pipelines and the main thread share.

Owns what is taken from a result and which views of two models are compared. The judges: `agent.trial.judge`.
"""

import threading
from collections.abc import Callable
from typing import Final

from agent.errors import LimpetError
from agent.pipeline import Outcome
from agent.records import Result
from agent.trial.judge import Probation, Shadow, Verdict

FAULTS: Final = (LimpetError, ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
"""What a model can provoke in itself and in the steps that read its outputs. In a proved model's case all but the first
would be a bug, and fail the lane; in a candidate's case they are a verdict."""


class Attempt:
    """One candidate and its judge, shared by several threads; the first verdict stays."""

    def __init__(
        self, judge: Probation | Shadow | None, clock_s: Callable[[], float], verdict: Verdict | None = None
    ) -> None:
        """`clock_s`: monotonic seconds."""
        self._judge = judge
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._verdict = verdict

    @classmethod
    def over(cls, verdict: Verdict) -> "Attempt":
        """One that was decided before it began."""
        return cls(None, lambda: 0.0, verdict)

    @property
    def verdict(self) -> Verdict | None:
        """The decision as of the last look."""
        return self._verdict

    def look(self) -> Verdict | None:
        """Judge now."""
        with self._lock:
            if self._verdict is None and self._judge is not None:
                self._verdict = self._judge.verdict(self._clock_s())
            return self._verdict

    def end(self, verdict: Verdict) -> None:
        """Decide from outside, e.g. because the candidate cannot be loaded, or somebody took it away."""
        with self._lock:
            self._verdict = self._verdict or verdict

    def failed(self, exc: Exception) -> None:
        """The candidate failed on a view that the model before could look at."""
        with self._lock:
            if self._judge is not None:
                self._judge.failed(in_words(exc))

    def saw(self, result: Result | None) -> None:
        """The candidate looked at a view."""
        if (spent_ms := run_ms(result)) is not None and self._judge is not None:
            with self._lock:
                self._judge.ran(spent_ms)

    def compare(self, now: Outcome, then: Outcome) -> None:
        """Both looked at the same view."""
        if isinstance(self._judge, Shadow):
            with self._lock:
                weigh(self._judge, now, then)


def in_words(exc: Exception) -> str:
    """What a fault says; one that is none of Limpet's own is named, too."""
    return str(exc) if isinstance(exc, LimpetError) else f"{type(exc).__name__}: {exc}"


def run_ms(result: Result | None) -> float | None:
    """The time of one run of the model for it, milliseconds; None when none ran."""
    return result.timings_ms["run"] / result.runs if result is not None and result.runs else None


def paired(told: list[Outcome], seen: list[Outcome]) -> list[tuple[Outcome, Outcome]]:
    """Which views of one sample are compared: one with its like, or the last ones when the windows differ."""
    if len(told) == len(seen):
        return list(zip(told, seen, strict=True))
    return [(_joined(told), _joined(seen))]


def _joined(outcomes: list[Outcome]) -> Outcome:
    last = outcomes[-1].result if outcomes else None
    return Outcome(last, tuple(draft for outcome in outcomes for draft in outcome.drafts))


def weigh(shadow: Shadow, now: Outcome, then: Outcome) -> None:
    """Tell `shadow` what both models made of one view. An answer reused for it is not what the model says of it."""
    if (spent_ms := run_ms(then.result)) is not None:
        shadow.ran(spent_ms)
    seen = now.result or then.result
    if seen is None:
        return
    if now.result is not None and then.result is not None and now.result.cache != "similar":
        where = {"pipeline": seen.pipeline, "seq": seen.seq, "t_wall_s": round(seen.t_wall_s, 3)}
        shadow.compared(where, now.result.findings, then.result.findings)
    shadow.told(seen.pipeline, now.drafts, then.drafts, seen.t_s)
