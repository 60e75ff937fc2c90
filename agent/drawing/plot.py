"""Draws a sound or a series over time, and below it what was found: a row per label, a bar per finding.

Owns the look of a plot: lanes below each other over one time axis. A lane holds a curve of many samples as its lowest
and highest value per pixel, so that no peak is lost. A bar is as high as its score, and tints the curves above it.
Arrays in, a picture out.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agent.drawing import canvas as draw
from agent.drawing.colours import BLACK, Bgr, colour_of, ink_on
from agent.records import Array, Finding

WIDE = 1400
"""Width of every plot, pixels."""
_LEFT, _RIGHT, _TOP, _FOOT, _GAP = 150, 24, 60, 52, 22
_LANE, _ROW, _FONT = 200, 40, 17
"""Margins and the gap between lanes; heights of a lane, of a row of bars, and of letters; pixels."""
_PAPER: Bgr = (255, 255, 255)
_INK: Bgr = (70, 70, 70)
_GRID: Bgr = (225, 225, 225)
_MOST_TICKS = 10
_MOST_LANES = 6
_MOST_ROWS = 8
_LEAST_PX = 4
"""Width of a bar, however short its finding."""
_MOST_VALUE = 1e300
"""Larger values are left out: how far apart they are may be no number."""
_UNITS = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))

Span = tuple[float, float]
"""From and to, seconds."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One channel: its name with unit, times [n] in seconds, and values [n], NaN where there is none."""

    name: str
    t_s: Array
    values: Array


def plotted(title: str, curves: Sequence[Curve], findings: Sequence[Finding], labels: Sequence[str] = ()) -> Array:
    """The plot, uint8 [h, w, 3] BGR. `labels`: the model's, which decide the colours.

    Findings without an interval are left out, and so are channels and labels beyond a few. Raises ValueError when there
    is no curve.
    """
    if not curves:
        raise ValueError("a plot needs a curve")
    shown, rows = curves[:_MOST_LANES], _rows(findings)
    lanes = len(shown) * (_LANE + _GAP)
    canvas = np.full((_TOP + lanes + len(rows) * _ROW + _FOOT, WIDE, 3), _PAPER, np.uint8)
    span = _span(shown)
    draw.words(canvas, draw.shortened(title, 24, WIDE - 2 * _RIGHT), (_RIGHT, 16), BLACK, 24, 600)
    for i, curve in enumerate(shown):
        top = _TOP + i * (_LANE + _GAP)
        for label, some in rows.items():
            _tinted(canvas, some, span, top, colour_of(label, labels))
        _lane(canvas, curve, span, top)
    most = max([1.0, *(finding.score for some in rows.values() for finding in some)])
    for i, (label, some) in enumerate(rows.items()):
        _row(canvas, label, some, span, _TOP + lanes + i * _ROW, most, colour_of(label, labels))
    _axis(canvas, span, _TOP + lanes + len(rows) * _ROW)
    return canvas


def _rows(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Findings with an interval by label, the labels with the best scores, in order of their first."""
    by_label: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.interval is not None:
            by_label.setdefault(finding.label, []).append(finding)
    best = sorted(by_label, key=lambda label: -max(f.score for f in by_label[label]))[:_MOST_ROWS]
    return {label: some for label, some in by_label.items() if label in best}


def _span(curves: Sequence[Curve]) -> Span:
    first = min((float(curve.t_s[0]) for curve in curves if len(curve.t_s)), default=0.0)
    last = max((float(curve.t_s[-1]) for curve in curves if len(curve.t_s)), default=0.0)
    return first, last if last > first else first + 1.0


def _at(t_s: float, span: Span) -> int:
    """The column of a time."""
    share = (t_s - span[0]) / (span[1] - span[0])
    return _LEFT + round(min(1.0, max(0.0, share)) * (WIDE - _LEFT - _RIGHT))


def _columns(finding: Finding, span: Span) -> tuple[int, int]:
    """First and last column of a finding."""
    assert finding.interval is not None
    left, right = (_at(t_s, span) for t_s in finding.interval)
    return left, max(right, left + _LEAST_PX)


def _tinted(canvas: Array, found: Sequence[Finding], span: Span, top: int, colour: Bgr) -> None:
    covered = np.zeros(WIDE, bool)
    for finding in found:
        left, right = _columns(finding, span)
        covered[left:right] = True
    lane = canvas[top : top + _LANE, covered]
    canvas[top : top + _LANE, covered] = (lane * 0.72 + np.array(colour) * 0.28).astype(np.uint8)


def _lane(canvas: Array, curve: Curve, span: Span, top: int) -> None:
    there = np.abs(curve.values) < _MOST_VALUE  # which NaN is not
    times, values = curve.t_s[there], curve.values[there]
    low, high = _limits(values)
    for value in _marks(low, high):
        y = _height(value, low, high, top)
        draw.thin(canvas, np.array([(_LEFT, y), (WIDE - _RIGHT, y)]), _GRID)
        _right_of(canvas, f"{value:g}", y - _FONT // 2)
    if 0 < len(times) <= 2 * WIDE:
        pairs = zip(times.tolist(), values.tolist(), strict=True)
        draw.thin(canvas, np.array([(_at(t, span), _height(v, low, high, top)) for t, v in pairs]), _INK, 2)
    elif len(times):
        _envelope(canvas, times, values, span, (low, high), top)
    draw.words(canvas, curve.name, (_LEFT + 6, top + 4), BLACK, _FONT, 600)


def _right_of(canvas: Array, text: str, y: int) -> None:
    """A word in the left margin, against the lanes."""
    draw.words(canvas, text, (_LEFT - 10 - draw.text_width(text, _FONT - 2), y), _INK, _FONT - 2)


def _envelope(canvas: Array, t_s: Array, values: Array, span: Span, limits: tuple[float, float], top: int) -> None:
    """Lowest and highest value of each column."""
    wide = WIDE - _LEFT - _RIGHT
    columns = ((t_s - span[0]) / (span[1] - span[0]) * (wide - 1)).astype(np.int64).clip(0, wide - 1)
    starts = np.flatnonzero(np.diff(columns, prepend=-1))
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    for column, least, most in zip(columns[starts].tolist(), low.tolist(), high.tolist(), strict=True):
        canvas[_height(most, *limits, top) : _height(least, *limits, top) + 1, _LEFT + column] = _INK


def _limits(values: Array) -> tuple[float, float]:
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    more = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - more, high + more


def _marks(low: float, high: float) -> list[float]:
    """Three or four round values between two limits."""
    step = _step(high - low, 4)
    first = math.ceil(low / step)
    return [round(i * step, 12) for i in range(first, math.floor(high / step) + 1)]


def _height(value: float, low: float, high: float, top: int) -> int:
    """The row of a value."""
    return top + round((1 - (value - low) / (high - low)) * _LANE)


def _row(canvas: Array, label: str, found: Sequence[Finding], span: Span, top: int, most: float, colour: Bgr) -> None:
    """The findings of a label as bars, with a score where there is room: of bars over each other, the best one's."""
    foot, room = top + _ROW - 4, _ROW - 10
    draw.thin(canvas, np.array([(_LEFT, foot), (WIDE - _RIGHT, foot)]), _GRID)
    _right_of(canvas, draw.shortened(label, _FONT - 2, _LEFT - 20), foot - room // 2 - _FONT // 2)
    heights = [max(2, round(room * min(1.0, max(0.0, finding.score / most)))) for finding in found]
    for finding, high in zip(found, heights, strict=True):
        left, right = _columns(finding, span)
        draw.fill(canvas, (left, foot - high, max(left + 2, right - 1), foot), colour)
    for i in _best(found, span):
        (left, right), high, text = _columns(found[i], span), heights[i], f"{found[i].score:.2f}"
        if right - left > draw.text_width(text, _FONT - 2, 600) + 8 and high > _FONT:
            draw.words(canvas, text, (left + 5, foot - high // 2 - _FONT // 2), ink_on(colour), _FONT - 2, 600)


def _best(found: Sequence[Finding], span: Span) -> list[int]:
    """The best of each group of findings whose bars lie over each other, as those of overlapping windows do."""
    best, until = list[int](), -1
    for i in sorted(range(len(found)), key=lambda i: _columns(found[i], span)):
        left, right = _columns(found[i], span)
        if left >= until:
            best.append(i)
        elif found[i].score > found[best[-1]].score:
            best[-1] = i
        until = max(until, right)
    return best


def _axis(canvas: Array, span: Span, y: int) -> None:
    """Times below the lanes, in the unit that fits their length."""
    length = span[1] - span[0]
    unit, word = next((pair for pair in _UNITS if length > 3 * pair[0]), _UNITS[-1])
    step = _step(length / unit, _MOST_TICKS)
    for tick in range(math.ceil(span[0] / unit / step), math.floor(span[1] / unit / step) + 1):
        x, text = _at(tick * step * unit, span), f"{round(tick * step, 9):g}"
        draw.thin(canvas, np.array([(x, y), (x, y + 6)]), _INK)
        draw.words(canvas, text, (x - draw.text_width(text, _FONT - 2) // 2, y + 10), _INK, _FONT - 2)
    draw.thin(canvas, np.array([(_LEFT, y), (WIDE - _RIGHT, y)]), _INK)
    _right_of(canvas, word, y + 10)


def _step(length: float, most: int) -> float:
    """A round distance, 1, 2 or 5 times a power of ten, that fits into `length` at most `most` times."""
    rough = max(length / most, sys.float_info.min)  # below it a power of ten may be 0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
