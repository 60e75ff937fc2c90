"""From scores to stretches of time: when somebody spoke, how long a dog barked.

Owns the step `spans`, for voice activity and for sound events. Rules: a stretch is told once or while it lasts, never
both; no stretch spans a loss; what an earlier view has already shown does not count twice.
Source: onset, offset and the three times are those of Silero's get_speech_timestamps, here over an endless stream.
"""

import math
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from agent.records import Finding, View
from agent.strict import Range
from pipelines.outputs import Share

_Seconds = Annotated[float, Range(0, 3600)]
_MEASURED_S = 1e-6
"""Times are sums of floats: so much may two equal ones differ."""


@dataclass(frozen=True, slots=True)
class Going:
    """A stretch that is not over."""

    label: str
    start_s: float
    told_from_s: float
    """`start_s` with the padding that there is room for."""
    peak: float
    """Best score in it."""
    quiet_s: float | None = None
    """When the silence began that may be its end; None: it sounds."""

    @property
    def end_s(self) -> float:
        """Where it ends if nothing more comes; infinite while it sounds."""
        return math.inf if self.quiet_s is None else self.quiet_s


@dataclass(frozen=True, slots=True)
class Stretches:
    """What `spans` remembers."""

    from_s: float = -math.inf
    """Since when nothing was lost."""
    until_s: float = -math.inf
    """How far the views reached."""
    going: tuple[Going, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Follow: the scores of a label become stretches of time, each one finding with its interval and its best score.

    A stretch begins with a score of at least `on`, and ends where scores fell below `off` once that has lasted
    `min_gap_s`; scores between the two change nothing. A label that is missing from a view has score 0. A gap, and
    views further apart than `min_gap_s` (a gate held some back), end what is open, and so does the end of a recording.
    """

    on: Share = 0.5
    """A stretch begins at this score."""
    off: Share = 0.35
    """Below this score it may end."""
    min_s: _Seconds = 0.25
    """Shorter ones are not told."""
    min_gap_s: _Seconds = 0.1
    """So long it must be quiet before a stretch is over; shorter pauses belong to it."""
    pad_s: _Seconds = 0.03
    """Intervals begin so much earlier and end so much later, where the stream reaches; at most half of min_gap_s."""
    max_s: _Seconds = 0.0
    """Longer ones are told in pieces of this length, but for a last piece shorter than min_s; 0: they are not cut."""
    lead_s: _Seconds = 0.0
    """Start of each view that belongs to the one before, the context of models that look back: as in `frames`."""
    tell: Literal["whole", "while"] = "whole"
    """whole: once, in the view that shows that it is over; while: in every view from min_s on, its interval so far."""
    labels: tuple[str, ...] = ("*",)
    """Which findings are followed, labels or patterns; all others pass as they are."""

    def __post_init__(self) -> None:
        if self.off > self.on:
            raise ValueError(f"key 'off': {self.off:g} is above on = {self.on:g}: lower it")
        if self.pad_s > self.min_gap_s / 2 + _MEASURED_S:
            raise ValueError(f"key 'pad_s': {self.pad_s:g} is more than half of min_gap_s = {self.min_gap_s:g}: two "
                             "stretches would overlap")  # fmt: skip

    def initial(self) -> Stretches:
        return Stretches()

    def __call__(
        self, state: Stretches, findings: tuple[Finding, ...], view: View, /
    ) -> tuple[Stretches, tuple[Finding, ...]]:
        mine, told = self._parted(findings)
        if view.gap or view.t0_s > state.until_s + self.min_gap_s:
            told += self._broken_off(state)
            state = Stretches(from_s=view.t0_s + self.lead_s)
        now_s = max(view.t0_s + self.lead_s, state.until_s)
        going, over = self._stepped(state, _best(mine), now_s, view.t1_s)
        told += self._told(over, view.t1_s) if self.tell == "whole" else self._told(going, view.t1_s)
        return Stretches(state.from_s, max(view.t1_s, state.until_s), tuple(going)), tuple(told)

    def ends(self, state: Stretches) -> tuple[Finding, ...]:
        """What is open at the end, up to where it was heard."""
        return tuple(self._broken_off(state))

    def _parted(self, findings: tuple[Finding, ...]) -> tuple[list[Finding], list[Finding]]:
        """Those that are followed, and the others."""
        if self.labels == ("*",):
            return list(findings), []
        mine: list[Finding] = []
        others: list[Finding] = []
        for finding in findings:
            followed = any(fnmatchcase(finding.label, pattern) for pattern in self.labels)
            (mine if followed else others).append(finding)
        return mine, others

    def _stepped(
        self, state: Stretches, scores: dict[str, float], now_s: float, t1_s: float
    ) -> tuple[list[Going], list[Going]]:
        """What goes on after the sound from `now_s` to `t1_s`, and what is over."""
        going, over = [], []
        for one in state.going:
            score = scores.pop(one.label, 0.0)
            stepped = self._heard(one, score, now_s)
            is_over = not score >= self.off and stepped.end_s <= now_s - self.min_gap_s + _MEASURED_S
            if is_over:
                over.append(stepped)
                continue
            if self.max_s and stepped.quiet_s is None and t1_s - one.start_s >= self.max_s - _MEASURED_S:
                over.append(replace(stepped, quiet_s=t1_s))
                stepped = Going(one.label, t1_s, t1_s, score)
            going.append(stepped)
        begun = max(state.from_s, now_s - self.pad_s)
        going += [Going(label, now_s, begun, score) for label, score in scores.items() if score >= self.on]
        return going, over

    def _heard(self, one: Going, score: float, now_s: float) -> Going:
        if score >= self.on:
            changes = score > one.peak or one.quiet_s is not None
            return replace(one, peak=max(one.peak, score), quiet_s=None) if changes else one
        if score >= self.off or one.quiet_s is not None:  # what is no number is quiet
            return one
        return replace(one, quiet_s=now_s)

    def _broken_off(self, state: Stretches) -> list[Finding]:
        """What the loss ended; nothing when it is told while it lasts."""
        return self._told(state.going, state.until_s) if self.tell == "whole" else []

    def _told(self, stretches: "list[Going] | tuple[Going, ...]", until_s: float) -> list[Finding]:
        """Findings of those that are long enough; none reaches beyond `until_s`."""
        found = []
        for one in stretches:
            end_s = min(one.end_s, until_s)
            if end_s - one.start_s >= self.min_s - _MEASURED_S and end_s > one.start_s:
                interval = (one.told_from_s, min(one.end_s + self.pad_s, until_s))
                found.append(Finding(one.label, one.peak, interval=interval))
        return found


def _best(findings: list[Finding]) -> dict[str, float]:
    best: dict[str, float] = {}
    for finding in findings:
        best[finding.label] = max(finding.score, best.get(finding.label, 0.0))
    return best
