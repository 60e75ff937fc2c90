"""Draws a sound or a series over time, with what was found in it: spans in colour, scores as curves, single moments.

Owns the look of a plot: lanes below each other over one time axis. A lane holds a curve of many samples as its lowest
and highest value per pixel, so that no peak is lost. Arrays in, a picture out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agent.drawing import canvas as draw
from agent.drawing.canvas import Pen
from agent.drawing.colours import BLACK, Bgr, colour_of
from agent.records import Array, Finding

WIDE, LANE, SCORE_LANE = 1400, 220, 200
_LEFT, _RIGHT, _TOP, _FOOT, _GAP = 96, 24, 56, 56, 28
_PAPER: Bgr = (255, 255, 255)
_INK: Bgr = (60, 60, 60)
_GRID: Bgr = (225, 225, 225)
_FONT = 18
_TICKS = 10
_MOST_LANES = 6
_MOST_CURVES = 6
_LEAST_PX = 4


@dataclass(frozen=True, slots=True)
class Curve:
    """One channel: its name with unit, times [n] in seconds, and values [n], NaN where there is none."""

    name: str
    t_s: Array
    values: Array


def plotted(title: str, curves: Sequence[Curve], findings: Sequence[Finding], labels: Sequence[str] = ()) -> Array:
    """The plot, uint8 [h, w, 3] BGR. `labels`: the model's, which decide the colours.

    Findings with an interval are drawn over it; those of no length as a line. Where labels overlap in time a lane of
    their scores is drawn below. Raises ValueError when there is no curve.
    """
    if not curves:
        raise ValueError("a plot needs a curve")
    shown = curves[:_MOST_LANES]
    spans = [f for f in findings if f.interval is not None]
    scores = _scores(spans)
    high = _TOP + len(shown) * (LANE + _GAP) + (SCORE_LANE + _GAP if scores else 0) + _FOOT
    canvas = np.full((high, WIDE, 3), _PAPER, np.uint8)
    span = _span(shown)
    draw.words(canvas, title, (_LEFT, 14), BLACK, 24, 600)
    for i, curve in enumerate(shown):
        top = _TOP + i * (LANE + _GAP)
        _spans(canvas, spans, span, top, LANE, labels, named=i == 0)
        _lane(canvas, curve, span, top)
    foot = _TOP + len(shown) * (LANE + _GAP)
    if scores:
        _score_lane(canvas, scores, span, foot, labels)
        foot += SCORE_LANE + _GAP
    _axis(canvas, span, foot - _GAP)
    return canvas


def _span(curves: Sequence[Curve]) -> tuple[float, float]:
    first = min(float(curve.t_s[0]) for curve in curves if len(curve.t_s))
    last = max(float(curve.t_s[-1]) for curve in curves if len(curve.t_s))
    return first, last if last > first else first + 1.0


def _at(t_s: float, span: tuple[float, float]) -> int:
    """The column of a time."""
    share = (t_s - span[0]) / (span[1] - span[0])
    return _LEFT + round(min(1.0, max(0.0, share)) * (WIDE - _LEFT - _RIGHT))


def _lane(canvas: Array, curve: Curve, span: tuple[float, float], top: int) -> None:
    there = np.isfinite(curve.values)
    low, high = _limits(curve.values[there])
    for value in (low, (low + high) / 2, high):
        y = _height(value, low, high, top)
        draw.thin(canvas, np.array([(_LEFT, y), (WIDE - _RIGHT, y)]), _GRID)
        text = f"{value:.4g}"
        place = (_LEFT - 8 - draw.text_width(text, _FONT - 3), y - 8)
        draw.words(canvas, text, place, _INK, _FONT - 3)
    times, values = curve.t_s[there], curve.values[there]
    if 0 < len(times) <= 2 * WIDE:
        pairs = zip(times.tolist(), values.tolist(), strict=True)
        points = [(_at(t, span), _height(v, low, high, top)) for t, v in pairs]
        draw.thin(canvas, np.array(points), _INK, 2)
    elif len(times):
        _envelope(canvas, times, values, span, (low, high), top)
    draw.words(canvas, curve.name, (_LEFT + 6, top + 4), BLACK, _FONT, 600)


def _envelope(
    canvas: Array, t_s: Array, values: Array, span: tuple[float, float], limits: tuple[float, float], top: int
) -> None:
    """Lowest and highest value of each column."""
    wide = WIDE - _LEFT - _RIGHT
    columns = ((t_s - span[0]) / (span[1] - span[0]) * (wide - 1)).astype(np.int64).clip(0, wide - 1)
    starts = np.flatnonzero(np.diff(columns, prepend=-1))
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    for column, least, most in zip(columns[starts].tolist(), low.tolist(), high.tolist(), strict=True):
        upper, lower = _height(most, *limits, top), _height(least, *limits, top)
        canvas[upper : lower + 1, _LEFT + column] = _INK


def _limits(values: Array) -> tuple[float, float]:
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    more = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - more, high + more


def _height(value: float, low: float, high: float, top: int, lane: int = LANE) -> int:
    """The row of a value."""
    return top + round((1 - (value - low) / (high - low)) * lane)


def _spans(
    canvas: Array, found: Sequence[Finding], span: tuple[float, float], top: int, lane: int, labels: Sequence[str],
    *, named: bool,
) -> None:  # fmt: skip
    ends: list[int] = []
    pen = Pen(1, _FONT - 2)
    for finding in sorted(found, key=lambda f: f.interval or (0, 0)):
        assert finding.interval is not None
        left, right = _at(finding.interval[0], span), _at(finding.interval[1], span)
        colour = colour_of(finding.label, labels)
        draw.shade(canvas, (left, top, max(right, left + _LEAST_PX), top + lane), 0.35, colour)
    for finding in sorted(found, key=lambda f: f.interval or (0, 0)) if named else ():
        assert finding.interval is not None
        left = _at(finding.interval[0], span)
        text = f"{finding.label} {finding.score:.2f}"
        wide, high = draw.tag_size(text, pen)
        row = next((i for i, end in enumerate(ends) if end <= left), len(ends))
        if (row + 1) * (high + 2) > lane - 24:
            continue
        ends[row : row + 1] = [left + wide + 2]
        place = (min(left, WIDE - wide), top + lane - (row + 1) * (high + 2))
        draw.tag(canvas, text, place, colour_of(finding.label, labels), pen)


def _scores(spans: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Findings by label, those with the best scores; empty when they are few: their tags say enough."""
    by_label: dict[str, list[Finding]] = {}
    for finding in spans:
        by_label.setdefault(finding.label, []).append(finding)
    best = sorted(by_label, key=lambda label: -max(f.score for f in by_label[label]))[:_MOST_CURVES]
    return {label: by_label[label] for label in best} if len(spans) > 8 else {}


def _score_lane(
    canvas: Array, scores: dict[str, list[Finding]], span: tuple[float, float], top: int, labels: Sequence[str]
) -> None:
    most = max(1.0, *(finding.score for some in scores.values() for finding in some))
    for value in (0.0, most / 2, most):
        y = _height(value, 0.0, most, top, SCORE_LANE)
        draw.thin(canvas, np.array([(_LEFT, y), (WIDE - _RIGHT, y)]), _GRID)
        text = f"{value:.3g}"
        draw.words(canvas, text, (_LEFT - 8 - draw.text_width(text, _FONT - 3), y - 8), _INK, _FONT - 3)
    right = WIDE - _RIGHT
    for label, some in scores.items():
        colour = colour_of(label, labels)
        for finding in some:
            assert finding.interval is not None
            y = _height(finding.score, 0.0, most, top, SCORE_LANE)
            left, end = _at(finding.interval[0], span), _at(finding.interval[1], span)
            draw.fill(canvas, (left, y - 2, max(end, left + _LEAST_PX), y + 2), colour)
        right -= draw.tag_size(label, Pen(1, _FONT - 3))[0] + 6
        draw.tag(canvas, label, (max(_LEFT, right), top - _GAP + 2), colour, Pen(1, _FONT - 3))
    draw.words(canvas, "score", (_LEFT + 6, top + 4), BLACK, _FONT, 600)


def _axis(canvas: Array, span: tuple[float, float], y: int) -> None:
    """Times below the lanes, in the unit that fits their length."""
    length = span[1] - span[0]
    unit, word = next((pair for pair in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")) if length > 3 * pair[0]),
                      (1.0, "s"))  # fmt: skip
    step = _step(length / unit)
    tick = math.ceil(span[0] / unit / step)
    while tick * step * unit <= span[1] + 1e-9:
        x = _at(tick * step * unit, span)
        draw.thin(canvas, np.array([(x, y), (x, y + 6)]), _INK)
        text = f"{tick * step:g}"
        draw.words(canvas, text, (x - draw.text_width(text, _FONT - 2) // 2, y + 10), _INK, _FONT - 2)
        tick += 1
    draw.thin(canvas, np.array([(_LEFT, y), (WIDE - _RIGHT, y)]), _INK)
    draw.words(canvas, word, (WIDE - _RIGHT - draw.text_width(word, _FONT - 2), y + 30), _INK, _FONT - 2)


def _step(length: float) -> float:
    """A round distance of ticks: 1, 2 or 5 times a power of ten."""
    rough = length / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
