"""Pictures of one digit as a camera sees a cell of a display: where it sits, in which light, through which lens.

Owns the kinds of scene (printed, segment, dots, wheel, hand, none) and the distortions. Picture i of a seed is always
the same, whatever process makes it. `prepared` is what the model's own pre steps make of one. Class 10 is a cell
without a digit. Not made: an LCD cell of which only the unlit segments show; with its contrast stretched, it is an 8.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from agent.records import View
from pipelines.image import Resize
from pipelines.pixels import Contrast
from tools.digit_camera import CANVAS_PX, photographed, scanned, tilted
from tools.digit_fonts import Face
from tools.digit_pen import bent, handwritten
from tools.digit_shapes import SEGMENTS, dot_matrix, seven_segment

SIZE_PX = 28
NONE = 10
NO_DIGITS = "AEFHKLMNPRVWXYaefhkmntvwx%&+=-.:#"
"""Signs that nobody takes for a digit."""
SIGNS = "0123456789" + NO_DIGITS
PRE = (Resize(SIZE_PX, SIZE_PX, "area"), Contrast())
SHARES = {"printed": 0.21, "segment": 0.15, "dots": 0.05, "wheel": 0.13, "hand": 0.36, "none": 0.1}


@dataclass(frozen=True, slots=True)
class Sources:
    """Where ink comes from. Printed and wheel scenes need printed faces; hand scenes can do with our own pen."""

    printed: Sequence[Face] = ()
    hand: Sequence[Face] = ()
    drawn_hand: float = 0.9
    """Share of hand scenes that our own pen writes."""


def photo(seed: int, index: int, sources: Sources, shares: dict[str, float]) -> tuple[np.ndarray, int]:
    """Picture `index` of `seed`, grey, uint8, 11 to 56 pixels square, and its class."""
    rng = np.random.default_rng((seed, index))
    kind = str(rng.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values())))
    digit = NONE if kind == "none" else int(rng.integers(10))
    ink = _KINDS[kind](rng, digit, sources)
    flat = kind == "hand" and rng.random() < 0.4
    return scanned(rng, ink) if flat else photographed(rng, tilted(rng, ink)), digit


def prepared(image: np.ndarray) -> np.ndarray:
    """The picture as the model's pre steps leave it: uint8 [28, 28]."""
    view = View(image)
    for step in PRE:
        view = step(view)
    return view.data


def _printed(rng: Generator, digit: int, sources: Sources) -> np.ndarray:
    signs = sources.printed[rng.integers(len(sources.printed))].signs
    canvas, ink = _blank(), _varied(rng, signs[str(digit)], 2.5)
    box = _place(rng, ink, rng.uniform(0.55, 0.96), rng.uniform(0.8, 1.7))
    _paste(canvas, ink, *box)
    if rng.random() < 0.3:  # the cell was cut a little wide and shows a strip of what stands beside it
        for side in (-1, 1):
            other = signs[str(rng.integers(10))]
            strip = rng.uniform(0, 0.1) * CANVAS_PX
            width = max(4, int(box[2] * rng.uniform(0.8, 1.2)))
            _paste(canvas, other, strip - width if side < 0 else CANVAS_PX - strip, box[1], width, box[3])
    return canvas


def _segment(rng: Generator, digit: int, sources: Sources) -> np.ndarray:
    del sources
    lit = SEGMENTS[digit]
    if rng.random() < 0.25:  # the ways in which makers differ
        lit = {6: "cdefg", 7: "abcf", 9: "abcfg"}.get(digit, lit)
    ghost = rng.uniform(0.03, 0.22) if rng.random() < 0.35 else 0.0
    ink = seven_segment(rng, lit, ghost)
    canvas = _blank()
    _paste(canvas, ink, *_place(rng, ink, rng.uniform(0.6, 0.97), rng.uniform(0.8, 1.5)))
    if rng.random() < 0.3:
        x, y = rng.uniform(0.86, 1.0) * CANVAS_PX, rng.uniform(0.82, 0.95) * CANVAS_PX
        cv2.circle(canvas, (int(x), int(y)), int(rng.uniform(2, 4)), 255, -1, cv2.LINE_AA)
    return canvas


def _dots(rng: Generator, digit: int, sources: Sources) -> np.ndarray:
    del sources
    ink = dot_matrix(rng, digit, rng.uniform(0.02, 0.15) if rng.random() < 0.3 else 0.0)
    canvas = _blank()
    _paste(canvas, ink, *_place(rng, ink, rng.uniform(0.6, 0.97), rng.uniform(0.8, 1.3)))
    return canvas


def _wheel(rng: Generator, digit: int, sources: Sources) -> np.ndarray:
    """A counter wheel, turned by up to 0.42 of a digit: the class is the digit that shows most."""
    signs = sources.printed[rng.integers(len(sources.printed))].signs
    canvas = _blank()
    pitch = rng.uniform(0.9, 1.25) * CANVAS_PX
    high = pitch * rng.uniform(0.6, 0.82)
    turn = rng.uniform(-0.42, 0.42) if rng.random() < 0.6 else rng.normal(0, 0.04)
    down = 1 if rng.random() < 0.8 else -1
    wide = rng.uniform(0.4, 0.8) * CANVAS_PX
    left = (CANVAS_PX - wide) / 2 + rng.uniform(-0.06, 0.06) * CANVAS_PX
    for step in (-1, 0, 1):
        ink = signs[str((digit + down * step) % 10)]
        share = min(1.0, ink.shape[1] / (0.62 * ink.shape[0]))
        centre = CANVAS_PX / 2 + (step + turn) * pitch
        _paste(canvas, ink, left + wide * (1 - share) / 2, centre - high / 2, wide * share, high)
    return canvas


def _hand(rng: Generator, digit: int, sources: Sources) -> np.ndarray:
    if sources.hand and rng.random() >= sources.drawn_hand:
        ink = _varied(rng, sources.hand[rng.integers(len(sources.hand))].signs[str(digit)], 5.0)
    else:
        ink = handwritten(rng, digit)
    canvas = _blank()
    way = rng.random()
    if way < 0.35:  # as forms are cut up: the larger side of one length, the ink's centre of mass in the middle
        _paste(canvas, ink, *_centred(ink, rng.normal(0.72, 0.03)))
    elif way < 0.5:  # cut close
        _paste(canvas, ink, *_placed(rng, ink, rng.uniform(0.88, 1.0), float(np.exp(rng.normal(0.1, 0.25)))))
    else:
        _paste(canvas, ink, *_placed(rng, ink, rng.uniform(0.45, 0.92), float(np.exp(rng.normal(0, 0.15)))))
    if rng.random() < 0.12:
        _ruled(rng, canvas)
    if rng.random() < 0.08:
        _beside(rng, canvas)
    return canvas


def _centred(ink: np.ndarray, share: float) -> tuple[float, float, float, float]:
    """Left, top, width, height."""
    scale = share * CANVAS_PX / max(ink.shape)
    moments = cv2.moments(ink)
    x, y = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
    return CANVAS_PX / 2 - x * scale, CANVAS_PX / 2 - y * scale, ink.shape[1] * scale, ink.shape[0] * scale


def _placed(rng: Generator, ink: np.ndarray, share: float, stretch: float) -> tuple[float, float, float, float]:
    """The same for ink anywhere in the cell, whose larger side takes `share` of it; cells are stretched to squares."""
    high, wide = ink.shape[0] / max(ink.shape), min(ink.shape[1] / max(ink.shape) * stretch, 1.0)
    high, wide = high * share * CANVAS_PX, wide * share * CANVAS_PX
    x, y = (rng.uniform(-0.5, 0.5) * (0.8 * (CANVAS_PX - side) + 0.05 * CANVAS_PX) for side in (wide, high))
    return (CANVAS_PX - wide) / 2 + x, (CANVAS_PX - high) / 2 + y, wide, high


def _ruled(rng: Generator, canvas: np.ndarray) -> None:
    """Lines of the paper, or the box of a form, fainter than the ink."""
    level, thick = int(rng.uniform(25, 130)), int(rng.integers(1, 3))
    if rng.random() < 0.4:
        edge, far = int(rng.integers(0, 6)), CANVAS_PX - 1 - int(rng.integers(0, 6))
        cv2.rectangle(canvas, (edge, edge), (far, far), level, thick)
        return
    pitch, squared = rng.uniform(0.3, 1.0) * CANVAS_PX, rng.random() < 0.5
    lines = np.zeros_like(canvas)
    for at in np.arange(rng.uniform(0, pitch), CANVAS_PX, pitch):
        cv2.line(lines, _at(0, at), _at(CANVAS_PX, at), level, thick)
        if squared:
            cv2.line(lines, _at(at, 0), _at(at, CANVAS_PX), level, thick)
    np.maximum(canvas, lines, out=canvas)


def _beside(rng: Generator, canvas: np.ndarray) -> None:
    """The edge of a neighbour's ink in a cell that was cut wide."""
    other = handwritten(rng, int(rng.integers(10)))
    strip, high = rng.uniform(0.02, 0.1) * CANVAS_PX, rng.uniform(0.5, 0.9) * CANVAS_PX
    wide = high * other.shape[1] / other.shape[0]
    top = rng.uniform(0, CANVAS_PX - high)
    _paste(canvas, other, strip - wide if rng.random() < 0.5 else CANVAS_PX - strip, top, wide, high)


def _none(rng: Generator, digit: int, sources: Sources) -> np.ndarray:
    del digit
    canvas, way = _blank(), rng.random()
    if way < 0.3:
        if rng.random() < 0.3:
            _ruled(rng, canvas)
        return canvas
    if way < 0.55 and sources.printed:
        ink = sources.printed[rng.integers(len(sources.printed))].signs[str(rng.choice(list(NO_DIGITS)))]
        _paste(canvas, ink, *_place(rng, ink, rng.uniform(0.4, 0.9), rng.uniform(0.8, 1.4)))
    elif way < 0.8:  # the cut went between two digits
        halves = [handwritten(rng, int(d)) if not sources.printed else
                  sources.printed[rng.integers(len(sources.printed))].signs[str(d)] for d in rng.integers(2, 10, 2)]
        high, wide = rng.uniform(0.6, 0.95) * CANVAS_PX, rng.uniform(0.6, 0.9) * CANVAS_PX
        middle, gap = rng.uniform(0.44, 0.56) * CANVAS_PX, rng.uniform(0.05, 0.2) * CANVAS_PX
        _paste(canvas, halves[0], middle - gap / 2 - wide, (CANVAS_PX - high) / 2, wide, high)
        _paste(canvas, halves[1], middle + gap / 2, (CANVAS_PX - high) / 2, wide, high)
    else:
        for _ in range(rng.integers(1, 4)):  # lines that cross the cell, none of them upright: that is a 1
            a = rng.uniform(-0.1, 1.1) * CANVAS_PX
            b = a + rng.uniform(-0.5, 0.5) * CANVAS_PX
            cv2.line(canvas, _at(-5, a), _at(CANVAS_PX + 5, b), 255, int(rng.integers(1, 9)), cv2.LINE_AA)
    return canvas


def _varied(rng: Generator, ink: np.ndarray, strength_px: float) -> np.ndarray:
    """The ink of a font a little bent, thinner or fatter, so that a few hundred fonts stand for more."""
    way = rng.random()
    if way < 0.3:
        side = int(rng.integers(2, 6))
        ink = cv2.dilate(cv2.copyMakeBorder(ink, 4, 4, 4, 4, cv2.BORDER_CONSTANT), np.ones((side, side), np.uint8))
    elif way < 0.4:
        thin = cv2.erode(ink, np.ones((2, 2), np.uint8))
        ink = thin if thin.max() > 100 else ink
    return bent(rng, ink, rng.uniform(0, strength_px)) if rng.random() < 0.5 else ink


_KINDS = {"printed": _printed, "segment": _segment, "dots": _dots, "wheel": _wheel, "hand": _hand, "none": _none}


def _blank() -> np.ndarray:
    return np.zeros((CANVAS_PX, CANVAS_PX), np.uint8)


def _at(x: float, y: float) -> tuple[int, int]:
    return round(x), round(y)


def _place(rng: Generator, ink: np.ndarray, share: float, stretch: float) -> tuple[float, float, float, float]:
    """Left, top, width, height for `ink`: `share` of the cell's height, its shape stretched, near the middle."""
    high = share * CANVAS_PX
    wide = min(high * ink.shape[1] / ink.shape[0] * stretch, 0.96 * CANVAS_PX)
    x, y = (rng.uniform(-0.5, 0.5) * (0.8 * (CANVAS_PX - side) + 0.06 * CANVAS_PX) for side in (wide, high))
    return (CANVAS_PX - wide) / 2 + x, (CANVAS_PX - high) / 2 + y, wide, high


def _paste(canvas: np.ndarray, ink: np.ndarray, left: float, top: float, wide: float, high: float) -> None:
    size = max(1, round(wide)), max(1, round(high))
    ink = cv2.resize(ink, size, interpolation=cv2.INTER_AREA)
    x, y = round(left), round(top)
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + size[0], CANVAS_PX), min(y + size[1], CANVAS_PX)
    if x1 < x2 and y1 < y2:
        part = canvas[y1:y2, x1:x2]
        np.maximum(part, ink[y1 - y : y2 - y, x1 - x : x2 - x], out=part)
