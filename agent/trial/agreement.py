"""Whether two models say the same, view by view and event by event.

Pure. Owns the comparison of findings, the matching of the events that the rules make of them, and the few differences
that are kept to be shown. The rules' decisions are what counts for a person ("would change 3 of 412 events"); the
findings tell sooner.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from agent.records import Draft, Finding
from agent.rules.decision import told
from pipelines.track import unnumbered

SURE: Final = 0.5
"""Findings with at least this score are compared; below it a model says that it does not know."""
EVIDENCE: Final = 5
"""Differing views, and as many differing events, that are kept to be shown."""
TOLD_FINDINGS: Final = 3
"""Findings of each model that a kept view shows."""
MATCH_S: Final = 2.0
"""Two events count as the same when rule, kind and label agree and they lie at most this far apart, stream seconds."""
TOLD: Final = ("label", "score", "value")
"""What is shown of a finding."""


def agree(now: tuple[Finding, ...], then: tuple[Finding, ...], tolerance: float) -> bool:
    """Whether two models say the same: the same sure labels, equally often, with values within `tolerance` (relative).

    A value that is text must be the same text. Boxes and intervals are not compared, and of tracks neither the number
    nor the age: one ghost more or less would shift all numbers after it.
    """
    mine, theirs = _sure(now), _sure(then)
    same_labels = [one.label for one in mine] == [one.label for one in theirs]
    return same_labels and all(
        _close(a.value, b.value, tolerance) for a, b in zip(mine, theirs, strict=True) if a.value != b.value
    )


def shown(findings: tuple[Finding, ...]) -> list[dict[str, Any]]:
    """The best findings as JSON values."""
    best = sorted(findings, key=lambda one: -one.score)[:TOLD_FINDINGS]
    return [{k: round(v, 4) if isinstance(v, float) else v for k, v in told(one).items() if k in TOLD} for one in best]


class Events:
    """Matches what the rules tell of two models, one event with its like."""

    def __init__(self) -> None:
        self.told_now = 0
        """Events of the current model."""
        self.missing = 0
        """Of these, events that would not come."""
        self.besides = 0
        """Events that would come besides."""
        self.kept: list[dict[str, Any]] = []
        self._waiting: tuple[list[tuple[float, Draft]], list[tuple[float, Draft]]] = ([], [])

    @property
    def changed(self) -> int:
        """Events that would be others: one that comes with another label is missing once and besides once."""
        return max(self.missing, self.besides)

    def told(self, now: Iterable[Draft], then: Iterable[Draft], t_s: float) -> None:
        """Take the drafts of one view; what waited longer than `MATCH_S` is a change."""
        for side, drafts in enumerate((now, then)):
            for draft in drafts:
                self.told_now += side == 0
                if not _take(self._waiting[1 - side], draft):
                    self._waiting[side].append((t_s, draft))
        self._expire(t_s - MATCH_S)

    def finish(self) -> None:
        """Nothing more comes: what waits has no like."""
        self._expire(math.inf)

    def _expire(self, until_s: float) -> None:
        for side, words in enumerate(("would not come", "would come besides")):
            gone = [draft for t_s, draft in self._waiting[side] if t_s < until_s]
            self._waiting[side][:] = [one for one in self._waiting[side] if one[0] >= until_s]
            self.missing += len(gone) * (side == 0)
            self.besides += len(gone) * (side == 1)
            room = max(0, EVIDENCE - len(self.kept))
            self.kept += [{"change": words, **_event(draft)} for draft in gone[:room]]


def _sure(findings: tuple[Finding, ...]) -> list[Finding]:
    sure = (_without_number(one) for one in findings if one.score >= SURE)
    return sorted(sure, key=lambda one: (one.label, -one.score))


def _without_number(finding: Finding) -> Finding:
    label = unnumbered(finding.label)
    return finding if label == finding.label else replace(finding, label=label, value=None)


def _close(a: float | str | None, b: float | str | None, tolerance: float) -> bool:
    if not isinstance(a, float) or not isinstance(b, float):
        return False
    return abs(a - b) <= tolerance * max(abs(a), abs(b))


def _take(waiting: list[tuple[float, Draft]], draft: Draft) -> bool:
    """Remove the oldest event like `draft`; False when none waits."""
    like = next((one for one in waiting if _key(one[1]) == _key(draft)), None)
    if like is not None:
        waiting.remove(like)
    return like is not None


def _key(draft: Draft) -> tuple[object, ...]:
    body = draft.body
    label = unnumbered(str(body.get("label", "")))
    return draft.pipeline, draft.decided_by, draft.kind, label, body.get("direction"), body.get("count")


def _event(draft: Draft) -> dict[str, Any]:
    about = {key: draft.body[key] for key in ("label", "score", "value", "count") if key in draft.body}
    return {"pipeline": draft.pipeline, "kind": draft.kind, "t_wall_s": round(draft.t_wall_s, 3), **about}
