"""Where things are and which way they go: polygon zones and lines over what was found.

Owns the steps `zones` and `lines`. A box stands where its foot stands, the middle of its lower edge, or at its centre.
Places are fractions of the source picture, so that they stay when a camera changes its resolution. What a step adds
stands under a name of its own, `zone/label` and `line:in/label`, so that a rule for `person#*` still sees each person
once. Refuses lines and zones that are no places, and two of one name.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypeVar

import numpy as np

from agent.records import Array, Finding, View
from agent.settings.names import Name
from agent.strict import Range
from pipelines.geometry import Point, crosses, distance, inside
from pipelines.mask import Corners, check_polygons

_Seconds = Annotated[float, Range(0, 3600)]
Stand = Literal["foot", "centre"]
_BELOW_ONE = math.nextafter(1.0, 0.0)
_MOST_REMEMBERED = 1024
"""Stays and places that a step remembers, so that no input can fill the memory; the oldest go first."""


@dataclass(frozen=True, slots=True)
class Zone:
    """A part of the picture with a name."""

    name: Name
    """Lower-case letters, digits, - and _."""
    polygon: Corners
    """Corners [x, y] in fractions of the source picture, 0 to 1."""

    def __post_init__(self) -> None:
        check_polygons((self.polygon,), 1.0)


@dataclass(frozen=True, slots=True)
class Stay:
    """A label in a zone."""

    name: str
    since_s: float
    seen_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Zones:
    """Follow: adds a finding `zone/label` for each box in a zone; its value is how long it has been there, seconds.

    Behind `tracks` the time is that of each thing; without, that of the label as a whole.
    """

    zone: Annotated[tuple[Zone, ...], Range(1, 64)]
    """[[post.zone]] name and polygon."""
    stand: Stand = "foot"
    """Where a box stands: the middle of its lower edge, or its centre."""
    only: bool = False
    """True: boxes that stand in no zone are dropped."""
    forget_s: _Seconds = 1.0
    """Who comes back sooner has not left: boxes tremble at the edge."""

    def __post_init__(self) -> None:
        _distinct([zone.name for zone in self.zone])

    def says(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """Each label in each zone besides."""
        return labels + tuple(f"{zone.name}/{label}" for zone in self.zone for label in labels)

    def initial(self) -> tuple[Stay, ...]:
        return ()

    def __call__(
        self, state: tuple[Stay, ...], findings: tuple[Finding, ...], view: View, /
    ) -> tuple[tuple[Stay, ...], tuple[Finding, ...]]:
        stays = {one.name: one for one in state if view.t0_s - one.seen_s <= self.forget_s}
        points = [stands_at(finding, view, self.stand) for finding in findings]
        who, where = np.nonzero(self._within(points))
        added = []
        for i, zone in zip(who.tolist(), where.tolist(), strict=True):
            name = f"{self.zone[zone].name}/{findings[i].label}"
            stays[name] = replace(stays.get(name, Stay(name, view.t0_s, view.t0_s)), seen_s=view.t0_s)
            added.append(replace(findings[i], label=name, value=view.t0_s - stays[name].since_s, unit="s"))
        stands = set(who.tolist())
        kept = tuple(f for i, f in enumerate(findings) if not self.only or points[i] is None or i in stands)
        return _newest(stays), kept + tuple(added)

    def _within(self, points: list[Point | None]) -> Array:
        """bool [points, zones]: who stands where; what has no place stands nowhere."""
        places = np.array([point or (math.nan, math.nan) for point in points]).reshape(-1, 2)
        return np.stack([inside(zone.polygon, places[:, 0], places[:, 1]) for zone in self.zone], axis=1)


@dataclass(frozen=True, slots=True)
class Line:
    """A line with a name and two sides. Standing at `start` and looking to `end`, `in` is from left to right."""

    name: Name
    start: Point
    """[x, y] in fractions of the source picture, 0 to 1."""
    end: Point

    def __post_init__(self) -> None:
        if not all(0 <= number <= 1 for number in (*self.start, *self.end)) or self.start == self.end:
            raise ValueError(f"line '{self.name}' must have two different ends [x, y] from 0 to 1")


@dataclass(frozen=True, slots=True)
class Walk:
    """Where a track last stood clear of each line."""

    label: str
    points: tuple[Point, ...]
    seen_s: float


_R = TypeVar("_R", Stay, Walk)


@dataclass(frozen=True, slots=True)
class Walks:
    """What `lines` remembers: the tracks, and how often each line was crossed inwards and outwards."""

    walks: tuple[Walk, ...] = ()
    counts: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Follow: adds a finding `line:in/label` or `line:out/label` in the view in which a track crosses a line.

    Its value is how often the line was crossed in that direction since the start. Needs `tracks` before it: a box
    without a number crosses nothing.
    """

    line: Annotated[tuple[Line, ...], Range(1, 64)]
    """[[post.line]] name, start and end."""
    stand: Stand = "foot"
    """Where a box stands: the middle of its lower edge, or its centre."""
    margin: Annotated[float, Range(0, 0.5)] = 0.01
    """How far from the line a thing must stand to be on a side, share of the picture: boxes tremble."""
    forget_s: _Seconds = 3.0
    """A track that was not seen for so long begins anew; at least `keep_s` of `tracks`."""

    def __post_init__(self) -> None:
        _distinct([line.name for line in self.line])

    def says(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """Each numbered label over each line, both ways, besides."""
        walking = [label for label in labels if _walks(label)]
        ways = [f"{line.name}:{way}" for line in self.line for way in ("in", "out")]
        return labels + tuple(f"{way}/{label}" for way in ways for label in walking)

    def initial(self) -> Walks:
        return Walks(counts=((0, 0),) * len(self.line))

    def __call__(self, state: Walks, findings: tuple[Finding, ...], view: View, /) -> tuple[Walks, tuple[Finding, ...]]:
        walks = {one.label: one for one in state.walks if view.t0_s - one.seen_s <= self.forget_s}
        counts, added = [list(pair) for pair in state.counts], []
        for finding in findings:
            here = stands_at(finding, view, self.stand)
            if here is None or not _walks(finding.label):
                continue
            before = walks.get(finding.label)
            after: list[Point] = []
            for i, line in enumerate(self.line):
                was = before.points[i] if before else here
                settled = not before or distance((line.start, line.end), here) >= self.margin
                after.append(here if settled else was)
                way = crosses((line.start, line.end), was, after[-1])
                if way:
                    counts[i][way < 0] += 1
                    name = f"{line.name}:{'in' if way > 0 else 'out'}/{finding.label}"
                    added.append(replace(finding, label=name, value=float(counts[i][way < 0]), unit="1"))
            walks[finding.label] = Walk(finding.label, tuple(after), view.t0_s)
        return Walks(_newest(walks), tuple((a, b) for a, b in counts)), findings + tuple(added)


def stands_at(finding: Finding, view: View, stand: Stand) -> Point | None:
    """Where a finding stands, as fractions of the source picture; None when it has no box or the size is not known.

    A foot on the picture's lower edge counts as inside the picture.
    """
    if finding.box is None or view.size == (0, 0):
        return None
    left, top, right, bottom = finding.box
    x, y = (left + right) / 2 / view.size[0], (bottom if stand == "foot" else (top + bottom) / 2) / view.size[1]
    return min(x, _BELOW_ONE), min(y, _BELOW_ONE)


def _walks(label: str) -> bool:
    """Whether a label has a track's number and is not one that another step added."""
    return "#" in label and "/" not in label


def _newest(remembered: dict[str, _R]) -> tuple[_R, ...]:
    return tuple(sorted(remembered.values(), key=lambda one: one.seen_s)[-_MOST_REMEMBERED:])


def _distinct(names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise ValueError(f"names {names} must differ from each other")
