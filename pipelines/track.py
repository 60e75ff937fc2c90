"""One thing through many pictures: boxes become tracks with a number, so that counts and dwell times are right.

Owns the step `tracks`. Rules: a number stands for one thing and is never given twice; a thing that the detector misses
for a moment is still there, where it is expected; time alone decides when it is gone, so that a gate, a dropped
picture or a slow model changes nothing. Things move at constant velocity between pictures. Refuses nothing: findings
without a box pass.
"""

import math
import re
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Annotated

import numpy as np

from agent.records import Array, Finding, View
from agent.strict import Range
from pipelines.assign import assigned
from pipelines.boxes import iou
from pipelines.outputs import Share

_Seconds = Annotated[float, Range(0, 3600)]
_STEADY_S = 0.3
"""A track's velocity is that of about so long: the boxes of a thing at rest tremble by a few pixels."""
_FORBIDDEN = 1e6
"""Cost of a pair that must not be: more than all the others together."""
_NUMBER = re.compile(r"#\d+$")


@dataclass(frozen=True, slots=True)
class Track:
    """One thing: the box where it was last seen, and how fast its centre moves, source pixels per second."""

    number: int
    label: str
    box: tuple[float, float, float, float]
    score: float
    first_s: float
    seen_s: float
    velocity: tuple[float, float] = (0.0, 0.0)
    views: int = 1
    """How often it was seen."""

    def at(self, now_s: float) -> tuple[float, float, float, float]:
        """Where it is expected."""
        dx, dy = (speed * (now_s - self.seen_s) for speed in self.velocity)
        left, top, right, bottom = self.box
        return left + dx, top + dy, right + dx, bottom + dy

    def seen(self, finding: Finding, now_s: float) -> "Track":
        """The track after `finding`."""
        assert finding.box is not None
        passed_s = now_s - self.seen_s
        velocity = self.velocity
        if passed_s > 0:
            gain = 1 - math.exp(-passed_s / _STEADY_S)
            (x, y), (old_x, old_y), (vx, vy) = _centre(finding.box), _centre(self.box), velocity
            velocity = (vx + gain * ((x - old_x) / passed_s - vx), vy + gain * ((y - old_y) / passed_s - vy))
        return replace(
            self, box=finding.box, score=finding.score, seen_s=now_s, velocity=velocity, views=self.views + 1
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """What `tracks` remembers."""

    tracks: tuple[Track, ...] = ()
    next_number: int = 1
    now_s: float = -math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracks:
    """Follow: gives every box the number of its track: `person` becomes `person#7`; its value is the age in seconds.

    Rules then see each thing by itself: `appears` with label "person#*" tells each person once, `clears` how long they
    stayed, `crosses` when somebody stays too long, `counts` with `together` how many there are. Boxes are paired with
    tracks of their label by overlap, all at once and so that the sum is best; strong boxes first, then weak ones, which
    never begin a track.
    """

    labels: tuple[str, ...] = ("*",)
    """Which findings are followed, labels or patterns; all others pass as they are."""
    start_score: Share = 0.0
    """A weaker box continues a track and begins none."""
    confirm: Annotated[int, Range(1, 100)] = 2
    """A track is told once so many views have shown it."""
    min_iou: Share = 0.2
    """Overlap that a box must have with where its track is expected, both widened."""
    widen: Annotated[float, Range(0, 4)] = 0.3
    """Boxes are compared widened by this share of their size on each side: for fast, small things and few pictures."""
    bridge_s: _Seconds = 0.5
    """For so long after it was last seen a track is told where it is expected."""
    keep_s: _Seconds = 2.0
    """For so long it may be found again under its number."""
    max_tracks: Annotated[int, Range(1, 1000)] = 64
    """So many at most; further boxes begin none."""

    def __post_init__(self) -> None:
        if self.bridge_s > self.keep_s:
            raise ValueError(f"bridge_s = {self.bridge_s:g} is longer than keep_s = {self.keep_s:g}: lower it")

    def says(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """Those that are followed get a number."""
        return tuple(f"{one}#1" if any(fnmatchcase(one, p) for p in self.labels) else one for one in labels)

    def initial(self) -> Seen:
        return Seen()

    def __call__(self, state: Seen, findings: tuple[Finding, ...], view: View, /) -> tuple[Seen, tuple[Finding, ...]]:
        now_s = max(view.t0_s, state.now_s)
        mine, others = self._parted(findings)
        alive = tuple(t for t in state.tracks if now_s - t.seen_s <= self.keep_s)
        tracks, left = self._continued(alive, mine, now_s)
        begun = [f for f in left if f.score >= self.start_score][: max(self.max_tracks - len(tracks), 0)]
        tracks += tuple(
            Track(state.next_number + i, f.label, f.box, f.score, now_s, now_s) for i, f in enumerate(begun) if f.box
        )
        told = tuple(self._told(t, now_s, view.size) for t in tracks if self._tells(t, now_s))
        return Seen(tracks, state.next_number + len(begun), now_s), told + others

    def _parted(self, findings: tuple[Finding, ...]) -> tuple[list[Finding], tuple[Finding, ...]]:
        """Those that are followed, and the others."""
        followed = [f.box is not None and any(fnmatchcase(f.label, p) for p in self.labels) for f in findings]
        mine = [f for f, yes in zip(findings, followed, strict=True) if yes]
        return mine, tuple(f for f, yes in zip(findings, followed, strict=True) if not yes)

    def _continued(
        self, tracks: tuple[Track, ...], findings: list[Finding], now_s: float
    ) -> tuple[tuple[Track, ...], list[Finding]]:
        """The tracks after the boxes that belong to them, and the boxes that belong to none, best first."""
        after = list(tracks)
        strong = [f for f in findings if f.score >= self.start_score]
        weak = [f for f in findings if f.score < self.start_score]
        waiting, left = list(range(len(tracks))), []
        for group in (strong, weak):
            pairs = self._pairs([tracks[i] for i in waiting], group, now_s)
            for row, column in pairs:
                after[waiting[row]] = tracks[waiting[row]].seen(group[column], now_s)
            taken, paired = {row for row, _ in pairs}, {column for _, column in pairs}
            waiting = [i for row, i in enumerate(waiting) if row not in taken]
            left += [f for column, f in enumerate(group) if column not in paired]
        return tuple(after), sorted(left, key=lambda f: -f.score)

    def _pairs(self, tracks: list[Track], findings: list[Finding], now_s: float) -> list[tuple[int, int]]:
        if not tracks or not findings:
            return []
        expected, found = [t.at(now_s) for t in tracks], [f.box for f in findings if f.box is not None]
        overlap = iou(_widened(expected, self.widen), _widened(found, self.widen))
        same = np.array([[t.label == f.label for f in findings] for t in tracks])
        good = same & (overlap >= self.min_iou) & (overlap > 0)
        return paired(overlap, good)

    def _tells(self, track: Track, now_s: float) -> bool:
        return track.views >= self.confirm and now_s - track.seen_s <= self.bridge_s

    def _told(self, track: Track, now_s: float, size: tuple[int, int]) -> Finding:
        left, top, right, bottom = track.at(now_s)
        if size != (0, 0):
            left, right = (min(max(x, 0.0), float(size[0])) for x in (left, right))
            top, bottom = (min(max(y, 0.0), float(size[1])) for y in (top, bottom))
        name, age_s = f"{track.label}#{track.number}", now_s - track.first_s
        return Finding(name, track.score, (left, top, right, bottom), value=age_s, unit="s")


def paired(overlap: Array, good: Array) -> list[tuple[int, int]]:
    """Pairs (row, column) of float64 [n, m]: as many as are `good`, bool [n, m], and the largest sum of overlaps."""
    rows = np.flatnonzero(good.any(axis=1))
    best = np.where(good[rows], overlap[rows], -1.0).argmax(axis=1)
    if len(set(best.tolist())) == len(rows):  # everyone's first choice is free: nothing can be better
        return list(zip(rows.tolist(), best.tolist(), strict=True))
    return [(i, j) for i, j in assigned(np.where(good, 1 - overlap, _FORBIDDEN)) if good[i, j]]


def unnumbered(label: str) -> str:
    """A label without the number of its track: "door/person#7" -> "door/person"; others as they are."""
    return _NUMBER.sub("", label)


def _centre(box: tuple[float, float, float, float]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _widened(boxes: list[tuple[float, float, float, float]], share: float) -> Array:
    made = np.array(boxes, np.float64)
    grown = (made[:, 2:] - made[:, :2]) * share
    return np.hstack([made[:, :2] - grown, made[:, 2:] + grown])
