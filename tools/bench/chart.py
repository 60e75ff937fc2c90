"""Drawings as SVG, made here so that a figure in the documentation needs no package: bars with spread, and lines.

Colours are those of Paul Tol's "bright" scheme, which colour-blind readers tell apart (SRON/EPS/TN/09-002, 2021).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

BLUE, RED, GREEN = "#4477aa", "#ee6677", "#228833"
YELLOW, CYAN, PURPLE, GREY = "#ccbb44", "#66ccee", "#aa3377", "#9a9a9a"
COLOURS = (BLUE, RED, GREEN, YELLOW, CYAN, PURPLE)
INK, SOFT, GRID = "#1f2328", "#59636e", "#e4e7eb"
"""Words that matter, other words, lines."""
_FONT = "font-family='-apple-system,Segoe UI,Helvetica,Arial,sans-serif'"
_WIDTH = 760


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar. `least` and `most` draw its spread; `goal` a mark that it should stay left of; `parts` stacks it."""

    label: str
    value: float
    text: str
    least: float | None = None
    most: float | None = None
    goal: float | None = None
    colour: str = BLUE
    parts: tuple[tuple[float, str], ...] = ()


def bars(title: str, unit: str, groups: Mapping[str, Sequence[Bar]], legend: Mapping[str, str] | None = None) -> str:
    """Horizontal bars from 0, in named groups. `legend`: words -> colour."""
    left, right, row, top = 190, 130, 26, 74 + 18 * bool(legend)
    rows = sum(len(group) + 1 for group in groups.values())
    most = max(max(b.value, b.most or 0, b.goal or 0) for group in groups.values() for b in group) or 1.0
    ticks = _ticks(0, most)
    scale = (_WIDTH - left - right) / max(ticks[-1], most)
    height = top + rows * row + 40
    made = [*_head(title, unit), *_legend(legend or {})]
    for tick in ticks:
        x = left + tick * scale
        made.append(f"<path d='M{x:.1f} {top - 6}V{height - 34}' stroke='{GRID}'/>")
        made.append(text(x, height - 16, f"{tick:g}", SOFT, 11, "middle"))
    y = top
    for name, group in groups.items():
        made.append(text(20, y + 17, name, INK, 13, weight=600))
        y += row
        for bar in group:
            made += _bar(bar, left, y, row, scale)
            y += row
    return _page(height, made)


def lines(
    title: str, x_label: str, y_label: str, series: Mapping[str, Sequence[tuple[float, float]]], *,
    log_x: bool = False, log_y: bool = False,
) -> str:  # fmt: skip
    """Lines with points through (x, y); both axes may be logarithmic, then every value must be above 0."""
    left, top, bottom, height = 70, 92, 300, 350
    x_of = _axis([x for line in series.values() for x, _ in line], left, _WIDTH - 40, log_x)
    y_of = _axis([y for line in series.values() for _, y in line], bottom, top, log_y, from_zero=not log_y)
    made = [*_head(title, y_label), *_legend(dict(zip(series, COLOURS, strict=False)))]
    for tick in y_of.ticks:
        made.append(f"<path d='M{left} {y_of(tick):.1f}H{_WIDTH - 40}' stroke='{GRID}'/>")
        made.append(text(left - 8, y_of(tick) + 4, _short(tick), SOFT, 11, "end"))
    made += [text(x_of(tick), bottom + 18, _short(tick), SOFT, 11, "middle") for tick in x_of.ticks]
    made.append(text((left + _WIDTH - 40) / 2, bottom + 38, x_label, SOFT, 12, "middle"))
    for line, colour in zip(series.values(), COLOURS, strict=False):
        places = [(x_of(x), y_of(y)) for x, y in line]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        made.append(f"<path d='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        made += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{colour}'/>" for x, y in places]
    return _page(height, made)


@dataclass(frozen=True, slots=True)
class _Axis:
    ticks: list[float]
    start: float
    scale: float
    low: float
    log: bool

    def __call__(self, value: float) -> float:
        return self.start + self.scale * ((math.log10(value) if self.log else value) - self.low)


def _axis(values: list[float], start: float, end: float, log: bool, from_zero: bool = False) -> _Axis:
    if log:
        first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        last = max(last, first + 1)
        return _Axis([10.0**n for n in range(first, last + 1)], start, (end - start) / (last - first), first, True)
    ticks = _ticks(0.0 if from_zero else min(values), max(values))
    return _Axis(ticks, start, (end - start) / ((ticks[-1] - ticks[0]) or 1.0), ticks[0], False)


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers that enclose both."""
    raw = (high - low) / 5 or 1.0
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(base * n for n in (1, 2, 2.5, 5, 10) if base * n >= raw * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    return [round(step * n, 12) for n in range(first, max(last, first + 1) + 1)]


def _bar(bar: Bar, left: int, y: float, row: int, scale: float) -> Iterable[str]:
    yield text(left - 10, y + 16, bar.label, SOFT, 12, "end")
    x = float(left)
    for value, colour in bar.parts or ((bar.value, bar.colour),):
        size = f"width='{max(value * scale, 0.5):.1f}' height='{row - 10}'"
        yield f"<rect x='{x:.1f}' y='{y + 4}' {size} fill='{colour}'/>"
        x += value * scale
    end = left + max(bar.value, bar.most or 0, bar.goal or 0) * scale
    if bar.least is not None and bar.most is not None:
        low, high, middle = left + bar.least * scale, left + bar.most * scale, y + row / 2 - 1
        whisker = f"M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8"
        yield f"<path d='{whisker}' stroke='{INK}' fill='none'/>"
    if bar.goal is not None:
        at = left + bar.goal * scale
        yield f"<path d='M{at:.1f} {y}v{row - 2}' stroke='{INK}' stroke-width='2' stroke-dasharray='3 2'/>"
    yield text(end + 8, y + 16, bar.text, INK, 12)


def _legend(entries: Mapping[str, str]) -> Iterable[str]:
    x = 20.0
    for words, colour in entries.items():
        yield f"<rect x='{x:.0f}' y='62' width='11' height='11' rx='2' fill='{colour}'/>"
        yield text(x + 16, 72, words, SOFT, 12)
        x += 34 + 6.6 * len(words)


def _head(title: str, unit: str) -> Iterable[str]:
    yield text(20, 30, title, INK, 16, weight=600)
    yield text(20, 50, unit, SOFT, 12)


def text(x: float, y: float, words: str, colour: str, size: int, anchor: str = "start", weight: int = 400) -> str:
    """Words at a place, pixels."""
    style = f"fill='{colour}' font-size='{size}' text-anchor='{anchor}' font-weight='{weight}'"
    return f"<text x='{x:.1f}' y='{y:.1f}' {style}>{escape(words)}</text>"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def _page(height: float, made: Iterable[str]) -> str:
    frame = f"<rect width='{_WIDTH}' height='{height:.0f}' rx='8' fill='#ffffff' stroke='{GRID}'/>"
    size = f"viewBox='0 0 {_WIDTH} {height:.0f}' width='{_WIDTH}' height='{height:.0f}'"
    return "\n".join([f"<svg xmlns='http://www.w3.org/2000/svg' {size} {_FONT}>", frame, *made, "</svg>", ""])
