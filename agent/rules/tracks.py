"""Watching labels for changes: appears, clears, crosses, counts. The rules of the machine stand in `agent.rules`.

A track's `state` is one number: present 1 or absent 0; high 1, low -1 or not known yet 0; or how many.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from agent.records import Finding
from agent.rules.decision import MAX_LABELS, Decision, by_label, number, title, told
from agent.settings.rules import Appears, Clears, Counts, Crosses, Presence

Watching = Appears | Clears | Crosses | Counts


@dataclass(frozen=True, slots=True)
class Track:
    """One label: its state and the evidence of the last `m` results, newest last."""

    label: str
    state: int
    recent: tuple[int, ...] = ()
    since_s: float = 0.0
    """When the state last changed."""
    told_s: float = -math.inf
    """When an event was last told."""
    best: Finding | None = None
    """The best finding of the newest result that had one."""


@dataclass(frozen=True, slots=True)
class Watch:
    """State of a rule that watches for changes."""

    tracks: tuple[Track, ...] = ()
    now_s: float = -math.inf
    """Time of the newest result."""
    ignored: int = 0
    """Labels not watched because `MAX_LABELS` were watched already, counted once per result."""


def watch(
    rule: Watching, state: Watch, findings: tuple[Finding, ...] | None, now_s: float, gap: bool
) -> tuple[Watch, tuple[Decision, ...]]:
    """Fold one result into `state`: see `agent.rules.step`."""
    now_s = max(now_s, state.now_s)
    stale = gap or (rule.max_gap_s > 0 and now_s - state.now_s > rule.max_gap_s)
    tracks = tuple(replace(t, recent=()) for t in state.tracks) if stale else state.tracks
    if findings is None:
        return replace(state, tracks=tracks), ()
    seen = by_label(rule, findings)
    known = {t.label for t in tracks}
    new = [label for label in seen if label not in known]
    room = max(MAX_LABELS - len(tracks), 0)
    tracks += tuple(Track(label, _start(rule)) for label in new[:room])
    stepped = [_advance(rule, track, seen.get(track.label, ()), now_s) for track in tracks]
    kept = tuple(t for t, _ in stepped if not _idle(rule, t, now_s))
    return Watch(kept, now_s, state.ignored + len(new[room:])), tuple(d for _, d in stepped if d is not None)


def _start(rule: Watching) -> int:
    """Where a label starts: absent, none, or on the side from which a crossing is told; for both, not known yet."""
    return {"rising": -1, "falling": 1, "both": 0}[rule.direction] if isinstance(rule, Crosses) else 0


def _advance(rule: Watching, track: Track, group: tuple[Finding, ...], now_s: float) -> tuple[Track, Decision | None]:
    evidence = _evidence(rule, group)
    if evidence is None:
        return track, None
    recent = (*track.recent, evidence)[-rule.m :]
    track = replace(track, recent=recent, best=group[0] if group else track.best)
    state = _target(rule, track.state, recent)
    if state == track.state:
        return track, None
    if not _tells(rule, track.state, state):
        return replace(track, state=state, since_s=now_s), None
    if now_s - track.told_s < rule.cooldown_s:
        return track, None
    changed = replace(track, state=state, since_s=now_s, told_s=now_s)
    return changed, _decide(rule, track, changed)


def _evidence(rule: Watching, group: tuple[Finding, ...]) -> int | None:
    """What one result says about a label; None when it says nothing."""
    if isinstance(rule, Counts):
        return len(group)
    if isinstance(rule, Presence):
        return int(bool(group))
    x = _measured(rule, group[0]) if group else None
    if x is None:
        return None
    low, high = _band(rule)
    return 1 if x >= high else -1 if x < low else 0


def _measured(rule: Crosses, finding: Finding) -> float | None:
    return number(finding.value if rule.of == "value" else finding.score)


def _band(rule: Crosses) -> tuple[float, float]:
    """Low below the first, high from the second on."""
    below = {"rising": 1.0, "falling": 0.0, "both": 0.5}[rule.direction] * rule.hysteresis
    return rule.threshold - below, rule.threshold + rule.hysteresis - below


def _target(rule: Watching, state: int, recent: tuple[int, ...]) -> int:
    """The state of the newest result when enough of the last `m` agree with it, else the old one."""
    newest = recent[-1]
    if isinstance(rule, Crosses) and newest == 0:
        return state
    leaving = isinstance(rule, Presence) and newest == 0
    needed = (rule.clear_n or rule.m) if isinstance(rule, Presence) and leaving else rule.n
    return newest if recent.count(newest) >= needed else state


def _tells(rule: Watching, old: int, new: int) -> bool:
    if isinstance(rule, Crosses):
        return old != 0 and (rule.direction == "both" or new == {"rising": 1, "falling": -1}[rule.direction])
    if isinstance(rule, Counts):
        return rule.reaches is None or old < rule.reaches <= new
    return new == (0 if isinstance(rule, Clears) else 1)


def _decide(rule: Watching, before: Track, after: Track) -> Decision:
    body: dict[str, Any] = {"label": after.label}
    if not isinstance(rule, Clears) and after.best is not None:
        body = told(after.best) | ({"group": after.label} if rule.together else {})
    if isinstance(rule, Crosses):
        body |= {"threshold": rule.threshold, "direction": "rising" if after.state == 1 else "falling"}
    elif isinstance(rule, Counts):
        body = {"label": after.label, "count": after.state, "before": before.state}
    elif isinstance(rule, Clears):
        body |= {"present_s": round(after.since_s - before.since_s, 6)}
    return Decision(rule.kind, body, title(rule))


def _idle(rule: Watching, track: Track, now_s: float) -> bool:
    """True when forgetting the label changes nothing; a threshold's side is never forgotten."""
    quiet = track.state == 0 and not any(track.recent) and now_s - track.told_s >= rule.cooldown_s
    return quiet and not isinstance(rule, Crosses)
