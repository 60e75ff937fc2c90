"""Rules turn findings over time into events: pure functions of (state, findings, now).

`step` folds one result into a rule's state and says what is to be told. Nothing here reads a clock, keeps anything or
does I/O, so the same results give the same events wherever the stream is cut.

How a label's state changes (`tracks`):

    result with findings  -> one piece of evidence per label (present, high/low, or the number seen)
    evidence              -> remembered, the last `m` results
    n of m agree, and the newest of them does -> the state changes; the change is told when its kind is asked for
    a change that would be told inside `cooldown_s` waits: it happens later if it still holds then, else never

What makes no evidence changes nothing: no result (`findings=None`), a result that was dropped, a gap. A gap forgets
the evidence and keeps the state, so that a person present before it is still present after it until `clear_n` fresh
results say otherwise. Every state is bounded: at most `MAX_LABELS` labels, `m` small numbers for each.
`every` (see `periods`) tells nothing about a period without results: nobody looked.
"""

from agent.records import Finding
from agent.rules.decision import MAX_LABELS, Decision, title
from agent.rules.periods import Period, tally
from agent.rules.tracks import Watch, watch
from agent.settings.rules import Every, RuleConfig

__all__ = ["MAX_LABELS", "Decision", "RuleState", "initial", "step", "title"]

RuleState = Watch | Period


def initial(rule: RuleConfig) -> RuleState:
    """State before the first result: nothing present, nothing counted, values on the quiet side of a threshold."""
    return Period() if isinstance(rule, Every) else Watch()


def step(
    rule: RuleConfig, state: RuleState, findings: tuple[Finding, ...] | None, now_s: float, gap: bool = False
) -> tuple[RuleState, tuple[Decision, ...]]:
    """Fold one result into `state`; returns the next state and what is to be told.

    `findings` of one result (empty: it was looked at, nothing was there), or None when only time passed.
    `now_s` is the stream's monotonic time, steps of any length; a step back counts as no time at all.
    `gap`: something was lost between the previous result and this one. Raises nothing.
    """
    if isinstance(rule, Every):
        assert isinstance(state, Period)
        return tally(rule, state, findings, now_s)
    assert isinstance(state, Watch)
    return watch(rule, state, findings, now_s, gap)
