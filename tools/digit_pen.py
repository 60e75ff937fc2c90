"""A pen that writes digits: no two alike, from the strokes of tools/digit_strokes.py.

Owns how a hand varies: the proportions of a shape, trembling, corners rounded or not, slant, the width and pressure of
the pen, breaks in the ink, paper that gives way. Every function takes a random generator and gives ink from 0 to 255.
"""

import cv2
import numpy as np
from numpy.random import Generator

from tools.digit_strokes import WAYS

HIGH_PX = 72
"""Height of the box that shapes are written in; the ink may leave it."""
SIDE_PX = 2 * HIGH_PX
FATTEST_PX = (14, 24)
"""Widest pen; and for a 1, which no pen can fill up."""
STEPS = 10
"""Points of a curve from one control point to the next."""


def handwritten(rng: Generator, digit: int) -> np.ndarray:
    """A digit written with a pen: uint8 [h, w], cut to the ink."""
    ways = WAYS[digit]
    weights = np.array([weight for weight, _ in ways], float)
    strokes = ways[rng.choice(len(ways), p=weights / weights.sum())][1]
    fattest = FATTEST_PX[digit == 1]
    ink = _drawn(rng, _turned(rng, _curves(rng, strokes)), float(np.exp(rng.uniform(np.log(2.6), np.log(fattest)))))
    if rng.random() < 0.12:
        ink = _textured(rng, ink)
    return bent(rng, cut(ink), rng.uniform(0, 5.0))


def bent(rng: Generator, ink: np.ndarray, strength_px: float) -> np.ndarray:
    """Ink on an elastic sheet: each point moved by a smooth random field (Simard et al., 2003), cut to what is left."""
    ink = cv2.copyMakeBorder(ink, 8, 8, 8, 8, cv2.BORDER_CONSTANT)
    coarse = rng.normal(0, strength_px, (2, 5, 5)).astype(np.float32)
    dx, dy = (cv2.resize(field, ink.shape[::-1], interpolation=cv2.INTER_CUBIC) for field in coarse)
    y, x = np.indices(ink.shape, np.float32)
    return cut(cv2.remap(ink, x + dx, y + dy, cv2.INTER_LINEAR))


def cut(ink: np.ndarray) -> np.ndarray:
    """The part that holds ink; all of it when there is none."""
    rows, columns = np.nonzero(ink.max(axis=1) > 40)[0], np.nonzero(ink.max(axis=0) > 40)[0]
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if rows.size else ink


def _curves(rng: Generator, strokes: list[list[tuple[float, float]]]) -> list[np.ndarray]:
    """The strokes as dense points [n, 2], in -1..1 of the box: trembling, and of other proportions each time."""
    shake = rng.uniform(0.8, 5.5)
    tension = 1.0 if rng.random() < 0.7 else rng.uniform(0.1, 1.0)
    joints: dict[tuple[float, float], np.ndarray] = {}
    curves = []
    for stroke in strokes:
        points = np.array([joints.setdefault(p, np.array(p) + rng.normal(0, shake, 2)) for p in stroke])
        points[0] += (points[0] - points[1]) * rng.uniform(-0.25, 0.4)  # the pen starts late or early, and overshoots
        points[-1] += (points[-1] - points[-2]) * rng.uniform(-0.25, 0.4)
        curves.append(_smooth(points, tension) / 50 - 1)
    if len(curves) > 1 and rng.random() < 0.3:  # strokes that were set down apart
        curves = [curve + rng.normal(0, 0.05, 2) for curve in curves]
    return _proportioned(rng, curves)


def _proportioned(rng: Generator, curves: list[np.ndarray]) -> list[np.ndarray]:
    """Larger above or below, wider above or below, leaning parts: low polynomials of the place in the box."""
    grow = np.exp(rng.normal(0, 0.22))
    taper, bow, lean = rng.normal(0, 0.16), rng.normal(0, 0.07), rng.normal(0, 0.07)
    side = np.exp(rng.normal(0, 0.12))
    made = []
    for curve in curves:
        x, y = curve.T
        x = np.sign(x) * np.abs(x) ** side * (1 + taper * y) + bow * y * y
        down = np.clip((y + 1) / 2, 0, None) ** grow * 2 - 1
        made.append(np.stack([x, np.where(y < -1, y, down) + lean * x * x], axis=1))
    return made


def _turned(rng: Generator, curves: list[np.ndarray]) -> list[np.ndarray]:
    """Slanted, narrow or wide, turned by up to 20 degrees; in pixels of the sheet."""
    lean, turn = rng.normal(0.14, 0.24), np.deg2rad(np.clip(rng.normal(0, 7), -20, 20))
    narrow = float(np.exp(rng.normal(-0.22, 0.28)))
    shape = np.array([[narrow, -lean], [0.0, 1.0]])
    around = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return [curve @ (around @ shape).T * (HIGH_PX / 2) + SIDE_PX / 2 for curve in curves]


def _drawn(rng: Generator, curves: list[np.ndarray], wide_px: float) -> np.ndarray:
    """The strokes with a pen of about `wide_px`: a constant one, or one whose width follows pressure and direction."""
    sheet = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    broken = rng.random() < 0.08
    if rng.random() < 0.45:
        for curve in curves:
            cv2.polylines(sheet, [_fixed(curve)], False, 255, max(2, round(wide_px)), cv2.LINE_AA, 4)
        return sheet
    nib, depth = rng.uniform(0, np.pi), rng.uniform(0, 0.5) if rng.random() < 0.35 else 0.0
    for curve in curves:
        along = np.diff(curve, axis=0, append=curve[-1:])
        across = np.abs(np.sin(np.arctan2(along[:, 1], along[:, 0]) - nib))
        press = 1 + np.interp(np.linspace(0, 1, len(curve)), np.linspace(0, 1, 5), rng.normal(0, 0.16, 5))
        if rng.random() < 0.3:  # the pen leaves the paper while it moves
            press *= np.minimum(1, np.linspace(2.5, 0.25, len(curve)))
        widths = np.maximum(wide_px * press.clip(0.3, 1.6) * (1 - depth * (1 - across)), 1.6)
        left_out = int(rng.integers(len(curve))) if broken and rng.random() < 0.5 else -9
        for i, (a, b) in enumerate(zip(_fixed(curve), _fixed(curve)[1:], strict=False)):
            if not left_out <= i < left_out + 3:
                cv2.line(sheet, a, b, 255, max(1, round(float(widths[i]))), cv2.LINE_AA, 4)
    return sheet


def _textured(rng: Generator, ink: np.ndarray) -> np.ndarray:
    """Pencil, chalk or a dry felt pen: ink of uneven strength."""
    grain = cv2.GaussianBlur(rng.normal(0, 1, ink.shape).astype(np.float32), (0, 0), rng.uniform(0.8, 2.5))
    strength = 1 - rng.uniform(0.15, 0.6) * (grain / max(float(np.abs(grain).max()), 1e-6)).clip(0, 1)
    return (ink * strength).astype(np.uint8)


def _fixed(curve: np.ndarray) -> np.ndarray:
    """Points in sixteenths of a pixel, as OpenCV takes them with shift 4."""
    return np.round(curve * 16).astype(np.int32)


def _smooth(points: np.ndarray, tension: float) -> np.ndarray:
    """A cardinal spline through the points, STEPS from each to the next; tension 1 is Catmull-Rom, 0 straight."""
    if len(points) == 2:
        return np.linspace(points[0], points[1], STEPS + 1)
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0, 1, STEPS, endpoint=False)[:, None]
    h1, h2 = 2 * t**3 - 3 * t**2 + 1, t**3 - 2 * t**2 + t
    pieces = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        pieces.append(h1 * b + (1 - h1) * c + tension / 2 * (h2 * (c - a) + (t**3 - t**2) * (d - b)))
    return np.concatenate([*pieces, points[-1:]])
