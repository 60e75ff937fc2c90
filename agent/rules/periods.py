"""Summing up periods: the rule `every`. Its rules stand in `agent.rules`."""

import math
from dataclasses import dataclass, field
from typing import Any

from agent.records import Finding
from agent.rules.decision import MAX_LABELS, Decision, by_label, number, title, told
from agent.settings.rules import Every


@dataclass(frozen=True, slots=True)
class Figure:
    """Running count, mean, extremes and last of a number."""

    count: int = 0
    mean: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    last: float = 0.0

    def plus(self, x: float) -> "Figure":
        """With one more number."""
        count = self.count + 1
        mean = self.mean + (x - self.mean) / count
        return Figure(count, mean, min(self.low, x), max(self.high, x), x)

    def told(self) -> dict[str, float]:
        """As JSON values."""
        return {"min": self.low, "max": self.high, "mean": self.mean, "last": self.last}


@dataclass(frozen=True, slots=True)
class Tally:
    """What was seen of one label in the period."""

    results: int = 0
    """Results that had it."""
    findings: int = 0
    score: Figure = field(default_factory=Figure)
    value: Figure = field(default_factory=Figure)
    last: Finding | None = None


@dataclass(frozen=True, slots=True)
class Period:
    """State of `every`: the running period."""

    start_s: float | None = None
    """None before the first result."""
    results: int = 0
    tallies: tuple[tuple[str, Tally], ...] = ()
    ignored: int = 0
    """Labels not summed up because `MAX_LABELS` were already, counted once per result."""


def tally(
    rule: Every, state: Period, findings: tuple[Finding, ...] | None, now_s: float
) -> tuple[Period, tuple[Decision, ...]]:
    """Fold one result into the running period; a period that is over is told first. See `agent.rules.step`."""
    decisions: tuple[Decision, ...] = ()
    if state.start_s is not None and now_s >= state.start_s + rule.period_s:
        decisions = (_decide(rule, state, state.start_s),) if state.results else ()
        state = Period(_start_of(rule, state.start_s, now_s))
    if findings is None:
        return state, decisions
    return _add(rule, state, findings, now_s), decisions


def _start_of(rule: Every, start_s: float, now_s: float) -> float:
    """Start of the period that holds `now_s`, counted from the one that began at `start_s`."""
    return start_s + math.floor((now_s - start_s) / rule.period_s) * rule.period_s


def _add(rule: Every, state: Period, findings: tuple[Finding, ...], now_s: float) -> Period:
    start_s = now_s if state.start_s is None else state.start_s
    if not findings:
        return Period(start_s, state.results + 1, state.tallies, state.ignored)
    tallies = dict(state.tallies)
    ignored = state.ignored
    for label, group in by_label(rule, findings).items():
        if label not in tallies and len(tallies) >= MAX_LABELS:
            ignored += 1
            continue
        tallies[label] = _more(tallies.get(label, Tally()), group)
    return Period(start_s, state.results + 1, tuple(tallies.items()), ignored)


def _more(old: Tally, group: tuple[Finding, ...]) -> Tally:
    score, value = old.score, old.value
    for finding in reversed(group):  # the best finding comes last, so that it is the `last` of its result
        x, y = number(finding.score), number(finding.value)
        score = score if x is None else score.plus(x)
        value = value if y is None else value.plus(y)
    return Tally(old.results + 1, old.findings + len(group), score, value, group[0])


def _decide(rule: Every, state: Period, start_s: float) -> Decision:
    body = {
        "interval": [start_s, start_s + rule.period_s],
        "results": state.results,
        "seen": [_seen(label, tally) for label, tally in state.tallies],
    }
    return Decision(rule.kind, body, title(rule))


def _seen(label: str, tally: Tally) -> dict[str, Any]:
    body: dict[str, Any] = {"label": label, "results": tally.results, "findings": tally.findings}
    if tally.score.count:
        body["score"] = tally.score.told()
    if tally.value.count:
        body["value"] = tally.value.told()
    last = told(tally.last) if tally.last is not None else {}
    return body | {key: last[key] for key in ("unit",) if key in last}
