"""One candidate's trial while it runs: the judge that its pipelines and the main thread share.

Owns what is taken from a result and which views of two models are compared. The judges themselves are `agent.trial`.
"""

import threading
from collections.abc import Callable

from agent.errors import ModelError
from agent.pipeline import Outcome
from agent.records import Result
from agent.trial import Probation, Shadow, Verdict


class Attempt:
    """One candidate and its judge, shared by several threads; the first verdict stays."""

    def __init__(self, judge: Probation | Shadow, clock_s: Callable[[], float]) -> None:
        """`clock_s`: monotonic seconds."""
        self._judge = judge
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._verdict: Verdict | None = None

    @property
    def verdict(self) -> Verdict | None:
        """The decision as of the last look."""
        return self._verdict

    def look(self) -> Verdict | None:
        """Judge now."""
        with self._lock:
            self._verdict = self._verdict or self._judge.verdict(self._clock_s())
            return self._verdict

    def end(self, verdict: Verdict) -> None:
        """Decide from outside, e.g. because the candidate cannot be loaded, or somebody took it away."""
        with self._lock:
            self._verdict = self._verdict or verdict

    def failed(self, exc: ModelError) -> None:
        """The candidate failed on a view that the model before could look at."""
        with self._lock:
            self._judge.failed(str(exc))

    def saw(self, result: Result | None) -> None:
        """The candidate looked at a view."""
        if (spent_ms := run_ms(result)) is not None:
            with self._lock:
                self._judge.ran(spent_ms)

    def compare(self, now: Outcome, then: Outcome) -> None:
        """Both looked at the same view."""
        self.saw(then.result)
        seen, shadow = now.result or then.result, self._judge
        if seen is None or not isinstance(shadow, Shadow):
            return
        where = {"pipeline": seen.pipeline, "seq": seen.seq, "t_wall_s": round(seen.t_wall_s, 3)}
        with self._lock:
            if now.result is not None and then.result is not None:
                shadow.compared(where, now.result.findings, then.result.findings)
            shadow.told(seen.pipeline, now.drafts, then.drafts, seen.t_s)


def run_ms(result: Result | None) -> float | None:
    """The time of one run of the model for it, milliseconds; None when none ran."""
    return result.timings_ms["run"] / result.runs if result is not None and result.runs else None


def paired(told: list[Outcome], seen: list[Outcome]) -> list[tuple[Outcome, Outcome]]:
    """Which views of one sample are compared: one with its like, or the last ones when the windows differ."""
    if len(told) == len(seen):
        return list(zip(told, seen, strict=True))
    if not told or not seen:
        return []
    return [(_joined(told), _joined(seen))]


def _joined(outcomes: list[Outcome]) -> Outcome:
    return Outcome(outcomes[-1].result, tuple(draft for outcome in outcomes for draft in outcome.drafts))
