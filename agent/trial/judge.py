"""Whether a candidate may stay: what it did on live input, and how often it differed from the model before.

Owns two judges. A `Probation` counts the runs of a candidate that already speaks; a `Shadow` compares a candidate that
runs beside the current model and tells nobody. Both are fed by whoever runs the models, know no clock and do no I/O,
and give a `Verdict` once one is due. Rules:

- A run that fails where the model before answers is the candidate's fault, and one is enough. Who feeds the judge has
  to ask the other model first: an input that both refuse says nothing about the candidate.
- Only computed runs count; a cached answer says nothing about the candidate.
- Slow is the median against the limit, judged from `PACE_RUNS` runs on, or as soon as more than `PACE_PATIENCE_MS`
  were spent: one slow start is forgiven, a candidate that needs seconds is not waited for.
- Bad news is told at once, good news only when the count or the time is full. Nothing seen at all is no good news.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, Literal

from agent.progress import Reason
from agent.records import Draft, Finding
from agent.trial.agreement import EVIDENCE, Events, agree, shown

Decision = Literal["commit", "roll_back", "promote"]

PACE_RUNS: Final = 10
"""Runs from which on the median counts."""
PACE_PATIENCE_MS: Final = 10_000.0
"""Time spent in runs after which the median counts, however few they were, milliseconds."""
PACE_SLACK_MS: Final = 5.0
"""A candidate may always be this much slower than the model before: below it timings are noise, milliseconds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a candidate is measured against."""

    inferences: int
    """Computed runs that are enough."""
    time_s: float
    """Time after which fewer are enough, if there was one."""
    limit_ms: float = math.inf
    """Slowest median run; see `pace_limit_ms`."""
    disagreement: float = 0.0
    """Shadow: largest share of views, and of events, that may differ."""
    tolerance: float = 0.0
    """Shadow: relative difference of two values that still counts as the same."""


def pace_limit_ms(budget_ms: float, before_ms: float, slowdown: float) -> float:
    """The slowest median run allowed: the manifest's budget, else `slowdown` times the model before; inf when unknown.

    `budget_ms`: 0 when the manifest names none. `before_ms`: median of the model before, 0 when it never ran.
    """
    if budget_ms > 0:
        return budget_ms
    return max(before_ms * slowdown, before_ms + PACE_SLACK_MS) if before_ms > 0 else math.inf


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a candidate, and why."""

    decision: Decision
    text: str
    reason: Reason | Literal[""] = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """JSON values: the counts that led to it, and the evidence."""


def refused(text: str, **detail: Any) -> Verdict:
    """The verdict on a candidate that goes back."""
    return Verdict("roll_back", text, "PROBATION_FAILED", detail)


class Probation:
    """The judge of a candidate that already speaks."""

    def __init__(self, limits: Limits, start_s: float) -> None:
        """`start_s`: monotonic time at which it began to run."""
        self._limits = limits
        self._start_s = start_s
        self._pace = _Pace(limits.limit_ms)
        self._failure = ""

    def ran(self, run_ms: float) -> None:
        """One run was computed, in milliseconds."""
        self._pace.ran(run_ms)

    def failed(self, text: str) -> None:
        """One run failed where the model before answered; `text` says how."""
        self._failure = self._failure or text

    def verdict(self, now_s: float) -> Verdict | None:
        """The decision, or None while it is too early. `now_s`: monotonic."""
        seen = {"inferences": self._pace.runs, "p50_ms": self._pace.told_ms, "time_s": round(now_s - self._start_s, 1)}
        if self._failure:
            return refused(f"after {self._pace.runs} live inferences: {self._failure}", **seen)
        if self._pace.too_slow:
            return refused(self._pace.complaint, **seen, limit_ms=self._limits.limit_ms)
        timely = now_s - self._start_s >= self._limits.time_s
        if self._pace.runs >= self._limits.inferences or (timely and self._pace.runs):
            return Verdict("commit", f"{self._pace.runs} live inferences, none went wrong", "", seen)
        if timely:
            return refused(f"it saw no live input within {self._limits.time_s:g} s, so nothing speaks for it", **seen)
        return None


class Shadow:
    """The judge of a candidate that runs beside the current model and tells nobody."""

    def __init__(self, limits: Limits, start_s: float) -> None:
        """`start_s`: monotonic time of the first comparison."""
        self._limits = limits
        self._start_s = start_s
        self._pace = _Pace(limits.limit_ms)
        self._views = 0
        self._differing = 0
        self._kept: list[dict[str, Any]] = []
        self._events: dict[str, Events] = {}
        self._failure = ""

    def compared(self, where: Mapping[str, Any], now: tuple[Finding, ...], then: tuple[Finding, ...]) -> None:
        """One view was seen by both. `where`: what tells the view to a person, JSON values."""
        self._views += 1
        if agree(now, then, self._limits.tolerance):
            return
        self._differing += 1
        if len(self._kept) < EVIDENCE:
            self._kept.append({**where, "now": shown(now), "then": shown(then)})

    def told(self, pipeline: str, now: Iterable[Draft], then: Iterable[Draft], t_s: float) -> None:
        """What the rules of `pipeline` made of a view, by either model; `t_s` is its place in the stream."""
        self._events.setdefault(pipeline, Events()).told(now, then, t_s)

    def ran(self, run_ms: float) -> None:
        """The candidate computed one run, in milliseconds."""
        self._pace.ran(run_ms)

    def failed(self, text: str) -> None:
        """The candidate failed where the current model answered."""
        self._failure = self._failure or text

    def finish(self) -> None:
        """The recording is over: what still waits for its like has none."""
        for events in self._events.values():
            events.finish()

    def verdict(self, now_s: float, *, over: bool = False) -> Verdict | None:
        """The decision, or None while it is too early. `over`: nothing more comes, decide on what there was."""
        seen = self.seen()
        if self._failure:
            return refused(f"after {self._views} views beside the current model: {self._failure}", **seen)
        if self._pace.too_slow:
            return refused(self._pace.complaint, **seen, limit_ms=self._limits.limit_ms)
        if self._differing > self._limits.disagreement * max(self._views, self._limits.inferences):
            return self._disagrees(seen)
        if not (over or self._views >= self._limits.inferences or now_s - self._start_s >= self._limits.time_s):
            return None
        if not self._views:
            return refused("it saw no live input beside the current model, so nothing speaks for it", **seen)
        too_many = self._differing > self._limits.disagreement * self._views
        changes = self._changed > self._limits.disagreement * max(1, self._told_now)
        return self._disagrees(seen) if too_many or changes else Verdict("promote", self.sentence(), "", seen)

    def seen(self) -> dict[str, Any]:
        """The counts and the evidence so far, JSON values."""
        kept = [one for events in self._events.values() for one in events.kept][:EVIDENCE]
        return {
            "views": self._views, "differing": self._differing, "p50_ms": self._pace.told_ms,
            "events": self._told_now, "changed": self._changed,
            "evidence": {"views": list(self._kept), "events": kept},
        }  # fmt: skip

    def sentence(self) -> str:
        """What a person wants to know."""
        views = f"says something else on {self._differing} of {self._views} views"
        return f"it {views} and would change {self._changed} of {self._told_now} events"

    @property
    def _told_now(self) -> int:
        return sum(events.told_now for events in self._events.values())

    @property
    def _changed(self) -> int:
        return sum(events.changed for events in self._events.values())

    def _disagrees(self, seen: Mapping[str, Any]) -> Verdict:
        return refused(f"{self.sentence()}, at most a share of {self._limits.disagreement:g} may differ", **seen)


@dataclass(slots=True)
class _Pace:
    """How fast a candidate runs. Keeps the newest 256 runs."""

    limit_ms: float
    runs: int = 0
    spent_ms: float = 0.0
    recent: list[float] = field(default_factory=list)

    def ran(self, run_ms: float) -> None:
        self.runs += 1
        self.spent_ms += run_ms
        self.recent = [*self.recent[-255:], run_ms]

    @property
    def too_slow(self) -> bool:
        enough = self.runs >= PACE_RUNS or self.spent_ms >= PACE_PATIENCE_MS
        return enough and median(self.recent) > self.limit_ms

    @property
    def told_ms(self) -> float | None:
        return round(median(self.recent), 3) if self.recent else None

    @property
    def complaint(self) -> str:
        return f"too slow: half of {self.runs} runs took more than {self.told_ms:g} ms, {self.limit_ms:.3g} are allowed"
